"""Networks of the style-aware discriminator (Kim et al., CVPR 2022), with its AdaIN generator.

One discriminator criticises images and gives their style: a point on the unit sphere, on which prototypes stand for
what clusters of images have in common. At 256² with the options' defaults and 32 prototypes the numbers of parameters
are the released code's: discriminator 19,671,873, prototypes 8,192, and generator 38,066,575, but for a layer of the
generator's (1,539) whose output that code does not use.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanit.networks.blocks import AdaIN, initialise
from lanit.settings.style_aware import StyleAwareNetwork


class StyleDiscriminator(nn.Module):
    """D: a trunk that two heads share, the critic and the projection h into the style space."""

    def __init__(self, size: int, options: StyleAwareNetwork):
        super().__init__()
        widths = _widths(size, 4, options)
        width = widths[-1]
        self.trunk = nn.Sequential(
            nn.Conv2d(3, widths[0], 1),
            nn.LeakyReLU(0.2),
            *(_TrunkBlock(a, b) for a, b in itertools.pairwise(widths)),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
        )
        self.critic = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))
        self.projection = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, options.style_size)
        )
        self.apply(initialise)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] → real-or-fake logits (B,) and style codes (B, S) of unit length.

        Both have the weights' precision, whatever autocast makes of the convolutions.
        """
        features = self._features(images)
        return self._judge(features), self._project(features)

    def judge(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] → real-or-fake logits (B,)."""
        return self._judge(self._features(images))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] → style codes (B, S) of unit length."""
        return self._project(self._features(images))

    def _features(self, images: Tensor) -> Tensor:
        return self.trunk(images).to(self.critic[0].weight.dtype).mean((2, 3))  # (B, C, 4, 4) → (B, C)

    def _judge(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self.critic(features).squeeze(1)

    def _project(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(self.projection(features), dim=1)


class Prototypes(nn.Module):
    """C: K points on the unit sphere of styles; who moves them puts them back on it by `normalise`."""

    def __init__(self, count: int, style_size: int):
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, style_size), dim=1))

    def forward(self, codes: Tensor) -> Tensor:
        """Style codes (B, S) of unit length → cosines with the prototypes (B, K), in the weights' precision."""
        with torch.autocast(codes.device.type, enabled=False):
            return F.linear(codes, self.weight)

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring all prototypes back to unit length."""
        self.weight.copy_(self.directions())

    def directions(self) -> Tensor:
        """The prototypes (K, S) as points on the sphere, constants; an average of such points lies within it."""
        return F.normalize(self.weight.detach(), dim=1)


class Generator(nn.Module):
    """G: an encoder that keeps the content of an image, and a decoder that gives it a style by AdaIN."""

    def __init__(self, size: int, options: StyleAwareNetwork):
        super().__init__()
        widths = _widths(size, options.bottleneck, options)
        narrow, hidden = widths[-1], options.hidden_size
        self.encoder = nn.Sequential(
            nn.Conv2d(3, widths[0], 1),
            *(_ContentBlock(a, b, halve=True) for a, b in itertools.pairwise(widths)),
            *(_ContentBlock(narrow, narrow) for _ in range(2)),
        )
        self.decoder = nn.ModuleList(
            [
                # The picture begins after the second block.
                _StyledBlock(narrow, narrow, hidden, paint=False),
                _StyledBlock(narrow, narrow, hidden),
                *(_StyledBlock(b, a, hidden, enlarge=True) for a, b in reversed(list(itertools.pairwise(widths)))),
            ]
        )
        sizes = [options.style_size] + [hidden] * options.mapping_layers
        self.mapping = nn.Sequential(
            *(layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2)))
        )
        self.apply(initialise)

    def encode(self, images: Tensor) -> Tensor:
        """Content (B, C, h, w) of images (B, 3, H, W) in [-1, 1]: at each place a vector of mean square 1."""
        content = self.encoder(images)
        return content * torch.rsqrt(content.square().mean(1, keepdim=True) + 1e-8)

    def decode(self, content: Tensor, codes: Tensor) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1], of content (B, C, h, w) in the styles of codes (B, S)."""
        style = self.mapping(codes)
        return self._decode(content, lambda norm, x: norm(x, style))

    def decode_mixed(self, content: Tensor, inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
        """The same in two styles (B, S): one where the mask (B, 1, h, w) is 1, and the other where it is 0."""
        first, second = self.mapping(inside), self.mapping(outside)

        def styled(norm: AdaIN, x: Tensor) -> Tensor:
            share = F.interpolate(mask, size=x.shape[-2:], mode="nearest")
            return share * norm(x, first) + (1 - share) * norm(x, second)

        return self._decode(content, styled)

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Images (B, 3, H, W) in the styles of codes (B, S)."""
        return self.decode(self.encode(images), codes)

    def _decode(self, content: Tensor, styled: Callable[[AdaIN, Tensor], Tensor]) -> Tensor:
        x, picture = content, None
        for block in self.decoder:
            x, picture = block(x, picture, styled)
        assert picture is not None
        return picture


class _TrunkBlock(nn.Module):
    """Residual block of unit variance that halves the map, without normalisation."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.skip = _skip(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C_out, H / 2, W / 2)."""
        residual = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2)
        # Pooling commutes with a 1x1 convolution: a quarter of the work after it.
        return (self.skip(F.avg_pool2d(x, 2)) + F.avg_pool2d(residual, 2)) / math.sqrt(2)


class _ContentBlock(nn.Module):
    """Pre-activated residual block of unit variance with instance norm, which may halve the map."""

    def __init__(self, channels_in: int, channels_out: int, halve: bool = False):
        super().__init__()
        self.halve = halve
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.skip = _skip(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C_out, H, W), or half of H and W."""
        residual = self.conv1(F.leaky_relu(F.instance_norm(x), 0.2))
        residual = self.conv2(F.leaky_relu(F.instance_norm(residual), 0.2))
        if self.halve:
            residual, x = F.avg_pool2d(residual, 2), F.avg_pool2d(x, 2)
        return (self.skip(x) + residual) / math.sqrt(2)


class _StyledBlock(nn.Module):
    """Two convolutions behind AdaIN, which may double the map, and a layer that adds to the picture."""

    def __init__(self, channels_in: int, channels_out: int, style_size: int, enlarge: bool = False, paint: bool = True):
        super().__init__()
        self.enlarge = enlarge
        self.norm1, self.norm2 = AdaIN(style_size, channels_in), AdaIN(style_size, channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.to_rgb = nn.Conv2d(channels_out, 3, 1) if paint else None

    def forward(
        self, x: Tensor, picture: Tensor | None, styled: Callable[[AdaIN, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, C_in, H, W) and the picture so far (B, 3, H, W) → both after this block."""
        x = F.leaky_relu(styled(self.norm1, x), 0.2)
        if self.enlarge:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv2(F.leaky_relu(styled(self.norm2, self.conv1(x)), 0.2))
        if self.to_rgb is None:
            return x, picture
        added = self.to_rgb(x)
        if picture is None:
            return x, added
        return x, added + F.interpolate(picture, scale_factor=2, mode="bilinear")


def _skip(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1, bias=False)


def _widths(size: int, smallest: int, options: StyleAwareNetwork) -> list[int]:
    """Channels at each size from full resolution down to `smallest` pixels."""
    halvings = int(math.log2(size // smallest))
    return [min(options.base_channels * 2**i, options.max_channels) for i in range(halvings + 1)]
