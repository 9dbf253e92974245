"""TUNIT's three networks (Baek et al., "Rethinking the Truly Unsupervised Image-to-Image Translation", ICCV 2021).

`GuidingNetwork` is the paper's E, which clusters images and gives their style; `Generator` is G, a content encoder and
a decoder whose normalisations the style drives; `Discriminator` is D, with one output a cluster. With base 64 at 128
pixels or base 32 at 256 pixels, and at most 1024 channels, they have the sizes of the released models.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanit import collectives


class GuidingNetwork(nn.Module):
    """VGG-11 with batch normalisation, global pooling and two linear heads: style code and cluster logits."""

    def __init__(
        self,
        size: int,
        clusters: int,
        style: int = 128,
        base: int = 64,
        max_width: int = 1024,
        cluster_deviation: float = 0.01,
    ) -> None:
        """`size`: pixels of the square images; `style`: length of the style code; `base`: channels of the first layer;
        `cluster_deviation`: standard deviation of the cluster head's initial weights."""
        super().__init__()
        widths = [min(base * factor, max_width) for factor in (1, 2, 4, 4, 8, 8, 8, 8)]
        # VGG-11 halves the map after these layers; the last halvings go where they would leave fewer than 4 x 4 pixels.
        self.halved = (0, 1, 3, 5, 7)[: int(math.log2(size)) - 2]
        convolutions = [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip([3, *widths], widths)]
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(_BatchNorm(width) for width in widths)
        self.style = nn.Linear(widths[-1], style)
        self.cluster = nn.Linear(widths[-1], clusters)
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        for head, deviation in ((self.style, 0.01), (self.cluster, cluster_deviation)):
            nn.init.normal_(head.weight, std=deviation)
            nn.init.zeros_(head.bias)

    def forward(self, images: Tensor, track: bool = True) -> tuple[Tensor, Tensor]:
        """Return style codes (B, S) and cluster logits (B, K) of images (B, 3, H, W) in [-1, 1].

        In training, batches normalise by their own statistics. Only those that `track` asks for enter the running
        statistics, which serve afterwards: views and translations would otherwise shift them away from real images.
        Codes and logits have the weights' precision, whatever autocast makes of the convolutions.
        """
        x = images
        for layer, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            x = norm(convolution(x), track)
            if layer in self.halved:
                x = F.max_pool2d(x, 2)  # before the ReLU: the two commute, and this order is cheaper
            x = x.relu()
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.style.weight.dtype).mean((2, 3))
            return self.style(x), self.cluster(x)


