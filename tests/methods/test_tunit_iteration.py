"""A whole iteration of TUNIT once more, in float64 and loops: every loss, every term, every gradient."""

import copy
import math

import pytest
import torch

from lanit.config import parse
from lanit.data.rng import BatchRng
from lanit.methods.protocol import Batch
from lanit.methods.tunit import Tunit
from lanit.methods.views import second_view
from lanit.settings.tunit import TunitOptions

NETWORK = {
    "base": 4, "guiding_base": 8, "max_width": 16, "style": 6, "bottleneck": 8, "residual_blocks": 1, "hidden": 8,
    "discriminator_blocks": 1, "cluster_deviation": 3.0,
}  # fmt: skip
LOSS = {
    "adversarial": 0.9, "reconstruction": 0.7, "style": 0.3, "gradient_penalty": 3.0, "contrastive": 0.8,
    "mutual_information": 2.0, "guiding_after_warmup": 0.2, "temperature": 0.5, "queue": 12,
}  # fmt: skip
COUNT = 6


def make(**options):
    """A method whose key encoder is not its guiding network, with seven keys in a queue of twelve."""
    torch.manual_seed(0)
    method = Tunit(parse(TunitOptions, {"network": NETWORK, "loss": LOSS, **options}), 16, ["a", "b", "c", "d"])
    with torch.no_grad():
        for p in method.networks["key_encoder"].parameters():
            p += 0.1 * torch.randn_like(p)
        for name in ("guiding", "key_encoder"):
            method.networks[name].style.weight *= 100  # codes of the size that training gives them
        method.networks["queue"].push(torch.randn(7, 6))
    return method


def make_batch(progress):
    x, y = torch.rand(2, COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(x, y, None, None, None, 1.0, BatchRng(0, 3, 0, COUNT, COUNT), 3, progress)


def derived(method, progress):
    """The loss, the terms and the networks of each update, from the paper's equations and the released code's forms."""
    net = {name: copy.deepcopy(network).double() for name, network in method.networks.items()}
    weight, batch = method.options.loss, make_batch(progress)
    x, y, view = (images.double() for images in (batch.source, batch.reference, second_view(
        batch.source, batch.rng, method.options.view)))  # fmt: skip
    negatives = net["queue"].keys[: int(net["queue"].pushed)]
    guide, judge = net["guiding"], net["discriminator"]

    def contrast(queries, keys):
        """−log of the share that the positive key has of exp(q·k / τ), codes as they are."""
        total = 0.0
        for q, k in zip(queries, keys):
            positive = math.e ** ((q @ k) / weight.temperature)
            others = sum(math.e ** ((q @ n) / weight.temperature) for n in negatives)
            total = total - torch.log(positive / (positive + others)) / COUNT
        return total

    def information(p, q):
        """I(z; z') of the symmetric joint distribution of the clusters of two views."""
        joint = sum(torch.outer(a, b) + torch.outer(b, a) for a, b in zip(p, q)) / (2 * COUNT)
        of_i, of_j = joint.sum(1), joint.sum(0)
        return sum(joint[i, j] * torch.log(joint[i, j] / (of_i[i] * of_j[j])) for i in range(4) for j in range(4))

    def logits(images, clusters):
        """Of each image by itself, at its own cluster's output."""
        return [judge(image[None], torch.tensor([k]))[0] for image, k in zip(images, clusters)]

    def penalty(images, clusters):
        total = 0.0
        for image, k in zip(images, clusters):
            image = image[None].clone().requires_grad_()
            (slope,) = torch.autograd.grad(judge(image, torch.tensor([k]))[0], image, create_graph=True)
            total = total + slope.square().sum() / COUNT
        return total

    styles, of_x = guide(x)
    _, of_view = guide(view)
    terms = {
        "guiding_contrastive": contrast(styles, net["key_encoder"](view)[0].detach()),
        "guiding_information": information(of_x.softmax(1), of_view.softmax(1)),
    }
    total = 0.8 * terms["guiding_contrastive"] - 2.0 * terms["guiding_information"]
    if progress < method.options.warmup:
        return [(total, terms, ("guiding",))], net
    updates = [(0.2 * total, terms, ("guiding",))]

    if method.options.statistics == "joint":
        codes, of_both = guide(torch.cat([x, y]))
        s_x, s_y, of_x, of_y = codes[:COUNT], codes[COUNT:], of_both[:COUNT], of_both[COUNT:]
    else:
        (s_x, of_x), (s_y, of_y) = guide(x), guide(y)
    k_x, k_y = of_x.argmax(1).tolist(), of_y.argmax(1).tolist()
    assert len(set(k_x + k_y)) > 1 and k_x != k_y
    fake, again = net["generator"](x, s_y), net["generator"](x, s_x)
    terms = {
        "d_adversarial": sum(
            (1 - real).clamp(min=0) / COUNT + (1 + made).clamp(min=0) / COUNT
            for real, made in zip(logits(y, k_y), logits(fake.detach(), k_y))
        ),
        "d_gradient_penalty": penalty(y, k_y),
    }
    total = 0.9 * terms["d_adversarial"] + 3.0 * terms["d_gradient_penalty"]
    updates.append((total, terms, ("discriminator",)))

    terms = {
        "g_adversarial": -sum(logits(fake, k_y)) / COUNT - sum(logits(again, k_x)) / COUNT,
        "g_reconstruction": (again - x).abs().sum() / x.numel(),
        "g_style": contrast(guide(fake)[0], net["key_encoder"](y)[0].detach()),
    }
    total = 0.9 * terms["g_adversarial"] + 0.7 * terms["g_reconstruction"] + 0.3 * terms["g_style"]
    updates.append((total, terms, ("generator", "guiding")))
    return updates, net


@pytest.mark.parametrize("progress, statistics", [(0.1, "joint"), (0.5, "joint"), (0.5, "separate")])
def test_every_loss_and_gradient_is_that_of_a_float64_derivation(progress, statistics):
    """In the warm-up the guiding network's alone, later its, the discriminator's and the generator's."""
    method = make(statistics=statistics)
    expected, net = derived(method, progress)
    for update, (total, terms, names) in zip(method.updates([make_batch(progress)]), expected, strict=True):
        assert update.networks == names
        loss, told = update.loss(0)  # no step is taken: all updates see the networks as they are now
        assert loss.item() == pytest.approx(total.item(), rel=1e-4)
        assert {name: value.item() for name, value in told.items()} == pytest.approx(
            {name: value.item() for name, value in terms.items()}, rel=1e-4
        )
        ours, theirs = parameters(method.networks, names), parameters(net, names)
        gradients = torch.autograd.grad(loss, list(ours.values()), allow_unused=True, retain_graph=True)
        slopes = torch.autograd.grad(total, list(theirs.values()), allow_unused=True, retain_graph=True)
        scale = max(slope.abs().max().item() for slope in slopes if slope is not None)
        for name, gradient, slope in zip(ours, gradients, slopes):
            assert (gradient is None) == (slope is None), name
            if gradient is not None:
                assert (gradient.double() - slope).abs().max().item() < 2e-4 * scale, (update.networks, name)


def parameters(networks, names):
    return {f"{name}.{key}": p for name in names for key, p in networks[name].named_parameters()}
