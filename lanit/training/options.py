"""What a training can be told, whatever its method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from lanit.config import digest


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
    variant: str = ""  # name of this set of options in a sweep; the method's where empty
    settings: dict[str, Any] = field(default_factory=dict)  # the method's own options
    language: dict[str, Any] | None = None  # a LanguageOptions, for a method that is led by language
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    accumulate: int = 1  # parts in which each process works through its share of a batch, to save memory
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: networks under autocast; weights, losses and texts stay float32
    compile: bool = False  # have torch.compile make the networks faster: minutes at the start, worth it for long runs
    log_every: int = 50  # steps between fetches of the losses
    samples: int = 8  # sample pictures over the whole training
    checkpoints: int = 10  # checkpoints over the whole training,
    checkpoint_minutes: float = 15.0  # and whenever this time has passed since the last
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def steps(self) -> int:
        """How many steps the budget is."""
        return -(-self.images // self.batch)

    def progress(self, step: int) -> float:
        """Share of the budget that is spent before a step, in [0, 1]."""
        return min(1.0, step * self.batch / self.images)

    def identity(self) -> str:
        """Digest of what decides the result: a run whose other options changed is still the same run."""
        watching = ("log_every", "samples", "checkpoints", "checkpoint_minutes", "device")
        return digest({name: value for name, value in dataclasses.asdict(self).items() if name not in watching})
