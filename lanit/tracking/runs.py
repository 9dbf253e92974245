"""The runs of a store: what makes two trainings the same run, and how one is found again."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.catalogue import EXTERNAL
from lanit.config import LanitError, digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARAM_LIMIT = 6000  # characters of a parameter's value that MLflow keeps
KEY_LIMIT = 250  # characters of a parameter's or metric's name
PARAMS_PER_CALL = 100  # MLflow's limit for one `log_batch`


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
        """Name of the run in the UI, such as "lanit-n10-seed0", "lanit_top1-n10-seed0" or "styleclip (external)"."""
        if self.method == EXTERNAL:
            return f"{self.variant} (external)"
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


def read_record(run: Path) -> tuple[ChildKey, dict[str, Any]]:
    """Read the `run.json` of a finished training: its key in the store, and all that it holds.

    Raises:
        LanitError: it is missing or malformed.
    """
    path = run / "run.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        domains = values["domains"]
        key = ChildKey(
            dataset=str(values["dataset"]),
            method=str(values["method"]),
            variant=str(values.get("variant") or values["method"]),
            domains=domains if isinstance(domains, int) else len(domains),
            seed=int(values["seed"]),
            config=str(values.get("config") or digest(values["options"])),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{path} is not the run.json of a training ({one_line(error)}); train this run again"
        raise LanitError(text) from None
    return key, values


def find_runs(client: MlflowClient, experiment: str, tags: Mapping[str, str], deleted: bool = False) -> list[Run]:
    """Runs of an experiment that have all of `tags`, the oldest first; or those of them that were deleted."""
    from mlflow.entities import ViewType

    clauses = [f"tags.`{name}` = {_quoted(value)}" for name, value in tags.items()]
    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return list(client.search_runs([experiment], " and ".join(clauses), view, max_results=100, order_by=order))


def find_run(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> Run | None:
    """The run that has all of `tags`; one that was deleted is restored."""
    for run in find_runs(client, experiment, tags):
        return run
    for run in find_runs(client, experiment, tags, deleted=True):
        client.restore_run(run.info.run_id)
        return client.get_run(run.info.run_id)
    return None


def metric_values(images: int, metrics: Mapping[str, Any]) -> dict[str, float]:
    """What a line of a training's log becomes in the store: metric → value."""
    return {"images": float(images)} | {legal_name(name): float(value) for name, value in metrics.items()}


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


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception's message on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _quoted(value: str) -> str:
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise LanitError(f"{value!r} holds both kinds of quotes; MLflow cannot search for it, choose a plainer name")
