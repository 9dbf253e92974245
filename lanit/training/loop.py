"""The training loop: batches in a fixed order, steps, averages, logs, sample pictures and checkpoints, for any method."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanit.config import LanitError, digest
from lanit.data.augment import augment
from lanit.data.batches import ImageStore, prefetch, sample_indices
from lanit.files import whole, write_whole
from lanit.methods import create_method, needs_labels
from lanit.methods.protocol import Method
from lanit.training import checkpoint
from lanit.training.averaging import average
from lanit.training.distributed import World
from lanit.training.options import TrainOptions
from lanit.training.pictures import sample_grid
from lanit.training.record import Recorder


@dataclass(frozen=True)
class StepBatch:
    """What one process needs for one step; see `lanit.methods.protocol.Batch`."""

    source: Tensor
    reference: Tensor
    source_labels: Tensor | None
    reference_labels: Tensor | None
    generator: torch.Generator
    step: int
    progress: float


def train(
    options: TrainOptions, manifest: Path, labels: Path | None, output: Path, track: Path | None, world: World
) -> None:
    """Train one method and leave `model.safetensors` and `run.json` in `output`.

    A checkpoint of the same options found in `output` is continued; the result is the same as without the interruption.

    Raises:
        LanitError: the batch does not divide among the processes, no image has a label, or a loss is not finite.
    """
    if options.batch % world.size:
        raise LanitError(
            f"train.batch {options.batch} does not divide among {world.size} processes; use a multiple of {world.size}"
        )
    torch.manual_seed(options.seed)
    method = create_method(
        options.method, options.settings, options.size, options.domains, labels, options.clip, world.device
    )
    method.reduce_gradients = world.average_gradients
    world.share([*method.networks.state_dict().values(), *method.averaged.state_dict().values()])
    config = digest(options)
    record = Recorder.open(output, options, config, code_version(), track) if world.leads else None

    feed = Feed(options, manifest, labels if needs_labels(options.method) else None, world)
    if world.leads:
        drawn = f"{len(feed.pool)} of {len(feed.store)} images can be drawn"
        print(f"{options.method}, {len(options.domains)} domains: {drawn}", flush=True)
    steps = -(-options.images // options.batch)
    first, seconds = _restore(output / "checkpoint.pt", method, config, world)
    if record:
        record.resume(first)
    sample_steps = _spread(steps, options.samples)
    checkpoint_steps = _spread(steps, options.checkpoints) - {steps}
    started = time.monotonic() - seconds

    for step, batch in zip(range(first, steps), feed.batches(first, steps)):
        losses = method.step(batch)
        average(method.averaged, method.networks, method.averaging(batch.progress))
        done = step + 1
        if record:
            record.add(losses)
            if done % options.log_every == 0 or done == steps:
                seen = min(done * options.batch, options.images)
                record.write(done, seen, time.monotonic() - started, options.images)
            if done in sample_steps:
                record.picture(f"samples/{done * options.batch:08d}.png", sample_grid(method, *feed.samples()))
        if done in checkpoint_steps:
            if record:
                record.check()
                _save(output / "checkpoint.pt", method, config, done, time.monotonic() - started)
    if record:
        record.check()
        _finish(output, options, method, config, steps * options.batch, time.monotonic() - started, world)
        record.close()
        (output / "checkpoint.pt").unlink(missing_ok=True)  # the budget is spent: nothing could continue from it


class Feed:
    """The batches of one process: a function of (seed, step, rank) and of nothing else."""

    def __init__(self, options: TrainOptions, manifest: Path, labels_folder: Path | None, world: World):
        self.options, self.world = options, world
        self.store = ImageStore(manifest, "train")
        self.labels: Tensor | None = None
        self.pool = np.arange(len(self.store))
        if labels_folder is not None:
            from lanit.language.labels import read_labels

            found = read_labels(labels_folder, "train").labels
            # Known beforehand: an image without an active domain is never drawn, and no batch is drawn twice.
            self.pool = np.flatnonzero(found.any(1))
            self.labels = torch.from_numpy(found.astype(np.float32))
            if len(self.pool) < 2:
                raise LanitError(
                    f"only {len(self.pool)} of {len(found)} images have an active domain by the labels in "
                    f"{labels_folder}; look at the prompts and at the labeller's threshold"
                )

    def batches(self, first: int, last: int) -> Iterator[StepBatch]:
        """Batches of steps `first` to `last` − 1, loaded ahead of their use."""
        return prefetch(self._batch, range(first, last))

    def samples(self, count: int = 6) -> tuple[Tensor, Tensor, Tensor | None]:
        """Fixed sources and references, evenly spaced in the pool, and the references' labels."""
        rows = self.pool[np.linspace(0, len(self.pool) - 1, 2 * count).astype(int)]
        images = self._images(rows)
        labels = None if self.labels is None else self.labels[rows[count:]].to(self.world.device)
        return images[:count], images[count:], labels

    def _batch(self, step: int) -> StepBatch:
        options, world = self.options, self.world
        count = options.batch // world.size
        rows = np.concatenate([
            self.pool[sample_indices(len(self.pool), options.seed, step, world.rank, count, role, world.size)]
            for role in ("source", "reference")
        ])
        generator = torch.Generator().manual_seed(_mix(options.seed, step, world.rank))
        images = augment(self._images(rows), generator, crop=options.augment.crop, flip=options.augment.flip)
        labels = (None, None) if self.labels is None else self.labels[rows].to(world.device).split(count)
        progress = min(1.0, step * options.batch / options.images)
        return StepBatch(*images.split(count), *labels, generator, step, progress)

    def _images(self, rows: np.ndarray) -> Tensor:
        return self.store.read(rows).to(self.world.device).float() / 127.5 - 1


