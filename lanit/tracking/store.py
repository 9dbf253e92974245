"""The store: its database, experiments and sweeps, made once by `lanit track`, and found again by everyone else.

    lanit track --options '{"uri": "sqlite:///results/mlflow.db", "sweep": "demo", "datasets": ["faces"]}' \\
        --output results/store.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lanit.config import LanitError, parse, read_options
from lanit.files import write_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARAM_LIMIT = 6000  # characters of a parameter's value that MLflow keeps
KEY_LIMIT = 250  # characters of a parameter's or metric's name
PARAMS_PER_CALL = 100  # MLflow's limit for one `log_batch`
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


@dataclasses.dataclass(frozen=True)
class TrackOptions:
    """What `lanit track` is given."""

    uri: str  # sqlite:///path (relative to the working directory) or http(s)://server
    sweep: str  # names the parent run in each experiment
    datasets: list[str]  # one experiment each
    artifacts: str | None = None  # folder or URI; None: beside the database, or the server's own choice
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # recorded on the parent runs


@dataclasses.dataclass(frozen=True)
class Store:
    """What `store.json` holds."""

    uri: str
    sweep: str
    experiments: dict[str, str]  # dataset → experiment id
    parents: dict[str, str]  # dataset → run id of the sweep's parent run


@dataclasses.dataclass(frozen=True)
class ChildKey:
    """What makes two trainings of one sweep the same run."""

    dataset: str
    method: str
    variant: str  # name of the method's set of options in the sweep; the method's name for the method itself
    domains: int  # N
    seed: int
    config: str  # digest of the training's options

    @property
    def name(self) -> str:
        """Name of the run in the UI, such as "lanit-n10-seed0" or "lanit_top1-n10-seed0"."""
        return f"{self.variant}-n{self.domains}-seed{self.seed}"

    def tags(self) -> dict[str, str]:
        """The tags by which the run is found again."""
        return {
            "lanit.method": self.method,
            "lanit.variant": self.variant,
            "lanit.domains": str(self.domains),
            "lanit.seed": str(self.seed),
            "lanit.config": self.config,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lanit track`."""
    parser.add_argument("--options", required=True, help="JSON, or a JSON or YAML file: uri, sweep, datasets, …")
    parser.add_argument("--output", required=True, type=Path, help="store.json to write")
    parser.set_defaults(run=_run)


def make_store(options: TrackOptions, output: Path) -> Store:
    """Create the store, or find it with all it holds, and write `output`; running again changes nothing.

    Raises:
        LanitError: the URI is of a kind that MLflow does not keep, or nothing answers there.
    """
    if not options.datasets:
        raise LanitError("options.datasets is empty; name at least one dataset to make an experiment for")
    uri = absolute_uri(options.uri)
    if uri.startswith("file:") or "://" not in uri:
        raise LanitError(f"options.uri {options.uri!r} is not a database or a server; give sqlite:///… or http://…")
    database = database_path(uri)
    artifacts = _artifacts(options.artifacts, database)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    try:
        client = open_client(uri, create=True)
        experiments = {name: _experiment(client, name, artifacts) for name in options.datasets}
        parents = {name: _parent(client, experiments[name], options) for name in options.datasets}
    except LanitError:
        raise
    except Exception as error:  # MLflow's, SQLAlchemy's or the network's own: all mean that the store cannot be used
        raise LanitError(f"no MLflow store can be made at {options.uri} ({one_line(error)}); check the URI") from error
    store = Store(uri, options.sweep, experiments, parents)
    write_whole(output, json.dumps(dataclasses.asdict(store), indent=2) + "\n")
    return store


