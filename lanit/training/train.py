"""Stage `train`: `torchrun --standalone --nproc-per-node=P -m lanit train --options … --manifest … --output RUN`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--options", required=True, help="JSON, or the path of a JSON or YAML file")
    parser.add_argument("--manifest", required=True, type=Path, help="manifest.parquet of the dataset")
    parser.add_argument("--labels", type=Path, help="folder of pseudo labels, for a method that needs them")
    parser.add_argument("--output", required=True, type=Path, help="folder of the run")
    parser.add_argument("--track", type=Path, help="store record of `lanit track`; without it nothing goes to MLflow")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from lanit.config import LanitError, parse, read_options
    from lanit.methods import needs_labels
    from lanit.training.options import TrainOptions

    options = parse(TrainOptions, read_options(arguments.options), "train")
    if min(options.images, options.batch, options.log_every) < 1 or min(options.samples, options.checkpoints) < 0:
        raise LanitError(
            "train.images, train.batch and train.log_every must be at least 1, samples and checkpoints at least 0"
        )
    if needs_labels(options.method) and arguments.labels is None:
        raise LanitError(f"{options.method} trains on pseudo labels; give their folder with --labels")

    from lanit.training import distributed
    from lanit.training.loop import train

    world = distributed.start(options.device)
    try:
        train(options, arguments.manifest, arguments.labels, arguments.output, arguments.track, world)
    finally:
        distributed.stop(world)
