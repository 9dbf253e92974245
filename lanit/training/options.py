"""What a training can be told, whatever its method."""

from __future__ import annotations

from dataclasses import dataclass, field
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
