"""The method of "A Style-aware Discriminator for Controllable Image Translation" (Kim et al., CVPR 2022).

No labels at all: the discriminator also encodes styles, as points on a sphere that it learns by swapped prediction of
prototypes (SwAV, Caron et al., NeurIPS 2020). A generator with AdaIN translates into the style of another image or of a
prototype. Where paper and released code differ or are silent, `docs/methods/style_aware.md` says what is done here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lanit import collectives
from lanit.methods.losses import aggregate
from lanit.methods.perceptual import load_perceptual
from lanit.methods.protocol import Batch, ClusteringMethod, PerceptualMethod, Update
from lanit.methods.views import style_views
from lanit.networks.perceptual import Perceptual
from lanit.networks.style_aware import Generator, Prototypes, StyleDiscriminator
from lanit.settings.style_aware import StyleAwareOptions

Distance = Callable[[Tensor, Tensor], Tensor]  # of images (B, 3, H, W) in [-1, 1], for each pair or in the mean


class StyleAware:
    """The style-aware discriminator, as `lanit.methods.protocol.ClusteringMethod` and `PerceptualMethod`."""

    accumulates = False  # Sinkhorn shares out the images of a whole batch equally among the prototypes

    def __init__(
        self,
        options: StyleAwareOptions,
        size: int,
        domains: list[str],
        device: torch.device | str = "cpu",
    ) -> None:
        """Make networks and optimisers.

        Args:
            options: the method's options.
            size: side of the square images in pixels, a power of two.
            domains: one for each prototype, unless `network.prototypes` has another number.
            device: where to put everything.

        Raises:
            LanitError: an option does not fit the size.
        """
        options.check(size, len(domains))
        self.options, self.clusters = options, options.prototypes(len(domains))
        self.device = torch.device(device)
        sizes = options.network
        self.generator, self.discriminator = Generator(size, sizes), StyleDiscriminator(size, sizes)
        self.prototypes = Prototypes(self.clusters, sizes.style_size)
        self.queue = CodeQueue(self.clusters, sizes.style_size)
        learned = {"generator": self.generator, "discriminator": self.discriminator, "prototypes": self.prototypes}
        self.networks = nn.ModuleDict({**learned, "queue": self.queue})
        self.networks.to(device=device).to(memory_format=torch.channels_last)
        self._averages = copy.deepcopy((self.generator, self.discriminator, self.prototypes))
        self.averaged = nn.ModuleDict(dict(zip(learned, self._averages))).requires_grad_(False).eval()
        self.criticise: Callable[[Tensor], tuple[Tensor, Tensor]] = self.discriminator
        self._optimisers = _make_optimisers(self.generator, self.discriminator, self.prototypes, options)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers of generator, discriminator and prototypes."""
        return self._optimisers

    def averaging(self, progress: float) -> dict[str, float]:
        """All averages have one decay, from the start."""
        return dict.fromkeys(self.averaged, self.options.ema)

    def updates(self, parts: Sequence[Batch]) -> Iterator[Update]:
        """Update the discriminator with its prototypes, then the generator; now and then each for a term of its own."""
        (batch,) = parts
        options = self.options
        self._set_rates(batch.progress)
        step = _Step(self, batch)
        if batch.progress < options.optimiser.freeze:
            yield Update(("discriminator",), step.discriminate)
        else:
            yield Update(("discriminator", "prototypes"), step.discriminate)
            self.prototypes.normalise()
        if options.loss.r1 > 0 and batch.step % options.loss.r1_every == 0:
            yield Update(("discriminator",), step.regularise)
        yield Update(("generator",), step.generate)
        if options.loss.content > 0 and batch.step % options.loss.content_every == 0:
            yield Update(("generator",), step.preserve)
        step.remember()

    def compile(self) -> None:
        """Compile generator and discriminator, but for the penalty: no compiler makes its second derivative."""
        for part in ("encode", "decode"):
            setattr(self.generator, part, torch.compile(getattr(self.generator, part), dynamic=False))
        self.criticise = torch.compile(self.discriminator, dynamic=False)

    @cached_property
    def distance(self) -> Distance:
        """Of reconstructions from their images; translating does without, and needs no weights of it.

        Raises:
            LanitError: the weights of a perceptual distance are missing or not what they should be.
        """
        if self.options.loss.distance == "perceptual":
            return load_perceptual(self.options.perceptual, self.device)
        return {"l1": l1_distance, "mse": mse_distance}[self.options.loss.distance]

    @property
    def perceptual_name(self) -> str | None:
        """Kind of the perceptual distance and digest of its weights; None where there is none."""
        return self.distance.name if isinstance(self.distance, Perceptual) else None

    @torch.no_grad()
    def cluster_logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the prototypes for images (B, 3, H, W): what the discriminator predicts assignments with."""
        _, discriminator, prototypes = self._averages
        return discriminator.encode(images) @ prototypes.directions().T / self.options.loss.temperature

    @torch.no_grad()
    def reference_style(self, references: Tensor, labels: Tensor | None = None) -> Tensor:
        """Style codes (B, S) of unit length of reference images (B, 3, H, W); labels play no part."""
        return self._averages[1].encode(references)

    @torch.no_grad()
    def latent_style(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw styles (B, S) of unit length near the active prototypes of `labels` (B, K).

        Each active prototype is perturbed, as in training. Several meet at the point of the sphere whose cosines with
        them have the largest sum: of two, midway.
        """
        prototypes = self._averages[2].directions()
        noise = torch.randn(len(labels), *prototypes.shape, generator=generator, device=generator.device)
        codes = perturb(prototypes, noise.to(prototypes), self.options.perturbation)  # (B, K, S)
        return F.normalize(aggregate(codes, labels.to(prototypes)), dim=1)

    @torch.no_grad()
    def translate(self, sources: Tensor, styles: Tensor) -> Tensor:
        """Translations (B, 3, H, W) in [-1, 1] by the averaged generator.

        Of styles (B, S) only the direction counts, so that points between two codes are codes.
        """
        return self._averages[0](sources, F.normalize(styles, dim=1)).clamp(-1, 1)

    def _set_rates(self, progress: float) -> None:
        warmup = self.options.optimiser.warmup
        factor = min(1.0, progress / warmup) if warmup > 0 else 1.0
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = factor * group["initial_lr"]


