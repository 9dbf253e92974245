"""Smoothing the disentangled latent style space (Liu et al., CVPR 2021): StarGAN v2 and three terms of its own.

A triplet margin and a divergence from N(0, I) make the style space compact, so that what lies between two styles is a
style too; a perceptual distance keeps the source's content. `docs/methods/smoothing.md` says where each fact is from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lanit.collectives import all_reduce_sum
from lanit.methods import losses
from lanit.methods.perceptual import load_perceptual
from lanit.methods.protocol import Batch, LabelledMethod, PerceptualMethod, Update
from lanit.methods.stargan2 import Draft, StarGan2, Terms, Translation, labels_of, source_labels_of
from lanit.networks.perceptual import Perceptual
from lanit.settings.smoothing import SmoothingOptions


@dataclass
class Smoothed:
    """What the terms on styles ask of one part of a batch."""

    latent: Tensor  # z2 (B, Z)
    weights: Tensor  # (B,) of the images in the triplet term; see `triplet_weights`
    kl_weight: float


class Smoothing(StarGan2):
    """Smoothing, as `lanit.methods.protocol.LabelledMethod` and `PerceptualMethod`."""

    options: SmoothingOptions

    @cached_property
    def perceptual(self) -> Perceptual:
        """The distance that content is kept in; translating does without, and needs no weights of it.

        Raises:
            LanitError: its weights are missing or not what they should be.
        """
        return load_perceptual(self.options.perceptual, self.device)

    @property
    def perceptual_name(self) -> str | None:
        """Kind of the distance and digest of its weights; None where content has no weight."""
        return self.perceptual.name if self.options.loss.content > 0 else None

    def updates(self, parts: Sequence[Batch]) -> Iterator[Update]:
        if self.options.loss.content > 0:
            _ = self.perceptual  # or a sentence, before anything moves
        return super().updates(parts)

    def _latent_guided_update(self, parts: Sequence[Batch], drafts: Sequence[Draft], ds_weight: float) -> Update:
        """StarGAN v2's with what the terms on styles ask for."""
        weights = [triplet_weights(source_labels_of(part), labels_of(part)) for part in parts]
        count = all_reduce_sum(torch.stack([of_part.sum() for of_part in weights]).sum())
        kl_weight = self.options.loss.kl_weight(parts[0].progress)

        def loss(i: int) -> tuple[Tensor, dict[str, Tensor]]:
            own = Smoothed(drafts[i].other_latent, weights[i] / count.clamp(min=1), kl_weight)
            return self._latent_guided_loss(parts[i], drafts[i], ds_weight, own)

        return Update(("generator", "mapping", "style_encoder"), loss)

    def _own_terms(self, made: Translation) -> Terms:
        """Content in both updates; the terms on styles in the latent-guided one, whose networks make styles."""
        weight, part, own = self.options.loss, made.part, made.own
        terms: Terms = {}
        if weight.content > 0:
            terms["content"] = (weight.content, self.perceptual(part.source, made.fake).mean())
        if own is not None and weight.triplet > 0:
            positive = losses.aggregate(self.mapping(own.latent), labels_of(part))
            negative = losses.aggregate(made.styles, source_labels_of(part))
            triplet = triplet_margin(made.style, positive, negative, own.weights, weight.margin)
            terms["triplet"] = (weight.triplet, triplet / part.share)  # it is of the whole batch already
        if own is not None and own.kl_weight > 0:
            of_target, of_source = (kl_divergence(s, weight.kl_form) for s in (made.style, made.source_style))
            terms["kl"] = (own.kl_weight, of_target + of_source)
        return terms


if TYPE_CHECKING:  # it is what its docstring says
    _labelled: type[LabelledMethod] = Smoothing
    _perceives: type[PerceptualMethod] = Smoothing


def triplet_weights(source_labels: Tensor, labels: Tensor) -> Tensor:
    """1 for images that change their domain, else 0: (B,) float of d^x and d^y (B, N)."""
    return (source_labels != labels).any(1).to(labels.dtype)


def triplet_margin(anchor: Tensor, positive: Tensor, negative: Tensor, weights: Tensor, margin: float) -> Tensor:
    """Σ_i w_i max(0, ‖a_i − p_i‖₂ − ‖a_i − n_i‖₂ + margin): styles of one domain are nearer than those of two.

    Args:
        anchor: E_M(z1) (B, S) in the target domain.
        positive: E_M(z2) (B, S) in the target domain.
        negative: E_M(z1) (B, S) in the source's domain.
        weights: w (B,), zero where the two domains are the same; over the whole batch their sum is 1.
        margin: not negative.
    """
    a, p, n = (losses.precise(styles) for styles in (anchor, positive, negative))
    return (weights * F.triplet_margin_loss(a, p, n, margin, reduction="none")).sum()


def kl_divergence(styles: Tensor, form: str) -> Tensor:
    """How far styles (B, S) are from N(0, I), averaged over images.

    `"divergence"` is KL(N(s, I) ‖ N(0, I)) = ½ ‖s‖²; `"squares"` is ‖s‖² / S, 2 / S of it.
    """
    squares = losses.precise(styles).square().mean()
    return squares if form == "squares" else squares * (styles.shape[1] / 2)
