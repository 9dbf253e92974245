"""`lanit compare`: everything that a reader looks at, made from what the runs left.

    lanit compare --options '{"sweep": "demo"}' --scores results/*/*/*/scores.json \\
        --quality results/*/labels/*/quality.json --pictures results/*/*/*/pictures.npz --output results
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from lanit.comparison import plots, tables
from lanit.comparison.inputs import (
    Score,
    beside,
    by_setting,
    dataset_name,
    file_name,
    n_rank,
    picture_name,
    read_metrics,
    read_published,
    read_qualities,
    read_scores,
    reading_rank,
)
from lanit.comparison.pictures import Pictures, draw, draw_overview, latent_grid, read_pictures, reference_grid
from lanit.comparison.prompt_report import read_prompts
from lanit.comparison.render import to_latex, to_markdown
from lanit.comparison.report import Chapter, Figure, render_report
from lanit.comparison.track import log_results
from lanit.config import LanitError, parse, read_options
from lanit.files import write_whole

T = TypeVar("T")
PAPER_N = 10  # domains in the paper's Table 1


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """What `lanit compare` is given."""

    sweep: str | None = None  # named in the report's title
    domains: int | None = None  # N of Table 1 and the overviews; None: 10, or the largest N where no run has that
    overview_rows: int = 4  # sources in an overview
    overview_columns: int = 6  # references in an overview


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lanit compare`."""
    parser.add_argument("--options", default="{}", help="JSON, or a JSON or YAML file: sweep, domains")
    parser.add_argument("--scores", nargs="+", type=Path, required=True, help="scores.json of each run")
    parser.add_argument("--quality", nargs="*", type=Path, default=[], help="quality.json of each labelling")
    parser.add_argument("--pictures", nargs="*", type=Path, default=[], help="pictures.npz of each run")
    parser.add_argument("--metrics", nargs="*", type=Path, default=[], help="metrics.jsonl of each run")
    parser.add_argument("--prompts", nargs="*", type=Path, default=[], help="prompts.json of runs that learned them")
    parser.add_argument("--output", type=Path, required=True, help="folder for tables/, plots/, pictures/, report.html")
    parser.add_argument("--track", help="MLflow's store: {uri, sweep} as JSON or a file; without it nothing goes there")
    parser.set_defaults(run=_run)


def compare(
    options: CompareOptions,
    scores: Sequence[Path],
    quality: Sequence[Path],
    pictures: Sequence[Path],
    metrics: Sequence[Path],
    prompts: Sequence[Path],
    output: Path,
    track: str | None = None,
) -> None:
    """Write tables, plots, pictures and the report under `output`, and add them to MLflow where `track` is given.

    Raises:
        LanitError: an input is missing or malformed; nothing has been written then.
    """
    all_scores, published = read_scores(scores), read_published()
    qualities = read_qualities(quality)
    grids = [(beside(path, all_scores), read_pictures(path)) for path in pictures]
    losses = [(beside(path, all_scores), read_metrics(path)) for path in metrics]
    learned = [(beside(path, all_scores), read_prompts(path)) for path in prompts]
    counts = {score.domains for score in all_scores if score.domains is not None}
    domains = options.domains or (PAPER_N if PAPER_N in counts else max(counts, default=PAPER_N))

    comparison = tables.comparison_tables(all_scores)
    variants = tables.variant_tables(all_scores, domains)
    clusters = tables.cluster_tables(all_scores)
    first = tables.table1(all_scores, published, domains)
    second = tables.table2(all_scores, published)
    labels = [tables.labels_summary(qualities), tables.labels_table(qualities)] if qualities else []
    folder = output / "tables"
    write_whole(folder / "comparison.csv", tables.comparison_csv(all_scores))
    for name, group in (("comparison", [*variants, *comparison, *clusters]), ("table1", first), ("table2", second)):
        write_whole(folder / f"{name}.md", "\n".join(to_markdown(table) for table in group))
        latex = "\n".join(to_latex(table) for table in group)
        write_whole(folder / f"{name}.tex", "% \\usepackage{booktabs}\n" + latex)
    write_whole(folder / "labels.csv", tables.labels_csv(qualities))
    write_whole(folder / "labels.md", "\n".join(map(to_markdown, labels)) or "No label quality was given.\n")

    chapters = []
    for dataset in sorted({score.dataset for score in all_scores}):
        chosen = _in_order(grids, dataset)
        chapters.append(
            Chapter(
                dataset=dataset_name(dataset),
                plots=_plots(dataset, all_scores, published, qualities, output),
                overview=_overview(dataset, chosen, domains, options, output),
                pictures=[_run_pictures(score, images, output) for score, images in chosen],
                losses=_losses(dataset, losses, output),
                prompts=[(_run_name(score), told) for score, told in _in_order(learned, dataset)],
            )
        )
    title = "Comparison of translation methods" + (f" · {options.sweep}" if options.sweep else "")
    command = _ui_command(track) if track else None
    over = second if len(counts) > 1 else []  # at one N, Table 2 says what Table 1 does
    headline, detail = [*variants, *first, *over, *labels[:1]], [*comparison, *clusters, *labels[1:]]
    write_whole(output / "report.html", render_report(title, all_scores, headline, detail, chapters, command))
    if track:
        try:
            log_results(track, all_scores, output)
        except LanitError as error:  # what has been written stands, whatever becomes of the store
            print(f"warning: the results are not in MLflow: {error}", file=sys.stderr)


