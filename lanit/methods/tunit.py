"""TUNIT (Baek et al., "Rethinking the Truly Unsupervised Image-to-Image Translation", ICCV 2021): no labels at all.

A guiding network clusters the images and gives their style while it learns; generator and discriminator treat its
clusters as domains. Weights, schedule and optimisers are the released code's where the paper leaves them open.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lanit import collectives
from lanit.methods.losses import aggregate
from lanit.methods.protocol import Batch, ClusteringMethod, Update
from lanit.methods.views import second_view
from lanit.networks.tunit import Discriminator, Generator, GuidingNetwork
from lanit.settings.tunit import TunitOptimiser, TunitOptions


class Tunit:
    """TUNIT, as `lanit.methods.protocol.ClusteringMethod`."""

    accumulates = False  # statistics of batch normalisation and mutual information are of a whole batch

    def __init__(
        self,
        options: TunitOptions,
        size: int,
        domains: list[str],
        device: torch.device | str = "cpu",
    ) -> None:
        """`domains` tells the number of clusters, one for each.

        Raises:
            LanitError: the size does not suit the networks, or there is no domain.
        """
        options.check(size, len(domains))
        self.options, self.clusters = options, len(domains)
        network = options.network
        base = network.base or (64 if size < 256 else 32)
        self.guiding = GuidingNetwork(
            size, self.clusters, network.style, network.guiding_base, network.max_width, network.cluster_deviation
        )
        self.generator = Generator(
            size, network.style, base, network.max_width, network.bottleneck, network.residual_blocks, network.hidden
        )
        self.discriminator = Discriminator(size, self.clusters, base, network.max_width, network.discriminator_blocks)
        self.key_encoder = copy.deepcopy(self.guiding).requires_grad_(False)
        self.queue = KeyQueue(options.loss.queue, network.style)
        self.cluster_styles = ClusterStyles(self.clusters, network.style, options.cluster_momentum)
        self.networks = nn.ModuleDict(
            {
                "guiding": self.guiding,
                "key_encoder": self.key_encoder,
                "queue": self.queue,
                "clusters": self.cluster_styles,
                "generator": self.generator,
                "discriminator": self.discriminator,
            }
        ).to(device)
        # TUNIT evaluates with the key encoder: it is the guiding network's moving average.
        self.averaged_clusters = copy.deepcopy(self.cluster_styles)
        translating = {
            "generator": copy.deepcopy(self.generator),
            "key_encoder": copy.deepcopy(self.key_encoder),
            "clusters": self.averaged_clusters,
        }
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
        for part in ("encode", "decode"):
            setattr(self.generator, part, torch.compile(getattr(self.generator, part), dynamic=False))
        if collectives.world_size() == 1:
            self.guiding.compile(dynamic=False)
            self.key_encoder.compile(dynamic=False)

    @torch.no_grad()
    def cluster_logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the clusters of images (B, 3, H, W)."""
        return self.averaged["key_encoder"](images)[1]

    def reference_style(self, references: Tensor, labels: Tensor | None = None) -> Tensor:
        """Style codes (B, S) of reference images (B, 3, H, W); labels play no part."""
        with torch.no_grad():
            return self.averaged["key_encoder"](references)[0]

    def latent_style(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw styles (B, S), each the mean of one draw from every active cluster of `labels` (B, K).

        A draw is Gaussian about the mean of the cluster's styles. TUNIT has no mapping network; its paper shows the
        average style of a cluster. The spread about it, by the variance of each component, is an addition of ours.
        """
        moments = [self.averaged_clusters.moments(cluster) for cluster in range(self.clusters)]
        mean, deviation = (torch.stack(values) for values in zip(*moments))  # (K, S)
        noise = torch.randn(len(labels), *mean.shape, generator=generator, device=generator.device)
        return aggregate(mean + deviation * noise.to(mean.device), labels)

    def translate(self, sources: Tensor, styles: Tensor) -> Tensor:
        """Translations (B, 3, H, W) in [-1, 1] of sources by styles (B, S), by the averaged generator."""
        with torch.no_grad():
            return self.averaged["generator"](sources, styles)


if TYPE_CHECKING:  # it is what its docstring says
    _: type[ClusteringMethod] = Tunit


class _Step:
    """One step: its losses over the whole batch, all processes' images, and what they hand on to one another."""

    def __init__(self, method: Tunit, batch: Batch) -> None:
        self.method, self.options, self.batch = method, method.options, batch
        self.warm = batch.progress < self.options.warmup
        # Channels last is the faster layout of convolutions, on the CPU too.
        view = second_view(batch.source, batch.rng, self.options.view)
        self.view = view.contiguous(memory_format=torch.channels_last)

    def guide(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the guiding network alone: clusters by mutual information, styles by contrast (Eq. 1 and 2)."""
        weights, guiding, key_encoder = self.options.loss, self.method.guiding, self.method.key_encoder
        # Clean images set the key encoder's running statistics, by which it will see real images afterwards.
        with torch.no_grad():
            self.keys, _ = key_encoder(self.view, track=self.warm)
            self.reference_keys, self.reference_logits = key_encoder(self.batch.reference)
        styles, logits = guiding(self.batch.source)
        _, view_logits = guiding(self.view, track=False)
        information = mutual_information(logits.softmax(1), view_logits.softmax(1))
        contrast = contrastive_loss(styles, self.keys, *self.method.queue.negatives(), weights.temperature)
        loss = weights.contrastive * contrast - weights.mutual_information * information
        loss = loss if self.warm else weights.guiding_after_warmup * loss
        return self._share(loss, {"guiding_contrastive": contrast, "guiding_information": information})

    def discriminate(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the discriminator (Eq. 3); the images serve `generate` too."""
        weights, source, reference = self.options.loss, self.batch.source, self.batch.reference
        generator, discriminator = self.method.generator, self.method.discriminator
        (source_style, of_source), (reference_style, of_reference) = self._guided(source, reference)
        self.source_cluster, self.reference_cluster = of_source.argmax(1), of_reference.argmax(1)
        content = generator.encode(source)
        self.images = generator.decode(torch.cat([content, content]), torch.cat([reference_style, source_style]))
        translation, _ = self.images.detach().chunk(2)
        real = reference.detach().requires_grad_()
        real_logits = discriminator(real, self.reference_cluster)
        fake_logits = discriminator(translation, self.reference_cluster)
        hinge, penalty = hinge_loss(real_logits, fake_logits), gradient_penalty(real_logits, real)
        loss = weights.adversarial * hinge + weights.gradient_penalty * penalty
        return self._share(loss, {"d_adversarial": hinge, "d_gradient_penalty": penalty})

    def generate(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of generator and guiding network together (Eq. 4 to 6)."""
        weights = self.options.loss
        translation, reconstruction = self.images.chunk(2)
        clusters = torch.cat([self.reference_cluster, self.source_cluster])
        logits = self.method.discriminator(self.images, clusters)
        adversarial = -2 * logits.mean()  # of translation plus of reconstruction
        reconstructed = (reconstruction - self.batch.source).abs().mean()
        translated_style, _ = self.method.guiding(translation, track=False)
        negatives = self.method.queue.negatives()
        contrast = contrastive_loss(translated_style, self.reference_keys, *negatives, weights.temperature)
        loss = weights.adversarial * adversarial + weights.reconstruction * reconstructed + weights.style * contrast
        terms = {"g_adversarial": adversarial, "g_reconstruction": reconstructed, "g_style": contrast}
        return self._share(loss, terms)

    @torch.no_grad()
    def remember(self) -> None:
        """Bring queue, cluster styles and key encoder up to date."""
        method = self.method
        method.queue.push(collectives.all_gather(self.keys))
        with torch.autocast(self.keys.device.type, enabled=False):  # sums of many steps
            method.cluster_styles.update(self.reference_keys, self.reference_logits)
        method.follow(list(method.key_encoder.parameters()), list(method.guiding.parameters()), None)

    def _guided(self, source: Tensor, reference: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Styles (B, S) and cluster logits (B, K) of sources and of references, normalised together or apart."""
        guiding = self.method.guiding
        if self.options.statistics == "separate":
            return [guiding(source), guiding(reference)]
        styles, logits = guiding(torch.cat([source, reference]))
        return list(zip(styles.chunk(2), logits.detach().chunk(2)))

    def _share(self, loss: Tensor, terms: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What this process adds of means over its images, and of mutual information, which all have in common."""
        share = self.batch.share
        return share * loss, {name: share * term.detach() for name, term in terms.items()}


def mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """Mutual information (nats) between the clusters of two views of the same images, in [0, ln K]; Eq. 1, and IIC.

    It is that of the images of all processes, the same on each.

    Args:
        first, second: (B, K) cluster probabilities of the two views, B the same on all processes.
    """
    with torch.autocast(first.device.type, enabled=False):
        joint = collectives.all_reduce_sum(first.T @ second)
    joint = (joint + joint.T) / (2 * first.shape[0] * collectives.world_size())  # (K, K), symmetric, sums to 1
    marginal = joint.sum(0)
    tiny = 1e-10  # an empty cluster adds nothing, and not NaN
    joint, marginal = joint.clamp_min(tiny), marginal.clamp_min(tiny).log()
    return (joint * (joint.log() - marginal[:, None] - marginal[None, :])).sum()


def contrastive_loss(queries: Tensor, keys: Tensor, negatives: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Mean InfoNCE of queries (B, S) with positive keys (B, S) and negatives (Q, S) where `valid` (Q,); Eq. 2 and 4.

    As in TUNIT, codes are not normalised; keys and negatives are constants.
    """
    positive = (queries * keys.detach()).sum(1, keepdim=True)
    with torch.autocast(queries.device.type, enabled=False):
        negative = (queries @ negatives.detach().T).masked_fill(~valid, -math.inf)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def hinge_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's hinge loss over logits (B,) at the images' own clusters; Eq. 3 in the form of the code."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the gradient of each image's logit (B,) by that image (B, 3, H, W); R1 without its half.

    The graph is kept, so that the penalty itself can be differentiated.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum() / images.shape[0]


class KeyQueue(nn.Module):
    """The latest keys of the key encoder, as negatives of the contrastive losses (He et al., CVPR 2020)."""

    keys: Tensor
    pushed: Tensor

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

    mass: Tensor
    sums: Tensor
    squares: Tensor

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
            moving.lerp_(collectives.all_reduce_sum(new), 1 - self.momentum)

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
