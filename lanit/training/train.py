"""Stage `train`: `torchrun --standalone --nproc-per-node=P -m lanit train --options … --manifest … --output RUN`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class AugmentOptions:
    """Augmentation of the images that a method trains on; pseudo labels are those of the images as they are."""

    crop: bool = True  # with probability ½ a random resized crop
    flip: bool = True  # with probability ½ mirrored


@dataclass(frozen=True)
class TrainOptions:
    dataset: str
    method: str
    domains: list[str]  # names of the N candidate domains; TUNIT uses their number alone
    seed: int
    size: int  # side of the images in pixels
    images: int  # the budget: source images seen, by all processes together
    batch: int  # source images a step, of all processes together
    settings: dict[str, Any] = field(default_factory=dict)  # the method's own options
    clip: dict[str, Any] | None = None  # the CLIP that made the labels, for a method that needs one
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    log_every: int = 50  # steps between fetches of the losses
    samples: int = 8  # sample pictures over the whole training
    checkpoints: int = 10  # checkpoints over the whole training
    device: Literal["auto", "cpu", "cuda"] = "auto"


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

    options = parse(TrainOptions, read_options(arguments.options), "train")
    if min(options.images, options.batch, options.log_every) < 1 or min(options.samples, options.checkpoints) < 0:
        raise LanitError("train.images, train.batch and train.log_every must be at least 1, samples and checkpoints at least 0")
    if needs_labels(options.method) and arguments.labels is None:
        raise LanitError(f"{options.method} trains on pseudo labels; give their folder with --labels")

    from lanit.training import distributed
    from lanit.training.loop import train

    world = distributed.start(options.device)
    try:
        train(options, arguments.manifest, arguments.labels, arguments.output, arguments.track, world)
    finally:
        distributed.stop(world)
