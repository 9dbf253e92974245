"""TUNIT (Baek et al., "Rethinking the Truly Unsupervised Image-to-Image Translation", ICCV 2021): no labels at all.

A guiding network clusters the images and gives their style while it learns; generator and discriminator treat its
clusters as domains. Weights, schedule and optimisers are the released code's where the paper leaves them open.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lanit import ranks
from lanit.config import LanitError
from lanit.methods.losses import aggregate
from lanit.methods.protocol import Batch, Update
from lanit.methods.tunit_losses import contrastive_loss, gradient_penalty, hinge_loss, mutual_information
from lanit.methods.views import ViewOptions, second_view
from lanit.networks.tunit import Discriminator, Generator, GuidingNetwork


@dataclass(frozen=True)
class TunitNetwork:
    """Sizes of the networks; the defaults are the paper's."""

    base: int | None = None  # channels at full resolution of G and D; None: 64 below 256 pixels, 32 from there
    guiding_base: int = 64  # channels at full resolution of the guiding network (VGG-11)
    # Standard deviation of the cluster head's initial weights. Equal probabilities are a saddle point of the mutual
    # information, which takes many steps to leave from TUNIT's 0.01: short trainings want 0.1 to 0.3.
    cluster_deviation: float = 0.01
    max_width: int = 1024  # no layer has more channels
    style: int = 128  # length of the style code
    bottleneck: int = 16  # side of the content code, pixels
    residual_blocks: int = 2  # in the content encoder, and again in the decoder
    discriminator_blocks: int = 2  # at each resolution of the discriminator
    hidden: int = 256  # width of the layers that turn a style into AdaIN's parameters


@dataclass(frozen=True)
class TunitLoss:
    """Weights of the losses; the defaults are the paper's."""

    adversarial: float = 1.0  # hinge
    reconstruction: float = 0.1
    style: float = 0.01  # contrastive, of translations
    gradient_penalty: float = 10.0  # without the customary half
    contrastive: float = 1.0  # of the guiding network
    mutual_information: float = 5.0  # of the guiding network
    guiding_after_warmup: float = 0.1  # factor of the last two after the warm-up
    temperature: float = 0.07
    queue: int = 1024  # keys that serve as negatives


@dataclass(frozen=True)
class TunitOptimiser:
    """Adam for the guiding network, RMSprop for generator and discriminator."""

    guiding: float = 1e-4  # learning rates
    generator: float = 1e-4
    discriminator: float = 1e-4
    guiding_decay: float = 1e-3  # weight decay
    decay: float = 1e-4


@dataclass(frozen=True)
class TunitOptions:
    """Everything that TUNIT can be told."""

    network: TunitNetwork = field(default_factory=TunitNetwork)
    loss: TunitLoss = field(default_factory=TunitLoss)
    optimiser: TunitOptimiser = field(default_factory=TunitOptimiser)
    view: ViewOptions = field(default_factory=ViewOptions)
    warmup: float = 0.325  # share of the budget in which the guiding network learns alone: 65k of 200k iterations
    ema: float = 0.999  # decay of the generator's moving average
    ema_start: float = 0.33  # share of the budget after which it begins: 66k of 200k
    key_momentum: float = 0.999  # of the key encoder, a moving average of the guiding network from the start
    cluster_momentum: float = 0.99  # of the styles' mean and variance per cluster


class Tunit:
    """TUNIT, as `lanit.methods.protocol.Method`."""

    needs_labels = False
    splits = False  # statistics of batch normalisation and mutual information are of a whole batch

    def __init__(
        self,
        options: TunitOptions,
        size: int,
        domains: list[str],
        language: dict[str, Any] | None = None,
        labels_folder: Path | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`domains` tells the number of clusters, one for each; language and labels are not used.

        Raises:
            LanitError: the size does not suit the networks, or there is no domain.
        """
        _check(options, size, domains)
        self.options, self.clusters = options, len(domains)
        network = options.network
        base = network.base or (64 if size < 256 else 32)
        guiding = GuidingNetwork(
            size, self.clusters, network.style, network.guiding_base, network.max_width, network.cluster_deviation
        )
        generator = Generator(
            size, network.style, base, network.max_width, network.bottleneck, network.residual_blocks, network.hidden
        )
        discriminator = Discriminator(size, self.clusters, base, network.max_width, network.discriminator_blocks)
        self.networks = nn.ModuleDict(
            {
                "guiding": guiding,
                "key_encoder": copy.deepcopy(guiding).requires_grad_(False),
                "queue": KeyQueue(options.loss.queue, network.style),
                "clusters": ClusterStyles(self.clusters, network.style, options.cluster_momentum),
                "generator": generator,
                "discriminator": discriminator,
            }
        ).to(device)
        # TUNIT evaluates with the key encoder: it is the guiding network's moving average.
        translating = {name: copy.deepcopy(self.networks[name]) for name in ("generator", "key_encoder", "clusters")}
        self.averaged = nn.ModuleDict(translating).requires_grad_(False).eval()
        self._optimisers = _make_optimisers(self.networks, options.optimiser)
        self.follow = get_ema_multi_avg_fn(options.key_momentum)  # moves the first parameters towards the second

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers of guiding network, generator and discriminator."""
        return self._optimisers

    def averaging(self, progress: float) -> dict[str, float]:
        """The generator's average begins after `ema_start`; key encoder and cluster styles are averages already."""
        generator = self.options.ema if progress >= self.options.ema_start else 0.0
        return {"generator": generator, "key_encoder": 0.0, "clusters": 0.0}

    def updates(self, parts: Sequence[Batch]) -> Iterator[Update]:
        """Update the guiding network, and after the warm-up the discriminator, then generator and guiding network."""
        (batch,) = parts
        step = _Step(self, batch)
        yield Update(("guiding",), step.guide)
        if not step.warm:
            yield Update(("discriminator",), step.discriminate)
            yield Update(("generator", "guiding"), step.generate)
        step.remember()

    def compile(self) -> None:
        """Compile the generator and, in a training of one process, the guiding network and its average.

        No compiler makes the second derivative of the discriminator, nor the guiding network's sums over processes.
        """
        generator = self.networks["generator"]
        generator.encode = torch.compile(generator.encode, dynamic=False)
        generator.decode = torch.compile(generator.decode, dynamic=False)
        if ranks.count() == 1:
            for name in ("guiding", "key_encoder"):
                self.networks[name].compile(dynamic=False)

    def write(self, folder: Path, embeddings: Tensor | None) -> None:
        """The averaged networks are all that translating needs."""

    def reference_style(self, references: Tensor, labels: Tensor | None = None) -> Tensor:
        """Style codes (B, S) of reference images (B, 3, H, W); labels play no part."""
        with torch.no_grad():
            return self.averaged["key_encoder"](references)[0]

    def latent_style(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw styles (B, S), each the mean of one draw from every active cluster of `labels` (B, K).

        A draw is Gaussian about the mean of the cluster's styles. TUNIT has no mapping network; its paper shows the
        average style of a cluster. The spread about it, by the variance of each component, is an addition of ours.
        """
        moments = [self.averaged["clusters"].moments(cluster) for cluster in range(self.clusters)]
        mean, deviation = (torch.stack(values) for values in zip(*moments))  # (K, S)
        noise = torch.randn(len(labels), *mean.shape, generator=generator, device=generator.device)
        return aggregate(mean + deviation * noise.to(mean.device), labels)

    def translate(self, sources: Tensor, styles: Tensor) -> Tensor:
        """Translations (B, 3, H, W) in [-1, 1] of sources by styles (B, S), by the averaged generator."""
        with torch.no_grad():
            return self.averaged["generator"](sources, styles)


class _Step:
    """One step: its losses over the whole batch, all processes' images, and what they hand on to one another."""

    def __init__(self, method: Tunit, batch: Batch) -> None:
        self.options, self.networks, self.follow, self.batch = method.options, method.networks, method.follow, batch
        self.warm = batch.progress < self.options.warmup
        # Channels last is the faster layout of convolutions, on the CPU too.
        view = second_view(batch.source, batch.draws, self.options.view)
        self.view = view.contiguous(memory_format=torch.channels_last)

    def guide(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the guiding network alone: clusters by mutual information, styles by contrast (Eq. 1 and 2)."""
        weights, guiding, key_encoder = self.options.loss, self.networks["guiding"], self.networks["key_encoder"]
        # Clean images set the key encoder's running statistics, by which it will see real images afterwards.
        with torch.no_grad():
            self.keys, _ = key_encoder(self.view, track=self.warm)
            self.reference_keys, self.reference_logits = key_encoder(self.batch.reference)
        styles, logits = guiding(self.batch.source)
        _, view_logits = guiding(self.view, track=False)
        information = mutual_information(logits.softmax(1), view_logits.softmax(1))
        contrast = contrastive_loss(styles, self.keys, *self.networks["queue"].negatives(), weights.temperature)
        loss = weights.contrastive * contrast - weights.mutual_information * information
        loss = loss if self.warm else weights.guiding_after_warmup * loss
        return self._share(loss, {"guiding_contrastive": contrast, "guiding_information": information})

    def discriminate(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the discriminator (Eq. 3); the images serve `generate` too."""
        weights, networks, source, reference = self.options.loss, self.networks, self.batch.source, self.batch.reference
        styles, logits = networks["guiding"](torch.cat([source, reference]))
        source_style, reference_style = styles.chunk(2)
        self.source_cluster, self.reference_cluster = logits.detach().argmax(1).chunk(2)
        content = networks["generator"].encode(source)
        self.images = networks["generator"].decode(
            torch.cat([content, content]), torch.cat([reference_style, source_style])
        )
        translation, _ = self.images.detach().chunk(2)
        real = reference.detach().requires_grad_()
        real_logits = networks["discriminator"](real, self.reference_cluster)
        fake_logits = networks["discriminator"](translation, self.reference_cluster)
        hinge, penalty = hinge_loss(real_logits, fake_logits), gradient_penalty(real_logits, real)
        loss = weights.adversarial * hinge + weights.gradient_penalty * penalty
        return self._share(loss, {"d_adversarial": hinge, "d_gradient_penalty": penalty})

    def generate(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of generator and guiding network together (Eq. 4 to 6)."""
        weights, networks = self.options.loss, self.networks
        translation, reconstruction = self.images.chunk(2)
        logits = networks["discriminator"](self.images, torch.cat([self.reference_cluster, self.source_cluster]))
        adversarial = -2 * logits.mean()  # of translation plus of reconstruction
        reconstructed = (reconstruction - self.batch.source).abs().mean()
        translated_style, _ = networks["guiding"](translation, track=False)
        negatives = networks["queue"].negatives()
        contrast = contrastive_loss(translated_style, self.reference_keys, *negatives, weights.temperature)
        loss = weights.adversarial * adversarial + weights.reconstruction * reconstructed + weights.style * contrast
        terms = {"g_adversarial": adversarial, "g_reconstruction": reconstructed, "g_style": contrast}
        return self._share(loss, terms)

    @torch.no_grad()
    def remember(self) -> None:
        """Bring queue, cluster styles and key encoder up to date."""
        self.networks["queue"].push(ranks.gather(self.keys))
        with torch.autocast(self.keys.device.type, enabled=False):  # sums of many steps
            self.networks["clusters"].update(self.reference_keys, self.reference_logits)
        self.follow(list(self.networks["key_encoder"].parameters()), list(self.networks["guiding"].parameters()), None)

    def _share(self, loss: Tensor, terms: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What this process adds of means over its images, and of mutual information, which all have in common."""
        share = self.batch.share
        return share * loss, {name: share * term.detach() for name, term in terms.items()}


class KeyQueue(nn.Module):
    """The latest keys of the key encoder, as negatives of the contrastive losses (He et al., CVPR 2020)."""

    def __init__(self, length: int, style: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(length, style))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))  # keys so far, those forgotten included

    def push(self, keys: Tensor) -> None:
        """Add keys (B, S) in the places of the oldest."""
        length = self.keys.shape[0]
        keys = keys[-length:]
        places = (self.pushed + torch.arange(len(keys), device=keys.device)) % length
        self.keys.index_copy_(0, places, keys)
        self.pushed += len(keys)

    def negatives(self) -> tuple[Tensor, Tensor]:
        """Return a copy of the keys (Q, S), and which of them (Q,) hold a key yet."""
        return self.keys.clone(), torch.arange(self.keys.shape[0], device=self.keys.device) < self.pushed


class ClusterStyles(nn.Module):
    """Moving mean and variance of the styles in each cluster, for pictures of 'the cluster i'."""

    def __init__(self, clusters: int, style: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mass", torch.zeros(clusters, 1))  # moving number of images in the cluster
        self.register_buffer("sums", torch.zeros(clusters, style))
        self.register_buffer("squares", torch.zeros(clusters, style))

    def update(self, styles: Tensor, logits: Tensor) -> None:
        """Take in all processes' styles (B, S) of images whose cluster has the largest of the logits (B, K)."""
        clusters = torch.arange(self.mass.shape[0], device=logits.device)
        members = (clusters[:, None] == logits.argmax(1)).to(styles.dtype)  # (K, B)
        for moving, new in (
            (self.mass, members.sum(1, keepdim=True)),
            (self.sums, members @ styles),
            (self.squares, members @ styles.square()),
        ):
            moving.lerp_(ranks.total(new), 1 - self.momentum)

    def moments(self, cluster: int) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (S,) of a cluster's styles, or of all where it never had an image."""
        empty = self.mass[cluster] == 0
        mass = torch.where(empty, self.mass.sum(0), self.mass[cluster]).clamp_min(torch.finfo(self.mass.dtype).tiny)
        mean = torch.where(empty, self.sums.sum(0), self.sums[cluster]) / mass
        square = torch.where(empty, self.squares.sum(0), self.squares[cluster]) / mass
        return mean, (square - mean.square()).clamp_min(0).sqrt()


def _make_optimisers(networks: nn.ModuleDict, options: TunitOptimiser) -> dict[str, torch.optim.Optimizer]:
    def rmsprop(name: str, rate: float) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(networks[name].parameters(), lr=rate, weight_decay=options.decay, foreach=True)

    guiding = networks["guiding"].parameters()
    return {
        "guiding": torch.optim.Adam(guiding, lr=options.guiding, weight_decay=options.guiding_decay, foreach=True),
        "generator": rmsprop("generator", options.generator),
        "discriminator": rmsprop("discriminator", options.discriminator),
    }


def _check(options: TunitOptions, size: int, domains: list[str]) -> None:
    for name, value in dataclasses.asdict(options.network).items():
        if value is not None and value <= 0:
            raise LanitError(f"network.{name} must be above 0, not {value}")
    bottleneck = options.network.bottleneck
    if size < 16 or size & (size - 1):
        raise LanitError(f"TUNIT's networks need images whose side is a power of two of at least 16, not {size} pixels")
    if bottleneck < 4 or bottleneck > size or bottleneck & (bottleneck - 1):
        raise LanitError(f"network.bottleneck must be a power of two from 4 to the image size {size}, not {bottleneck}")
    if options.loss.temperature <= 0:
        raise LanitError(f"loss.temperature must be above 0, not {options.loss.temperature}")
    for name in ("warmup", "ema", "ema_start", "key_momentum", "cluster_momentum"):
        if not 0 <= getattr(options, name) <= 1:
            raise LanitError(f"{name} must be from 0 to 1, not {getattr(options, name)}")
    if not domains:
        raise LanitError("TUNIT takes its number of clusters from the domains, and there are none; name at least two")
    if options.loss.queue < 1:
        raise LanitError(f"loss.queue must be at least 1, not {options.loss.queue}")
