"""Settings of TUNIT (Baek et al., ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from lanit.config import Count, LanitError, Positive, Share, Weight, Within


@dataclass(frozen=True)
class ViewOptions:
    """The second view: half-widths of uniform draws, which are TUNIT's, and two forms, of which it has the others."""

    rotation: Weight = 20.0  # degrees
    shift: Weight = 0.1  # share of the side
    shear: Weight = 10.0  # degrees, along x
    # About a scale of 1; with `crop: anywhere` about an area of 1 and, on a logarithmic scale, about an aspect of 1.
    zoom: Annotated[float, Within(0, 1, below=True)] = 0.1
    brightness: Weight = 0.4  # about a factor of 1, as are the next two
    contrast: Weight = 0.4
    saturation: Weight = 0.4
    hue: Weight = 0.125  # share of the full circle
    mirror: Share = 0.5  # probability of a horizontal flip
    # `centred` zooms in and out about the centre. `anywhere` is the released code's random resized crop: a box of any
    # place and varying aspect, and the whole image where none fits, so that it zooms in alone.
    crop: Literal["centred", "anywhere"] = "centred"
    # What comes in from outside: the image's own `reflection`, or `black` as in the released code.
    border: Literal["reflection", "black"] = "reflection"


@dataclass(frozen=True)
class TunitNetwork:
    """Sizes of the networks; the defaults are the paper's."""

    # Channels at full resolution of G and D; None: 64 below 256 pixels, 32 from there.
    base: Count | None = None
    guiding_base: Count = 64  # channels at full resolution of the guiding network (VGG-11)
    # Standard deviation of the cluster head's initial weights. Equal probabilities are a saddle point of the mutual
    # information, which takes many steps to leave from TUNIT's 0.01: short trainings want 0.1 to 0.3.
    cluster_deviation: Positive = 0.01
    max_width: Count = 1024  # no layer has more channels
    style: Count = 128  # length of the style code
    bottleneck: Annotated[int, Within(4)] = 16  # side of the content code, pixels
    residual_blocks: Count = 2  # in the content encoder, and again in the decoder
    discriminator_blocks: Count = 2  # at each resolution of the discriminator
    hidden: Count = 256  # width of the layers that turn a style into AdaIN's parameters


@dataclass(frozen=True)
class TunitLoss:
    """Weights of the losses; the defaults are the paper's."""

    adversarial: Weight = 1.0  # hinge
    reconstruction: Weight = 0.1
    style: Weight = 0.01  # contrastive, of translations
    gradient_penalty: Weight = 10.0  # without the customary half
    contrastive: Weight = 1.0  # of the guiding network
    mutual_information: Weight = 5.0  # of the guiding network
    guiding_after_warmup: Weight = 0.1  # factor of the last two after the warm-up
    temperature: Positive = 0.07
    queue: Count = 1024  # keys that serve as negatives


@dataclass(frozen=True)
class TunitOptimiser:
    """Adam for the guiding network, RMSprop for generator and discriminator."""

    guiding: Positive = 1e-4  # learning rates
    generator: Positive = 1e-4
    discriminator: Positive = 1e-4
    guiding_decay: Weight = 1e-3  # weight decay
    decay: Weight = 1e-4


@dataclass(frozen=True)
class TunitOptions:
    """Everything that TUNIT can be told."""

    network: TunitNetwork = field(default_factory=TunitNetwork)
    loss: TunitLoss = field(default_factory=TunitLoss)
    optimiser: TunitOptimiser = field(default_factory=TunitOptimiser)
    view: ViewOptions = field(default_factory=ViewOptions)
    # Once discriminator and generator learn, the guiding network gives style and cluster of sources and references, and
    # its batch normalisation is by the statistics of the two together (2B images), or of each (B) as in the released
    # code.
    statistics: Literal["joint", "separate"] = "joint"
    # Share of the budget in which the guiding network learns alone: 65k of 200k iterations.
    warmup: Share = 0.325
    ema: Share = 0.999  # decay of the generator's moving average
    ema_start: Share = 0.33  # share of the budget after which it begins: 66k of 200k
    key_momentum: Share = 0.999  # of the key encoder, a moving average of the guiding network from the start
    cluster_momentum: Share = 0.99  # of the styles' mean and variance per cluster

    def check(self, size: int, domains: int) -> None:
        """Raise LanitError unless the networks can be built for images of `size` pixels and so many domains."""
        bottleneck = self.network.bottleneck
        if size < 16 or size & (size - 1):
            raise LanitError(
                f"TUNIT's networks need images whose side is a power of two of at least 16, not {size} pixels"
            )
        if bottleneck > size or bottleneck & (bottleneck - 1):
            raise LanitError(
                f"network.bottleneck must be a power of two from 4 to the image size {size}, not {bottleneck}"
            )
        if domains < 1:
            raise LanitError(
                "TUNIT takes its number of clusters from the domains, and there are none; name at least two"
            )