def read_store(path: str | Path) -> Store:
    """Read `store.json`.

    Raises:
        LanitError: the file is missing or is not one that `lanit track` wrote.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LanitError(f"{path} cannot be read as store.json ({one_line(error)}); run `lanit track` first") from None
    return parse(Store, values, str(path))


def open_client(uri: str, create: bool = False) -> MlflowClient:
    """A client of the store at `uri`; imports MLflow (seconds).

    Raises:
        LanitError: the database is missing and `create` is false: MLflow would make an empty one in its place.
    """
    database = database_path(uri)
    if database is not None and not create and not database.is_file():
        raise LanitError(f"no MLflow database at {database}; run `lanit track` to make it")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import logging

    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # each migration of a new database would be a line
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def ui_command(uri: str) -> str:
    """The shell command that opens the UI on the store, its path relative to the working directory where possible."""
    database = database_path(absolute_uri(uri))
    if database is None:
        return uri  # a server already shows itself
    here = Path.cwd()
    shown = database.relative_to(here) if database.is_relative_to(here) else database
    text = f"sqlite:///{shown}"
    quoted = text if re.fullmatch(r"[\w./:@%+=-]+", text) else "'" + text.replace("'", "'\\''") + "'"
    return f"mlflow ui --backend-store-uri {quoted} --host 127.0.0.1"


def child_run(client: MlflowClient, store: Store, key: ChildKey, code: str | None = None) -> Run:
    """Find the child run of `key` in the sweep, or create it; a run continued has the status RUNNING again.

    Raises:
        LanitError: the store has no experiment for the dataset.
    """
    experiment, parent = dataset_ids(store, key.dataset)
    tags = {"mlflow.parentRunId": parent, **key.tags()}
    found = find_runs(client, experiment, tags)
    if found:
        return found[0]
    if code:
        tags["mlflow.source.git.commit"] = code
    return client.create_run(experiment, tags=tags, run_name=key.name)


def dataset_ids(store: Store, dataset: str) -> tuple[str, str]:
    """Experiment id and parent run id of a dataset."""
    if dataset not in store.experiments or dataset not in store.parents:
        known = ", ".join(store.experiments)
        raise LanitError(f"the MLflow store has no experiment for {dataset!r} (it has {known}); run `lanit track`")
    return store.experiments[dataset], store.parents[dataset]


def find_runs(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> list[Run]:
    """Runs of an experiment that have all of `tags`, the oldest first."""
    clauses = [f"tags.`{name}` = {_quoted(value)}" for name, value in tags.items()]
    return list(
        client.search_runs([experiment], " and ".join(clauses), max_results=10, order_by=["attributes.start_time ASC"])
    )


def log_params(client: MlflowClient, run: Run, config: Mapping[str, Any]) -> None:
    """Log a configuration as parameters, those apart that the run has already: MLflow refuses to change one."""
    from mlflow.entities import Param

    known = run.data.params
    params = [Param(key, value) for key, value in flatten(config).items() if key not in known]
    for start in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=params[start : start + PARAMS_PER_CALL])


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mapping → flat parameters: "loss.adversarial" → "1.0"; lists as JSON; long values cut with an ellipsis."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = legal_name(f"{prefix}{key}")
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
            continue
        text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
        flat[name] = text if len(text) <= PARAM_LIMIT else text[: PARAM_LIMIT - 1] + "…"
    return flat


def legal_name(name: str) -> str:
    """A name that MLflow takes for a parameter or metric: letters, digits, and ``_ - . / :`` and blanks."""
    legal = re.sub(r"[^\w\-. /:]", "_", name)
    # MLflow treats names as paths: no empty, "." or ".." parts.
    parts = [part for part in legal.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:KEY_LIMIT].rstrip("/") or "_"


def absolute_uri(uri: str) -> str:
    """The same store named independently of the working directory."""
    database = database_path(uri)
    return uri if database is None else f"sqlite:///{database}"


def database_path(uri: str) -> Path | None:
    """Absolute path of a SQLite store's file; None for another store."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(os.path.abspath(uri.removeprefix("sqlite:///")))


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception's message on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _run(arguments: argparse.Namespace) -> None:
    options = parse(TrackOptions, read_options(arguments.options))
    store = make_store(options, arguments.output)
    print(f"MLflow store for {', '.join(store.experiments)}, sweep {store.sweep!r}: {ui_command(store.uri)}")


def _artifacts(given: str | None, database: Path | None) -> str | None:
    if given is not None and "://" in given:
        return given
    if given is None and database is None:
        return None
    folder = Path(given) if given is not None else database.parent / "mlflow-artifacts"
    return Path(os.path.abspath(folder)).as_uri()


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        location = f"{artifacts.rstrip('/')}/{quote(name, safe='')}" if artifacts else None
        return client.create_experiment(name, artifact_location=location)
    if found.lifecycle_stage == "deleted":  # its name stays taken
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _parent(client: MlflowClient, experiment: str, options: TrackOptions) -> str:
    found = find_runs(client, experiment, {"lanit.sweep": options.sweep})
    tags = {"lanit.sweep": options.sweep}
    run = found[0] if found else client.create_run(experiment, tags=tags, run_name=options.sweep)
    if options.config:
        log_params(client, run, options.config)
        # A parameter keeps its first value; the file is the configuration as it stands now.
        client.log_dict(run.info.run_id, options.config, "config.json")
    if found and run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
    return run.info.run_id


def _quoted(value: str) -> str:
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise LanitError(f"{value!r} holds both kinds of quotes; MLflow cannot search for it, choose a plainer name")
