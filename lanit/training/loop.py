"""The training loop: steps in a fixed order, averages, logs, sample pictures and checkpoints, for any method."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanit.config import LanitError, code_version
from lanit.files import write_tensors, write_whole
from lanit.methods import create_method
from lanit.methods.protocol import Batch, ClusteringMethod, LabelledMethod, LanguageMethod, PerceptualMethod
from lanit.training import checkpoint
from lanit.training.averaging import average
from lanit.training.distributed import World
from lanit.training.feed import Feed
from lanit.training.labelling import Inputs, Labelling, read_given
from lanit.training.meter import Meter
from lanit.training.options import TrainOptions
from lanit.training.record import Recorder
from lanit.training.samples import sample_grid
from lanit.training.step import take_step
from lanit.training.stopping import StopRequest, alone_in


def train(options: TrainOptions, inputs: Inputs, output: Path, track: str | None, world: World) -> bool:
    """Train one method and leave `model.safetensors` and `run.json` in `output`.

    The newest checkpoint of the same options found in `output` is continued; the result is the same, bit by bit on the
    CPU, as without the interruption.

    Returns:
        whether the training came to its end; False where it was asked to stop, and has saved.

    Raises:
        LanitError: the batch does not divide, hardly an image has a label, or a loss is not finite.
    """
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopRequest())
        if world.is_main:
            held.enter_context(alone_in(output))
        training = Training(options, inputs, output, world)
        record = Recorder.open(output, options, options.identity(), training.code, track) if world.is_main else None
        status = "FAILED"
        try:
            finished = training.run(record, stop)
            status = "FINISHED" if finished else "KILLED"
        finally:
            if record:
                record.close(status)
        world.broadcast(None)  # all leave together: torchrun soon kills what is left when one has left
    return finished


class Training:
    """One training on one process: its method, its batches, and how far it is."""

    def __init__(self, options: TrainOptions, inputs: Inputs, output: Path, world: World):
        _check(options, world)
        self.options, self.output, self.world = options, output, world
        self.steps = options.steps
        found = read_given(options, inputs)  # before anything is built of what lies beside them
        torch.manual_seed(options.seed)
        self.method = create_method(
            options.method,
            options.settings,
            options.size,
            options.domains,
            options.language,
            inputs.labels,
            world.device,
        )
        if options.accumulate > 1 and not self.method.accumulates:
            raise LanitError(f"{options.method} learns from whole batches: train.accumulate must be 1")
        for modules in (self.method.networks, self.method.averaged):
            world.broadcast_tensors(modules.state_dict().values())
        self.feed = Feed(options, inputs.manifest, world)
        self.labelling: Labelling | None = None
        if isinstance(self.method, LabelledMethod):
            assert found is not None, "the catalogue says of a labelled method that it is one"
            self.feed.draw_as(self.method)
            self.labelling = Labelling(self.method, options, inputs, found, self.feed, world)
        self.code = code_version()
        self.data = self.feed.digest()  # a checkpoint of other data is not continued
        if world.is_main and options.samples:
            self.feed.samples()  # of the first labels, whatever becomes of them
        self.step, self.seconds, self.meter = 0, 0.0, Meter()
        self._restore()
        if options.compile:
            self.method.compile()

    def run(self, record: Recorder | None, stop: StopRequest) -> bool:
        """Train to the end of the budget, or until `stop`; return whether it is the end."""
        options, world, method = self.options, self.world, self.method
        sample_steps, checkpoint_steps = _spread(self.steps, options.samples), _spread(self.steps, options.checkpoints)
        saved = time.monotonic()
        started = saved - self.seconds
        if record:
            record.resume(self.step, self._images(self.step), self.seconds)
            drawn = f"{len(self.feed.pool)} of {len(self.feed.store)} images can be drawn"
            print(f"{options.variant or options.method}, {len(options.domains)} domains: {drawn}", flush=True)
        while self.step < self.steps:
            last = self.steps
            if self.labelling:
                self.labelling.refresh(self.step)
                last = self.labelling.next_refresh(self.step)
            with contextlib.closing(self.feed.batches(self.step, last)) as batches:
                for parts in batches:
                    done = self.step + 1
                    logs = done % options.log_every == 0 or done == self.steps
                    losses = self._take(parts, norms=logs)
                    self.meter.add(done, losses)
                    self.seconds = time.monotonic() - started
                    due = done in checkpoint_steps or time.monotonic() - saved > 60 * options.checkpoint_minutes
                    stopping, saving = self._agree(stop, due or done == self.steps)
                    if logs:
                        values = self.meter.fetch() | self._measure()
                        if record:
                            record.write(done, self._images(done), self.seconds, options.images, values)
                    if record and done in sample_steps:
                        picture = sample_grid(method, *self.feed.samples())
                        record.picture(f"samples/{done * options.batch:08d}.png", picture)
                    if (saving or stopping) and done < self.steps:
                        self._save()
                        saved = time.monotonic()
                    if stopping and done < self.steps:
                        if world.is_main:
                            print(
                                f"stopped after step {done}, and saved; start the same command again to go on",
                                flush=True,
                            )
                        return False
        if record:
            self._finish(record)
        return True

    def _take(self, parts: Sequence[Batch], norms: bool) -> dict[str, Tensor]:
        # Nothing here draws from the global generator; a network that does (dropout) shall go on after a restart, too.
        torch.manual_seed(_mix(self.options.seed, self.step, self.world.rank))
        losses = take_step(self.method, parts, self.options.precision, norms)
        average(self.method.averaged, self.method.networks, self.method.averaging(parts[0].progress))
        self.step += 1
        return losses

    def _agree(self, stop: StopRequest, due: bool) -> tuple[bool, bool]:
        """Return whether to stop and whether to save, the same on all processes.

        Raises:
            LanitError: a loss, or before a checkpoint a weight, is not finite; the last good checkpoint stays.
        """
        wrong = self.meter.wrong()
        bad, stopping, saving = self.world.all_reduce_max(wrong is not None, bool(stop), due and self.world.is_main)
        if saving or stopping:
            wrong = wrong or self.meter.wrong(wait=True) or self._wrong_weight()
            (bad,) = self.world.all_reduce_max(bad or wrong is not None)
        if bad:
            wrong = wrong or "a loss of another process is not finite"
            raise LanitError(
                f"{wrong}, in the run in {self.output}; lower the learning rate or a weight "
                "(checkpoints from before it are intact)"
            )
        return bool(stopping), bool(saving)

    def _wrong_weight(self) -> str | None:
        for name, network in self.method.networks.items():
            values = [value for value in network.state_dict().values() if value.is_floating_point()]
            norm = torch.nn.utils.get_total_norm(values).item()
            if not np.isfinite(norm):
                return f"the norm of {name}'s weights is {norm} after step {self.step}"
        return None

    def _images(self, step: int) -> int:
        return min(step * self.options.batch, self.options.images)

    def _measure(self) -> dict[str, float]:
        """Memory in GiB, and the share of images that cannot be drawn, where labels decide it."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        values = {"memory_gib": round(peak, 3)}
        if self.world.device.type == "cuda":
            values["gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        if self.labelling:
            values["share_without_domain"] = round(self.feed.share_without, 4)
        return values

    def _restore(self) -> None:
        folder = self.output / "checkpoints"
        state, name = None, None
        if self.world.is_main:
            checkpoint.clear_parts(folder)
            found = checkpoint.newest(folder)
            if found is not None and (found[1]["config"], found[1]["data"]) != (self.options.identity(), self.data):
                other = "options" if found[1]["config"] != self.options.identity() else "images or labels"
                print(f"{found[0]} is of other {other}: training starts from the beginning", flush=True)
                checkpoint.clear(folder)
            elif found is not None:
                name, state = found[0].name, found[1]
        name = self.world.broadcast(name)
        if name is None:
            return
        state = state or checkpoint.load(folder / name)  # all processes see one file system
        self.method.networks.load_state_dict(state["networks"])
        self.method.averaged.load_state_dict(state["averaged"])
        for network, optimiser in self.method.optimisers().items():
            optimiser.load_state_dict(state["optimisers"][network])
        if self.labelling:
            self.labelling.restore(state["labels"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.meter.restore(state["losses"], self.world.is_main, self.world.device)
        if self.world.is_main:
            print(f"continuing after step {self.step}", flush=True)

    def _save(self) -> None:
        """Save, on the main process: the others' state is the same, and random numbers have none (`BatchRng`)."""
        losses, labels = self.meter.state(), self.feed.labels
        if not self.world.is_main:
            return
        checkpoint.save(
            self.output / "checkpoints",
            self.step,
            {
                "config": self.options.identity(),
                "data": self.data,
                "step": self.step,
                "seconds": self.seconds,
                "losses": losses,
                "networks": self.method.networks.state_dict(),
                "averaged": self.method.averaged.state_dict(),
                "optimisers": {name: optimiser.state_dict() for name, optimiser in self.method.optimisers().items()},
                "labels": None if labels is None else labels.bool(),
            },
        )

    def _finish(self, record: Recorder) -> None:
        options = self.options
        weights = {name: value.cpu().numpy() for name, value in self.method.averaged.state_dict().items()}
        write_tensors(self.output / "model.safetensors", weights, {})
        if isinstance(self.method, LanguageMethod) and self.labelling:
            self.method.write_language(self.output, self.labelling.embeddings)
        described: dict[str, Any] = {
            "dataset": options.dataset,
            "method": options.method,
            "variant": options.variant or options.method,
            "domains": options.domains,
            "seed": options.seed,
            "options": dataclasses.asdict(options),
            "images_seen": self.steps * options.batch,
            "train_seconds": round(self.seconds, 1),
            "processes": self.world.size,
            "code": self.code,
            "config": options.identity(),
        }
        if isinstance(self.method, ClusteringMethod):
            described["clusters"] = self.method.clusters
        if isinstance(self.method, PerceptualMethod):
            described["perceptual"] = self.method.perceptual_name
        record.finish()
        write_whole(self.output / "run.json", json.dumps(described, indent=1))
        checkpoint.clear(self.output / "checkpoints")  # the budget is spent: nothing could continue from them


def _check(options: TrainOptions, world: World) -> None:
    parts = world.size * options.accumulate
    if options.batch % parts:
        among = f"{world.size} processes" + (f" of {options.accumulate} parts each" if options.accumulate > 1 else "")
        raise LanitError(f"train.batch {options.batch} does not divide among {among}; use a multiple of {parts}")


def _spread(steps: int, count: int) -> set[int]:
    """`count` steps spread evenly up to the last."""
    return {round(steps * (i + 1) / count) for i in range(count)}


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, without the collisions of a sum."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
