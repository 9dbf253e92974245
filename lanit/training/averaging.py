"""Exponential moving averages of networks (EMA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def average(averaged: nn.ModuleDict, networks: nn.ModuleDict, decays: dict[str, float]) -> None:
    """Move each averaged network towards its network: w̄ ← decay·w̄ + (1 − decay)·w; other buffers are copied.

    Args:
        averaged: the averages, changed in place.
        networks: what is averaged, under the same names.
        decays: name → decay in [0, 1); 0 copies.
    """
    for name, decay in decays.items():
        mean, now = averaged[name], networks[name]
        means: list[Tensor] = list(mean.parameters())
        if means:  # a module may hold buffers alone
            torch._foreach_lerp_(means, [p.detach() for p in now.parameters()], 1 - decay)
        for target, source in zip(mean.buffers(), now.buffers()):
            target.copy_(source)
