"""What came out of a sweep, added to its runs: scores and pictures to the children, tables to the parents."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lanit.config import LanitError, digest
from lanit.tracking.store import ChildKey, child_run, dataset_ids, legal_name, one_line, open_client, read_store

METRICS_PER_CALL = 1000


def log_scores(track: str | Path, run: Path, scores: Mapping[str, Any], pictures: Iterable[Path] = ()) -> str:
    """Add scores and pictures to the run that its training logged into; return the run's id.

    A training that was not tracked gets its run here. Scores that the run has already are not logged twice.

    Args:
        track: path of `store.json`.
        run: RUN, the folder with `run.json`.
        scores: what `scores.json` holds.
        pictures: files for the run's artifacts.

    Raises:
        LanitError: a file is missing or malformed, or the store cannot be reached.
    """
    store = read_store(track)
    key, code = _child_of(run)
    try:
        client = open_client(store.uri)
        child = child_run(client, store, key, code)
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
        if child.info.status == "RUNNING" and (run / "model.safetensors").is_file():
            client.set_terminated(child.info.run_id, "FINISHED")  # its training lost the store before it ended
    except LanitError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's or the network's own
        raise _unreachable(store.uri, error) from error
    return child.info.run_id


def log_tables(track: str | Path, files: Mapping[str, Iterable[tuple[Path, str]]]) -> None:
    """Add files to the parent run of each dataset and mark the sweep as finished.

    Args:
        track: path of `store.json`.
        files: dataset → pairs (file, artifact folder; "" for the top).

    Raises:
        LanitError: a dataset has no experiment, or the store cannot be reached.
    """
    store = read_store(track)
    parents = {dataset: dataset_ids(store, dataset)[1] for dataset in files}
    try:
        client = open_client(store.uri)
        for dataset, pairs in files.items():
            for path, folder in pairs:
                client.log_artifact(parents[dataset], str(path), folder or None)
            client.set_terminated(parents[dataset], "FINISHED")
    except LanitError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's or the network's own
        raise _unreachable(store.uri, error) from error


def score_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    """`scores.json` → flat metrics: means by name ("mfid"), classes as "fid/red hair"; absent values left out."""
    flat = dict(scores.get("mean", {}).items())
    for group, values in scores.get("per_class", {}).items():
        flat.update({f"{name}/{group}": value for name, value in values.items()})
    return {
        legal_name(name): float(value)
        for name, value in flat.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def _child_of(run: Path) -> tuple[ChildKey, str | None]:
    path = run / "run.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        domains = values["domains"]
        return (
            ChildKey(
                dataset=str(values["dataset"]),
                method=str(values["method"]),
                variant=str(values.get("variant") or values["method"]),
                domains=domains if isinstance(domains, int) else len(domains),
                seed=int(values["seed"]),
                config=str(values.get("config") or digest(values["options"])),
            ),
            values.get("code"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{path} is not the run.json of a training ({one_line(error)}); train this run again"
        raise LanitError(text) from None


def _unreachable(uri: str, error: Exception) -> LanitError:
    return LanitError(f"the MLflow store {uri} cannot be used ({one_line(error)}); run `lanit track` again")
