"""LANIT (Park et al., CVPR 2023): StarGAN v2 whose labels are multi-hot and come of language, and a language loss.

Two phases: first the texts are frozen and labels are those of the label stage; then the prompts' first words learn, and
labels follow from cached image embeddings. CLIP's image tower runs on translated images alone, its text tower in the
second phase alone, once a step. Eq. 10: λ_adv adv + λ_dl dl + λ_cyc cyc + λ_sty sty − λ_ds ds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lanit.config import parse
from lanit.data.rng import BatchRng
from lanit.language.guide import LanguageOptions
from lanit.language.pseudo_labels import with_slack
from lanit.methods import losses
from lanit.methods.protocol import Batch, LanguageMethod, Update
from lanit.methods.stargan2 import Draft, StarGan2, Terms, Translation, labels_of, source_labels_of
from lanit.settings.lanit import LanitOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lanit.language.guide import Guide
    from lanit.language.learned import Prompts


@dataclass
class Flip:
    """What L_dl asks of one part of a batch."""

    domain: Tensor  # n (B,)
    labels: Tensor  # d_inv (B, N)
    texts: Tensor  # u_1 … u_N and u_p (N + 1, k)


class Lanit(StarGan2):
    """LANIT, as `lanit.methods.protocol.LanguageMethod`."""

    balanced = False  # multi-hot labels: images come as they are
    references = 1
    options: LanitOptions

    def __init__(
        self,
        options: LanitOptions,
        size: int,
        domains: list[str],
        device: str | torch.device = "cpu",
        language: dict[str, Any] | None = None,
        labels_folder: Path | None = None,
    ):
        """Build the networks; with `language` and `labels_folder`, which training needs, CLIP and the texts too.

        Args:
            options, size, domains, device: see StarGan2.
            language: a LanguageOptions.
            labels_folder: folder of the label stage; its `texts.safetensors` holds u_1 … u_N and the base prompt's u.

        Raises:
            LanitError: the size does not suit the networks, or prompts are to learn from a loss without a weight.
        """
        self.language = parse(LanguageOptions, language, "language") if language is not None else None
        if self.language is not None:
            options.check_prompts(self.language.prompts)
        self.slack = self.language is not None and self.language.uncovered == "slack"
        self.draws_fully_covered = options.fully_covered == "drawn"
        super().__init__(options, size, domains, device, heads=len(domains) + self.slack)
        self.guide: Guide | None = None
        self.labels_folder = labels_folder
        self.prompts: Prompts | None = None
        self.averaged_prompts: Prompts | None = None
        if self.language is not None and labels_folder is not None and options.loss.dl > 0:
            from lanit.language.guide import Guide

            self.guide = Guide(self.language, self.domains, Path(labels_folder), self.device)
            self.prompts = self.guide.prompts
        if self.prompts is not None:
            self.averaged_prompts = copy.deepcopy(self.prompts).requires_grad_(False).eval()
            self.networks["prompts"], self.averaged["prompts"] = self.prompts, self.averaged_prompts
            own = options.prompts
            self._optimisers["prompts"] = self._adam(self.prompts, own.learning_rate, own.weight_decay)

    def extend_labels(self, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return with_slack(labels) if self.slack else labels

    def relabels(self, step: int, progress: float) -> bool:
        return self._learns(progress) and step % self.options.prompts.relabel_every == 0

    @torch.no_grad()
    def relabel(self, embeddings: Tensor) -> NDArray[np.bool_]:
        assert self.guide is not None and self.prompts is not None, "labels are made anew where prompts learn"
        return self.extend_labels(self.guide.label(embeddings, self.prompts()))

    @torch.no_grad()
    def write_language(self, folder: Path, embeddings: Tensor | None) -> None:
        from lanit.language.guide import label_changes, write_language
        from lanit.language.pseudo_labels import choose, read_texts

        assert self.language is not None and self.labels_folder is not None, "a trained run was told of language"
        prompts, changes = self.averaged_prompts, None
        if prompts is not None:
            assert self.guide is not None and embeddings is not None, "prompts learn with embeddings at hand"
            texts = prompts()
            before, after = (self.guide.label(embeddings, u) for u in (self.guide.texts, texts))
            changes = label_changes(before, after, self.domains)
        else:
            frozen = choose(read_texts(Path(self.labels_folder) / "texts.safetensors"), self.domains)
            texts = torch.cat([torch.from_numpy(frozen.domains), torch.from_numpy(frozen.base)[None]])
        write_language(folder, self.language.clip, texts, self.domains, prompts, changes)

    def _latent_guided_update(self, parts: Sequence[Batch], drafts: Sequence[Draft], ds_weight: float) -> Update:
        """StarGAN v2's with L_dl; where prompts learn they move in it, too."""
        if self.guide is None:
            return super()._latent_guided_update(parts, drafts, ds_weight)
        flips = [flip_one(labels_of(part), part.rng, self.slack) for part in parts]

        def loss(texts: Tensor, i: int) -> tuple[Tensor, dict[str, Tensor]]:
            return self._latent_guided_loss(parts[i], drafts[i], ds_weight, Flip(*flips[i], texts))

        moving = ("generator", "mapping", "style_encoder")
        prompts = self.prompts
        if prompts is None or not self._learns(parts[0].progress):
            frozen = self.guide.texts
            return Update(moving, lambda i: loss(frozen, i))
        # The text tower runs once, forwards and backwards, however many parts there are.
        learned = prompts()
        texts = learned.detach().requires_grad_()
        return Update(
            (*moving, "prompts"),
            lambda i: loss(texts, i),
            leaves=(texts,),
            finish=lambda: learned.backward(texts.grad, inputs=list(prompts.parameters())),
        )

    def _cycle(self, made: Translation, content: Tensor, own: Flip | None) -> tuple[Tensor, Terms]:
        """The cycle and ŷ' = G(c^ŷ, a_inv) in one batch, and L_dl of ŷ and ŷ'."""
        if own is None or self.guide is None:
            return super()._cycle(made, content, own)
        # ŷ and ŷ' share one latent and differ in the style of domain n alone.
        styles = torch.cat([made.source_style, losses.aggregate(made.styles, own.labels)])
        cycled, inverse = self.generator.decode(torch.cat([content, content]), styles).chunk(2)
        of_fake, of_inverse = self.guide.similarities(torch.cat([made.fake, inverse]), own.texts).chunk(2)
        dl = domain_regularisation(
            (labels_of(made.part), of_fake),
            (own.labels, of_inverse),
            own.domain,
            self.options.loss.similarity,
            self.guide.clip.logit_scale,
        )
        return cycled, {"dl": (self.options.loss.dl, dl)}

    def _pairs(self, part: Batch, of_sources: bool = False) -> Tensor:
        labels, pairs = (source_labels_of(part), part.source_pairs) if of_sources else (labels_of(part), part.pairs)
        assert pairs is not None, "the method trains on labels"
        return pair_weights(labels, self.options.loss.adversarial, pairs, part.share)

    def _learns(self, progress: float) -> bool:
        return self.prompts is not None and progress >= self.options.prompts.start


