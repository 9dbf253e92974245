"""What training and evaluation know of a method: everything else about it is the method's own affair."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn


class Batch(Protocol):
    """The samples of one step on one process; every random choice of the step comes from `generator`."""

    source: Tensor  # (B, 3, H, W) float32 in [-1, 1]
    reference: Tensor  # (B, 3, H, W) float32 in [-1, 1]
    source_labels: Tensor | None  # (B, N) float32 in {0, 1}; None for a method that needs no labels
    reference_labels: Tensor | None  # (B, N) float32 in {0, 1}
    generator: torch.Generator  # on the CPU; a function of (seed, step, rank)
    step: int  # from 0
    progress: float  # share of the image budget seen before this step, in [0, 1)


class Method(Protocol):
    """A translation method: networks, one training step, and a way to translate.

    Its constructor is `Method(options: the method's dataclass, size, domains: list[str], labels_folder or None, clip
    options or None, device)`; see `lanit.methods.create_method`.
    """

    needs_labels: bool  # does it read pseudo labels?
    networks: nn.ModuleDict  # trained, in checkpoints
    averaged: nn.ModuleDict  # exponential moving averages, by the names in `networks`: these translate, and are the model
    # Set by training; `step` calls it between each backward pass and its update.
    reduce_gradients: Callable[[Iterable[nn.Parameter]], None]

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers, each over its own networks."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one training step; return losses as detached scalars on the device, without synchronising."""

    def averaging(self, progress: float) -> dict[str, float]:
        """Name in `averaged` → decay of its moving average at this point; a decay of 0 copies the network."""

    def reference_style(self, references: Tensor, labels: Tensor | None) -> Tensor:
        """Style code (B, S) of reference images (B, 3, H, W); `labels` (B, N) are the method's own labels of them."""

    def latent_style(self, domain: int, count: int, generator: torch.Generator) -> Tensor:
        """`count` style codes (count, S) drawn for one domain (or cluster) from the latent."""

    def translate(self, sources: Tensor, styles: Tensor) -> Tensor:
        """Translations (B, 3, H, W) in [-1, 1] by the averaged networks, without gradients."""
