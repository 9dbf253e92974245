"""What a store lacks of a finished training, entered from the files that the training left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.config import LanitError
from lanit.tracking.results import log_scores
from lanit.tracking.runs import log_params, metric_values, one_line, read_record
from lanit.tracking.store import child_run, open_client, read_store, unusable

if TYPE_CHECKING:
    from mlflow import MlflowClient

POINTS_PER_CALL = 1000  # MLflow's limit for one `log_batch`
NOT_LOGGED = ("step", "images", "seconds")  # columns of metrics.jsonl: when, and not what


def enter_run(track: str | Path, run: Path) -> tuple[int, int]:
    """Enter a run's parameters, metrics, samples and scores, those apart that the store has; return how many points
    and pictures it lacked.

    Args:
        track: the store and the sweep as JSON, or the path of the record that `lanit track` wrote.
        run: RUN, the folder of a finished training.

    Raises:
        LanitError: a file is missing or malformed, or the store cannot be used.
    """
    store = read_store(track)
    key, record = read_record(run)
    lines = _read_log(run, record)
    try:
        client = open_client(store.uri)
        ended = (run / "run.json").stat().st_mtime
        began = ended - (lines[-1]["seconds"] if lines else 0)
        child = child_run(client, store, key, record.get("code"), began=round(1000 * began))
        identity = {"digest": key.config, "variant": key.variant}
        log_params(client, child, record.get("options", {}) | identity)
        client.set_tag(child.info.run_id, "lanit.folder", str(run))
        points = _enter_points(client, child.info.run_id, lines, began)
        pictures = _enter_samples(client, child.info.run_id, run)
        if child.info.status != "FINISHED":
            client.set_terminated(child.info.run_id, "FINISHED", end_time=round(1000 * ended))
        if (run / "scores.json").is_file():
            log_scores(track, run, json.loads((run / "scores.json").read_text(encoding="utf-8")))
    except LanitError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's or the network's own
        raise unusable(store.uri, error) from error
    return points, pictures


def _read_log(run: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        last = max((line["images"] for line in lines), default=0)
    except (ValueError, KeyError, TypeError) as error:
        raise LanitError(f"{path} is not the log of a training ({one_line(error)}); train this run again") from None
    budget = record.get("options", {}).get("images", last)
    if last != budget:
        raise LanitError(
            f"{path} is of another training than run.json (at {last} of {budget} images); let it end first"
        )
    return lines


def _enter_points(client: MlflowClient, run_id: str, lines: list[dict[str, Any]], began: float) -> int:
    from mlflow.entities import Metric

    wanted = {}
    for line in lines:
        metrics = {name: value for name, value in line.items() if name not in NOT_LOGGED}
        for name, value in metric_values(line["images"], metrics).items():
            wanted[name, line["step"], value] = round(1000 * (began + line["seconds"]))
    names = client.get_run(run_id).data.metrics.keys() & {name for name, _, _ in wanted}
    for name in names:
        for metric in client.get_metric_history(run_id, name):
            wanted.pop((name, metric.step, metric.value), None)
    points = [Metric(name, value, time, step) for (name, step, value), time in wanted.items()]
    for start in range(0, len(points), POINTS_PER_CALL):
        client.log_batch(run_id, metrics=points[start : start + POINTS_PER_CALL])
    return len(points)


def _enter_samples(client: MlflowClient, run_id: str, run: Path) -> int:
    there = {Path(artifact.path).name for artifact in client.list_artifacts(run_id, "samples")}
    missing = [path for path in sorted((run / "samples").glob("*.png")) if path.name not in there]
    for path in missing:
        client.log_artifact(run_id, str(path), "samples")
    return len(missing)
