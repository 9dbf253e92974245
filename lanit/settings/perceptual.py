"""Which perceptual distance, and with which weights: named, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from lanit.config import LanitError, Within

ENLARGE_TO = 64  # pixels: the side of the patches that LPIPS was calibrated on


@dataclass(frozen=True)
class PerceptualOptions:
    """A kind, and what that kind needs; see `docs/methods/smoothing.md`."""

    kind: Literal["lpips", "stlpips", "judge", "clip"]
    # lpips: AlexNet's, or null for torchvision's usual place; stlpips: its file, or null for the one in its package;
    # judge: the path of the judge.
    weights: Path | None = None
    linear: Path | None = None  # lpips: the weights of its channels, or null for those in the package `lpips`
    clip: dict[str, Any] | None = None  # clip: a ClipOptions, {model, pretrained}
    # lpips, stlpips: the side that smaller images are enlarged to, or null for 64 pixels; AlexNet sees none below 32.
    enlarge_to: Annotated[int, Within(32)] | None = None

    def check(self, where: str) -> None:
        """See that the kind has what it needs, and nothing that it would not read.

        Raises:
            LanitError: with the key below `where`.
        """
        for key, kinds in _READ_BY.items():
            if getattr(self, key) is not None and self.kind not in kinds:
                readers = " and ".join(kinds)
                raise LanitError(f"{where}.{key} is read by {readers} alone, and {where}.kind is {self.kind}")
        if self.kind == "judge" and self.weights is None:
            raise LanitError(f"{where}.weights is missing: a judge is given by the path of its file")
        if self.kind == "clip" and self.clip is None:
            raise LanitError(f"{where}.clip is missing: a CLIP is given by its model and its pretrained weights")


_READ_BY = {
    "weights": ("lpips", "stlpips", "judge"),
    "linear": ("lpips",),
    "clip": ("clip",),
    "enlarge_to": ("lpips", "stlpips"),
}
