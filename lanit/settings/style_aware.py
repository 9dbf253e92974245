"""Settings of the style-aware discriminator (Kim et al., "A Style-aware Discriminator for Controllable Image
Translation", CVPR 2022). Defaults are the paper's, and its released AdaIN runs' where the paper is silent: 256 pixels,
batches of 16, 1.6 million images, which are 100,000 steps."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any, Literal

from lanit.config import LanitError


@dataclass(frozen=True)
class StyleAwareNetwork:
    """Sizes of the networks."""

    prototypes: int | None = None  # None: one for each domain; the paper: 32 for AFHQ, 64 for CelebA-HQ
    base_channels: int = 64  # at full resolution, doubled at each halving; the released code: 2^14 / size
    max_channels: int = 512
    style_size: int = 256  # dimensions of the style space, whose codes have unit length
    hidden_size: int = 512  # of the mapping network, which turns a style code into AdaIN's input
    mapping_layers: int = 2
    bottleneck: int = 16  # side of the content code, in pixels


@dataclass(frozen=True)
class StyleAwareLoss:
    """Weights and forms of the terms."""

    adversarial: float = 1.0  # non-saturating
    swap: float = 1.0  # the mean of both directions, as in the released code; SwAV's sum is a weight of 2
    style: float = 1.0
    reconstruction: float = 0.3  # of the AdaIN generator with LPIPS; the StyleGAN2 generator's is 1
    distance: Literal["perceptual", "l1", "mse"] = "perceptual"  # of reconstructions: LPIPS in the paper
    content: float = 1.0  # when it is taken; it does not grow with `content_every`
    content_every: int = 16  # steps
    r1: float = 1.0  # 2 in the released command for CelebA-HQ
    r1_every: int = 16  # steps from one penalty to the next, whose weight grows as much (lazy)
    temperature: float = 0.1  # τ of predictions, SwAV's
    epsilon: float = 0.05  # of the entropy in Sinkhorn's assignments, SwAV's
    sinkhorn_iterations: int = 3  # SwAV's
    # A batch smaller than the number of prototypes cannot use them equally: from this share of the budget on (20k of
    # 100k steps), as many earlier codes as there are prototypes are assigned with it.
    queue_start: float = 0.2


@dataclass(frozen=True)
class StyleAwareOptimiser:
    """Adam, with rates that grow from 0 at the beginning."""

    learning_rate: float = 1e-4
    # Factors of it. The released code means 0.01 for prototypes too, but its warm-up overwrites that with 1.
    prototypes: float = 0.01
    mapping: float = 0.01
    betas: tuple[float, float] = (0.0, 0.99)
    warmup: float = 0.03  # share of the budget over which rates grow linearly: 3,000 of 100k steps
    freeze: float = 0.005  # share of the budget in which prototypes stay where they are: 500 of 100k steps


@dataclass(frozen=True)
class StyleAwareViews:
    """The two views of an image: the first is real, translated and reconstructed; the second serves styles alone."""

    rotation: float = 30.0  # degrees either way, in both
    zoom: float = 0.2  # half-width about a scale of 1, in the second
    applied: float = 0.8  # probability of each: rotation, zoom, colours
    first_crop: float = 0.8  # side of the first view's crop, taken with probability ½: 256 of 320 pixels
    smallest_crop: float = 0.25  # area of the second view's crop, from this share to all of it
    # Colours of the second; 0.2, 0.2, 0.2 and 0.01 in the released command for faces, none for animals.
    brightness: float = 0.0  # half-width about a factor of 1, as are the next two
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # share of the full circle
    cut_out: float = 0.8  # probability of a black box in the second; 0 in the released commands for animals
    mirror: float = 0.5  # probability of a horizontal flip, in both


@dataclass(frozen=True)
class StyleAwareOptions:
    """Everything that the style-aware discriminator can be told."""

    network: StyleAwareNetwork = field(default_factory=StyleAwareNetwork)
    loss: StyleAwareLoss = field(default_factory=StyleAwareLoss)
    optimiser: StyleAwareOptimiser = field(default_factory=StyleAwareOptimiser)
    view: StyleAwareViews = field(default_factory=StyleAwareViews)
    latent_share: float = 0.2  # of the translations in a batch, whose style comes from prototypes; others': from images
    perturbation: float = 0.01  # standard deviation, in each dimension, of a draw about a prototype
    ema: float = 0.999  # decay of the moving averages

    def prototypes(self, domains: int) -> int:
        """How many prototypes there are where that many domains are named."""
        return domains if self.network.prototypes is None else self.network.prototypes

    def check(self, size: int, domains: int) -> None:
        """Say what does not fit images of `size` pixels and the number of domains.

        Raises:
            LanitError: with the key, what is wrong with it, and what would be right.
        """
        for name, (holds, bounds) in _RANGES.items():
            value = operator.attrgetter(name)(self)
            values = value if isinstance(value, tuple) else (value,)
            if not all(holds(number) for number in values if number is not None):
                raise LanitError(f"{name} must be {bounds}, not {value}")
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


def _ranges(keys: str, holds: Any, bounds: str) -> dict[str, Any]:
    return dict.fromkeys(keys.split(), (holds, bounds))


_RANGES = {
    **_ranges(
        "network.prototypes network.base_channels network.max_channels network.style_size network.hidden_size "
        "network.mapping_layers loss.content_every loss.r1_every loss.sinkhorn_iterations",
        lambda number: number >= 1,
        "at least 1",
    ),
    **_ranges(
        "loss.temperature loss.epsilon optimiser.learning_rate",
        lambda number: 0 < number < float("inf"),
        "above 0",
    ),
    **_ranges("view.first_crop view.smallest_crop", lambda number: 0 < number <= 1, "above 0 and at most 1"),
    **_ranges("view.zoom", lambda number: 0 <= number < 1, "at least 0 and below 1"),
    **_ranges(
        "loss.adversarial loss.swap loss.style loss.reconstruction loss.content loss.r1 optimiser.prototypes "
        "optimiser.mapping view.rotation view.brightness view.contrast view.saturation view.hue perturbation",
        lambda number: 0 <= number < float("inf"),
        "at least 0",
    ),
    **_ranges(
        "loss.queue_start optimiser.warmup optimiser.freeze view.applied view.cut_out view.mirror latent_share ema",
        lambda number: 0 <= number <= 1,
        "from 0 to 1",
    ),
    **_ranges("optimiser.betas", lambda number: 0 <= number < 1, "two numbers from 0 to below 1"),
}
