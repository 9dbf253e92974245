"""The store: its database, experiments and sweeps. Whoever logs opens it by its address, and makes what is not there.

A store is given as `--track`: JSON, `{"uri": "sqlite:///results/mlflow.db", "sweep": "demo"}`, or the path of the
record that `lanit track` leaves. Nothing else need be known: an experiment is found by its name, the dataset's, and a
sweep's run in it by its tag. Several processes may open a store that is not there yet; one makes it for all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from lanit.address import SQLITE, absolute_uri, check_kind, database_path, keep_password
from lanit.config import LanitError, parse
from lanit.files import write_whole
from lanit.tracking.runs import ChildKey, find_run, find_runs, log_params, one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow's documented switches: quiet, no usage reports, and no minutes of silent retries for a server that has gone.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow's GitPython warns where there is no git
}
PATIENCE = 60.0  # seconds that one process waits for another that makes something in the store


@dataclasses.dataclass(frozen=True)
class TrackOptions:
    """What `lanit track` is given."""

    uri: str  # sqlite:///path (relative to the working directory) or http(s)://server
    sweep: str  # names the parent run in each experiment
    datasets: list[str] = dataclasses.field(default_factory=list)  # one experiment each
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # recorded on the parent runs


@dataclasses.dataclass(frozen=True)
class Store:
    """A store and a sweep in it."""

    uri: str  # without a password
    sweep: str
    # As `lanit track` found them, for other programs that read its record; whoever logs looks for them anew.
    experiments: dict[str, str] = dataclasses.field(default_factory=dict)  # dataset → experiment id
    parents: dict[str, str] = dataclasses.field(default_factory=dict)  # dataset → run id of the sweep's parent run


def make_store(options: TrackOptions, output: Path | None = None) -> Store:
    """Create the store, or find it with all it holds, and write a record of it; running again changes nothing.

    Raises:
        LanitError: the URI is of a kind that MLflow does not keep, or nothing answers there.
    """
    uri = keep_password(options.uri)
    store = Store(uri, options.sweep)
    try:
        client = open_client(uri)
        for dataset in options.datasets:
            experiment, parent = open_dataset(client, store, dataset)
            if options.config:
                log_params(client, client.get_run(parent), options.config)
                # A parameter keeps its first value; the file is the configuration as it stands now.
                client.log_dict(parent, options.config, "config.json")
            store.experiments[dataset], store.parents[dataset] = experiment, parent
    except LanitError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's or the network's own: all mean that the store cannot be used
        raise unusable(uri, error) from error
    if output is not None:
        write_store(store, output)
    return store


def write_store(store: Store, path: Path) -> None:
    """Write the record of a store; a database near it is named from there, so that both can be moved or copied."""
    values: dict[str, Any] = dataclasses.asdict(store)
    database = database_path(store.uri)
    if database is not None:
        folder = Path(os.path.abspath(path.parent))
        if database.is_relative_to(folder) or not Path(store.uri.removeprefix(SQLITE)).is_absolute():
            values["database"] = os.path.relpath(database, folder)
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_store(track: str | Path) -> Store:
    """Read a store from JSON, or from the record that `lanit track` wrote.

    Raises:
        LanitError: the file is missing or is not one that `lanit track` wrote.
    """
    text = str(track)
    inline = text.lstrip().startswith("{")
    try:
        values = json.loads(text if inline else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = "--track" if inline else text
        raise LanitError(f"{what} is no record of a store ({one_line(error)}); `lanit track` writes one") from None
    if not inline and isinstance(values, dict) and "database" in values:
        values["uri"] = SQLITE + os.path.normpath(Path(text).parent / values.pop("database"))
    store = parse(Store, values, "--track" if inline else text)
    return dataclasses.replace(store, uri=keep_password(store.uri))


def open_client(uri: str) -> MlflowClient:
    """A client of the store at `uri`, whose database is made where there is none; imports MLflow (seconds).

    Raises:
        LanitError: the database cannot be made.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import logging

    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # each migration of a new database would be a line
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = keep_password(uri)
    check_kind(uri, "the address of the MLflow store")
    database = database_path(uri)
    if database is not None and not _is_there(database):
        _make_database(database)
    return MlflowClient(tracking_uri=absolute_uri(uri))


def open_dataset(client: MlflowClient, store: Store, dataset: str) -> tuple[str, str]:
    """Experiment id, and id of the sweep's run, of a dataset; made where they are not there, restored where deleted."""
    with _alone(database_path(store.uri)):
        experiment = _experiment(client, dataset, database_path(store.uri))
        return experiment, _parent(client, experiment, store)


