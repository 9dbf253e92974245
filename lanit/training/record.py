"""What a training leaves on its way: losses as JSON lines and in MLflow, progress on the terminal, sample pictures."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np

from lanit.files import naming, write_whole
from lanit.training.options import TrainOptions
from lanit.training.samples import write_picture

LIVE = "metrics.live.jsonl"  # while the training goes on; `metrics.jsonl` is that of a finished one


class Recorder:
    """The log of a run, kept by the main process."""

    def __init__(self, folder: Path, tracked=None):
        self.folder, self.tracked = folder, tracked
        self.path = folder / LIVE
        self.pace = (0, 0.0)

    @classmethod
    def open(cls, folder: Path, options: TrainOptions, config: str, code: str, track: str | None) -> Recorder:
        """Make the run's folder and, with `track`, join its run in MLflow."""
        folder.mkdir(parents=True, exist_ok=True)
        if track is None:
            return cls(folder)
        from lanit.tracking import TrainingRun

        return cls(
            folder,
            TrainingRun.open(
                track,
                options.dataset,
                options.method,
                len(options.domains),
                options.seed,
                dataclasses.asdict(options) | {"digest": config},
                code,
                folder,
            ),
        )

    def resume(self, step: int, images: int, seconds: float) -> None:
        """Begin after `step`: lines of later steps are dropped, since those are taken again."""
        self.pace = (images, seconds)
        if self.path.is_file():
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
            write_whole(self.path, "".join(line + "\n" for line in lines))

    def write(self, step: int, images: int, seconds: float, budget: int, values: dict[str, float]) -> None:
        """Write a line of each log, with the pace since the last.

        Args:
            step: how many steps are done.
            images: how many source images that was.
            seconds: of training so far.
            budget: how many images there will be.
            values: means of the losses since the last line, and what else was measured.
        """
        pace = (images - self.pace[0]) / max(seconds - self.pace[1], 1e-9)
        self.pace = (images, seconds)
        line = {"step": step, "images": images, "seconds": round(seconds, 2), "images_per_second": round(pace, 1)}
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line | values) + "\n")
        left = (budget - images) / pace
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items() if "_gib" not in name)
        print(f"{images:>9} of {budget} images  {pace:.0f}/s  {_duration(left)} left  {shown}", flush=True)
        if self.tracked:
            self.tracked.log(step, images, values | {"images_per_second": line["images_per_second"]})

    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Write a sample picture, and hand it to MLflow."""
        write_picture(self.folder / name, pixels)
        if self.tracked:
            self.tracked.picture(self.folder / name, "samples")

    def finish(self) -> None:
        """The log is complete, and gets the name by which others read it."""
        if self.path.is_file():
            os.replace(self.path, self.folder / "metrics.jsonl")

    def close(self, status: str) -> None:
        """Hand over what is left; `status` is MLflow's: FINISHED, FAILED or KILLED."""
        if self.tracked:
            self.tracked.finish(status)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _step(line: str) -> float:
    """The step of a line, or infinity for one that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf
