"""StarGAN v2 (Choi et al., CVPR 2020): one generator for N domains, styles from a latent code or from a reference.

An iteration has four updates: of the discriminator, against latent- and against reference-guided translations, and of
the generator, latent-guided together with mapping and style encoder, reference-guided alone. LANIT and Smoothing are
this and terms of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanit.methods import losses
from lanit.methods.protocol import Batch, LabelledMethod, Update
from lanit.networks.stargan2 import Discriminator, Generator, Mapping, StyleEncoder
from lanit.settings.stargan2 import StarGan2Options

Terms = dict[str, tuple[float, Tensor]]  # name → weight, and the mean over this part's images


@dataclass
class Draft:
    """What the updates of a step share for one part of its batch."""

    latent: Tensor  # z1 (B, Z)
    other_latent: Tensor  # z2 (B, Z)
    fake: Tensor  # ŷ = G(x, E_M(z1)), without its graph
    fake_reference: Tensor  # G(x, E_S(y)), without its graph
    fake_other: Tensor | None  # G(x, E_M(z2)), without its graph, while diversification has a weight
    made: tuple[Tensor, Tensor] | None  # E_M(z1) (B, N, S) and ŷ with their graph, where the step has one part


@dataclass
class Translation:
    """A translation that the generator is judged by."""

    part: Batch
    guide: str  # "latent" or "reference": where its style comes from
    styles: Tensor  # of all domains (B, N, S)
    style: Tensor  # a^y (B, S), of the active ones
    source_style: Tensor  # a^x (B, S)
    fake: Tensor  # ŷ (B, 3, H, W)
    own: Any = None  # what a method's `_latent_guided_update` handed over; None in the reference-guided update


class StarGan2:
    """StarGAN v2, as `lanit.methods.protocol.LabelledMethod`: adv·adv + cyc·cyc + sty·sty − ds·ds, and R1 on D.

    A subclass adds terms by `_own_terms`, or by `_cycle` where it decodes something of its own from the translation's
    content.
    """

    accumulates = True
    balanced = True
    references = 2

    def __init__(
        self,
        options: StarGan2Options,
        size: int,
        domains: list[str],
        device: str | torch.device = "cpu",
        heads: int | None = None,
    ):
        """Build the networks.

        Args:
            options: the method's options.
            size: side of the square images in pixels, a power of two.
            domains: names of the N candidate domains.
            device: where to put everything.
            heads: how many domains the networks know, where it is not N.

        Raises:
            LanitError: the size does not suit the networks.
        """
        options.check(size, len(domains))
        self.options, self.size, self.device, self.domains = options, size, torch.device(device), list(domains)
        sizes, count = options.network, heads or len(domains)
        self.generator, self.mapping = Generator(size, sizes), Mapping(count, sizes)
        self.style_encoder, self.discriminator = StyleEncoder(size, count, sizes), Discriminator(size, count, sizes)
        translating: dict[str, nn.Module] = {
            "generator": self.generator,
            "mapping": self.mapping,
            "style_encoder": self.style_encoder,
        }
        self.networks = nn.ModuleDict({**translating, "discriminator": self.discriminator})
        self.networks.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = nn.ModuleDict(copy.deepcopy(translating)).requires_grad_(False).eval()
        self._discriminate: Callable[[Tensor], Tensor] = self.discriminator
        rates = {"mapping": options.mapping_learning_rate, "discriminator": options.discriminator_learning_rate}
        self._optimisers: dict[str, torch.optim.Optimizer] = {
            name: self._adam(network, rates.get(name, options.learning_rate), options.weight_decay)
            for name, network in self.networks.items()
        }

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return self._optimisers

    def averaging(self, progress: float) -> dict[str, float]:
        return dict.fromkeys(self.averaged, self.options.ema)

    def compile(self) -> None:
        for part in ("encode", "decode"):
            setattr(self.generator, part, torch.compile(getattr(self.generator, part), dynamic=False))
        self.mapping.compile(dynamic=False)
        self.style_encoder.compile(dynamic=False)
        # Not where R1 is: a second derivative through compiled code is not to be had.
        self._discriminate = torch.compile(self.discriminator, dynamic=False)

    def extend_labels(self, labels: NDArray) -> NDArray:
        return labels

    def updates(self, parts: Sequence[Batch]) -> Iterator[Update]:
        step, progress = parts[0].step, parts[0].progress
        ds_weight = self.options.loss.ds * max(0.0, 1 - progress / self.options.loss.ds_decay)
        penalised = step % self.options.loss.r1_every == 0
        drafts = [self._draft(part, ds_weight > 0, alone=len(parts) == 1) for part in parts]

        def discriminate(which: str, i: int) -> tuple[Tensor, dict[str, Tensor]]:
            fake = drafts[i].fake if which == "" else drafts[i].fake_reference
            return self._discriminator_loss(parts[i], fake, penalised, which)

        yield Update(("discriminator",), partial(discriminate, ""))
        yield Update(("discriminator",), partial(discriminate, "_reference"))
        yield self._latent_guided_update(parts, drafts, ds_weight)
        yield Update(("generator",), lambda i: self._reference_guided_loss(parts[i], ds_weight))

    @torch.no_grad()
    def reference_style(self, references: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None, "a reference's style is of its active domains"
        return losses.aggregate(self.averaged["style_encoder"](references), labels)

    @torch.no_grad()
    def latent_style(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        latent = torch.randn(len(labels), self.options.network.latent_size, generator=generator).to(self.device)
        return losses.aggregate(self.averaged["mapping"](latent), labels.to(self.device))

    @torch.no_grad()
    def translate(self, sources: Tensor, styles: Tensor) -> Tensor:
        return self.averaged["generator"](sources, styles).clamp(-1, 1)

    # What a subclass may add to.

    def _latent_guided_update(self, parts: Sequence[Batch], drafts: Sequence[Draft], ds_weight: float) -> Update:
        moving = ("generator", "mapping", "style_encoder")
        return Update(moving, lambda i: self._latent_guided_loss(parts[i], drafts[i], ds_weight))

    def _cycle(self, made: Translation, content: Tensor, own: Any) -> tuple[Tensor, Terms]:
        """Return G(ŷ, a^x), and terms of a method that decodes more from c^ŷ: in one batch with the cycle.

        `content` is c^ŷ; `own` is what the method's `_latent_guided_update` handed to `_latent_guided_loss`.
        """
        return self.generator.decode(content, made.source_style), {}

    def _own_terms(self, made: Translation) -> Terms:
        """Return further terms of the generator's objective."""
        return {}

    def _pairs(self, part: Batch, of_sources: bool = False) -> Tensor:
        """Weights (B, N) of the (image, active domain) pairs in the adversarial term; zero where d is.

        Of the references, as of the translations into their domains, or of the sources.
        """
        labels = source_labels_of(part) if of_sources else labels_of(part)
        return labels * (part.share / len(labels))

    # The four losses.

    def _draft(self, part: Batch, diversify: bool, alone: bool) -> Draft:
        """Draw what the step needs, and translate: the discriminator's updates leave the generator as it is."""
        z1, z2 = part.rng.normal(2, self.options.network.latent_size).unbind(1)
        generator, d_y = self.generator, labels_of(part)
        with torch.set_grad_enabled(alone):  # several parts would each keep a graph: theirs are made again when needed
            styles, content = self.mapping(z1), generator.encode(part.source)
            fake = generator.decode(content, losses.aggregate(styles, d_y))
        with torch.no_grad():
            others = [losses.aggregate(self.style_encoder(part.reference), d_y)]
            if diversify:
                others.append(losses.aggregate(self.mapping(z2), d_y))
            contents = content.repeat(len(others), 1, 1, 1)
            fake_reference, *fake_other = generator.decode(contents, torch.cat(others)).split(len(z1))
        made = (styles, fake) if alone else None
        return Draft(z1, z2, fake.detach(), fake_reference, fake_other[0] if fake_other else None, made)

    def _discriminator_loss(
        self, part: Batch, fake: Tensor, penalised: bool, suffix: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight, of_sources = self.options.loss, self.options.loss.real == "sources"
        real, labels = (part.source, source_labels_of(part)) if of_sources else (part.reference, labels_of(part))
        if penalised:
            real = real.detach().requires_grad_()
            of_real, of_fake = self.discriminator(real), self.discriminator(fake)
        else:
            of_real, of_fake = self._discriminate(torch.cat([real, fake])).chunk(2)
        adversarial = losses.adversarial(of_real, self._pairs(part, of_sources), real=True) + losses.adversarial(
            of_fake, self._pairs(part), real=False
        )
        total, terms = weight.adv * adversarial, {f"d_adv{suffix}": adversarial.detach()}
        if penalised:
            r1 = part.share * losses.r1_penalty(of_real, real, labels, weight.r1_heads)
            total = total + weight.r1 * weight.r1_every * r1
            terms[f"r1{suffix}"] = r1.detach()
        return total, terms

    def _latent_guided_loss(
        self, part: Batch, draft: Draft, ds_weight: float, own: Any = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight, x, d_y = self.options.loss, part.source, labels_of(part)
        generator, style_encoder = self.generator, self.style_encoder
        if draft.made is not None:
            styles, fake = draft.made
        else:
            styles = self.mapping(draft.latent)
            fake = generator.decode(generator.encode(x), losses.aggregate(styles, d_y))
        style = losses.aggregate(styles, d_y)
        source_style = losses.aggregate(style_encoder(x), source_labels_of(part))
        content = generator.encode(fake)
        made = Translation(part, "latent", styles, style, source_style, fake, own)
        adv = losses.adversarial(self._discriminate(fake), self._pairs(part), real=True)
        sty = losses.distance(losses.aggregate(style_encoder(fake), d_y), style)  # on what the generator got
        terms: Terms = {"sty": (weight.sty, sty)}
        if draft.fake_other is not None:
            terms["ds"] = (-ds_weight, losses.distance(fake, draft.fake_other))
        cycled, decoded = self._cycle(made, content, own)
        terms |= decoded | self._own_terms(made)
        terms["cyc"] = (weight.cyc, losses.distance(cycled, x))
        return self._add_up(part, adv, terms, "")

    def _reference_guided_loss(self, part: Batch, ds_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        weight, x, d_y = self.options.loss, part.source, labels_of(part)
        generator, style_encoder = self.generator, self.style_encoder
        diversify = part.second_reference is not None and ds_weight > 0
        with torch.no_grad():  # this update is the generator's alone
            seen = [part.reference, x]
            if diversify and part.second_reference is not None:
                seen.append(part.second_reference)
            styles, of_source, *second = style_encoder(torch.cat(seen)).chunk(len(seen))
            style = losses.aggregate(styles, d_y)
            source_style = losses.aggregate(of_source, source_labels_of(part))
        content = generator.encode(x)
        fake = generator.decode(content, style)
        made = Translation(part, "reference", styles, style, source_style, fake)
        adv = losses.adversarial(self._discriminate(fake), self._pairs(part), real=True)
        terms: Terms = {"sty": (weight.sty, losses.distance(losses.aggregate(style_encoder(fake), d_y), style))}
        if diversify:
            with torch.no_grad():
                other = generator.decode(content, losses.aggregate(second[0], d_y))
            terms["ds"] = (-ds_weight, losses.distance(fake, other))
        terms |= self._own_terms(made)
        terms["cyc"] = (weight.cyc, losses.distance(generator(fake, source_style), x))
        return self._add_up(part, adv, terms, "_reference")

    def _add_up(self, part: Batch, adv: Tensor, terms: Terms, suffix: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's objective, and its terms by name."""
        weighed = [weight * value for weight, value in terms.values()]
        of_images = weighed[0]
        for term in weighed[1:]:
            of_images = of_images + term
        told = {f"g_adv{suffix}": adv.detach()}
        told |= {f"{name}{suffix}": part.share * value.detach() for name, (_, value) in terms.items()}
        return self.options.loss.adv * adv + part.share * of_images, told

    def _adam(self, network: nn.Module, rate: float, decay: float) -> torch.optim.Adam:
        options = self.options
        return torch.optim.Adam(network.parameters(), lr=rate, betas=options.betas, weight_decay=decay, fused=True)


if TYPE_CHECKING:  # it is what its docstring says
    _: type[LabelledMethod] = StarGan2


def labels_of(part: Batch) -> Tensor:
    """d^y (B, N) of the references."""
    assert part.reference_labels is not None, "the method trains on labels"
    return part.reference_labels


def source_labels_of(part: Batch) -> Tensor:
    """d^x (B, N) of the sources."""
    assert part.source_labels is not None, "the method trains on labels"
    return part.source_labels
