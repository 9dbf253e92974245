"""Settings of the style-aware discriminator (Kim et al., "A Style-aware Discriminator for Controllable Image
Translation", CVPR 2022). Defaults are the paper's, and its released AdaIN runs' where the paper is silent: 256 pixels,
batches of 16, 1.6 million images, which are 100,000 steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from lanit.config import Count, LanitError, Positive, Share, Weight, Within
from lanit.settings.perceptual import PerceptualOptions
from lanit.settings.stargan2 import Momentum

Part = Annotated[float, Within(0, 1, above=True)]


@dataclass(frozen=True)
class StyleAwareNetwork:
    """Sizes of the networks."""

    prototypes: Count | None = None  # None: one for each domain; the paper: 32 for AFHQ, 64 for CelebA-HQ
    base_channels: Count = 64  # at full resolution, doubled at each halving; the released code: 2^14 / size
    max_channels: Count = 512
    style_size: Count = 256  # dimensions of the style space, whose codes have unit length
    hidden_size: Count = 512  # of the mapping network, which turns a style code into AdaIN's input
    mapping_layers: Count = 2
    bottleneck: int = 16  # side of the content code, in pixels


@dataclass(frozen=True)
class StyleAwareLoss:
    """Weights and forms of the terms."""

    adversarial: Weight = 1.0  # non-saturating
    swap: Weight = 1.0  # the mean of both directions, as in the released code; SwAV's sum is a weight of 2
    style: Weight = 1.0
    reconstruction: Weight = 0.3  # of the AdaIN generator with LPIPS; the StyleGAN2 generator's is 1
    distance: Literal["perceptual", "l1", "mse"] = "perceptual"  # of reconstructions: LPIPS in the paper
    content: Weight = 1.0  # when it is taken; it does not grow with `content_every`
    content_every: Count = 16  # steps
    r1: Weight = 1.0  # 2 in the released command for CelebA-HQ
    r1_every: Count = 16  # steps from one penalty to the next, whose weight grows as much (lazy)
    temperature: Positive = 0.1  # τ of predictions, SwAV's
    epsilon: Positive = 0.05  # of the entropy in Sinkhorn's assignments, SwAV's
    sinkhorn_iterations: Count = 3  # SwAV's
    # A batch smaller than the number of prototypes cannot use them equally: from this share of the budget on (20k of
    # 100k steps), as many earlier codes as there are prototypes are assigned with it.
    queue_start: Share = 0.2


@dataclass(frozen=True)
class StyleAwareOptimiser:
    """Adam, with rates that grow from 0 at the beginning."""

    learning_rate: Positive = 1e-4
    # Factors of it. The released code means 0.01 for prototypes too, but its warm-up overwrites that with 1.
    prototypes: Weight = 0.01
    mapping: Weight = 0.01
    betas: tuple[Momentum, Momentum] = (0.0, 0.99)
    warmup: Share = 0.03  # share of the budget over which rates grow linearly: 3,000 of 100k steps
    freeze: Share = 0.005  # share of the budget in which prototypes stay where they are: 500 of 100k steps


@dataclass(frozen=True)
class StyleAwareViews:
    """The two views of an image: the first is real, translated and reconstructed; the second serves styles alone."""

    rotation: Weight = 30.0  # degrees either way, in both
    zoom: Annotated[float, Within(0, 1, below=True)] = 0.2  # half-width about a scale of 1, in the second
    applied: Share = 0.8  # probability of each: rotation, zoom, colours
    first_crop: Annotated[float, Within(0, 1, above=True)] = (
        0.8  # side of the first view's crop, taken with probability ½: 256 of 320 pixels
    )
    smallest_crop: Part = 0.25  # area of the second view's crop, from this share to all of it
    # Colours of the second; 0.2, 0.2, 0.2 and 0.01 in the released command for faces, none for animals.
    brightness: Weight = 0.0  # half-width about a factor of 1, as are the next two
    contrast: Weight = 0.0
    saturation: Weight = 0.0
    hue: Weight = 0.0  # share of the full circle
    cut_out: Share = 0.8  # probability of a black box in the second; 0 in the released commands for animals
    mirror: Share = 0.5  # probability of a horizontal flip, in both


@dataclass(frozen=True)
class StyleAwareOptions:
    """Everything that the style-aware discriminator can be told."""

    network: StyleAwareNetwork = field(default_factory=StyleAwareNetwork)
    loss: StyleAwareLoss = field(default_factory=StyleAwareLoss)
    optimiser: StyleAwareOptimiser = field(default_factory=StyleAwareOptimiser)
    view: StyleAwareViews = field(default_factory=StyleAwareViews)
    # What `loss.distance: perceptual` measures by.
    perceptual: PerceptualOptions = field(default_factory=lambda: PerceptualOptions("lpips"))
    latent_share: Share = 0.2  # of the translations in a batch, whose style comes from prototypes; others': from images
    perturbation: Weight = 0.01  # standard deviation, in each dimension, of a draw about a prototype
    ema: Share = 0.999  # decay of the moving averages

    def prototypes(self, domains: int) -> int:
        """How many prototypes there are where that many domains are named."""
        return domains if self.network.prototypes is None else self.network.prototypes

    def check(self, size: int, domains: int) -> None:
        """Say what does not fit images of `size` pixels and the number of domains.

        Raises:
            LanitError: with the key, what is wrong with it, and what would be right.
        """
        if self.loss.distance == "perceptual":
            self.perceptual.check("train.style_aware.settings.perceptual")
        if size < 8 or size & (size - 1):
            raise LanitError(
                f"the style-aware discriminator needs a side of the images of at least 8 and a power of two, not {size}"
            )
        bottleneck = self.network.bottleneck
        if not 4 <= bottleneck < size or bottleneck & (bottleneck - 1):
            raise LanitError(
                f"network.bottleneck must be a power of two from 4 to below the image size {size}, not {bottleneck}"
            )
        if self.prototypes(domains) < 2:
            raise LanitError(
                f"there must be two prototypes or more, not {self.prototypes(domains)}; set network.prototypes or name "
                "more domains"
            )