def _run(arguments: argparse.Namespace) -> None:
    options = parse(CompareOptions, read_options(arguments.options))
    output = arguments.output
    compare(
        options,
        arguments.scores,
        arguments.quality,
        arguments.pictures,
        arguments.metrics,
        arguments.prompts,
        output,
        arguments.track,
    )
    print("The comparison is made:")
    for what, place in (("tables", "tables"), ("plots", "plots"), ("pictures", "pictures"), ("report", "report.html")):
        path = output / place
        if path.exists():
            print(f"  {what:<9} {_relative(path)}{'/' if path.is_dir() else ''}")
    if arguments.track:
        print(f"  MLflow    {_ui_command(arguments.track)}")


def _plots(dataset, scores, published, qualities, output: Path) -> list[Figure]:
    figures = []
    stem = file_name(dataset)
    for index, ((_name, setting), group) in enumerate(
        item for item in by_setting(scores).items() if item[0][0] == dataset
    ):
        counts = sorted({score.domains for score in group if score.domains is not None})
        if not counts:  # nothing but external systems, which the tables have
            continue
        over = "against N" if len(counts) > 1 else f"at N = {counts[0]}"
        suffix = "" if index == 0 else f"-{setting[:6]}"
        paper = [row for row in published if row.dataset == dataset] if index == 0 else []
        dashed = " Dashed or hollow: the numbers printed in the paper." if paper else ""
        made = (
            ("mfid", f"mFID {over}", "Lower is better." + dashed, plots.plot_mfid(group, paper)),
            (
                "density-coverage",
                f"Density and coverage {over}",
                "Higher is better: density tells fidelity, coverage diversity." + dashed,
                plots.plot_density_coverage(group, paper),
            ),
            (
                "hit-rate",
                f"Hit rate {over}",
                "How often the judge sees the target in a translation; dotted, how often in the untranslated sources.",
                plots.plot_hit_rate(group),
            ),
        )
        for kind, title, caption, png in made:
            if png is not None:
                figures.append(_figure(output, f"plots/{stem}-{kind}{suffix}.png", title, caption, png))
    rows = [row for row in qualities if row.dataset == dataset]
    rows = [row for row in rows if row.split == rows[0].split]  # `test` comes first where it is there
    if rows and (png := plots.plot_labels(rows)) is not None:
        caption = "Macro F1 over the domains that have truth, by labeller."
        figures.append(_figure(output, f"plots/{stem}-labels.png", "Quality of the pseudo labels", caption, png))
    return figures


def _overview(dataset, grids, domains: int, options: CompareOptions, output: Path) -> list[Figure]:
    chosen: dict[str, tuple[Score, Pictures]] = {}
    for score, images in grids:  # in the order of reading, and of each variant the first seed
        if score.domains in (domains, None):
            chosen.setdefault(score.variant, (score, images))
    if not chosen:
        return []
    titled = [
        (score.name if score.is_external else f"{score.name}, N = {domains}", images)
        for score, images in chosen.values()
    ]
    png = _png(draw_overview(titled, options.overview_rows, options.overview_columns))
    caption = "Each source (first column) in the style of each reference (first row)."
    file = f"pictures/{file_name(dataset)}-overview.png"
    return [_figure(output, file, f"Translations at N = {domains}", caption, png)]


def _run_pictures(score: Score, images: Pictures, output: Path) -> tuple[str, list[Figure]]:
    made = [("references", reference_grid(images), "Guided by a reference", "Sources down, references across.")]
    if images.latent_grid.shape[1]:
        grid = latent_grid(images, score.method)
        made.append(("latents", grid, "Guided by a latent code", "Sources down, domains across."))
    figures = [
        _figure(output, f"pictures/{picture_name(score, kind)}", title, caption, _png(draw(grid)))
        for kind, grid, title, caption in made
    ]
    return _run_name(score), figures


def _losses(dataset, losses, output: Path) -> list[Figure]:
    figures = []
    variants = {(score.method, score.variant) for score, _ in losses if score.dataset == dataset}
    for _, variant in sorted(variants, key=lambda pair: reading_rank(*pair)):
        runs = [(s, lines) for s, lines in losses if (s.dataset, s.variant) == (dataset, variant)]
        png = plots.plot_losses(runs)
        if png is not None:
            name = f"plots/{file_name(dataset)}-{file_name(variant)}-losses.png"
            figures.append(_figure(output, name, f"Losses of {runs[0][0].name}", "One line a run.", png))
    return figures


def _figure(output: Path, file: str, title: str, caption: str, png: bytes) -> Figure:
    write_whole(output / file, png)
    return Figure(title, caption, png, file)


def _png(image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _ui_command(track: str) -> str:
    from lanit.tracking import read_store, ui_command

    return ui_command(read_store(track).uri)


def _in_order(pairs: Sequence[tuple[Score, T]], dataset: str) -> list[tuple[Score, T]]:
    """Those of a dataset, in the order of reading."""
    return sorted(
        (pair for pair in pairs if pair[0].dataset == dataset),
        key=lambda pair: (n_rank(pair[0].domains), reading_rank(pair[0].method, pair[0].variant), pair[0].seed),
    )


def _run_name(score: Score) -> str:
    return score.name if score.is_external else f"{score.name}, N = {score.domains}, seed {score.seed}"


def _relative(path: Path) -> str:
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)
