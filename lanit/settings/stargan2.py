"""Settings of StarGAN v2 (Choi et al., CVPR 2020), and of whatever is StarGAN v2 plus terms of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from lanit.config import Count, LanitError, Positive, Share, Weight, Within

Momentum = Annotated[float, Within(0, 1, below=True)]


@dataclass(frozen=True)
class NetworkOptions:
    """Sizes of the four networks; the defaults are the paper's at 256²."""

    # At full resolution; doubled at each halving. None: 2^14 / size, as in the released code, which is 64 at 256².
    base_channels: Count | None = 64
    max_channels: Count = 512
    style_size: Count = 64
    latent_size: Count = 16
    hidden_size: Count = 512  # of the mapping network
    bottleneck: Count = 16  # side of the generator's smallest feature map, in pixels

    def widths(self, size: int, halvings: int) -> list[int]:
        """Channels at full resolution of images of `size` pixels, and after each halving."""
        base = max(1, 2**14 // size) if self.base_channels is None else self.base_channels
        return [min(base * 2**i, self.max_channels) for i in range(halvings + 1)]


@dataclass(frozen=True)
class LossOptions:
    """Weights and forms of the terms; the defaults are the paper's for faces."""

    adv: Weight = 1.0
    cyc: Weight = 1.0
    sty: Weight = 1.0
    ds: Weight = 1.0  # λ_ds at the start; 2 for animals
    ds_decay: Positive = 1.0  # share of the budget over which λ_ds falls linearly to 0
    r1: Weight = 1.0
    r1_every: Count = 1  # iterations from one penalty to the next, whose weight grows as much (lazy)
    # Of which output of the discriminator the gradient is taken: the sum of an image's active heads, as in StarGAN v2's
    # and LANIT's released code, or their mean, which for k active domains is 1/k² of it.
    r1_heads: Literal["sum", "mean"] = "sum"
    # The discriminator's real images: the references, of the domains that are translated into (LANIT's eq. 5), or the
    # sources, of their own, as in StarGAN v2's and LANIT's released code. Both are drawn in the same way.
    real: Literal["references", "sources"] = "references"


@dataclass(frozen=True)
class StarGan2Options:
    """Everything that StarGAN v2 can be told."""

    network: NetworkOptions = field(default_factory=NetworkOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    learning_rate: Positive = 1e-4  # generator and style encoder
    discriminator_learning_rate: Positive = 1e-4
    mapping_learning_rate: Positive = 1e-6
    betas: tuple[Momentum, Momentum] = (0.0, 0.99)
    weight_decay: Weight = 1e-4
    ema: Share = 0.999

    def check(self, size: int, domains: int) -> None:
        """Raise LanitError unless the networks can be built for images of `size` pixels and so many domains."""
        check_halvings(size, self.network.bottleneck, "network.bottleneck")
        check_halvings(size, 4, "the discriminator's last feature map")


def check_halvings(size: int, smallest: int, what: str) -> None:
    """Raise LanitError unless `size` pixels can be halved, at least once, down to `smallest`."""
    halvings = size // smallest
    if size != smallest * halvings or halvings < 2 or halvings & (halvings - 1):
        raise LanitError(
            f"size {size} cannot be halved down to {smallest} ({what}); use a power of two of at least "
            f"{2 * smallest} pixels"
        )