class Generator(nn.Module):
    """Content encoder with instance normalisation, and a decoder with adaptive instance normalisation (AdaIN)."""

    def __init__(
        self,
        size: int,
        style: int = 128,
        base: int = 64,
        max_width: int = 1024,
        bottleneck: int = 16,
        residual_blocks: int = 2,
        hidden: int = 256,
    ) -> None:
        """`bottleneck`: pixels of the content code's side; `hidden`: width of the layers that read the style."""
        super().__init__()
        halvings = int(math.log2(size // bottleneck))
        widths = [min(base * 2**i, max_width) for i in range(halvings + 1)]
        self.encoder = nn.Sequential(
            _NormalisedConv(3, widths[0], 7),
            *(_NormalisedConv(a, b, 4, stride=2) for a, b in itertools.pairwise(widths)),
            *(_ContentResidual(widths[-1]) for _ in range(residual_blocks)),
        )
        self.residuals = nn.ModuleList(_StyledResidual(widths[-1]) for _ in range(residual_blocks))
        self.expansions = nn.ModuleList(_StyledConv(b, a, 5) for a, b in reversed(list(itertools.pairwise(widths))))
        self.output = _convolution(widths[0], 3, 7, bias=True)
        # Each styled layer takes a gain and an offset per channel, all computed at once.
        self.parts = [widths[-1]] * 4 * residual_blocks + [w for a in reversed(widths[:-1]) for w in (a, a)]
        self.modulation = nn.Sequential(
            nn.Linear(style, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, sum(self.parts)),
        )
        _initialise(self)

    def encode(self, images: Tensor) -> Tensor:
        """Return the content code (B, C, h, w) of images (B, 3, H, W)."""
        return self.encoder(images)

    def decode(self, content: Tensor, styles: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in [-1, 1] with the content (B, C, h, w) and the styles (B, S)."""
        gains = iter(self.modulation(styles)[:, :, None, None].split(self.parts, dim=1))
        x = content
        for block in self.residuals:
            x = block(x, next(gains), next(gains), next(gains), next(gains))
        for block in self.expansions:
            x = block(F.interpolate(x, scale_factor=2, mode="nearest"), next(gains), next(gains)).relu()
        return torch.tanh(self.output(x))

    def forward(self, images: Tensor, styles: Tensor) -> Tensor:
        """Translate images (B, 3, H, W) by styles (B, S)."""
        return self.decode(self.encode(images), styles)


class Discriminator(nn.Module):
    """Residual discriminator with filter response normalisation and one output for each of K clusters."""

    def __init__(self, size: int, clusters: int, base: int = 64, max_width: int = 1024, blocks: int = 2) -> None:
        """`blocks`: residual blocks at each resolution; the last of them halves it."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, base, 3, padding=1)]
        width = base
        for _ in range(int(math.log2(size)) - 2):  # down to 4 x 4 pixels
            wider = min(2 * width, max_width)
            layers += [_CriticResidual(width, width, halve=False) for _ in range(blocks - 1)]
            layers += [_CriticResidual(width, wider, halve=True)]
            width = wider
        layers += [nn.LeakyReLU(0.2), nn.Conv2d(width, width, 4), nn.LeakyReLU(0.2), nn.Conv2d(width, clusters, 1)]
        self.layers = nn.Sequential(*layers)
        _initialise(self)

    def forward(self, images: Tensor, clusters: Tensor) -> Tensor:
        """Return the logits (B,) of images (B, 3, H, W) at the outputs of their clusters, (B,) int64.

        They have the weights' precision, whatever autocast makes of the layers.
        """
        logits = self.layers(images).flatten(1).gather(1, clusters[:, None]).squeeze(1)
        return logits.to(self.layers[0].weight.dtype)


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation by mean and variance over the images of all processes, which have equally many."""

    # All there, with torch's defaults.
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor, track: bool = True) -> Tensor:
        """Normalise x (B, C, H, W); in training, `track` takes its statistics into the running ones."""
        if not self.training or (track and collectives.world_size() == 1):
            return super().forward(x)
        if collectives.world_size() == 1:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        values = x.to(self.weight.dtype)
        mean, variance = _moments(values)
        if track:
            count = collectives.world_size() * x.numel() // x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
                self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        offset = self.bias - mean * scale
        return torch.addcmul(offset[:, None, None], values, scale[:, None, None]).to(x.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance (C,) of the x (B, C, H, W) of all processes, through which gradients flow."""
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    whole = collectives.all_reduce_sum(mean) / collectives.world_size()
    # What lies within the processes' images, and what lies between the processes.
    return whole, collectives.all_reduce_sum(variance + (mean - whole).square()) / collectives.world_size()


class _NormalisedConv(nn.Module):
    """Convolution, instance normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = _convolution(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(self.convolution(x)).relu()


class _ContentResidual(nn.Module):
    """Two normalised convolutions beside a shortcut; TUNIT scales the residual by 0.1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width, 3)
        self.second = _convolution(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.instance_norm(self.first(x)).relu()
        return torch.add(x, F.instance_norm(self.second(residual)), alpha=0.1)


class _StyledConv(nn.Module):
    """Convolution and AdaIN."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.convolution = _convolution(inputs, outputs, kernel)

    def forward(self, x: Tensor, offset: Tensor, gain: Tensor) -> Tensor:
        return torch.addcmul(offset, F.instance_norm(self.convolution(x)), gain)


class _StyledResidual(nn.Module):
    """Two styled convolutions beside a shortcut, the residual scaled by 0.1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _StyledConv(width, width, 3)
        self.second = _StyledConv(width, width, 3)

    def forward(self, x: Tensor, offset1: Tensor, gain1: Tensor, offset2: Tensor, gain2: Tensor) -> Tensor:
        residual = self.second(self.first(x, offset1, gain1).relu(), offset2, gain2)
        return torch.add(x, residual, alpha=0.1)


class _CriticResidual(nn.Module):
    """Pre-activated residual block of unit variance, which may halve the map by average pooling."""

    def __init__(self, inputs: int, outputs: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.norm1 = _FilterResponseNorm(inputs)
        self.norm2 = _FilterResponseNorm(inputs)
        self.first = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.second = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        residual = self.first(self.norm1(x))
        if self.halve:
            residual = F.avg_pool2d(residual, 2)
            x = F.avg_pool2d(x, 2)  # before the 1 x 1 convolution: the two commute, and this order is cheaper
        if self.shortcut is not None:
            x = self.shortcut(x)
        return (x + self.second(self.norm2(residual))) * math.sqrt(0.5)


class _FilterResponseNorm(nn.Module):
    """Filter response normalisation with its thresholded linear unit (Singh and Krishnan, CVPR 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width, 1, 1))
        self.offset = nn.Parameter(torch.zeros(width, 1, 1))
        self.threshold = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.gain.dtype)  # under autocast too: the gradient penalty suffers most from rounding here
        scale = torch.rsqrt(x.square().mean((2, 3), keepdim=True) + 1e-6) * self.gain
        # max(y, t) as relu(y - t) + t, whose derivatives are cheaper
        return torch.addcmul(self.offset - self.threshold, x, scale).relu() + self.threshold


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """Reflection-padded convolution; a normalisation that follows would cancel a bias."""
    padding = (kernel - 1) // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias, padding_mode="reflect")


def _initialise(network: nn.Module) -> None:
    """He initialisation with zero biases."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
