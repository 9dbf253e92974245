"""`lanit track`: what a sweep left, entered in MLflow, but for what the store has.

    lanit track --options '{"uri": "sqlite:///results/mlflow.db", "sweep": "demo"}' --runs results/*/*/seed* \\
        --comparison results --output results/mlflow.json

Trainings, scores and comparisons log by themselves with `--track`, as far as the store can be reached. What it could
not take is entered here: by the sweep at its end, or by whoever calls this, as often as one likes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from lanit.comparison.inputs import Score, file_name, picture_name, read_scores
from lanit.config import LanitError, parse, read_options
from lanit.tracking import (
    TrackOptions,
    enter_run,
    has_tables,
    log_scores,
    log_tables,
    make_store,
    read_store,
    ui_command,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lanit track`."""
    text = "JSON, or a JSON or YAML file: uri, sweep, datasets, config; or the file that --output made"
    parser.add_argument("--options", required=True, help=text)
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="folders of finished trainings, to be entered")
    parser.add_argument("--comparison", type=Path, help="folder of what `lanit compare` made, to be entered")
    parser.add_argument("--output", type=Path, help="record of the store to write: a JSON file")
    parser.set_defaults(run=_run)


def log_results(track: str, scores: Sequence[Score], output: Path) -> None:
    """Add scores and what `lanit compare` made of them in `output` to MLflow, unless all of it is there.

    Raises:
        LanitError: a file is missing or malformed, or the store cannot be reached.
    """
    report = output / "report.html"
    if not report.is_file():
        raise LanitError(f"no report.html in {output}; `lanit compare` makes it")
    mark = hashlib.sha256(report.read_bytes()).hexdigest()[:12]  # the report holds all tables, plots and pictures
    datasets = sorted({score.dataset for score in scores})
    if has_tables(track, datasets, mark):
        return
    for score in scores:
        files = [output / "pictures" / picture_name(score, kind) for kind in ("references", "latents")]
        log_scores(track, score.path.parent, score.raw, [path for path in files if path.is_file()])
    shared = [(report, "")]
    shared += [(path, "tables") for path in sorted((output / "tables").iterdir()) if path.is_file()]
    tables = {}
    for dataset in datasets:
        stem = file_name(dataset)
        tables[dataset] = list(shared)
        tables[dataset] += [(path, "plots") for path in sorted((output / "plots").glob(f"{stem}-*.png"))]
        tables[dataset] += [(path, "pictures") for path in (output / "pictures").glob(f"{stem}-overview.png")]
    log_tables(track, tables, mark)


def _run(arguments: argparse.Namespace) -> None:
    values = read_options(arguments.options)
    if "experiments" in values:  # a record: it names its database from where it lies itself
        store = read_store(arguments.options)
        options = TrackOptions(store.uri, store.sweep, list(store.experiments))
    else:
        options = parse(TrackOptions, values)
    scored = [run / "scores.json" for run in arguments.runs if (run / "scores.json").is_file()]
    if arguments.comparison and not scored:
        raise LanitError("--comparison is of scores, and none of --runs has a scores.json; give its runs")
    store = make_store(options)
    track = json.dumps({"uri": store.uri, "sweep": store.sweep})
    for run in arguments.runs:
        points, pictures = enter_run(track, run)
        if points or pictures:
            print(f"{run}: entered {points} points and {pictures} pictures that were missing")
    if arguments.comparison:
        log_results(track, read_scores(scored), arguments.comparison)
    if arguments.output:  # last: whoever finds it finds everything
        make_store(options, arguments.output)
    print(f"MLflow, sweep {store.sweep!r}: {ui_command(store.uri)}")
