"""What earlier stages left, read and checked: scores, label quality, pictures and losses, and the published numbers."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lanit.catalogue import EXTERNAL, METHODS
from lanit.config import LanitError, digest

DATASETS = {"celeba_hq": "CelebA-HQ", "animal_faces_10": "AnimalFaces-10", "food_10": "Food-10"}
MEANS = (
    "mfid",
    "mkid",
    "density",
    "coverage",
    "hit_rate",
    "hit_rate_candidates",
    "source_rate_candidates",
    "kept_rate",
)
CLUSTERS = ("accuracy", "nmi", "ari", "purity", "largest_class", "images", "used")


@dataclasses.dataclass(frozen=True)
class Score:
    """One run under one protocol: what its `scores.json` holds."""

    path: Path
    dataset: str
    method: str
    variant: str  # name of its set of options in the sweep; the method's name for the method itself
    domains: int | None  # N; an external system has none, no seed and no budget
    seed: int | None
    protocol: Any  # JSON, complete
    features: Any  # JSON, complete
    images_seen: int | None
    train_seconds: float | None
    code: str
    config: str
    mean: dict[str, float | None]  # the names in MEANS; None where the protocol cannot tell
    clusters: dict[str, float | None]  # the names in CLUSTERS; empty for a method that finds no domains itself
    n_real: int  # images of the evaluation class that has fewest
    n_fake: int
    raw: dict[str, Any]

    @property
    def setting(self) -> str:
        """Digest of protocol and features: only scores of the same setting may stand in one table."""
        return digest([self.protocol, self.features])

    @property
    def name(self) -> str:
        """Name of the variant, or the title of an external system, in tables."""
        if self.is_external:
            return f"{self.raw['external']['title']} (external)"
        return variant_name(self.method, self.variant)

    @property
    def is_external(self) -> bool:
        """Was this translated elsewhere, by another system?"""
        return self.method == EXTERNAL

    def measured(self, metric: str) -> float:
        """The mean of a metric that every protocol tells: mFID, density or coverage."""
        value = self.mean[metric]
        assert value is not None, f"scores without {metric} are not read"
        return value


@dataclasses.dataclass(frozen=True)
class Quality:
    """How good one labeller's pseudo labels are on one split."""

    dataset: str
    labeller: str  # such as "adaptive", "top-3", "fixed 0.25", "adaptive, learned (LANIT)"
    variant: str | None  # whose prompts have learned; None for labels of the label stage
    seed: int | None  # of its training
    domains: int  # N
    split: str
    images: int
    f1_macro: float | None  # None where no domain has truth
    mean_labels: float
    share_without: float
    share_all: float


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of the paper's Table 1 or 2."""

    table: int
    dataset: str
    domains: int
    method: str
    supervision: str
    mfid: float  # two digits after the point in Table 1, one in Table 2
    density: float
    coverage: float


def picture_name(score: Score, kind: str) -> str:
    """File name of a run's grid, such as "faces-lanit-n10-seed0-references.png"."""
    if score.is_external:
        return f"{file_name(score.dataset)}-external-{file_name(score.variant)}-{kind}.png"
    return f"{file_name(score.dataset)}-{file_name(score.variant)}-n{score.domains}-seed{score.seed}-{kind}.png"


