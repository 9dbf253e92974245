"""What came out of a sweep, added to its runs: scores and pictures to the children, tables to the parents."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lanit.catalogue import EXTERNAL
from lanit.config import LanitError
from lanit.tracking.runs import legal_name, read_record
from lanit.tracking.store import child_run, open_client, open_dataset, read_store, unusable

METRICS_PER_CALL = 1000
MARK = "lanit.tables"  # tag of a parent run: which tables it has


def log_scores(track: str | Path, run: Path, scores: Mapping[str, Any], pictures: Iterable[Path] = ()) -> str:
    """Add scores and pictures to the run that its training logged into; return the run's id.

    A training that was not tracked gets its run here. Scores that the run has already are not logged twice.

    Args:
        track: the store and the sweep as JSON, or the path of the record that `lanit track` wrote.
        run: RUN, the folder with `run.json`.
        scores: what `scores.json` holds.
        pictures: files for the run's artifacts.

    Raises:
        LanitError: a file is missing or malformed, or the store cannot be reached.
    """
    store = read_store(track)
    key, record = read_record(run)
    try:
        client = open_client(store.uri)
        child = child_run(client, store, key, record.get("code"))
        known = child.data.metrics
        new = {name: value for name, value in score_metrics(scores).items() if known.get(name) != value}
        now, step = int(time.time() * 1000), int(scores.get("images_seen") or 0)
        from mlflow.entities import Metric, RunTag

        points = [Metric(name, value, now, step) for name, value in new.items()]
        tags = [RunTag("lanit.protocol", json.dumps(scores.get("protocol"), sort_keys=True))]
        for start in range(0, max(len(points), 1), METRICS_PER_CALL):
            client.log_batch(child.info.run_id, metrics=points[start : start + METRICS_PER_CALL], tags=tags)
        client.log_dict(child.info.run_id, dict(scores), "scores.json")
        for picture in pictures:
            client.log_artifact(child.info.run_id, str(picture), "pictures")
        finished = key.method == EXTERNAL or (run / "model.safetensors").is_file()
        if child.info.status == "RUNNING" and finished:  # a training that lost the store before it ended, or none
            client.set_terminated(child.info.run_id, "FINISHED")
    except LanitError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's or the network's own
        raise unusable(store.uri, error) from error
    return child.info.run_id


def log_tables(track: str | Path, files: Mapping[str, Iterable[tuple[Path, str]]], mark: str = "") -> None:
    """Add files to the parent run of each dataset and mark the sweep as finished.

    Args:
        track: the store and the sweep as JSON, or the path of the record that `lanit track` wrote.
        files: dataset → pairs (file, artifact folder; "" for the top).
        mark: what `has_tables` asks for, such as a digest of the files.

    Raises:
        LanitError: the store cannot be reached.
    """
    store = read_store(track)
    try:
        client = open_client(store.uri)
        for dataset, pairs in files.items():
            _, parent = open_dataset(client, store, dataset)
            for path, folder in pairs:
                client.log_artifact(parent, str(path), folder or None)
            client.set_tag(parent, MARK, mark)
            client.set_terminated(parent, "FINISHED")
    except LanitError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's or the network's own
        raise unusable(store.uri, error) from error


def has_tables(track: str | Path, datasets: Iterable[str], mark: str) -> bool:
    """Were the files of this mark added for all datasets?

    Raises:
        LanitError: the store cannot be reached.
    """
    store = read_store(track)
    try:
        client = open_client(store.uri)
        parents = [client.get_run(open_dataset(client, store, dataset)[1]) for dataset in datasets]
    except LanitError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's or the network's own
        raise unusable(store.uri, error) from error
    return all(parent.data.tags.get(MARK) == mark for parent in parents)


def score_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    """`scores.json` → flat metrics: means by name ("mfid"), classes as "fid/red hair", clusters as "clusters/nmi".

    Absent values are left out.
    """
    flat = dict(scores.get("mean", {}).items())
    for group, values in scores.get("per_class", {}).items():
        flat.update({f"{name}/{group}": value for name, value in values.items()})
    flat.update({f"clusters/{name}": value for name, value in (scores.get("clusters") or {}).items()})
    return {
        legal_name(name): float(value)
        for name, value in flat.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
