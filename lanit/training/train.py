"""Stage `train`: `torchrun --standalone --nproc-per-node=P -m lanit train --options … --manifest … --output RUN`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--options", required=True, help="JSON, or the path of a JSON or YAML file")
    parser.add_argument("--manifest", required=True, type=Path, help="manifest.parquet of the dataset")
    parser.add_argument("--labels", type=Path, help="folder of pseudo labels, for a method that needs them")
    parser.add_argument(
        "--embeddings", type=Path, nargs="+", default=[], help="of the train shards, where prompts learn"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the run")
    parser.add_argument("--track", help="MLflow's store: {uri, sweep} as JSON or a file; without it nothing goes there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from lanit import catalogue
    from lanit.config import LanitError, parse, read_options
    from lanit.training.options import TrainOptions

    options = parse(TrainOptions, read_options(arguments.options), "train")
    least = {"images": 1, "batch": 1, "log_every": 1, "accumulate": 1}
    least |= {"samples": 0, "checkpoints": 0, "checkpoint_minutes": 0}
    for name, value in least.items():
        if getattr(options, name) < value:
            raise LanitError(f"train.{name} must be at least {value}, not {getattr(options, name)}")
    method = catalogue.find(options.method)
    if method.is_labelled and arguments.labels is None:
        kind = "pseudo labels" if method.supervision == "text" else "labels of truth"
        raise LanitError(f"{options.method} trains on {kind}; give their folder with --labels")
    if method.supervision == "text" and options.language is None:
        raise LanitError(f"{options.method} is led by language; the options lack train.language (clip, templates, …)")

    from lanit.training import distributed
    from lanit.training.labelling import Inputs
    from lanit.training.loop import train
    from lanit.training.stopping import START_AGAIN

    world = distributed.start(options.device)
    try:
        inputs = Inputs(arguments.manifest, arguments.labels, tuple(arguments.embeddings))
        finished = train(options, inputs, arguments.output, arguments.track, world)
    finally:
        distributed.stop(world)
    if not finished:
        sys.exit(START_AGAIN)