if TYPE_CHECKING:  # it is what its docstring says
    _clusters: type[ClusteringMethod] = StyleAware
    _perceives: type[PerceptualMethod] = StyleAware


class _Step:
    """One step: its losses over the whole batch, all processes' images, and what they hand on to one another."""

    def __init__(self, method: StyleAware, batch: Batch) -> None:
        self.method, self.options, self.batch = method, method.options, batch
        views = style_views(batch.source, batch.rng, self.options.view)
        # Channels last is the faster layout of convolutions, on the CPU too.
        self.real, self.other = (view.contiguous(memory_format=torch.channels_last) for view in views)
        self.uniform = batch.rng.uniform(11).to(self.real.dtype)
        self.noise = batch.rng.normal(self.options.network.style_size).to(self.real.dtype)

    def discriminate(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of discriminator and prototypes: real or fake, and swapped prediction; the images serve `generate` too."""
        weights, generator, prototypes = self.options.loss, self.method.generator, self.method.prototypes
        logits, codes = self.method.criticise(torch.cat([self.real, self.other]))
        views = codes.chunk(2)
        self.codes = collectives.all_gather(torch.stack(views, dim=1))  # (all images, 2, S)
        self.style, self.target = views[0].detach(), self._targets(self.codes[:, 0])
        self.content = generator.encode(self.real)
        self.images = generator.decode(torch.cat([self.content, self.content]), torch.cat([self.target, self.style]))
        of_fake, _ = self.method.criticise(self.images.chunk(2)[0].detach())
        adversarial = F.softplus(-logits.chunk(2)[0]).mean() + F.softplus(of_fake).mean()
        first, second = (prototypes(view) for view in views)
        queued = [prototypes(held).detach() for held in self._queued()]
        swap = swapped_prediction(
            first, second, queued, weights.temperature, weights.epsilon, weights.sinkhorn_iterations
        )
        loss = weights.adversarial * adversarial + weights.swap * swap
        return self._share(loss, {"d_adversarial": adversarial, "d_swap": swap})

    def regularise(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the discriminator, once in `r1_every` steps: R1, by so much the heavier."""
        real = self.real.detach().requires_grad_()
        penalty = r1_penalty(self.method.discriminator.judge(real), real)
        return self._share(self.options.loss.r1 * self.options.loss.r1_every * penalty, {"d_r1": penalty})

    def generate(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the generator: real to the discriminator, in the target's style, and the image itself in its own style."""
        weights = self.options.loss
        translation, reconstruction = self.images.chunk(2)
        logits, codes = self.method.criticise(torch.cat([translation, reconstruction]))
        adversarial = F.softplus(-logits).mean()  # over translations and reconstructions
        style = style_distance(codes.chunk(2)[0], self.target)
        assert self.method.distance is not None
        reconstructed = self.method.distance(reconstruction, self.real).mean()
        loss = weights.adversarial * adversarial + weights.style * style + weights.reconstruction * reconstructed
        terms = {"g_adversarial": adversarial, "g_style": style, "g_reconstruction": reconstructed}
        return self._share(loss, terms)

    def preserve(self, part: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Of the generator, once in `content_every` steps: content stays where two styles share an image."""
        generator = self.method.generator
        content = generator.encode(self.real)
        mask = rectangles(self.uniform[:, 6:10], content.shape[-1])
        swapped = self.uniform[:, 10:] < 0.5
        inside, outside = torch.where(swapped, self.target, self.style), torch.where(swapped, self.style, self.target)
        mixed = generator.encode(generator.decode_mixed(content, inside, outside, mask))
        distance = content_distance(content, mixed)
        return self._share(self.options.loss.content * distance, {"g_content": distance})

    def remember(self) -> None:
        """Queue the codes of this step."""
        if len(self.codes) < self.method.clusters:
            self.method.queue.push(self.codes)

    def _targets(self, codes: Tensor) -> Tensor:
        """Style codes (B, S) to translate into: of images of the whole batch, (all, S), or of draws from prototypes."""
        reference = codes[(self.uniform[:, 0] * len(codes)).long()]
        prototypes = self.method.prototypes.directions()
        drawn = sample_styles(prototypes, self.uniform[:, 1:5], self.noise, self.options.perturbation)
        return torch.where(self.uniform[:, 5:6] < self.options.latent_share, drawn, reference)

    def _queued(self) -> tuple[Tensor, ...]:
        """Earlier codes (K, S) of each view, where the batch is too small for the prototypes, and there are as many."""
        count, step = len(self.codes), self.batch.step
        if count >= self.method.clusters or step * count < self.method.clusters:
            return ()
        return self.method.queue.views() if self.batch.progress >= self.options.loss.queue_start else ()

    def _share(self, loss: Tensor, terms: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What this process adds of means over the images of all."""
        share = self.batch.share
        return share * loss, {name: share * term.detach() for name, term in terms.items()}


class CodeQueue(nn.Module):
    """The latest style codes of both views."""

    codes: Tensor
    next: Tensor

    def __init__(self, length: int, style_size: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(length, 2, style_size))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))  # where the next code goes

    @torch.no_grad()
    def push(self, codes: Tensor) -> None:
        """Put codes (B, 2, S), fewer than there are places, in the places of the oldest."""
        length = self.codes.shape[0]
        places = (self.next + torch.arange(len(codes), device=codes.device)) % length
        self.codes.index_copy_(0, places, codes.to(self.codes.dtype))
        self.next.copy_((self.next + len(codes)) % length)

    def views(self) -> tuple[Tensor, ...]:
        """Copies of the codes (K, S) of the first views and of the second."""
        return self.codes.clone().unbind(1)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int, queued: Tensor | None = None) -> Tensor:
    """Assignments (B, K) of images to prototypes: each image's sum to 1, and prototypes get nearly equal shares of all.

    They approach the optimal transport plan between the images of all processes, with those in the queue, and the
    prototypes that maximises Σ q·score + ε·entropy (Cuturi, NeurIPS 2013; SwAV, Eq. 3 to 5). In logarithms, so that no
    ε is too small.

    Args:
        scores: (B, K) cosines of this process's images with the prototypes.
        epsilon: ε.
        iterations: of prototypes' shares and then images' sums.
        queued: (Q, K) the same of images that all processes have in common.
    """
    own, held = scores / epsilon, None if queued is None else queued / epsilon
    for _ in range(iterations):
        masses = collectives.all_gather(own.logsumexp(0, keepdim=True))  # (processes, K)
        if held is not None:
            masses = torch.cat([masses, held.logsumexp(0, keepdim=True)])
        mass = masses.logsumexp(0)
        own = (own - mass).log_softmax(1)
        held = None if held is None else (held - mass).log_softmax(1)
    return own.exp()


