"""Plots in one style: metrics against N, label quality, training losses. Lines are named where they end."""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lanit.catalogue import METHODS
from lanit.comparison.drawing import drawing
from lanit.comparison.inputs import (
    Published,
    Quality,
    Score,
    dataset_name,
    features_name,
    n_rank,
    protocol_name,
    reading_rank,
    variant_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which readers with any colour vision tell apart; markers tell the same. Each method has its
# own by its place in the catalogue.
PALETTE = ("#009E73", "#CC79A7", "#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#000000", "#999999")
COLOURS = dict(zip(METHODS, PALETTE))
MARKERS = dict(zip(METHODS, "^Dsvo*XP"))
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "sD^vPX*h"
GREY = "#6b6b6b"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 10,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "figure.facecolor": "white",
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """A variant's, a labeller's or the paper's values of one metric."""

    label: str
    values: dict[int, list[float]]  # N → values over seeds
    color: str
    marker: str = ""  # "" is a level to compare with
    of: str = ""  # the method
    paper: bool = False
    external: bool = False  # has no N: the same at each


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes: a metric's curves."""

    title: str
    curves: list[Curve]
    digits: int
    share: bool = False  # between 0 and 1, shown in per cent


LineEnd = tuple[float, Curve]  # the height of its last point


def plot_mfid(group: Sequence[Score], published: Sequence[Published]) -> bytes:
    """mFID against N, one line a variant; the paper's curves dashed. PNG."""
    curves = _curves(group, "mfid") + _paper_curves(group, published, "mfid")
    return _draw([Panel("mFID ↓", curves, 1)], _subtitle(group))


def plot_density_coverage(group: Sequence[Score], published: Sequence[Published]) -> bytes:
    """Density and coverage against N, side by side. PNG."""
    panels = [
        Panel(f"{metric.capitalize()} ↑", _curves(group, metric) + _paper_curves(group, published, metric), 2)
        for metric in ("density", "coverage")
    ]
    return _draw(panels, _subtitle(group))


def plot_hit_rate(group: Sequence[Score]) -> bytes | None:
    """Hit rate against N over the evaluation classes among the candidates, and over all. PNG, or None without any.

    The untranslated sources' own rate is the level that doing nothing reaches.
    """
    panels = []
    for metric, title in (
        ("hit_rate_candidates", "Hit rate, classes among the N candidates ↑"),
        ("hit_rate", "Hit rate, all classes ↑"),
    ):
        curves = _curves(group, metric)
        if not curves:
            continue
        level = _by_domains(group, "source_rate_candidates") if metric == "hit_rate_candidates" else {}
        curves += [Curve("sources", level, GREY)] if level else []
        panels.append(Panel(title, curves, 0, share=True))
    return _draw(panels, _subtitle(group)) if panels else None


def plot_labels(qualities: Sequence[Quality]) -> bytes | None:
    """Macro F1 of the pseudo labels against N, one line a labeller. PNG, or None where no domain has truth."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in qualities:
        if row.f1_macro is not None:
            values.setdefault(row.labeller, {}).setdefault(row.domains, []).append(row.f1_macro)
    if not values:
        return None
    names = sorted(values, key=lambda name: (not name.startswith("adaptive"), name))
    curves = [
        Curve(name, values[name], CYCLE[i % len(CYCLE)], MARKS[i % len(MARKS)], of=name) for i, name in enumerate(names)
    ]
    subtitle = f"{dataset_name(qualities[0].dataset)} · {qualities[0].split} split"
    return _draw([Panel("Macro F1 of the pseudo labels ↑", curves, 3)], subtitle, top=1.02)


def plot_losses(runs: Sequence[tuple[Score, list[dict[str, float]]]]) -> bytes | None:
    """Losses of one variant against images seen: one panel a loss, one line a run, its colour telling N. PNG."""
    keys = dict.fromkeys(key for _, lines in runs for line in lines for key in line)
    names = [name for name in keys if name not in NOT_LOSSES]
    if not names:
        return None
    with drawing(STYLE):
        from matplotlib import colormaps
        from matplotlib.pyplot import close, subplots

        width = min(4, len(names))
        height = math.ceil(len(names) / width)
        size = (2.6 * width, 2.1 * height + 0.7)
        figure, grid = subplots(height, width, figsize=size, squeeze=False, layout="constrained")
        counts = sorted({score.domains for score, _ in runs}, key=n_rank)
        shades = colormaps["viridis"]
        colours = {n: shades(0.85 * i / max(len(counts) - 1, 1)) for i, n in enumerate(counts)}
        for axes, name in zip(grid.flat, names, strict=False):
            for score, lines in runs:
                points = [(line["images"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
                x, y = _smooth([p for p in points if math.isfinite(p[1])])
                axes.plot(x, y, color=colours[score.domains], linewidth=1.3, alpha=0.9)
            axes.set_title(name, fontsize=9)
            axes.tick_params(labelsize=8)
            axes.xaxis.set_major_formatter(lambda value, _: _short(value))
            axes.xaxis.get_major_locator().set_params(nbins=4)
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        handles = [_line(colours[n], f"N = {n}") for n in counts]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(counts), frameon=False, fontsize=9)
        score = runs[0][0]
        figure.suptitle(
            f"{dataset_name(score.dataset)} · {score.name} · losses against images seen, running mean",
            fontsize=10, color=GREY, x=0.01, ha="left",
        )  # fmt: skip
        data = _png(figure)
        close(figure)
        return data


NOT_LOSSES = {"step", "images", "seconds", "images_per_second", "learning_rate"}
LONGEST = 60  # points of a loss curve that a small panel can show


def _draw(panels: Sequence[Panel], subtitle: str, top: float | None = None) -> bytes:
    """Lines over N; or, where there are several to compare at one N alone, a row for each."""
    ours = [curve for panel in panels for curve in panel.curves if curve.marker and not curve.paper]
    counts = {n for curve in ours for n in curve.values}
    in_rows = len(counts) == 1 and len({curve.label for curve in ours}) > 1
    if in_rows:
        (n,) = counts
        at_n = [[curve for curve in panel.curves if n in curve.values] for panel in panels]
        panels = [dataclasses.replace(panel, curves=curves) for panel, curves in zip(panels, at_n, strict=True)]
    with drawing(STYLE):
        from matplotlib.pyplot import close, subplots

        rows = max(sum(bool(curve.marker) for curve in panel.curves) for panel in panels)
        height = 1.3 + 0.3 * rows if in_rows else 3.7
        size = (6.0 if len(panels) == 1 else 9.6, height)
        figure, grid = subplots(1, len(panels), figsize=size, squeeze=False, sharey=in_rows)
        ends: list[tuple[Axes, list[LineEnd]]] = []
        for axes, panel in zip(grid[0], panels, strict=True):
            axes.set_title(panel.title)
            if in_rows:
                _draw_rows(axes, panel, n)
            else:
                ends.append((axes, _draw_lines(axes, panel, top)))
        subtitle += f" · N = {n}" if in_rows else ""
        figure.text(0.012, 1 - 0.055 / height, subtitle, ha="left", va="top", fontsize=8.5, color=GREY)
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.15 / height), w_pad=2.5)
        for axes, of_axes in ends:
            _label_lines(figure, axes, of_axes)
        data = _png(figure)
        close(figure)
        return data


def _subtitle(group: Sequence[Score]) -> str:
    score = group[0]
    seeds = len({s.seed for s in group if s.seed is not None})
    parts = [dataset_name(score.dataset), f"protocol {protocol_name(score)}", f"features {features_name(score)}"]
    return " · ".join(parts + [f"mean of {seeds} seeds, each a dot"] * (seeds > 1))


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _by_domains(group: Iterable[Score], metric: str) -> dict[int, list[float]]:
    values: dict[int, list[float]] = {}
    for score in group:
        if (mean := score.mean[metric]) is not None and score.domains is not None:
            values.setdefault(score.domains, []).append(mean)
    return values


def _curves(group: Sequence[Score], metric: str) -> list[Curve]:
    """One curve a variant: a method's own in its colour, the others in those that are left.

    An external system, which has no N, is a level at all of the others'.
    """
    curves = []
    counts = sorted({score.domains for score in group if score.domains is not None})
    pairs = sorted({(score.method, score.variant) for score in group}, key=lambda pair: reading_rank(*pair))
    taken = {COLOURS.get(method, GREY) for method, variant in pairs if method == variant}
    left = itertools.cycle(colour for colour in CYCLE if colour not in taken)
    marks = itertools.cycle(MARKS)  # of another length: colour and marker together tell many apart
    for method, variant in pairs:
        own = method == variant
        colour, marker = (COLOURS.get(method, GREY), MARKERS.get(method, "P")) if own else (next(left), next(marks))
        mine = [score for score in group if (score.method, score.variant) == (method, variant)]
        external, level = mine[0].is_external, mine[0].mean[metric]
        values = _by_domains(mine, metric)
        if external and level is not None:
            values = {n: [level] for n in counts}
        if values:
            curves.append(Curve(mine[0].name, values, colour, marker, of=method, external=external))
    return curves


def _paper_curves(group: Sequence[Score], published: Sequence[Published], metric: str) -> list[Curve]:
    rows = [row for row in published if row.dataset == group[0].dataset]
    curves = []
    for method in sorted({row.method for row in rows}, key=lambda method: reading_rank(method, method)):
        mine = sorted((row for row in rows if row.method == method), key=lambda row: -row.table)
        values = {row.domains: [getattr(row, metric)] for row in mine}  # Table 1, which has more digits, comes last
        look = COLOURS.get(method, GREY), MARKERS.get(method, "P")
        curves.append(Curve(f"{variant_name(method, method)} (paper)", values, *look, of=method, paper=True))
    return curves


def _draw_lines(axes: Axes, panel: Panel, top: float | None) -> list[LineEnd]:
    """Draw means as lines, the seeds as dots; return where each line's label belongs."""
    ticks: set[int] = set()
    ends: list[LineEnd] = []
    for curve in panel.curves:
        x = sorted(curve.values)
        ticks |= set(x)
        y = [statistics.fmean(curve.values[n]) for n in x]
        style = "--" if curve.paper else "-." if curve.external else "-" if curve.marker else (0, (1, 2))
        (line,) = axes.plot(
            x, y, color=curve.color, marker="" if curve.external else curve.marker, linestyle=style,
            zorder=2 if curve.paper else 3, clip_on=False,
        )  # fmt: skip
        if curve.paper:
            line.set(alpha=0.75, linewidth=1.4, markersize=4.5, markerfacecolor="white")
        for n in x:
            if curve.marker and len(curve.values[n]) > 1:
                _draw_seeds(axes, [n] * len(curve.values[n]), curve.values[n], curve.color)
        ends.append((y[-1], curve))
    axes.set_xticks(sorted(ticks))
    axes.set_xlabel("number of candidate domains N")
    low, high = min(ticks), max(ticks)
    axes.set_xlim(low - max(0.04 * (high - low), 0.3), high + max(0.04 * (high - low), 0.3))
    axes.set_ylim(bottom=0, top=1 if panel.share else top)
    if panel.share:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.margins(y=0.1)
    return ends


def _draw_rows(axes: Axes, panel: Panel, n: int) -> None:
    """Draw a row for each curve: the seeds as dots, their mean ± standard deviation, and both in figures on the right.

    A line runs down from each method that has variants, and from a level such as the untranslated sources'.
    """
    scale, unit = (100, "%") if panel.share else (1, "")
    owners = collections.Counter(curve.of for curve in panel.curves if not curve.paper)
    rows = [curve for curve in panel.curves if curve.marker]
    for curve in panel.curves:
        mean = scale * statistics.fmean(curve.values[n])
        if not curve.marker:
            axes.axvline(mean, color=GREY, linestyle=(0, (1, 2)), linewidth=1.4, zorder=1)
            axes.text(mean, 1.0, f" {curve.label}", transform=axes.get_xaxis_transform(), color=GREY, fontsize=8)
            continue
        own = not curve.paper and curve.label == variant_name(curve.of, curve.of)
        if own and owners[curve.of] > 1:
            axes.axvline(mean, color=COLOURS.get(curve.of, GREY), linewidth=1, alpha=0.35, zorder=1)
        place, values = rows.index(curve), [scale * value for value in curve.values[n]]
        colour = COLOURS.get(curve.of, curve.color)  # the rows have names: a method's variants share its colour
        several = len(values) > 1
        axes.errorbar(
            mean, place, xerr=statistics.stdev(values) if several else None, color=colour, marker="o" if own else "s",
            markersize=7 if own else 5.5, markerfacecolor="white" if curve.paper else colour, elinewidth=1.8, zorder=3,
        )  # fmt: skip
        if several:
            _draw_seeds(axes, values, [place] * len(values), colour)
        spread = f" ± {statistics.stdev(values):.{panel.digits}f}" if several else ""
        axes.text(
            1.02, place, f"{mean:.{panel.digits}f}{spread}{unit}", transform=axes.get_yaxis_transform(), va="center",
            fontsize=8.5, color="#333333",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [curve.label for curve in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}{unit}")
    axes.margins(x=0.08)


def _draw_seeds(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    axes.scatter(x, y, s=12, color=colour, alpha=0.45, linewidths=0, zorder=2)


def _label_lines(figure: Figure, axes: Axes, ends: Sequence[LineEnd]) -> None:
    """Write each line's name and marker beside its right end, pushed apart where two would touch."""
    ends = sorted(ends, key=lambda end: end[0])
    longest = max(len(curve.label) for _, curve in ends)
    box = axes.get_position()
    room = (longest * 6.0 + 26) / (figure.get_figwidth() * 72)  # about 6 points a character at this size
    axes.set_position((box.x0, box.y0, box.width - room, box.height))
    box = axes.get_position()
    width, height = box.width * figure.get_figwidth() * 72, box.height * figure.get_figheight() * 72
    low, high = axes.get_ylim()
    gap = 12.5 / height
    places = _push_apart([(y - low) / (high - low) for y, _ in ends], gap)
    places = [min(place, 1 - (len(ends) - 1 - i) * gap) for i, place in enumerate(places)]  # many would reach the title
    for (_, curve), place in zip(ends, places, strict=True):
        if curve.marker and not curve.external:
            face = "white" if curve.paper else curve.color
            axes.plot(
                [1 + 12 / width], [place], transform=axes.transAxes, clip_on=False, color=curve.color,
                marker=curve.marker, markersize=4.5, markerfacecolor=face, alpha=0.75 if curve.paper else 1,
            )  # fmt: skip
        axes.text(
            1 + (20 if curve.marker else 8) / width, place, curve.label, transform=axes.transAxes, color=curve.color,
            va="center", fontsize=9, fontweight="normal" if curve.paper or curve.color == GREY else "bold",
        )  # fmt: skip


def _push_apart(targets: Sequence[float], gap: float) -> list[float]:
    """Places as near as may be to sorted targets with at least `gap` between neighbours (merging clusters)."""
    clusters: list[list[float]] = []  # sum of (target - rank · gap), count
    for target in targets:
        clusters.append([target, 1.0])
        while len(clusters) > 1:
            (sum_a, n_a), (sum_b, n_b) = clusters[-2:]
            top_of_a = sum_a / n_a + (n_a - 1) / 2 * gap
            bottom_of_b = sum_b / n_b - (n_b - 1) / 2 * gap
            if bottom_of_b - top_of_a >= gap:
                break
            clusters[-2:] = [[sum_a + sum_b, n_a + n_b]]
    return [total / n + (i - (n - 1) / 2) * gap for total, n in clusters for i in range(int(n))]


def _smooth(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Means of equal runs of points, at most LONGEST of them."""
    size = max(1, math.ceil(len(points) / LONGEST))
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [statistics.fmean(p[0] for p in c) for c in chunks], [statistics.fmean(p[1] for p in c) for c in chunks]


def _short(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def _line(colour, label: str):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, label=label, linewidth=2)
