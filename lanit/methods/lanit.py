"""LANIT (Park et al., CVPR 2023): multi-hot pseudo labels from language drive StarGAN v2's networks.

Two phases: first the texts are frozen and labels are those of the label stage; then the prompts' first words learn, and
labels follow from cached image embeddings. CLIP's image tower runs on translated images alone, its text tower in the
second phase alone, once a step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lanit.config import LanitError, parse
from lanit.language.guide import LanguageOptions
from lanit.language.labels import with_slack
from lanit.methods import losses
from lanit.methods.protocol import Batch, Update
from lanit.networks.stargan2 import Discriminator, Generator, Mapping, NetworkOptions, StyleEncoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LossOptions:
    """Weights and forms of the terms; the defaults are the paper's."""

    adv: float = 1.0
    cyc: float = 1.0
    sty: float = 1.0
    ds: float = 1.0  # λ_ds at the start
    ds_decay: float = 130 / 150  # share of the budget over which λ_ds falls linearly to 0: 130k of 150k iterations
    dl: float = 0.5
    r1: float = 1.0
    r1_every: int = 1  # iterations from one penalty to the next, whose weight grows as much (lazy, as in StyleGAN2)
    adversarial: Literal["image", "pair"] = "image"
    similarity: Literal["cosine", "logit"] = "cosine"


@dataclass(frozen=True)
class PromptOptions:
    """When and how fast prompts learn, where `language.prompts` says that they do."""

    start: float = 99 / 150  # share of the budget before it: 99k of 150k iterations
    learning_rate: float = 1e-5  # the authors': 1e-6 to 2e-5
    relabel_every: int = 100  # steps from one set of labels to the next