def swapped_prediction(
    first: Tensor, second: Tensor, queued: Sequence[Tensor], temperature: float, epsilon: float, iterations: int
) -> Tensor:
    """How badly each view's assignments are predicted from the other view: SwAV's loss (its Eq. 1 and 2), halved.

    Args:
        first, second: (B, K) cosines of the views with the prototypes.
        queued: none, or those of earlier images' first and second views, (Q, K) each.
        temperature: τ of the predictions.
        epsilon, iterations: of the assignments, which are constants.
    """
    of_queue = queued or (None, None)
    entropies = [
        -(sinkhorn(ours, epsilon, iterations, held) * (theirs / temperature).log_softmax(1)).sum(1).mean()
        for ours, theirs, held in ((first, second, of_queue[0]), (second, first, of_queue[1]))
    ]
    return (entropies[0] + entropies[1]) / 2


def style_distance(codes: Tensor, targets: Tensor) -> Tensor:
    """Mean of ‖s − s̃‖² over the images' codes (B, S), all of unit length: 2 − 2 cos."""
    return (codes - targets).square().sum(1).mean()


def content_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean of 2 − 2 cos over images and places of two contents (B, C, h, w)."""
    first, second = (F.normalize(_precise(content), dim=1) for content in (first, second))
    return (2 - 2 * (first * second).sum(1)).mean()


def l1_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of images (B, 3, H, W)."""
    return (_precise(first) - _precise(second)).abs().mean()


