"""Networks of StarGAN v2 (Choi et al., CVPR 2020) for N domains, without the high-pass path; LANIT uses them unchanged.

Every network returns its values for all N domains at once; who calls it weights them by multi-hot labels. At 256² with
64 base channels, at most 512, style 64, latent 16, hidden 512 and N = 10 the numbers of parameters are the paper's:
generator 33,892,995, mapping 9,004,672, style encoder 21,179,584, discriminator 20,856,394.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanit.networks.blocks import AdaINBlock, ResidualBlock, initialise
from lanit.settings.stargan2 import NetworkOptions, check_halvings


class Generator(nn.Module):
    """G(c, a): an encoder that keeps the content c of an image, and a decoder that gives it the style a."""

    def __init__(self, size: int, options: NetworkOptions):
        super().__init__()
        halvings = _halvings(size, options.bottleneck, "network.bottleneck")
        widths = options.widths(size, halvings)
        style, narrow = options.style_size, widths[-1]
        self.from_rgb = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.Sequential(
            *(ResidualBlock(a, b, normalise=True, downsample=True) for a, b in itertools.pairwise(widths)),
            *(ResidualBlock(narrow, narrow, normalise=True) for _ in range(2)),
        )
        self.decoder = nn.ModuleList(
            [AdaINBlock(narrow, narrow, style) for _ in range(2)]
            + [AdaINBlock(b, a, style, upsample=True) for a, b in zip(widths[-2::-1], widths[:0:-1])]
        )
        self.to_rgb = nn.Sequential(
            nn.InstanceNorm2d(widths[0], affine=True), nn.LeakyReLU(0.2), nn.Conv2d(widths[0], 3, 1)
        )
        self.apply(initialise)

    def encode(self, images: Tensor) -> Tensor:
        """Content c of images (B, 3, H, W) in [-1, 1]: (B, C, h, w)."""
        return self.encoder(self.from_rgb(images))

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """Images (B, 3, H, W), about [-1, 1], of content (B, C, h, w) in style (B, S)."""
        x = content
        for block in self.decoder:
            x = block(x, style)
        return self.to_rgb(x)

    def forward(self, images: Tensor, style: Tensor) -> Tensor:
        return self.decode(self.encode(images), style)


class Mapping(nn.Module):
    """E_M(z): a latent code → one style code per domain."""

    def __init__(self, domains: int, options: NetworkOptions):
        super().__init__()
        hidden = options.hidden_size
        sizes = [options.latent_size] + [hidden] * 4
        layers = (layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU()))
        self.shared = nn.Sequential(*layers)
        # The N branches as one batched product a layer: no Python loop over domains.
        sizes = [hidden] * 4 + [options.style_size]
        self.weights = nn.ParameterList(torch.empty(domains, a, b) for a, b in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(domains, 1, b) for b in sizes[1:])
        self.apply(initialise)
        for weight in self.weights:
            nn.init.normal_(weight, std=math.sqrt(2 / weight.shape[1]))  # He, fan in

    def forward(self, latent: Tensor) -> Tensor:
        """z (B, Z) from N(0, 1) → styles (B, N, S)."""
        x = self.shared(latent).expand(len(self.weights[0]), -1, -1)  # (N, B, hidden)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(bias, x if i == 0 else F.relu(x), weight)
        return x.transpose(0, 1)


class StyleEncoder(nn.Module):
    """E_S(y): an image → one style code per domain."""

    def __init__(self, size: int, domains: int, options: NetworkOptions):
        super().__init__()
        self.domains = domains
        self.trunk, width = _trunk(size, options)
        self.head = nn.Linear(width, domains * options.style_size)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → styles (B, N, S)."""
        return self.head(self.trunk(images).flatten(1)).unflatten(1, (self.domains, -1))


class Discriminator(nn.Module):
    """D(y): an image → one real-or-fake logit per domain."""

    def __init__(self, size: int, domains: int, options: NetworkOptions):
        super().__init__()
        self.trunk, width = _trunk(size, options)
        self.head = nn.Conv2d(width, domains, 1)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] → logits (B, N)."""
        return self.head(self.trunk(images)).flatten(1)


def _trunk(size: int, options: NetworkOptions) -> tuple[nn.Sequential, int]:
    """Layers that bring an image down to (B, C, 1, 1), and C."""
    halvings = _halvings(size, 4, "the discriminator's last feature map")
    widths = options.widths(size, halvings)
    layers = [
        nn.Conv2d(3, widths[0], 3, padding=1),
        *(ResidualBlock(a, b, downsample=True) for a, b in itertools.pairwise(widths)),
        nn.LeakyReLU(0.2),
        nn.Conv2d(widths[-1], widths[-1], 4),  # 4 x 4 → 1 x 1
        nn.LeakyReLU(0.2),
    ]
    return nn.Sequential(*layers), widths[-1]


def _halvings(size: int, smallest: int, what: str) -> int:
    check_halvings(size, smallest, what)
    return int(math.log2(size // smallest))
