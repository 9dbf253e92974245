"""Perceptual distances: how unlike two images are in the feature maps of a frozen network (Zhang et al., CVPR 2018).

d(x, y) = Σ_l mean over positions of Σ_c w_lc (x̂_lc − ŷ_lc)², x̂ and ŷ being the maps' vectors, one a position, at unit
length (zero stays zero). LPIPS, version 0.1, takes AlexNet's five maps and learned w; a network for which nobody
learned w has each of its L maps count alike, w = 1 / L: d is the mean of 2 − 2 cos over its maps.

The formula stands here and not in a package, because judge and CLIP need it too, and because the packages that carry
LPIPS's weights download others, or import what a training has no use for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanit.networks.judge import Judge

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of images in [0, 1]
ALEXNET_WIDTHS = (64, 192, 384, 256, 256)  # channels of its five maps
ALEXNET_TAPS = (1, 4, 7, 9, 11)  # its five ReLUs
SHIFT_TOLERANT_TAPS = (2, 6, 10, 12, 14)


class Perceptual(nn.Module):
    """A distance between images that gradients flow through; frozen, and always in evaluation mode.

    Attributes:
        name: the kind and a digest of the weights: distances are comparable where it is the same.
    """

    def __init__(self, name: str, trunk: nn.Module, weights: Sequence[Tensor] | None = None):
        """Build a distance.

        Args:
            name: see above.
            trunk: images (B, 3, H, W) in [-1, 1] → L feature maps (B, C_l, H_l, W_l).
            weights: w, one (C_l,) for each map, not negative; None for 1 / L.
        """
        super().__init__()
        self.name, self.trunk = name, trunk
        self.weights = None if weights is None else nn.ParameterList(weights)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Perceptual:
        """Stay in evaluation mode whatever the module around it does."""
        return super().train(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (B,), float32 or better, of images (B, 3, H, W) float in [-1, 1]; zero where they are the same."""
        # One after the other: what needs no gradient keeps no graph.
        apart = [_apart(a, b) for a, b in zip(self.trunk(first), self.trunk(second), strict=True)]
        if self.weights is None:
            return torch.stack([squares.sum(1).mean((1, 2)) for squares in apart]).mean(0)
        weighted = [squares * w[:, None, None] for squares, w in zip(apart, self.weights, strict=True)]
        return torch.stack([squares.sum(1).mean((1, 2)) for squares in weighted]).sum(0)


class ImageNetTrunk(nn.Module):
    """The layers of an ImageNet classifier up to the last of `taps`, whose outputs are its maps.

    Images smaller than `enlarge_to` are enlarged until their shorter side has that many pixels (bilinear): AlexNet
    brings 32 pixels down to one position, where a distance cannot say where two images differ. Larger ones go in as
    they are.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: nn.Sequential, taps: Sequence[int], enlarge_to: int):
        super().__init__()
        self.layers, self.taps, self.enlarge_to = layers[: taps[-1] + 1], tuple(taps), enlarge_to
        # For y = (x + 1) / 2: (y − mean) / deviation = (x − (2 mean − 1)) / (2 deviation).
        mean, deviation = torch.tensor(MEAN), torch.tensor(DEVIATION)
        self.register_buffer("mean", (2 * mean - 1).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", (2 * deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        x = _precise(images)
        smallest = min(x.shape[-2:])
        if smallest < self.enlarge_to:
            size = [round(side * self.enlarge_to / smallest) for side in x.shape[-2:]]
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        x = (x - self.mean) / self.deviation
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taps:
                maps.append(x)
        return maps


class JudgeTrunk(nn.Module):
    """The maps of a judge, after its first convolution and after each of its stages."""

    def __init__(self, judge: Judge):
        super().__init__()
        self.judge = judge

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.judge.maps(images)


def alexnet() -> nn.Sequential:
    """AlexNet's convolutions as torchvision has them, without values: they are to be loaded with `assign=True`."""
    from torchvision.models import alexnet

    with torch.device("meta"):  # neither 60 million values that a file replaces, nor a draw from the global generator
        return alexnet(weights=None).features


def shift_tolerant_alexnet() -> nn.Sequential:
    """AlexNet as ST-LPIPS has it (Ghildyal & Liu, ECCV 2022), without values: they are to be loaded with `assign=True`.

    Nothing skips a pixel: the first convolution has stride 1, and every halving is a blur.
    """
    with torch.device("meta"):
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 11, padding=2), Blur(64), nn.ReLU(inplace=True)),
            *(nn.MaxPool2d(3, 1), Blur(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True)),
            *(nn.MaxPool2d(3, 1), Blur(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True)),
        )


class Blur(nn.Module):
    """Every other position of maps blurred with a 3 × 3 filter, reflected by two pixels beyond their edges."""

    filt: Tensor  # its name in files

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("filt", torch.empty(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, ⌈H / 2⌉ + 1, ⌈W / 2⌉ + 1)."""
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=len(self.filt))


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """Squared differences (B, C, H, W) of two maps' vectors at unit length."""
    return (_unit(first) - _unit(second)).square()


def _unit(maps: Tensor) -> Tensor:
    # As in StarGAN v2's LPIPS, with the small number below the root: there a vector of zeros has a slope.
    maps = _precise(maps)
    return maps * torch.rsqrt(maps.square().sum(1, keepdim=True) + 1e-10)


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