if TYPE_CHECKING:  # it is what its docstring says
    _: type[LanguageMethod] = Lanit


def pair_weights(labels: Tensor, normalise: str, pairs: Tensor, share: float) -> Tensor:
    """Weights (B, N) of the (image, active domain) pairs in the adversarial term; zero where d is.

    `"image"` is eq. 5 as printed: the domains of an image are summed, and images averaged. `"pair"` averages over all
    pairs, so that the term keeps its size whatever N is. Both average over the whole batch, of which these B images
    are a part.

    Args:
        labels: d (B, N).
        normalise: `"image"` or `"pair"`.
        pairs: (), how many pairs the whole batch has.
        share: of these images in the whole batch.
    """
    return labels * (share / len(labels)) if normalise == "image" else labels / pairs


def flip_one(labels: Tensor, rng: BatchRng, slack: bool = False) -> tuple[Tensor, Tensor]:
    """Pick a domain n for each image and flip its entry (fig. 4): on → off as often as off → on where both can be.

    An image's only active domain is never switched off, since no domain would be left to take a style from, unless
    there is a slack domain: it is on where no candidate is, and never picked itself.

    Args:
        labels: d (B, N), on any device; with `slack`, its last column is the slack domain's.
        rng: decides.
        slack: is there a slack domain?

    Returns:
        n (B,) int64 and d_inv (B, N). Where no flip is possible (N = 1), d_inv = d.
    """
    candidates = labels[:, :-1] if slack else labels
    active, count = candidates > 0.5, candidates.shape[1]
    # A column of uniform numbers decides the direction, the others the domain within it.
    draw = rng.uniform(count + 1)
    on = active.sum(1, keepdim=True)
    can_switch_off, can_switch_on = on > (0 if slack else 1), on < count
    switch_off = can_switch_off & ((draw[:, :1] < 0.5) | ~can_switch_on)
    chosen = torch.where(active == switch_off, draw[:, 1:], -1.0).argmax(1)
    possible = (can_switch_off | can_switch_on).to(labels.dtype)
    picked = (torch.arange(count, device=labels.device) == chosen[:, None]).to(labels.dtype) * possible
    flipped = candidates + picked * (1 - 2 * candidates)
    if slack:
        flipped = torch.cat([flipped, (flipped.sum(1, keepdim=True) == 0).to(labels.dtype)], dim=1)
    return chosen, flipped


def domain_regularisation(
    translated: tuple[Tensor, Tensor], flipped: tuple[Tensor, Tensor], domain: Tensor, similarity: str, scale: float
) -> Tensor:
    """L_dl = H(d_n, f_n of ŷ) + H(d_inv,n, f_n of ŷ'), H = binary cross-entropy, averaged over images (fig. 4).

    Args:
        translated: d (B, N), and the similarities of ŷ: cosines with the domain texts and, last, with the base prompt,
            (B, M + 1).
        flipped: d_inv (B, N), and the similarities of ŷ' (B, M + 1).
        domain: n (B,) int64.
        similarity: `"cosine"` takes f_n itself as the probability, clamped to (0, 1), as in the paper: an image whose
            cosine is not positive feels no pull; `"logit"` takes sigmoid(τ (f_n − f_base)), for which the adaptive
            threshold is probability ½.
        scale: τ, CLIP's own logit scale.
    """
    of_translated, of_flipped = (_domain_entropy(d, f, domain, similarity, scale) for d, f in (translated, flipped))
    return of_translated + of_flipped


def _domain_entropy(labels: Tensor, similarities: Tensor, domain: Tensor, similarity: str, scale: float) -> Tensor:
    target = labels.gather(1, domain[:, None]).squeeze(1)
    cosine = similarities.gather(1, domain[:, None]).squeeze(1)
    if similarity == "cosine":
        p = cosine.clamp(1e-4, 1 - 1e-4)
        return -(target * p.log() + (1 - target) * (1 - p).log()).mean()  # autocast forbids F.binary_cross_entropy
    return F.binary_cross_entropy_with_logits(scale * (cosine - similarities[:, -1]), target)
