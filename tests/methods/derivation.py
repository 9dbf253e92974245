"""What the tests of StarGAN v2 and of the methods built on it share: small steps, and StarGAN v2's paper in float64."""

import copy
from dataclasses import dataclass

import pytest
import torch

from lanit.data.rng import BatchRng
from lanit.methods.protocol import Batch

NETWORK = {"base_channels": 4, "max_channels": 8, "style_size": 6, "latent_size": 5, "hidden_size": 8, "bottleneck": 4}
MOVED = [("discriminator",), ("discriminator",), ("generator", "mapping", "style_encoder"), ("generator",)]


def batch(sources, targets, progress=0.1, seed=0, step=0, parts=1, second=False):
    """Four images of noise and four references with these labels (4, N), in one part or several."""
    generator = torch.Generator().manual_seed(seed)
    x, y, y2 = torch.rand(3, 4, 3, 16, 16, generator=generator) * 2 - 1
    count = 4 // parts
    split = zip(*(tensor.split(count) for tensor in (x, y, sources, targets, y2)))
    return [
        Batch(
            *own,
            targets.sum(),
            count / 4,
            BatchRng(seed, step, i * count, count, 4),
            step,
            progress,
            other if second else None,
            sources.sum(),
        )
        for i, (*own, other) in enumerate(split)
    ]


def snapshot(method):
    return copy.deepcopy(method.networks.state_dict())


def moved(method, before):
    """Names of the networks that are not as they were."""
    after = method.networks.state_dict()
    return {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}


def reached(found):
    """Names of the networks that each update's gradients reach."""
    return [{key.split(".")[0] for key, gradient in ones.items() if gradient.any()} for ones in found]


def gradients(method, parts):
    """The gradient of each update by parameter, with no step taken: all updates see the networks as they are now."""
    found = []
    for update in method.updates(parts):
        ones = {f"{name}.{key}": p for name in update.networks for key, p in method.networks[name].named_parameters()}
        for tensor in (*ones.values(), *update.leaves):
            tensor.grad = None
        for i in range(len(parts)):
            update.loss(i)[0].backward(inputs=[*ones.values(), *update.leaves])
        update.finish()
        found.append({key: p.grad.clone() for key, p in ones.items() if p.grad is not None})
    return found


def check_derived(method, make_batch, networks, totals, moving=MOVED):
    """Every update's loss and gradient are those of `totals`, functions in float64 of `networks`.

    Args:
        method: takes no step here.
        make_batch: makes its batch, whose random numbers are drawn once.
        networks: name → the method's network in float64.
        totals: the loss of each update.
        moving: the networks that each update moves.
    """
    values = [update.loss(0)[0].item() for update in method.updates(make_batch())]
    assert values == pytest.approx([total.item() for total in totals], rel=1e-4)
    for number, (found, total, names) in enumerate(zip(gradients(method, make_batch()), totals, moving, strict=True)):
        parameters = {f"{name}.{key}": p for name in names for key, p in networks[name].named_parameters()}
        slopes = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, retain_graph=True)
        expected = {key: slope for key, slope in zip(parameters, slopes) if slope is not None}
        assert found.keys() == expected.keys(), number
        scale = max(slope.abs().max().item() for slope in expected.values())
        for key, gradient in found.items():
            assert (gradient.double() - expected[key]).abs().max().item() < 2e-4 * scale, (number, key)


def check_sum(whole, split):
    """The gradients of a batch in parts add up to those of the batch as a whole."""
    for ones, others in zip(whole, split, strict=True):
        scale = max(g.abs().max().item() for g in ones.values())
        assert max((g - others[key]).abs().max().item() for key, g in ones.items()) < 1e-4 * scale


def doubled(method):
    return {name: copy.deepcopy(network).double() for name, network in method.networks.items()}


def l1(a, b):
    return (a - b).abs().sum() / a.numel()


def pick(values, domains):
    """Of each image's values for all domains, those of its own."""
    return torch.stack([row[domain] for row, domain in zip(values, domains)])


@dataclass
class Iteration:
    """One iteration of StarGAN v2, in float64: what each update descends on, and what it is made of."""

    networks: dict
    of_x: list  # domains of the sources
    of_y: list  # and of the references
    z1: torch.Tensor
    z2: torch.Tensor
    style: torch.Tensor  # F_ỹ(z1)
    other: torch.Tensor  # F_ỹ(z2)
    source: torch.Tensor  # E_y(x)
    fake: torch.Tensor  # G(x, F_ỹ(z1))
    fake_reference: torch.Tensor  # G(x, E_ỹ(x_ref))
    totals: list


def iterate(method, part, ds_weight, penalised=True):
    """StarGAN v2's equations 1 to 5 for an image x of the domain y and a target domain ỹ each, and R1.

    The style that a translation is held against is a constant where it comes of a reference.
    """
    net, weight = doubled(method), method.options.loss
    x, y, y2 = (images.double() for images in (part.source, part.reference, part.second_reference))
    of_x, of_y = part.source_labels.argmax(1).tolist(), part.reference_labels.argmax(1).tolist()
    z1, z2 = BatchRng(0, part.step, 0, len(x), len(x)).normal(2, 5).double().unbind(1)
    truly, of_real = (y, of_y) if weight.real == "references" else (x, of_x)
    g, f, e, d = (net[name] for name in ("generator", "mapping", "style_encoder", "discriminator"))

    def minus_log(images, domains, real):
        """−E log D_y, or −E log(1 − D_y)."""
        chance = torch.sigmoid(pick(d(images), domains))
        return -sum(torch.log(p if real else 1 - p) for p in chance) / len(chance)

    def r1():
        total = 0.0
        for image, domain in zip(truly, of_real):
            image = image[None].requires_grad_()
            (slope,) = torch.autograd.grad(d(image)[0, domain], image, create_graph=True)
            total = total + 0.5 * slope.square().sum() / len(y)
        return total

    def to_fool(made, style, source, other):
        return (
            weight.adv * minus_log(made, of_y, True)
            + weight.sty * l1(pick(e(made), of_y), style)
            - ds_weight * l1(made, g(x, other).detach())
            + weight.cyc * l1(g(made, source), x)
        )

    style, other, source = pick(f(z1), of_y), pick(f(z2), of_y), pick(e(x), of_x)
    of_reference, of_second = pick(e(y), of_y).detach(), pick(e(y2), of_y).detach()
    made = Iteration(net, of_x, of_y, z1, z2, style, other, source, g(x, style), g(x, of_reference), [])
    for fake in (made.fake, made.fake_reference):
        loss = weight.adv * (minus_log(truly, of_real, True) + minus_log(fake.detach(), of_y, False))
        made.totals.append(loss + weight.r1 * weight.r1_every * r1() if penalised else loss)
    made.totals.append(to_fool(made.fake, style, source, other))
    made.totals.append(to_fool(made.fake_reference, of_reference, source.detach(), of_second))
    return made