def child_run(
    client: MlflowClient, store: Store, key: ChildKey, code: str | None = None, began: int | None = None
) -> Run:
    """Find the child run of `key` in the sweep, or create it.

    Args:
        code: git revision, of a run that is created.
        began: when its training did, in ms since 1970; None: now.
    """
    experiment, parent = open_dataset(client, store, key.dataset)
    tags = {"mlflow.parentRunId": parent, **key.tags()}
    found = find_run(client, experiment, tags)
    if found is not None:
        return found
    if code:
        tags["mlflow.source.git.commit"] = code
    return client.create_run(experiment, start_time=began, tags=tags, run_name=key.name)


def unusable(uri: str, error: Exception) -> LanitError:
    """One sentence for whatever MLflow, SQLAlchemy or the network raise."""
    database = database_path(uri)
    if database is not None and _is_half_made(database, str(error)):
        return LanitError(f"{database} was left half made by a start that was killed, and holds no run; remove it")
    return LanitError(f"the MLflow store {uri} cannot be used ({one_line(error)}); run `lanit track` again when it can")


def _make_database(database: Path) -> None:
    """Make it beside its place, as a whole: a kill meanwhile leaves nothing there that could be taken for a store."""
    from mlflow import MlflowClient

    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with _alone(database):
            if _is_there(database):  # another process was first
                return
            stem = str(database.with_name(f".{database.name}.part"))
            for left in glob.glob(f"{glob.escape(stem)}*"):  # by a process that was killed: we are alone
                os.unlink(left)
            MlflowClient(tracking_uri=f"{SQLITE}{stem}").search_experiments(max_results=1)
            # MLflow keeps what it has made open: what takes the place is a copy that nobody has.
            with contextlib.closing(sqlite3.connect(stem)) as made:
                made.execute("VACUUM INTO ?", (f"{stem}.whole",))
            with open(f"{stem}.whole", "rb") as whole:
                os.fsync(whole.fileno())
            os.rename(f"{stem}.whole", database)
            os.unlink(stem)
    except OSError as error:
        raise LanitError(f"no MLflow store can be made at {database} ({one_line(error)}); name another place") from None


def _is_there(database: Path) -> bool:
    return database.exists() and database.stat().st_size > 0  # whoever looks into a missing one leaves an empty file


@contextlib.contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Hold a database's lock; a server has none, and needs none to make an experiment once."""
    if database is None:
        yield
        return
    with open(database.with_name(f".{database.name}.lock"), "a", encoding="utf-8") as file:
        waited = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > waited:
                    raise LanitError(f"another process has held {file.name} for {PATIENCE:.0f} s; end it") from None
            time.sleep(0.05)
        yield


def _experiment(client: MlflowClient, name: str, database: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    # Artifacts lie beside the database, to be moved and copied with it; a server chooses itself.
    ending = f"mlflow-artifacts/{quote(name, safe='')}"
    location = None if database is None else f"{database.parent.as_uri()}/{ending}"
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=location)
        except Exception:
            found = client.get_experiment_by_name(name)  # of a server: another process was first
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":  # its name stays taken
        client.restore_experiment(found.experiment_id)
    old = found.artifact_location
    if (
        database is not None
        and location is not None
        and location != old
        and old.startswith("file:///")
        and old.endswith(f"/{ending}")
    ):
        _move_artifacts(database, found.experiment_id, old, location)
    return found.experiment_id


def _move_artifacts(database: Path, experiment: str, old: str, new: str) -> None:
    """Mend what MLflow stores absolute, in a database that was moved or copied with its artifacts."""
    before = Path(unquote(old.removeprefix("file://"))).parent.parent
    if before.exists() and before.samefile(database.parent):  # another name of the same folder
        return
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as store, store:
        store.execute("update experiments set artifact_location = ? where experiment_id = ?", (new, experiment))
        store.execute(
            "update runs set artifact_uri = ? || substr(artifact_uri, ?) "
            "where experiment_id = ? and substr(artifact_uri, 1, ?) = ?",
            (new, len(old) + 1, experiment, len(old), old),
        )


def _parent(client: MlflowClient, experiment: str, store: Store) -> str:
    tags = {"lanit.sweep": store.sweep}
    found = find_run(client, experiment, tags)
    if found is not None:
        return found.info.run_id
    made = client.create_run(experiment, tags=tags, run_name=store.sweep).info.run_id
    if database_path(store.uri) is None:
        time.sleep(1.0)  # who made one at the same time sees both then, and all take the same
        oldest = find_runs(client, experiment, tags)[0].info.run_id
        if oldest != made:
            client.delete_run(made)
            return oldest
    return made


def _is_half_made(database: Path, error: str) -> bool:
    """Does MLflow stumble over its own tables in a database that holds no run, which could be lost with it?"""
    words = ("already exists", "duplicate column", "no such table", "no such column", "out-of-date database schema")
    if not database.is_file() or not any(word in error for word in words):
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as found:
            named = "select count(*) from sqlite_master where type = 'table' and name = 'runs'"
            return (
                not found.execute(named).fetchone()[0] or not found.execute("select count(*) from runs").fetchone()[0]
            )
    except sqlite3.Error:  # locked or damaged: MLflow's own words tell
        return False
