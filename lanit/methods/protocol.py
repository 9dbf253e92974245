"""What training and evaluation know of a method: everything else about it is the method's own affair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanit.data.rng import BatchRng

if TYPE_CHECKING:
    from lanit.language.guide import LanguageOptions


@dataclass(frozen=True)
class Batch:
    """One part of the batch of a step: a process has one, or several one after the other (gradient accumulation).

    Losses are sums over the whole batch, all parts of all processes, so that the parts' gradients add up to those of
    one process with all the images: a mean over images is taken times `share`, and a mean over pairs is a sum over
    `pairs`.
    """

    source: Tensor  # (B, 3, H, W) float32 in [-1, 1], channels last
    reference: Tensor  # the same
    source_labels: Tensor | None  # (B, N) float32 in {0, 1}; None for a method without labels
    reference_labels: Tensor | None  # (B, N) float32 in {0, 1}
    pairs: Tensor | None  # () float32, how many (image, active domain) pairs the references of the whole batch are
    share: float  # of this part in the whole batch, in images
    rng: BatchRng  # every random choice of the step; a function of (seed, step, place in the whole batch)
    step: int  # from 0
    progress: float  # share of the image budget seen before this step, in [0, 1)
    second_reference: Tensor | None = None  # of the reference's domain, for a method that asks for two
    source_pairs: Tensor | None = None  # (), the same as `pairs` of the sources


@dataclass(frozen=True)
class Update:
    """One descent of a step."""

    networks: tuple[str, ...]  # whose parameters move, and no others
    # Part i → what to descend on, and its terms by name, detached: this part's contributions, which add up over parts.
    loss: Callable[[int], tuple[Tensor, dict[str, Tensor]]]
    leaves: tuple[Tensor, ...] = ()  # what else receives a gradient
    finish: Callable[[], None] = lambda: None  # after the parts' backward passes and before gradients are summed


@runtime_checkable
class Method(Protocol):
    """A translation method: networks, the updates of one training step, and a way to translate.

    Its constructor is `Method(options, size, domains, device)`: its settings' dataclass, the side of the square images
    in pixels, the names of the N candidate domains, and where to put everything.
    """

    accumulates: bool  # may a process work through its batch in parts? Not where a loss is no sum over images or pairs
    networks: nn.ModuleDict  # trained, in checkpoints
    averaged: nn.ModuleDict  # exponential moving averages by names in `networks`: these translate, and are the model

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers, by the names of the networks that they move."""

    def updates(self, parts: Sequence[Batch]) -> Iterator[Update]:
        """Yield the updates of a step, each to be taken before the next is asked for; nothing waits for the device."""

    def averaging(self, progress: float) -> dict[str, float]:
        """Name in `averaged` → decay of its moving average at this point; a decay of 0 copies the network."""

    def compile(self) -> None:
        """Have `torch.compile` make the networks faster, where it can."""

    def reference_style(self, references: Tensor, labels: Tensor | None) -> Tensor:
        """Style codes (B, S) of reference images (B, 3, H, W); `labels` (B, N') are the method's own labels of them."""

    def latent_style(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Style codes (B, S) drawn for the active domains (or clusters) of `labels` (B, N')."""

    def translate(self, sources: Tensor, styles: Tensor) -> Tensor:
        """Translations (B, 3, H, W) in [-1, 1] by the averaged networks, without gradients."""


@runtime_checkable
class ClusteringMethod(Method, Protocol):
    """A method that finds its domains itself."""

    clusters: int  # K

    def cluster_logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the clusters that the averaged networks see in images (B, 3, H, W)."""


@runtime_checkable
class LabelledMethod(Method, Protocol):
    """A method that trains on labels of images, whoever made them."""

    balanced: bool  # are images drawn evenly over domains, or as they come?
    references: int  # of each domain drawn: one, or two

    def extend_labels(self, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Labels (M, N) of the label stage → the method's own (M, N'): it may add a slack domain for images without."""


@runtime_checkable
class PerceptualMethod(Method, Protocol):
    """A method that learns from a perceptual distance, which its run's record names."""

    @property
    def perceptual_name(self) -> str | None:
        """The kind of the distance and a digest of its weights; None where its term has no weight."""


@runtime_checkable
class LanguageMethod(LabelledMethod, Protocol):
    """A method whose labels come of texts; its constructor takes `language` and `labels_folder` too."""

    language: LanguageOptions | None  # None where it was told of none, to translate alone
    draws_fully_covered: bool  # are images drawn that every candidate covers?

    def relabels(self, step: int, progress: float) -> bool:
        """Are the labels to be made anew before this step?"""

    def relabel(self, embeddings: Tensor) -> NDArray[np.bool_]:
        """Labels (M, N') by what the prompts are now, of images by their cached embeddings (M, k)."""

    def write_language(self, folder: Path, embeddings: Tensor | None) -> None:
        """Write into the folder of a finished run what it needs of language beside the averaged networks.

        `embeddings` (M, k) are those of the training images, where prompts have learned.
        """