def mse_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of images (B, 3, H, W)."""
    return (_precise(first) - _precise(second)).square().mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """½ E‖∇_x D(x)‖² of logits (B,) on real images (B, 3, H, W) (Mescheder et al., ICML 2018), with its graph."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return 0.5 * gradient.square().sum() / len(images)


def sample_styles(prototypes: Tensor, uniform: Tensor, noise: Tensor, perturbation: float) -> Tensor:
    """Draw styles (B, S) of unit length: as often about a prototype as at any point between two.

    Args:
        prototypes: (K, S) of unit length.
        uniform: (B, 4) in [0, 1): two prototypes, the place between them, and which of the two kinds.
        noise: (B, S) from N(0, 1).
        perturbation: standard deviation about a prototype.
    """
    first, second = prototypes[(uniform[:, :2] * len(prototypes)).long()].unbind(1)
    between = F.normalize(torch.lerp(first, second, uniform[:, 2:3]), dim=1)
    return torch.where(uniform[:, 3:] < 0.5, between, perturb(first, noise, perturbation))


def perturb(codes: Tensor, noise: Tensor, deviation: float) -> Tensor:
    """Codes (…, S) of unit length about those given; noise (…, S) from N(0, 1)."""
    return F.normalize(codes + deviation * noise, dim=-1)


def rectangles(uniform: Tensor, side: int) -> Tensor:
    """Masks (B, 1, side, side) of a rectangle each, its sides a quarter to below three quarters, at any place.

    Args:
        uniform: (B, 4) in [0, 1): width, height, and place from the left and from the top.
        side: of the mask, in pixels.
    """
    low = side // 4
    lengths = low + (uniform[:, :2] * (side - 2 * low)).floor()
    starts = (uniform[:, 2:] * (side + 1 - lengths)).floor()
    places = torch.arange(side, device=uniform.device)
    inside = (places >= starts[:, :, None]) & (places < (starts + lengths)[:, :, None])  # (B, 2, side)
    return (inside[:, 1, :, None] & inside[:, 0, None, :])[:, None].to(uniform.dtype)


def _make_optimisers(
    generator: Generator, discriminator: StyleDiscriminator, prototypes: Prototypes, options: StyleAwareOptions
) -> dict[str, torch.optim.Optimizer]:
    rates, loss = options.optimiser, options.loss
    mapping = list(generator.mapping.parameters())
    others = [*generator.encoder.parameters(), *generator.decoder.parameters()]

    def adam(groups: list[dict], every: int, weight: float) -> torch.optim.Optimizer:
        # A network that now and then takes two steps in one takes each a little smaller (StyleGAN2, appendix B).
        correction = every / (every + 1) if weight > 0 else 1.0
        betas = (rates.betas[0] ** correction, rates.betas[1] ** correction)
        optimiser = torch.optim.Adam(groups, lr=correction * rates.learning_rate, betas=betas, fused=True)
        for group in optimiser.param_groups:
            group["lr"] *= group.pop("factor", 1.0)
            group["initial_lr"] = group["lr"]
        return optimiser

    return {
        "generator": adam(
            [{"params": others}, {"params": mapping, "factor": rates.mapping}], loss.content_every, loss.content
        ),
        "discriminator": adam([{"params": list(discriminator.parameters())}], loss.r1_every, loss.r1),
        "prototypes": adam([{"params": [prototypes.weight], "factor": rates.prototypes}], 1, 0.0),
    }


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
