"""Residual blocks of StarGAN v2 (Choi et al., CVPR 2020, supplement G), with and without adaptive instance norm."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Pre-activation residual block with unit variance, optionally normalised and halved in size."""

    def __init__(self, channels_in: int, channels_out: int, normalise: bool = False, downsample: bool = False):
        super().__init__()
        self.downsample = downsample
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm1 = nn.InstanceNorm2d(channels_in, affine=True) if normalise else nn.Identity()
        self.norm2 = nn.InstanceNorm2d(channels_in, affine=True) if normalise else nn.Identity()
        self.skip = _skip(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C_out, H, W), or half of H and W."""
        residual = self.conv1(F.leaky_relu(self.norm1(x), 0.2))
        shortcut = self.skip(x)
        if self.downsample:
            residual, shortcut = F.avg_pool2d(residual, 2), F.avg_pool2d(shortcut, 2)
        residual = self.conv2(F.leaky_relu(self.norm2(residual), 0.2))
        return (shortcut + residual) / math.sqrt(2)


class AdaIN(nn.Module):
    """Instance norm whose scale and shift are affine in the style code (Huang & Belongie, ICCV 2017)."""

    def __init__(self, style_size: int, channels: int):
        super().__init__()
        self.affine = nn.Linear(style_size, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, C, H, W), style (B, S) → (B, C, H, W)."""
        gamma, beta = self.affine(style)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return torch.addcmul(beta, 1 + gamma, F.instance_norm(x))


class AdaINBlock(nn.Module):
    """Pre-activation residual block driven by a style code, optionally doubled in size."""

    def __init__(self, channels_in: int, channels_out: int, style_size: int, upsample: bool = False):
        super().__init__()
        self.upsample = upsample
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.norm1 = AdaIN(style_size, channels_in)
        self.norm2 = AdaIN(style_size, channels_out)
        self.skip = _skip(channels_in, channels_out)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x (B, C_in, H, W), style (B, S) → (B, C_out, H, W), or twice H and W."""
        residual = F.leaky_relu(self.norm1(x, style), 0.2)
        # A 1x1 convolution commutes with nearest-neighbour enlargement: a quarter of the work before it.
        shortcut = self.skip(x)
        if self.upsample:
            residual, shortcut = (F.interpolate(t, scale_factor=2, mode="nearest") for t in (residual, shortcut))
        residual = self.conv2(F.leaky_relu(self.norm2(self.conv1(residual), style), 0.2))
        return (shortcut + residual) / math.sqrt(2)


def _skip(channels_in: int, channels_out: int) -> nn.Module:
    return nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1, bias=False)


def initialise(module: nn.Module) -> None:
    """He initialisation (fan in, gain of ReLU) of convolutions and linear layers, zero biases; for `Module.apply`.

    AdaIN's affine map starts at unit scale and zero shift on average, as a zero bias leaves it.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