def code_version() -> str:
    """The git revision of the code that runs, `-dirty` where tracked files differ from it; `unknown` outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _restore(path: Path, method: Method, config: str, world: World) -> tuple[int, float]:
    if not path.is_file():
        return 0, 0.0
    state = checkpoint.load(path, world.device)
    if state["config"] != config:
        if world.leads:
            print(f"{path} is of other options: training starts from the beginning", flush=True)
        return 0, 0.0
    method.networks.load_state_dict(state["networks"])
    method.averaged.load_state_dict(state["averaged"])
    for name, optimiser in method.optimisers().items():
        optimiser.load_state_dict(state["optimisers"][name])
    if world.leads:
        print(f"continuing after step {state['step']}", flush=True)
    return state["step"], state["seconds"]


def _save(path: Path, method: Method, config: str, step: int, seconds: float) -> None:
    checkpoint.save(path, {
        "config": config,
        "step": step,
        "seconds": seconds,
        "networks": method.networks.state_dict(),
        "averaged": method.averaged.state_dict(),
        "optimisers": {name: optimiser.state_dict() for name, optimiser in method.optimisers().items()},
    })


def _finish(
    output: Path, options: TrainOptions, method: Method, config: str, images: int, seconds: float, world: World
) -> None:
    from safetensors.torch import save_file

    weights = {name: value.contiguous() for name, value in method.averaged.state_dict().items()}
    with whole(output / "model.safetensors") as part:
        save_file(weights, part)
    described: dict[str, Any] = {
        "dataset": options.dataset,
        "method": options.method,
        "domains": options.domains,
        "seed": options.seed,
        "options": dataclasses.asdict(options),
        "images_seen": images,
        "train_seconds": round(seconds, 1),
        "processes": world.size,
        "code": code_version(),
        "config": config,
    }
    write_whole(output / "run.json", json.dumps(described, indent=1))


def _spread(steps: int, count: int) -> set[int]:
    """`count` steps spread evenly up to the last."""
    return {round(steps * (i + 1) / count) for i in range(count)}


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, without the collisions of a sum."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