def file_name(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", name)


def read_scores(paths: Iterable[Path]) -> list[Score]:
    """Read `scores.json` files, sorted by dataset, N (external systems last), variant (see `variant_rank`) and seed.

    Raises:
        LanitError: a file is missing or malformed, or two files are of one run.
    """
    scores = [_read_score(Path(path)) for path in paths]
    if not scores:
        raise LanitError("no scores are given; pass at least one scores.json to --scores")
    seen: dict[tuple, Path] = {}
    for score in scores:
        key = (score.dataset, score.setting, score.variant, score.domains, score.seed)
        if key in seen:
            raise LanitError(f"{seen[key]} and {score.path} are scores of the same run and protocol; give one of them")
        seen[key] = score.path
    return sorted(scores, key=lambda s: (s.dataset, n_rank(s.domains), variant_rank(s.method, s.variant), s.seed))


def read_qualities(paths: Iterable[Path]) -> list[Quality]:
    """Read `quality.json` files, one row a split, sorted by dataset, split (`test` first), labeller, N and seed.

    Labels that a run's own prompts made lie in the run's folder, and the `run.json` above them says whose they are; of
    others the dataset is the file's `dataset`, or the folder above `labels`.
    """
    rows = [row for path in paths for row in _read_quality(Path(path))]
    return sorted(
        rows,
        key=lambda row: (row.dataset, row.split != "test", row.split, row.labeller, row.domains, row.seed or 0),
    )


def read_published() -> list[Published]:
    """The numbers printed in the LANIT paper (CVPR 2023), Tables 1 and 2; `style_aware` is Kim et al. (ICLR 2022)."""
    text = resources.files("lanit.comparison").joinpath("published.csv").read_text(encoding="utf-8")
    return [
        Published(
            table=int(row["table"]),
            dataset=row["dataset"],
            domains=int(row["domains"]),
            method=row["method"],
            supervision=row["supervision"],
            mfid=float(row["mfid"]),
            density=float(row["density"]),
            coverage=float(row["coverage"]),
        )
        for row in csv.DictReader(text.splitlines())
    ]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read `metrics.jsonl`: one mapping a line; a last line that a crash cut off is left out."""
    lines = []
    try:
        for text in Path(path).read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    except OSError as error:
        raise LanitError(f"{path} cannot be read ({error.strerror}); give the metrics.jsonl of a training") from None
    if lines and not all(isinstance(line, dict) and "images" in line for line in lines):
        raise LanitError(f"{path} has lines without `images`; give the metrics.jsonl of a training")
    return lines


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a mapping that `lanit {what}` wrote.

    Raises:
        LanitError: the file is missing or holds no mapping.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LanitError(f"{path} cannot be read ({error.strerror}); make it again with `lanit {what}`") from None
    except ValueError as error:
        raise LanitError(f"{path} is not valid JSON ({error}); make it again with `lanit {what}`") from None
    if not isinstance(values, dict):
        raise LanitError(f"{path} does not hold a mapping; make it again with `lanit {what}`")
    return values


def beside(path: Path, scores: Sequence[Score]) -> Score:
    """The scores of the run in whose folder `path` lies.

    Raises:
        LanitError: none of the scores given is of that run.
    """
    folder = Path(path).resolve().parent
    for score in scores:
        if score.path.resolve().parent == folder:
            return score
    raise LanitError(f"{path} has none of the given scores.json beside it; give the scores of its run too")


def variant_name(method: str, variant: str) -> str:
    """Name in tables: "LANIT" for the method itself, "LANIT: no dl" for the variant `lanit_no_dl`."""
    name = METHODS[method].title if method in METHODS else method
    return name if variant == method else f"{name}: {variant.removeprefix(f'{method}_').replace('_', ' ')}"


def variant_rank(method: str, variant: str) -> tuple[int, str, bool, str]:
    """Key that sorts methods as the paper's Table 1 does, unknown ones last, and variants below their method."""
    names = list(METHODS)
    return names.index(method) if method in names else len(names), method, variant != method, variant


def reading_rank(method: str, variant: str) -> tuple[int, str, bool, str]:
    """The same with the methods the other way round, for what is read from the paper's own method on."""
    rank, name, is_variant, variant = variant_rank(method, variant)
    return rank if method == EXTERNAL else -rank, name, is_variant, variant


def n_rank(domains: int | None) -> tuple[bool, int]:
    """Key that sorts by N, and what has none last."""
    return domains is None, domains or 0


def dataset_name(dataset: str) -> str:
    """Name of a dataset in tables."""
    return DATASETS.get(dataset, dataset)


def protocol_name(score: Score) -> str:
    """The protocol in a word or two; it says so where it is of another split than test."""
    split = score.protocol.get("split", "test") if isinstance(score.protocol, dict) else "test"
    return _name(score.protocol, ("name", "kind")) + (f" on {split}" if split != "test" else "")


def features_name(score: Score) -> str:
    """The feature extractor in a word or two."""
    return _name(score.features, ("name", "kind"))


def setting_name(score: Score) -> str:
    """Protocol and features in words, with the digest that tells apart what the words do not."""
    protocol = score.protocol.get("description") if isinstance(score.protocol, dict) else None
    return f"protocol {protocol or protocol_name(score)}; features {features_name(score)}; setting {score.setting[:6]}"


def by_setting(scores: Iterable[Score]) -> dict[tuple[str, str], list[Score]]:
    """(dataset, setting) → its scores; of each dataset the setting with most runs comes first."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.dataset, score.setting), []).append(score)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1])))


def _name(value: Any, keys: Sequence[str]) -> str:
    if isinstance(value, dict):
        for key in keys:
            if value.get(key):
                return str(value[key])
        return json.dumps(value, sort_keys=True)
    return str(value)


def _read_score(path: Path) -> Score:
    values = read_json(path, "evaluate scores")
    try:
        mean = {name: _number(values["mean"].get(name), f"mean.{name}") for name in MEANS}
        for name in ("mfid", "density", "coverage"):
            if mean[name] is None:
                raise ValueError(f"mean.{name} is missing or not finite")
        per_class = values["per_class"].values()
        domains = values["domains"]
        external = values["method"] == EXTERNAL
        if external and not {"title", "pairs", "of"} <= set(values["external"]):
            raise ValueError("external lacks title, pairs or of")
        return Score(
            path=path,
            dataset=str(values["dataset"]),
            method=str(values["method"]),
            variant=str(values.get("variant") or values["method"]),
            domains=None if external else domains if isinstance(domains, int) else len(domains),
            seed=None if external else int(values["seed"]),
            protocol=values["protocol"],
            features=values["features"],
            images_seen=None if external else int(values["images_seen"]),
            train_seconds=None if external else float(values["train_seconds"]),
            code=str(values["code"]),
            config=str(values["config"]),
            mean=mean,
            clusters=_read_clusters(values.get("clusters")),
            n_real=min(int(row["n_real"]) for row in per_class),
            n_fake=min(int(row["n_fake"]) for row in per_class),
            raw=values,
        )
    except KeyError as error:
        raise LanitError(f"{path} lacks {error}; make it again with `lanit evaluate scores`") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise LanitError(f"{path} is malformed ({error}); make it again with `lanit evaluate scores`") from None


def _read_clusters(values: dict[str, Any] | None) -> dict[str, float | None]:
    if values is None:
        return {}
    found = {name: _number(values[name], f"clusters.{name}") for name in CLUSTERS}
    return found | {name: int(values[name]) for name in ("images", "used")}


def _read_quality(path: Path) -> list[Quality]:
    values = read_json(path, "label")
    folder = path.resolve().parent
    try:
        labeller, variant, seed = _labeller(values["labeller"]), None, None
        if (folder.parent / "run.json").is_file():  # {dataset}/{variant}-n{N}/seed{S}/labels/quality.json
            run = read_json(folder.parent / "run.json", "train")
            dataset, variant, seed = run["dataset"], run.get("variant") or run["method"], run["seed"]
            labeller = f"{labeller}, learned ({variant_name(run['method'], variant)})"
        else:  # {dataset}/labels/{labeller}-n{N}/quality.json
            dataset = values.get("dataset") or folder.parents[1].name
            own = folder.name.rpartition("-n")[0]
            if not own.startswith(("adaptive", "top", "fixed")):  # one with templates of its own, say
                labeller = f"{labeller} ({own})"
        return [
            Quality(
                dataset=dataset,
                labeller=labeller,
                variant=variant,
                seed=seed,
                domains=len(values["domains"]),
                split=split,
                images=int(row["images"]),
                f1_macro=_number(row.get("f1_macro"), f"splits.{split}.f1_macro"),
                mean_labels=float(row["mean_labels"]),
                share_without=float(row["share_without"]),
                share_all=float(row["share_all"]),
            )
            for split, row in values["splits"].items()
        ]
    except KeyError as error:
        raise LanitError(f"{path} lacks {error}; make it again with `lanit label`") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise LanitError(f"{path} is malformed ({error}); make it again with `lanit label`") from None


def _labeller(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if value["kind"] == "top_k":
        return f"top-{value['k']}"
    if value["kind"] == "fixed":
        return f"fixed {value['threshold']}"
    return str(value["kind"])


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where} is {value!r}, not a number")
    return float(value) if math.isfinite(value) else None
