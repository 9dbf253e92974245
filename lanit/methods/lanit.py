"""LANIT (Park et al., CVPR 2023): multi-hot pseudo labels from language drive StarGAN v2's networks.

The texts, and with them the labels, are frozen: labels come from the label stage, and CLIP's image tower runs on
translated images alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lanit.config import LanitError
from lanit.methods import losses
from lanit.methods.protocol import Batch
from lanit.networks.stargan2 import Discriminator, Generator, Mapping, NetworkOptions, StyleEncoder


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
class LanitOptions:
    network: NetworkOptions = field(default_factory=NetworkOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    learning_rate: float = 1e-4  # generator and style encoder
    discriminator_learning_rate: float = 1e-4
    mapping_learning_rate: float = 1e-4  # LANIT's; StarGAN v2's own is 1e-6
    betas: tuple[float, float] = (0.0, 0.99)
    weight_decay: float = 1e-4
    ema: float = 0.999


class Lanit:
    """LANIT with its complete objective, eq. 10: λ_adv adv + λ_dl dl + λ_cyc cyc + λ_sty sty − λ_ds ds."""

    needs_labels = True

    def __init__(
        self,
        options: LanitOptions,
        size: int,
        domains: list[str],
        labels_folder: Path | None = None,
        clip: dict[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ):
        """Build the networks; with `clip` and `labels_folder` (needed to train, not to translate), CLIP and the texts.

        Args:
            options: the method's options.
            size: side of the square images in pixels, a power of two.
            domains: names of the N candidate domains.
            labels_folder: folder of the label stage; its `texts.safetensors` holds u_1 … u_N and the base prompt's u.
            clip: options of the CLIP that made the labels.
            device: where to put everything.
        """
        if options.loss.r1_every < 1:
            raise LanitError("train.lanit.loss.r1_every must be at least 1")
        self.options, self.size, self.device = options, size, torch.device(device)
        sizes, count = options.network, len(domains)
        self.networks = nn.ModuleDict(
            {
                "generator": Generator(size, sizes),
                "mapping": Mapping(count, sizes),
                "style_encoder": StyleEncoder(size, count, sizes),
                "discriminator": Discriminator(size, count, sizes),
            }
        ).to(self.device, memory_format=torch.channels_last)
        averaged = ("generator", "mapping", "style_encoder")
        self.averaged = nn.ModuleDict({name: copy.deepcopy(self.networks[name]) for name in averaged})
        self.averaged.requires_grad_(False).eval()
        self.reduce_gradients: Callable[[Iterable[nn.Parameter]], None] = lambda parameters: None
        rates = {"mapping": options.mapping_learning_rate, "discriminator": options.discriminator_learning_rate}
        self._optimisers = {
            name: torch.optim.Adam(
                network.parameters(),
                lr=rates.get(name, options.learning_rate),
                betas=options.betas,
                weight_decay=options.weight_decay,
                fused=True,
            )
            for name, network in self.networks.items()
        }
        if clip is not None and labels_folder is not None and options.loss.dl > 0:
            self._load_language(Path(labels_folder), clip)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return self._optimisers

    def averaging(self, progress: float) -> dict[str, float]:
        return {name: self.options.ema for name in self.averaged}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One iteration: discriminator and generator updates, latent- and then reference-guided, as StarGAN v2 does."""
        x, y = batch.source, batch.reference
        d_x, d_y = batch.source_labels, batch.reference_labels
        z1, z2 = torch.randn(2, len(x), self.options.network.latent_size, generator=batch.generator).to(self.device)
        generator, mapping, style_encoder = (self.networks[name] for name in ("generator", "mapping", "style_encoder"))
        report: dict[str, Tensor] = {}

        # The discriminator's updates leave the generator as it is, so that ŷ serves both.
        styles, content = mapping(z1), generator.encode(x)
        fake = generator.decode(content, losses.aggregate(styles, d_y))
        ds_weight = self.options.loss.ds * max(0.0, 1 - batch.progress / self.options.loss.ds_decay)
        with torch.no_grad():
            others = [losses.aggregate(style_encoder(y), d_y)]
            if ds_weight > 0:
                others.append(losses.aggregate(mapping(z2), d_y))
            contents = content.repeat(len(others), 1, 1, 1)
            fake_reference, *fake_other = generator.decode(contents, torch.cat(others)).split(len(x))

        penalised = batch.step % self.options.loss.r1_every == 0
        self._update_discriminator(y, d_y, fake.detach(), penalised, report)
        self._update_discriminator(y, d_y, fake_reference, penalised, report)
        self._update_latent_guided(x, d_x, d_y, styles, fake, fake_other, ds_weight, batch.generator, report)
        self._update_reference_guided(x, y, d_x, d_y, report)
        return report

    def cover(self, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return labels

    @torch.no_grad()
    def reference_style(self, references: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None, "LANIT takes a reference's style from its active domains"
        return losses.aggregate(self.averaged["style_encoder"](references), labels)

    @torch.no_grad()
    def latent_style(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        latent = torch.randn(len(labels), self.options.network.latent_size, generator=generator).to(self.device)
        return losses.aggregate(self.averaged["mapping"](latent), labels)

    @torch.no_grad()
    def translate(self, sources: Tensor, styles: Tensor) -> Tensor:
        return self.averaged["generator"](sources, styles).clamp(-1, 1)

    def _load_language(self, labels_folder: Path, clip: dict[str, Any]) -> None:
        from safetensors.torch import load_file

        from lanit.config import parse
        from lanit.language.clip import ClipOptions, load_clip

        self.clip = load_clip(parse(ClipOptions, clip, "clip"), self.device)
        texts = load_file(labels_folder / "texts.safetensors", device=str(self.device))
        self.texts = torch.cat([texts["domains"], texts["base"][None]])  # (N + 1, k), the base prompt last

    def _update_discriminator(
        self, y: Tensor, d_y: Tensor, fake: Tensor, penalised: bool, report: dict[str, Tensor]
    ) -> None:
        weight, discriminator = self.options.loss, self.networks["discriminator"]
        pairs = losses.pair_weights(d_y, weight.adversarial)
        if penalised:
            real = y.detach().requires_grad_()
            of_real, of_fake = discriminator(real), discriminator(fake)
        else:
            of_real, of_fake = discriminator(torch.cat([y, fake])).chunk(2)
        adversarial = losses.adversarial(of_real, pairs, real=True) + losses.adversarial(of_fake, pairs, real=False)
        total = weight.adv * adversarial
        if penalised:
            r1 = losses.r1_penalty(of_real, real, d_y)
            total = total + weight.r1 * weight.r1_every * r1
            report["r1"] = r1.detach()
        self._update(total, "discriminator")
        report["d_adv"] = adversarial.detach()

    def _update_latent_guided(
        self,
        x: Tensor,
        d_x: Tensor,
        d_y: Tensor,
        styles: Tensor,  # E_M(z1), (B, N, S)
        fake: Tensor,  # ŷ, made of them with its graph
        fake_other: list[Tensor],  # G(x, E_M(z2)) without a graph, while diversification has a weight
        ds_weight: float,
        random: torch.Generator,
        report: dict[str, Tensor],
    ) -> None:
        weight = self.options.loss
        generator, style_encoder = self.networks["generator"], self.networks["style_encoder"]
        style = losses.aggregate(styles, d_y)
        source_style = losses.aggregate(style_encoder(x), d_x)
        fake_content = generator.encode(fake)  # c^ŷ, for the cycle and for ŷ'

        adv = self._generator_adversarial(fake, d_y)
        sty = F.l1_loss(losses.aggregate(style_encoder(fake), d_y), style)  # eq. 8, on what the generator was given
        total = weight.adv * adv + weight.sty * sty
        for other in fake_other:
            ds = F.l1_loss(fake, other)  # eq. 9
            total = total - ds_weight * ds
            report["ds"] = ds.detach()
        if weight.dl > 0:
            # ŷ and ŷ' share one latent and differ in the style of domain n alone.
            domain, d_inv = losses.flip_one(d_y, random)
            decoded = torch.cat([source_style, losses.aggregate(styles, d_inv)])
            cycled, inverse = generator.decode(torch.cat([fake_content, fake_content]), decoded).chunk(2)
            of_fake, of_inverse = (self.clip.encode_image(torch.cat([fake, inverse])) @ self.texts.T).chunk(2)
            dl = losses.domain_regularisation(
                (d_y, of_fake), (d_inv, of_inverse), domain, weight.similarity, self.clip.logit_scale
            )
            total = total + weight.dl * dl
            report["dl"] = dl.detach()
        else:
            cycled = generator.decode(fake_content, source_style)
        cyc = F.l1_loss(cycled, x)  # eq. 7
        self._update(total + weight.cyc * cyc, "generator", "mapping", "style_encoder")
        report |= {"g_adv": adv.detach(), "sty": sty.detach(), "cyc": cyc.detach()}

    def _update_reference_guided(
        self, x: Tensor, y: Tensor, d_x: Tensor, d_y: Tensor, report: dict[str, Tensor]
    ) -> None:
        weight = self.options.loss
        generator, style_encoder = self.networks["generator"], self.networks["style_encoder"]
        with torch.no_grad():  # this update is the generator's alone
            style, source_style = (
                losses.aggregate(styles, d) for styles, d in zip(style_encoder(torch.cat([y, x])).chunk(2), (d_y, d_x))
            )
        fake = generator(x, style)
        adv = self._generator_adversarial(fake, d_y)
        sty = F.l1_loss(losses.aggregate(style_encoder(fake), d_y), style)
        cyc = F.l1_loss(generator(fake, source_style), x)
        self._update(weight.adv * adv + weight.sty * sty + weight.cyc * cyc, "generator")
        report |= {"g_adv_reference": adv.detach(), "sty_reference": sty.detach(), "cyc_reference": cyc.detach()}

    def _generator_adversarial(self, fake: Tensor, labels: Tensor) -> Tensor:
        pairs = losses.pair_weights(labels, self.options.loss.adversarial)
        return losses.adversarial(self.networks["discriminator"](fake), pairs, real=True)

    def _update(self, total: Tensor, *names: str) -> None:
        """Descend on `total` with respect to the named networks alone; no other network receives a gradient."""
        parameters = [parameter for name in names for parameter in self.networks[name].parameters()]
        for parameter in parameters:
            parameter.grad = None
        # Not torch.autograd.grad: its gradients can be laid out unlike their parameters (R1's are), and fused Adam pairs
        # the two by their place in memory.
        total.backward(inputs=parameters)
        self.reduce_gradients(parameters)
        for name in names:
            self._optimisers[name].step()
