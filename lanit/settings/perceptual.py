"""Which perceptual distance, and with which weights: named, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lanit.config import LanitError

SMALLEST = 64  # pixels: the side of the patches that LPIPS was calibrated on


@dataclass(frozen=True)
class PerceptualOptions:
    """A kind, and what that kind needs; see `docs/methods/smoothing.md`."""

    kind: Literal["lpips", "stlpips", "judge", "clip"]
    # lpips: AlexNet's, or null for torchvision's usual place; stlpips: its file, or null for the one in its package;
    # judge: the path of the judge.
    weights: Path | None = None
    linear: Path | None = None  # lpips: the weights of its channels, or null for those in the package `lpips`
    clip: dict[str, Any] | None = None  # clip: a ClipOptions, {model, pretrained}
    enlarge_to: int | None = None  # lpips, stlpips: the side that smaller images are enlarged to; null is 64 pixels


def check_perceptual(options: PerceptualOptions, where: str) -> None:
    """See that a kind has what it needs, and nothing that it would not read.

    Raises:
        LanitError: with the key below `where`.
    """
    for key, kinds in _READ_BY.items():
        if getattr(options, key) is not None and options.kind not in kinds:
            raise LanitError(
                f"{where}.{key} is read by {' and '.join(kinds)} alone, and {where}.kind is {options.kind}"
            )
    if options.kind == "judge" and options.weights is None:
        raise LanitError(f"{where}.weights is missing: a judge is given by the path of its file")
    if options.kind == "clip" and options.clip is None:
        raise LanitError(f"{where}.clip is missing: a CLIP is given by its model and its pretrained weights")
    if options.enlarge_to is not None and options.enlarge_to < 32:
        raise LanitError(f"{where}.enlarge_to is {options.enlarge_to}; AlexNet sees nothing below 32 pixels")


_READ_BY = {
    "weights": ("lpips", "stlpips", "judge"),
    "linear": ("lpips",),
    "clip": ("clip",),
    "enlarge_to": ("lpips", "stlpips"),
}
