"""Plots in one style: metrics against N, label quality, training losses. Lines are named where they end."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lanit.comparison.scores import (
    METHODS,
    Published,
    Quality,
    Score,
    dataset_name,
    features_name,
    method_rank,
    protocol_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which readers with any colour vision tell apart; markers tell the same.
COLOURS = {
    "lanit": "#0072B2",
    "tunit": "#D55E00",
    "stargan2": "#009E73",
    "smoothing": "#CC79A7",
    "style_aware": "#E69F00",
}
MARKERS = {"lanit": "o", "tunit": "s", "stargan2": "^", "smoothing": "D", "style_aware": "v"}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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
Curve = tuple[str, dict[int, list[float]], dict]  # label, N → values over seeds, style


def plot_mfid(group: Sequence[Score], published: Sequence[Published]) -> bytes:
    """mFID against N, one line a method; the paper's curves dashed. PNG."""
    with _styled():
        figure, (axes,) = _figure(1)
        _draw_curves(axes, _curves(group, "mfid") + _paper_curves(group, published, "mfid"))
        axes.set_title("mFID ↓")
        return _finish(figure, group)


def plot_density_coverage(group: Sequence[Score], published: Sequence[Published]) -> bytes:
    """Density and coverage against N, side by side. PNG."""
    with _styled():
        figure, panels = _figure(2)
        for axes, metric in zip(panels, ("density", "coverage"), strict=True):
            _draw_curves(axes, _curves(group, metric) + _paper_curves(group, published, metric))
            axes.set_title(f"{metric.capitalize()} ↑")
        return _finish(figure, group)


def plot_hit_rate(group: Sequence[Score]) -> bytes | None:
    """Hit rate against N over the evaluation classes among the candidates, and over all. PNG, or None without any.

    The untranslated sources' own rate is the level that doing nothing reaches.
    """
    panels = [
        ("hit_rate_candidates", "Hit rate, classes among the N candidates ↑"),
        ("hit_rate", "Hit rate, all classes ↑"),
    ]
    panels = [(metric, title) for metric, title in panels if any(s.mean[metric] is not None for s in group)]
    if not panels:
        return None
    with _styled():
        figure, all_axes = _figure(len(panels))
        for axes, (metric, title) in zip(all_axes, panels, strict=True):
            curves = _curves(group, metric)
            if metric == "hit_rate_candidates":
                level = _by_domains(group, "source_rate_candidates")
                curves += [("sources", level, {"color": GREY, "linestyle": (0, (1, 2)), "marker": ""})] if level else []
            _draw_curves(axes, curves)
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
            axes.set_title(title)
        return _finish(figure, group)