@dataclass(frozen=True)
class LanitOptions:
    network: NetworkOptions = field(default_factory=NetworkOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    prompts: PromptOptions = field(default_factory=PromptOptions)
    learning_rate: float = 1e-4  # generator and style encoder
    discriminator_learning_rate: float = 1e-4
    mapping_learning_rate: float = 1e-4  # LANIT's; StarGAN v2's own is 1e-6
    betas: tuple[float, float] = (0.0, 0.99)
    weight_decay: float = 1e-4
    ema: float = 0.999


@dataclass
class Draft:
    """What the updates of a step share for one part of its batch."""

    latent: Tensor  # z1 (B, Z)
    domain: Tensor | None  # n (B,), of L_dl
    flipped: Tensor | None  # d_inv (B, N)
    fake: Tensor  # ŷ = G(x, E_M(z1)), without its graph
    fake_reference: Tensor  # G(x, E_S(y)), without its graph
    fake_other: Tensor | None  # G(x, E_M(z2)), without its graph, while diversification has a weight
    made: tuple[Tensor, Tensor] | None  # E_M(z1) (B, N, S) and ŷ with their graph, where the step has one part


class Lanit:
    """LANIT with its complete objective, eq. 10: λ_adv adv + λ_dl dl + λ_cyc cyc + λ_sty sty − λ_ds ds."""

    needs_labels = True
    splits = True

    def __init__(
        self,
        options: LanitOptions,
        size: int,
        domains: list[str],
        language: dict[str, Any] | None = None,
        labels_folder: Path | None = None,
        device: str | torch.device = "cpu",
    ):
        """Build the networks; with `language` and `labels_folder`, which training needs, CLIP and the texts too.

        Args:
            options: the method's options.
            size: side of the square images in pixels, a power of two.
            domains: names of the N candidate domains.
            language: a LanguageOptions.
            labels_folder: folder of the label stage; its `texts.safetensors` holds u_1 … u_N and the base prompt's u.
            device: where to put everything.

        Raises:
            LanitError: an option is out of range, or prompts are to learn from a language loss without a weight.
        """
        self.language = parse(LanguageOptions, language, "language") if language is not None else None
        _check(options, self.language)
        self.options, self.size, self.device, self.domains = options, size, torch.device(device), list(domains)
        self.slack = self.language is not None and self.language.uncovered == "slack"
        sizes, count = options.network, len(domains) + self.slack
        self.networks = nn.ModuleDict(
            {
                "generator": Generator(size, sizes),
                "mapping": Mapping(count, sizes),
                "style_encoder": StyleEncoder(size, count, sizes),
                "discriminator": Discriminator(size, count, sizes),
            }
        ).to(self.device, memory_format=torch.channels_last)
        averaged = ["generator", "mapping", "style_encoder"]
        self.guide = None
        if self.language is not None and labels_folder is not None and options.loss.dl > 0:
            from lanit.language.guide import Guide

            self.guide = Guide(self.language, self.domains, Path(labels_folder), self.device)
            if self.guide.prompts is not None:
                self.networks["prompts"] = self.guide.prompts
                averaged.append("prompts")
        self.labels_folder = labels_folder
        self.averaged = nn.ModuleDict({name: copy.deepcopy(self.networks[name]) for name in averaged})
        self.averaged.requires_grad_(False).eval()
        self._discriminate = self.networks["discriminator"]
        self._optimisers = {name: _optimiser(name, network, options) for name, network in self.networks.items()}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return self._optimisers

    def averaging(self, progress: float) -> dict[str, float]:
        return dict.fromkeys(self.averaged, self.options.ema)

    def compile(self) -> None:
        generator = self.networks["generator"]
        generator.encode = torch.compile(generator.encode, dynamic=False)
        generator.decode = torch.compile(generator.decode, dynamic=False)
        self.networks["mapping"].compile(dynamic=False)
        self.networks["style_encoder"].compile(dynamic=False)
        # Not where R1 is: a second derivative through compiled code is not to be had.
        self._discriminate = torch.compile(self.networks["discriminator"], dynamic=False)

    def cover(self, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return with_slack(labels) if self.slack else labels

    def relabels(self, step: int, progress: float) -> bool:
        return self._learns(progress) and step % self.options.prompts.relabel_every == 0

    @torch.no_grad()
    def relabel(self, embeddings: Tensor) -> NDArray[np.bool_]:
        return self.cover(self.guide.label(embeddings, self.networks["prompts"]()))

    @torch.no_grad()
    def write(self, folder: Path, embeddings: Tensor | None) -> None:
        from lanit.language.guide import label_changes, write_language
        from lanit.language.labels import choose, read_texts

        texts, prompts, changes = None, None, None
        if "prompts" in self.averaged:
            prompts = self.averaged["prompts"]
            texts = prompts()
            before, after = (self.guide.label(embeddings, u) for u in (self.guide.texts, texts))
            changes = label_changes(before, after, self.domains)
        elif self.labels_folder is not None:
            frozen = choose(read_texts(Path(self.labels_folder) / "texts.safetensors"), self.domains)
            texts = torch.cat([torch.from_numpy(frozen.domains), torch.from_numpy(frozen.base)[None]])
        if texts is not None:
            write_language(folder, self.language.clip, texts, self.domains, prompts, changes)

    def updates(self, parts: Sequence[Batch]) -> Iterator[Update]:
        """One iteration: discriminator and generator updates, latent- and then reference-guided, as StarGAN v2 does."""
        step, progress = parts[0].step, parts[0].progress
        ds_weight = self.options.loss.ds * max(0.0, 1 - progress / self.options.loss.ds_decay)
        penalised = step % self.options.loss.r1_every == 0
        drafts = [self._draft(part, ds_weight > 0, alone=len(parts) == 1) for part in parts]

        def discriminate(which: str, i: int) -> tuple[Tensor, dict[str, Tensor]]:
            fake = drafts[i].fake if which == "" else drafts[i].fake_reference
            return self._discriminator_loss(parts[i], fake, penalised, which)

        yield Update(("discriminator",), partial(discriminate, ""))
        yield Update(("discriminator",), partial(discriminate, "_reference"))

        moving: tuple[str, ...] = ("generator", "mapping", "style_encoder")
        if self._learns(progress):
            # The text tower runs once, forwards and backwards, however many parts there are.
            learned = self.networks["prompts"]()
            texts = learned.detach().requires_grad_()
            yield Update(
                (*moving, "prompts"),
                lambda i: self._latent_guided_loss(parts[i], drafts[i], texts, ds_weight),
                leaves=(texts,),
                finish=lambda: learned.backward(texts.grad, inputs=list(self.networks["prompts"].parameters())),
            )
        else:
            texts = None if self.guide is None else self.guide.texts
            yield Update(moving, lambda i: self._latent_guided_loss(parts[i], drafts[i], texts, ds_weight))
        yield Update(("generator",), lambda i: self._reference_guided_loss(parts[i]))

    @torch.no_grad()
    def reference_style(self, references: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None, "LANIT takes a reference's style from its active domains"
        return losses.aggregate(self.averaged["style_encoder"](references), labels)

    @torch.no_grad()
    def latent_style(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        latent = torch.randn(len(labels), self.options.network.latent_size, generator=generator).to(self.device)
        return losses.aggregate(self.averaged["mapping"](latent), labels.to(self.device))

    @torch.no_grad()
    def translate(self, sources: Tensor, styles: Tensor) -> Tensor:
        return self.averaged["generator"](sources, styles).clamp(-1, 1)

    def _learns(self, progress: float) -> bool:
        return "prompts" in self.networks and progress >= self.options.prompts.start

    def _draft(self, part: Batch, diversify: bool, alone: bool) -> Draft:
        """Draw what the step needs, and translate: the discriminator's updates leave the generator as it is."""
        z1, z2 = part.draws.normal(2, self.options.network.latent_size).unbind(1)
        domain, flipped = None, None
        if self.guide is not None:
            domain, flipped = losses.flip_one(part.reference_labels, part.draws, self.slack)
        generator, d_y = self.networks["generator"], part.reference_labels
        with torch.set_grad_enabled(alone):  # several parts would each keep a graph: theirs are made again when needed
            styles, content = self.networks["mapping"](z1), generator.encode(part.source)
            fake = generator.decode(content, losses.aggregate(styles, d_y))
        with torch.no_grad():
            others = [losses.aggregate(self.networks["style_encoder"](part.reference), d_y)]
            if diversify:
                others.append(losses.aggregate(self.networks["mapping"](z2), d_y))
            contents = content.repeat(len(others), 1, 1, 1)
            fake_reference, *fake_other = generator.decode(contents, torch.cat(others)).split(len(z1))
        made = (styles, fake) if alone else None
        return Draft(z1, domain, flipped, fake.detach(), fake_reference, fake_other[0] if fake_other else None, made)

    def _discriminator_loss(
        self, part: Batch, fake: Tensor, penalised: bool, suffix: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight = self.options.loss
        if penalised:
            discriminator = self.networks["discriminator"]
            real = part.reference.detach().requires_grad_()
            of_real, of_fake = discriminator(real), discriminator(fake)
        else:
            of_real, of_fake = self._discriminate(torch.cat([part.reference, fake])).chunk(2)
        pairs = self._pairs(part)
        adversarial = losses.adversarial(of_real, pairs, real=True) + losses.adversarial(of_fake, pairs, real=False)
        total, terms = weight.adv * adversarial, {f"d_adv{suffix}": adversarial.detach()}
        if penalised:
            r1 = part.share * losses.r1_penalty(of_real, real, part.reference_labels)
            total = total + weight.r1 * weight.r1_every * r1
            terms[f"r1{suffix}"] = r1.detach()
        return total, terms

    def _latent_guided_loss(
        self, part: Batch, draft: Draft, texts: Tensor | None, ds_weight: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight, x, d_x, d_y = self.options.loss, part.source, part.source_labels, part.reference_labels
        generator, style_encoder = self.networks["generator"], self.networks["style_encoder"]
        if draft.made is not None:
            styles, fake = draft.made
        else:
            styles = self.networks["mapping"](draft.latent)
            fake = generator.decode(generator.encode(x), losses.aggregate(styles, d_y))
        style = losses.aggregate(styles, d_y)
        source_style = losses.aggregate(style_encoder(x), d_x)
        fake_content = generator.encode(fake)  # c^ŷ, for the cycle and for ŷ'

        adv = losses.adversarial(self._discriminate(fake), self._pairs(part), real=True)
        sty = losses.distance(losses.aggregate(style_encoder(fake), d_y), style)  # eq. 8, on what the generator got
        total, terms = weight.adv * adv, {"g_adv": adv.detach(), "sty": part.share * sty.detach()}
        of_images = weight.sty * sty
        if draft.fake_other is not None:
            ds = losses.distance(fake, draft.fake_other)  # eq. 9
            of_images = of_images - ds_weight * ds
            terms["ds"] = part.share * ds.detach()
        if texts is not None:
            # ŷ and ŷ' share one latent and differ in the style of domain n alone.
            decoded = torch.cat([source_style, losses.aggregate(styles, draft.flipped)])
            cycled, inverse = generator.decode(torch.cat([fake_content, fake_content]), decoded).chunk(2)
            of_fake, of_inverse = self.guide.similarities(torch.cat([fake, inverse]), texts).chunk(2)
            dl = losses.domain_regularisation(
                (d_y, of_fake),
                (draft.flipped, of_inverse),
                draft.domain,
                weight.similarity,
                self.guide.clip.logit_scale,
            )
            of_images = of_images + weight.dl * dl
            terms["dl"] = part.share * dl.detach()
        else:
            cycled = generator.decode(fake_content, source_style)
        cyc = losses.distance(cycled, x)  # eq. 7
        terms["cyc"] = part.share * cyc.detach()
        return total + part.share * (of_images + weight.cyc * cyc), terms

    def _reference_guided_loss(self, part: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        weight, x, d_y = self.options.loss, part.source, part.reference_labels
        generator, style_encoder = self.networks["generator"], self.networks["style_encoder"]
        with torch.no_grad():  # this update is the generator's alone
            of_reference, of_source = style_encoder(torch.cat([part.reference, x])).chunk(2)
            style, source_style = losses.aggregate(of_reference, d_y), losses.aggregate(of_source, part.source_labels)
        fake = generator(x, style)
        adv = losses.adversarial(self._discriminate(fake), self._pairs(part), real=True)
        sty = losses.distance(losses.aggregate(style_encoder(fake), d_y), style)
        cyc = losses.distance(generator(fake, source_style), x)
        terms = {"g_adv_reference": adv, "sty_reference": part.share * sty, "cyc_reference": part.share * cyc}
        total = weight.adv * adv + part.share * (weight.sty * sty + weight.cyc * cyc)
        return total, {name: term.detach() for name, term in terms.items()}

    def _pairs(self, part: Batch) -> Tensor:
        return losses.pair_weights(part.reference_labels, self.options.loss.adversarial, part.pairs, part.share)


def _optimiser(name: str, network: nn.Module, options: LanitOptions) -> torch.optim.Optimizer:
    rates = {
        "mapping": options.mapping_learning_rate,
        "discriminator": options.discriminator_learning_rate,
        "prompts": options.prompts.learning_rate,
    }
    return torch.optim.Adam(
        network.parameters(),
        lr=rates.get(name, options.learning_rate),
        betas=options.betas,
        weight_decay=0.0 if name == "prompts" else options.weight_decay,  # words are not drawn towards zero
        fused=True,
    )


def _check(options: LanitOptions, language: LanguageOptions | None) -> None:
    if options.loss.r1_every < 1 or options.prompts.relabel_every < 1:
        raise LanitError("train.lanit.loss.r1_every and train.lanit.prompts.relabel_every must be at least 1")
    if options.loss.ds_decay <= 0:
        raise LanitError(
            "train.lanit.loss.ds_decay is a share of the budget above 0; ds: 0 switches diversification off"
        )
    if not 0 <= options.prompts.start <= 1:
        raise LanitError(
            f"train.lanit.prompts.start is a share of the budget, from 0 to 1, not {options.prompts.start}"
        )
    if language is not None and language.prompts == "learned" and options.loss.dl == 0:
        raise LanitError(
            "prompts learn from the language loss alone, and train.lanit.loss.dl is 0; "
            "give it a weight or set prompts: frozen"
        )
