"""`report.html`: one file with everything in it, that opens anywhere and loads nothing."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from importlib import resources

from lanit import __version__
from lanit.comparison.inputs import Score, by_setting, dataset_name, features_name, protocol_name, reading_rank
from lanit.comparison.render import DASH, Table

WIDEST = 1600  # pixels of an embedded picture
PLOT_SCALE = 0.575  # of a plot's pixels: two narrow plots fill a line, and all plots have letters of one size
HEAVIEST = 600_000  # bytes of an embedded PNG; heavier ones become JPEGs, the files on disk stay


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture for the report."""

    title: str
    caption: str
    png: bytes
    file: str  # path relative to the report

    @property
    def width(self) -> int:
        """Width of the PNG in pixels, from its header."""
        return int.from_bytes(self.png[16:20], "big")


@dataclasses.dataclass(frozen=True)
class Chapter:
    """What there is to see of one dataset."""

    dataset: str
    plots: Sequence[Figure]
    overview: Sequence[Figure]
    pictures: Sequence[tuple[str, Sequence[Figure]]]  # run, its grids
    losses: Sequence[Figure] = ()
    prompts: Sequence[tuple[str, Sequence[Table]]] = ()  # run, what its prompts have learned


def render_report(
    title: str,
    scores: Sequence[Score],
    headline: Sequence[Table],
    detail: Sequence[Table],
    chapters: Sequence[Chapter],
    mlflow: str | None,
) -> str:
    """The report as HTML: every text escaped, every picture embedded, no script, nothing from elsewhere.

    Args:
        headline: tables that are shown open (Table 1, Table 2, labels).
        detail: tables that are shown folded (every run).
        mlflow: the command that opens the UI, or a server's address.
    """
    import jinja2

    template = resources.files("lanit.comparison").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["embed"] = _embed
    environment.globals["plot_width"] = lambda figure: round(figure.width * PLOT_SCALE)
    return environment.from_string(template).render(
        title=title,
        version=__version__,
        runs=_runs(scores),
        code=sorted({score.code for score in scores}),
        settings=_settings(scores),
        headline=headline,
        detail=detail,
        chapters=chapters,
        mlflow=mlflow,
    )


def _runs(scores: Sequence[Score]) -> list[dict[str, str]]:
    rows = []
    for (dataset, setting), group in by_setting(scores).items():
        methods = dict.fromkeys(s.name for s in sorted(group, key=lambda s: reading_rank(s.method, s.variant)))
        rows.append(
            {
                "dataset": dataset_name(dataset),
                "methods": ", ".join(methods),
                "domains": ", ".join(map(str, sorted({s.domains for s in group if s.domains is not None}))),
                "seeds": ", ".join(map(str, sorted({s.seed for s in group if s.seed is not None}))),
                "runs": str(len(group)),
                "protocol": protocol_name(group[0]),
                "features": features_name(group[0]),
                "setting": setting[:6],
                "images": _range([s.images_seen for s in group if s.images_seen is not None]),
                "classes": f"≥ {min(s.n_real for s in group):,} / {min(s.n_fake for s in group):,}",
                "minutes": f"{sum(s.train_seconds or 0 for s in group) / 60:.0f}",
            }
        )
    return rows


def _settings(scores: Sequence[Score]) -> list[tuple[str, str]]:
    return [
        (
            setting[:6],
            json.dumps({"protocol": group[0].protocol, "features": group[0].features}, indent=2, ensure_ascii=False),
        )
        for setting, group in {s: g for (_, s), g in by_setting(scores).items()}.items()
    ]


def _range(values: Sequence[int]) -> str:
    if not values:
        return DASH
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} – {high:,}"


def _embed(png: bytes) -> str:
    """A data URI of the picture, as a smaller JPEG where the PNG is heavy."""
    if len(png) <= HEAVIEST:
        return "data:image/png;base64," + base64.b64encode(png).decode()
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