def plot_labels(qualities: Sequence[Quality]) -> bytes | None:
    """Macro F1 of the pseudo labels against N, one line a labeller. PNG, or None where no domain has truth."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in qualities:
        if row.f1_macro is not None:
            values.setdefault(row.labeller, {}).setdefault(row.domains, []).append(row.f1_macro)
    if not values:
        return None
    with _styled():
        figure, (axes,) = _figure(1)
        names = sorted(values, key=lambda name: (name != "adaptive", name))
        curves = [
            (name, values[name], {"color": CYCLE[i % len(CYCLE)], "marker": "osD^vPX"[i % 7]})
            for i, name in enumerate(names)
        ]
        _draw_curves(axes, curves)
        axes.set_ylim(0, 1.02)
        axes.set_title("Macro F1 of the pseudo labels ↑")
        return _finish(figure, subtitle=f"{dataset_name(qualities[0].dataset)} · {qualities[0].split} split")


def plot_losses(runs: Sequence[tuple[Score, list[dict[str, float]]]]) -> bytes | None:
    """Losses of one method against images seen: one panel a loss, one line a run, its colour telling N. PNG."""
    keys = dict.fromkeys(key for _, lines in runs for line in lines for key in line)
    names = [name for name in keys if name not in NOT_LOSSES]
    if not names:
        return None
    with _styled():
        from matplotlib import colormaps
        from matplotlib.pyplot import close, subplots

        width = min(4, len(names))
        height = math.ceil(len(names) / width)
        size = (2.6 * width, 2.1 * height + 0.7)
        figure, grid = subplots(height, width, figsize=size, squeeze=False, layout="constrained")
        counts = sorted({score.domains for score, _ in runs})
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
            f"{dataset_name(score.dataset)} · {score.method_name} · losses against images seen, running mean",
            fontsize=10, color=GREY, x=0.01, ha="left",
        )  # fmt: skip
        data = _png(figure)
        close(figure)
        return data


NOT_LOSSES = {"step", "images", "seconds", "images_per_second", "learning_rate"}
LONGEST = 60  # points of a loss curve that a small panel can show


def _styled():
    import matplotlib

    matplotlib.use("Agg")
    return matplotlib.rc_context(STYLE)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.pyplot import subplots

    figure, axes = subplots(1, panels, figsize=(6.0 if panels == 1 else 9.6, 3.7), squeeze=False)
    return figure, list(axes[0])


def _finish(figure: Figure, group: Sequence[Score] = (), subtitle: str = "") -> bytes:
    from matplotlib.pyplot import close

    if group:
        score = group[0]
        seeds = len({s.seed for s in group})
        parts = [dataset_name(score.dataset), f"protocol {protocol_name(score)}", f"features {features_name(score)}"]
        parts += [f"mean of {seeds} seeds, each a dot"] if seeds > 1 else []
        subtitle = " · ".join(parts)
    figure.text(0.012, 0.985, subtitle, ha="left", va="top", fontsize=8.5, color=GREY)
    figure.tight_layout(rect=(0, 0, 1, 0.96), w_pad=2.5)
    for axes in figure.axes:
        _label_lines(axes)
    data = _png(figure)
    close(figure)
    return data


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _by_domains(group: Iterable[Score], metric: str) -> dict[int, list[float]]:
    values: dict[int, list[float]] = {}
    for score in group:
        if score.mean[metric] is not None:
            values.setdefault(score.domains, []).append(score.mean[metric])
    return values


def _curves(group: Sequence[Score], metric: str) -> list[Curve]:
    curves = []
    for method in sorted({score.method for score in group}, key=method_rank, reverse=True):
        values = _by_domains((score for score in group if score.method == method), metric)
        if values:
            style = {"color": COLOURS.get(method, GREY), "marker": MARKERS.get(method, "P")}
            curves.append((METHODS.get(method, method), values, style))
    return curves


def _paper_curves(group: Sequence[Score], published: Sequence[Published], metric: str) -> list[Curve]:
    rows = [row for row in published if row.dataset == group[0].dataset]
    curves = []
    for method in sorted({row.method for row in rows}, key=method_rank, reverse=True):
        mine = sorted((row for row in rows if row.method == method), key=lambda row: -row.table)
        values = {row.domains: [getattr(row, metric)] for row in mine}  # Table 1, which has more digits, comes last
        style = {"color": COLOURS.get(method, GREY), "marker": MARKERS.get(method, "P")}
        style |= {"linestyle": "--", "paper": True}
        curves.append((f"{METHODS.get(method, method)} (paper)", values, style))
    return curves


def _draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw means as lines, the seeds as dots, and remember where each line's label belongs."""
    ticks: set[int] = set()
    axes.line_ends = []
    for label, values, style in curves:
        style = dict(style)
        paper = style.pop("paper", False)
        x = sorted(values)
        ticks |= set(x)
        y = [statistics.fmean(values[n]) for n in x]
        look = {"alpha": 0.75, "linewidth": 1.4, "markersize": 4.5, "markerfacecolor": "white"} if paper else {}
        axes.plot(x, y, **style, **look, zorder=3 if not paper else 2, clip_on=False)
        if style.get("marker"):
            for n in x:
                if len(values[n]) > 1:
                    dots = {"s": 12, "color": style["color"], "alpha": 0.45, "linewidths": 0, "zorder": 2}
                    axes.scatter([n] * len(values[n]), values[n], **dots)
        axes.line_ends.append((y[-1], label, style, paper))
    axes.set_xticks(sorted(ticks))
    axes.set_xlabel("number of candidate domains N")
    low, high = min(ticks), max(ticks)
    axes.set_xlim(low - max(0.04 * (high - low), 0.3), high + max(0.04 * (high - low), 0.3))
    axes.set_ylim(bottom=0)
    axes.margins(y=0.1)


def _label_lines(axes: Axes) -> None:
    """Write each line's name and marker beside its right end, pushed apart where two would touch."""
    ends = sorted(getattr(axes, "line_ends", ()), key=lambda end: end[0])
    if not ends:
        return
    figure = axes.figure
    longest = max(len(label) for _, label, _, _ in ends)
    box = axes.get_position()
    room = (longest * 6.0 + 26) / (figure.get_figwidth() * 72)  # about 6 points a character at this size
    axes.set_position([box.x0, box.y0, box.width - room, box.height])
    box = axes.get_position()
    width, height = box.width * figure.get_figwidth() * 72, box.height * figure.get_figheight() * 72
    low, high = axes.get_ylim()
    places = _push_apart([(y - low) / (high - low) for y, _, _, _ in ends], gap=12.5 / height)
    for (_, label, style, paper), place in zip(ends, places, strict=True):
        colour, marker = style["color"], style.get("marker")
        if marker:
            face = "white" if paper else colour
            axes.plot(
                [1 + 12 / width], [place], transform=axes.transAxes, clip_on=False, color=colour, marker=marker,
                markersize=4.5, markerfacecolor=face, alpha=0.75 if paper else 1,
            )  # fmt: skip
        weight = "normal" if paper or colour == GREY else "bold"
        axes.text(
            1 + (20 if marker else 8) / width, place, label, transform=axes.transAxes, color=colour, va="center",
            fontsize=9, fontweight=weight,
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
