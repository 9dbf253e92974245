"""Settings of Smoothing (Liu et al., CVPR 2021): StarGAN v2's, and those of its three terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lanit.config import Positive, Share, Weight
from lanit.settings.perceptual import PerceptualOptions
from lanit.settings.stargan2 import LossOptions, StarGan2Options


@dataclass(frozen=True)
class SmoothingLossOptions(LossOptions):
    """StarGAN v2's terms and Smoothing's; the defaults are the authors' (`docs/methods/smoothing.md`)."""

    sty: Weight = 2.0
    triplet: Weight = 0.1
    margin: Weight = 0.1  # of the triplet: how much farther another domain's style shall be than one of the same
    kl: Weight = 1.0  # where its ramp ends
    kl_start: Share = 0.4  # share of the budget before the ramp: 40k of 100k iterations
    kl_ramp: Positive = 0.6  # share of the budget over which the weight rises linearly from 0
    # The mean of the squares of a style's numbers, as in the released code, or KL(N(s, I) ‖ N(0, I)), half their sum.
    kl_form: Literal["squares", "divergence"] = "squares"
    content: Weight = 1.0

    def kl_weight(self, progress: float) -> float:
        """The weight of the KL term after this share of the budget."""
        return self.kl * min(1.0, max(0.0, (progress - self.kl_start) / self.kl_ramp))


@dataclass(frozen=True)
class SmoothingOptions(StarGan2Options):
    """Everything that Smoothing can be told."""

    loss: SmoothingLossOptions = field(default_factory=SmoothingLossOptions)
    # In what a translation is compared with its source.
    perceptual: PerceptualOptions = field(default_factory=lambda: PerceptualOptions("lpips"))

    def check(self, size: int, domains: int) -> None:
        super().check(size, domains)
        self.perceptual.check("train.smoothing.settings.perceptual")
