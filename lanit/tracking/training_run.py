"""Live logging of one training: a queue that a background thread empties, so that no step waits for the store."""

from __future__ import annotations

import json
import queue
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.config import digest
from lanit.tracking.runs import ChildKey, log_params, metric_values, one_line
from lanit.tracking.store import Store, child_run, open_client, read_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

POINTS_PER_CALL = 1000  # MLflow's limit for one `log_batch`
POINTS_KEPT = 200_000  # while a store is away; the oldest go first, for `lanit track` to enter


class TrainingRun:
    """The MLflow run of one training, for rank 0; `open` it, `log` to it, `finish` it (or use it in a `with`).

    Every method returns at once, except `finish`, which waits at most its limit. A store that is not there yet is made.
    One that cannot be reached costs a line on stderr; the thread goes on trying, and sends what has gathered when the
    store is back. What it has not got at the end is said, and `lanit track` enters it from `metrics.jsonl`.
    """

    @classmethod
    def open(
        cls,
        track: str | Path,
        dataset: str,
        method: str,
        domains: int,
        seed: int,
        config: dict[str, Any],
        code: str,
        run_folder: Path,
        interval: float = 3.0,
    ) -> TrainingRun:
        """Continue the child run of (sweep, variant, N, seed, configuration), or create it.

        Args:
            track: the store and the sweep as JSON, or the path of the record that `lanit track` wrote.
            domains: N.
            config: the training's options, recorded as parameters. Part of the run's identity are their digest (the
                same as `config` in `run.json`), which is the value of the key `digest` or `lanit.config.digest` of the
                whole, and the variant, which is the value of the key `variant` or the method.
            code: git revision.
            run_folder: RUN, recorded as a tag.
            interval: seconds between two batches.

        Raises:
            LanitError: `track` cannot be read (whether the store answers is found out in the background).
        """
        variant = config.get("variant") or method
        key = ChildKey(dataset, method, variant, domains, seed, str(config.get("digest") or digest(config)))
        return cls(read_store(track), key, config, code, run_folder, interval)

    def __init__(
        self, store: Store, key: ChildKey, config: dict[str, Any], code: str, run_folder: Path, interval: float
    ) -> None:
        self.run_id: str | None = None  # known once the thread has reached the store
        self._store, self._key, self._config, self._code, self._folder = store, key, config, code, run_folder
        self._interval = interval
        self._queue: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._points: list[tuple[str, float, int, int]] = []  # name, value, timestamp in ms, step
        self._pictures: list[tuple[Path, str]] = []
        self._logged: set[tuple[str, int, float]] = set()  # name, step, value: in the store from before a restart
        self._client: MlflowClient | None = None
        self._status: str | None = None
        self._warned = False
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_until_closed, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, images: int, metrics: dict[str, float]) -> None:
        """Queue the metrics of a step and the images seen so far."""
        now = int(time.time() * 1000)
        for name, value in metric_values(images, metrics).items():
            self._queue.put(("point", name, value, now, step))

    def picture(self, path: Path, artifact_folder: str = "samples") -> None:
        """Queue a file that exists and will stay, to be copied into the run's artifacts."""
        self._queue.put(("picture", Path(path), artifact_folder))

    def finish(self, status: str = "FINISHED", limit: float = 30.0) -> bool:
        """Send what is left, set the run's status (FINISHED, FAILED or KILLED), and stop.

        Args:
            limit: seconds to wait at most.

        Returns:
            whether everything reached the store.
        """
        self._status = status
        self._closing.set()
        self._thread.join(limit)
        missing = self._dropped + len(self._points) + self._queue.qsize()
        complete = not (self._thread.is_alive() or self._status or missing or self._pictures)
        if not complete:
            print(
                f"warning: MLflow: {missing} points of this training are not in the store {self._store.uri}; a sweep "
                f"enters them at its end or when it is started again, and so does\n"
                f"    {track_command(self._store, self._folder)}",
                file=sys.stderr,
                flush=True,
            )
        return complete

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._closing.is_set():
            return
        interrupted = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit))
        self.finish("FINISHED" if kind is None else "KILLED" if interrupted else "FAILED")

    def _send_until_closed(self) -> None:
        pause = 0.0  # the run appears in the UI at once
        while True:
            closing = self._closing.wait(pause)
            self._collect()
            sent = self._try_to_send()
            if closing:
                return
            pause = self._interval if sent else min(max(pause, self._interval) * 2, 60.0)

    def _collect(self) -> None:
        while True:
            try:
                kind, *item = self._queue.get_nowait()
            except queue.Empty:
                break
            (self._points if kind == "point" else self._pictures).append(tuple(item))
        self._dropped += max(len(self._points) - POINTS_KEPT, 0)
        del self._points[:-POINTS_KEPT]

    def _try_to_send(self) -> bool:
        try:
            self._send()
        except Exception as error:  # whatever the store, its driver or the network raise: training goes on without them
            self._warn(one_line(error))
            self._client = None  # to be looked for anew, with its experiment and run: they may have been deleted
            return False
        return True

    def _send(self) -> None:
        if self._client is None:
            self._client = self._connect()
        client, run_id = self._client, self.run_id
        assert run_id is not None, "connecting found it"
        from mlflow.entities import Metric

        while self._points:
            chunk = self._points[:POINTS_PER_CALL]
            new = [point for point in chunk if (point[0], point[3], point[1]) not in self._logged]
            if new:
                client.log_batch(run_id, metrics=[Metric(*point) for point in new])
            del self._points[: len(chunk)]
        while self._pictures:
            path, folder = self._pictures[0]
            if path.is_file():
                client.log_artifact(run_id, str(path), folder)
            else:
                print(f"warning: MLflow: no picture at {path}, left out", file=sys.stderr)
            del self._pictures[0]
        if self._closing.is_set() and self._status is not None:
            client.set_terminated(run_id, self._status)
            self._status = None

    def _connect(self) -> MlflowClient:
        client = open_client(self._store.uri)
        run = child_run(client, self._store, self._key, self._code)
        self.run_id = run.info.run_id
        for found in (run, client.get_run(run.data.tags["mlflow.parentRunId"])):
            if found.info.status != "RUNNING":
                client.update_run(found.info.run_id, status="RUNNING")
        log_params(client, run, self._config | {"variant": self._key.variant})
        client.set_tag(self.run_id, "lanit.folder", str(self._folder))
        # A training resumed from a checkpoint takes the steps since then again, with the same results: once is enough.
        for name in run.data.metrics:
            for metric in client.get_metric_history(self.run_id, name):
                self._logged.add((name, metric.step, metric.value))
        return client

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            print(
                f"warning: the MLflow store {self._store.uri} cannot be used ({reason}); "
                f"training goes on, its metrics are in {self._folder / 'metrics.jsonl'}",
                file=sys.stderr,
                flush=True,
            )


def track_command(store: Store, run: Path) -> str:
    """The shell command that enters into a store what it lacks of a run."""
    options = json.dumps({"uri": store.uri, "sweep": store.sweep}, ensure_ascii=False)
    return shlex.join(["lanit", "track", "--options", options, "--runs", str(run)])
