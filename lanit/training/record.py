"""What a training leaves on its way: losses as JSON lines and in MLflow, progress on the terminal, sample pictures."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lanit.config import LanitError
from lanit.training.options import TrainOptions
from lanit.training.pictures import write_picture


class Recorder:
    """Sums losses on the device and fetches their means every few steps: the only wait of the host for the device."""

    def __init__(self, folder: Path, tracked=None):
        self.folder, self.tracked = folder, tracked
        self.path = folder / "metrics.jsonl"
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.pace = (0, 0.0)

    @classmethod
    def open(cls, folder: Path, options: TrainOptions, config: str, code: str, track: Path | None) -> Recorder:
        """Make the run's folder and, with `track`, join its run in MLflow."""
        folder.mkdir(parents=True, exist_ok=True)
        if track is None:
            return cls(folder)
        from lanit.tracking import TrainingRun

        return cls(folder, TrainingRun.open(
            str(track), options.dataset, options.method, len(options.domains), options.seed,
            dataclasses.asdict(options) | {"digest": config}, code, folder,
        ))

    def resume(self, step: int) -> None:
        """Drop the lines after `step`: those steps are taken again."""
        if self.path.is_file():
            lines = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
            self.path.write_text("".join(line + "\n" for line in lines))

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add one step's losses, scalars on the device, without waiting for it."""
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def write(self, step: int, images: int, seconds: float, budget: int) -> None:
        """Fetch the means since the last call, and write a line of each log."""
        losses = self._fetch()
        pace = (images - self.pace[0]) / max(seconds - self.pace[1], 1e-9)
        self.pace = (images, seconds)
        line = {"step": step, "images": images, "seconds": round(seconds, 2), "images_per_second": round(pace, 1)}
        with open(self.path, "a") as file:
            file.write(json.dumps(line | losses) + "\n")
        left = (budget - images) / pace
        shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(f"{images:>9} of {budget} images  {pace:.0f}/s  {left:.0f} s left  {shown}", flush=True)
        if self.tracked:
            self.tracked.log(step, images, losses | {"images_per_second": pace})

    def check(self) -> None:
        """Fetch what is pending, so that no checkpoint is written of networks that are no longer finite."""
        if self.sums:
            pending, counts = dict(self.sums), dict(self.counts)
            self._fetch()
            self.sums, self.counts = pending, counts

    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Write a sample picture, and hand it to MLflow."""
        write_picture(self.folder / name, pixels)
        if self.tracked:
            self.tracked.picture(self.folder / name, "samples")

    def close(self) -> None:
        """Hand over what is left."""
        if self.tracked:
            self.tracked.finish("FINISHED")

    def _fetch(self) -> dict[str, float]:
        names = list(self.sums)
        values = torch.stack([self.sums[name].float() / self.counts[name] for name in names]).tolist()
        self.sums, self.counts = {}, {}
        for name, value in zip(names, values):
            if not math.isfinite(value):
                if self.tracked:
                    self.tracked.finish("FAILED")
                raise LanitError(
                    f"the loss {name} of the run in {self.folder} is {value}; lower the learning rate or its weight"
                )
        return dict(zip(names, values))


def _step(line: str) -> float:
    """The step of a line, or infinity for one that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf
