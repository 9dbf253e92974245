"""LANIT's loss terms against re-derivations in float64 loops."""

import math

import pytest
import torch

from lanit.data.rng import BatchRng
from lanit.methods import lanit, losses


@pytest.fixture
def labels():
    return torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.float64)


def test_aggregate_is_the_mean_over_active_domains(labels):
    styles = torch.randn(4, 3, 5, dtype=torch.float64)
    expected = torch.stack([torch.stack([s for s, on in zip(row, d) if on]).mean(0) for row, d in zip(styles, labels)])
    torch.testing.assert_close(losses.aggregate(styles, labels), expected)


def rng(count):
    return BatchRng(0, 0, 0, count, count)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("normalise", ["image", "pair"])
def test_adversarial_is_equation_5(labels, real, normalise):
    logits = torch.randn(4, 3, dtype=torch.float64)
    total = 0.0
    for row, d in zip(logits, labels):
        for logit, on in zip(row, d):
            probability = 1 / (1 + math.exp(-logit))
            total -= on.item() * math.log(probability if real else 1 - probability)
    expected = total / (len(labels) if normalise == "image" else labels.sum().item())
    weights = lanit.pair_weights(labels, normalise, labels.sum(), 1.0)
    assert losses.adversarial(logits, weights, real).item() == pytest.approx(expected, abs=1e-12)
    parts = [
        losses.adversarial(logits[half], lanit.pair_weights(labels[half], normalise, labels.sum(), 0.5), real).item()
        for half in (slice(0, 2), slice(2, 4))
    ]
    assert sum(parts) == pytest.approx(expected, abs=1e-12)  # the parts of a batch add up


@pytest.mark.parametrize("heads", ["sum", "mean"])
def test_r1_is_half_the_squared_gradient_of_the_active_heads(labels, heads):
    torch.manual_seed(0)
    kernel = torch.randn(3, 3 * 4 * 4, dtype=torch.float64)
    images = torch.randn(4, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = images.flatten(1).square() @ kernel.T
    active = labels.sum(1, keepdim=True) if heads == "mean" else 1
    gradients = 2 * images.detach().flatten(1) * (labels @ kernel / active)
    expected = 0.5 * gradients.square().sum(1).mean()
    torch.testing.assert_close(losses.r1_penalty(logits, images, labels, heads), expected)


def test_flip_changes_exactly_the_chosen_entry_and_leaves_a_domain():
    labels = (torch.rand(2000, 5, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    labels = labels[labels.any(1)]
    domain, flipped = lanit.flip_one(labels, rng(len(labels)))
    changed = (labels != flipped).nonzero()
    assert (changed[:, 0] == torch.arange(len(labels))).all() and (changed[:, 1] == domain).all()
    assert flipped.any(1).all()


def test_flip_goes_both_ways_equally_often_where_it_can():
    labels = torch.tensor([[1.0, 1, 0, 0, 0]]).repeat(4000, 1)
    domain, _flipped = lanit.flip_one(labels, rng(4000))
    off = labels.gather(1, domain[:, None]).mean().item()
    assert off == pytest.approx(0.5, abs=0.03)
    counts = torch.bincount(domain, minlength=5) / len(labels)
    torch.testing.assert_close(counts, torch.tensor([0.25, 0.25, 1 / 6, 1 / 6, 1 / 6]), atol=0.03, rtol=0)


def test_the_only_domain_is_never_switched_off_and_all_domains_only_off():
    one, full = torch.tensor([[0.0, 1, 0]]).repeat(200, 1), torch.ones(200, 3)
    assert (lanit.flip_one(one, rng(200))[0] != 1).all()
    assert (lanit.flip_one(full, rng(200))[1].sum(1) == 2).all()
    assert torch.equal(lanit.flip_one(torch.ones(3, 1), rng(3))[1], torch.ones(3, 1))


def test_the_slack_domain_is_on_where_no_candidate_is_and_never_picked():
    labels = torch.tensor([[0.0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 0]]).repeat(500, 1)
    domain, flipped = lanit.flip_one(labels, rng(1500), slack=True)
    assert domain.max() == 2
    assert torch.equal(flipped[:, 3], (flipped[:, :3].sum(1) == 0).float())
    changed = (labels != flipped)[:, :3]
    assert (changed.sum(1) == 1).all() and torch.equal(changed.float().argmax(1), domain)
    alone = flipped[1::3]  # a single candidate may be switched off: the image goes to the slack domain
    assert 0.4 < alone[:, 3].mean() < 0.6


@pytest.mark.parametrize("similarity", ["cosine", "logit"])
def test_domain_regularisation_is_two_cross_entropies_at_n(labels, similarity):
    torch.manual_seed(1)
    of_fake, of_inverse = torch.rand(2, 4, 4, dtype=torch.float64) * 0.8 + 0.1
    domain, scale = torch.tensor([0, 1, 2, 1]), 7.0
    inverse = labels.clone()
    inverse[torch.arange(4), domain] = 1 - inverse[torch.arange(4), domain]
    expected = 0.0
    for i, n in enumerate(domain.tolist()):
        for d, f in ((labels, of_fake), (inverse, of_inverse)):
            p = f[i, n].item()
            if similarity == "logit":
                p = 1 / (1 + math.exp(-scale * (f[i, n] - f[i, 3]).item()))
            expected -= (math.log(p) if d[i, n] else math.log(1 - p)) / 4
    value = lanit.domain_regularisation((labels, of_fake), (inverse, of_inverse), domain, similarity, scale)
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_distance_is_the_mean_absolute_difference():
    a, b = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = sum(abs(x - y) for x, y in zip(a.flatten().tolist(), b.flatten().tolist())) / 12
    assert losses.distance(a, b).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("similarity", ["cosine", "logit"])
def test_gradients_of_the_language_loss_are_the_slopes_of_its_value(labels, similarity):
    torch.manual_seed(2)
    of_fake, of_inverse = (torch.rand(2, 4, 4, dtype=torch.float64) * 0.8 + 0.1).unbind()
    domain = torch.tensor([0, 1, 2, 1])
    inverse = labels.clone()
    inverse[torch.arange(4), domain] = 1 - inverse[torch.arange(4), domain]

    def loss(f, g):
        return lanit.domain_regularisation((labels, f), (inverse, g), domain, similarity, 7.0)

    assert torch.autograd.gradcheck(loss, (of_fake.requires_grad_(), of_inverse.requires_grad_()))
    loss(of_fake, of_inverse).backward()
    # ŷ is pulled towards d_n, ŷ' away from it: the flipped label is truly flipped.
    for i, n in enumerate(domain.tolist()):
        towards = 1 if labels[i, n] else -1
        assert of_fake.grad[i, n] * towards < 0 < of_inverse.grad[i, n] * towards


def test_gradients_of_adversarial_and_penalty_are_the_slopes_of_their_values(labels):
    torch.manual_seed(3)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = lanit.pair_weights(labels, "pair", labels.sum(), 1.0)
    assert torch.autograd.gradcheck(lambda x: losses.adversarial(x, weights, True), (logits,))
    images = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def penalty(kernel):
        return losses.r1_penalty((images.flatten(1) @ kernel.T).tanh(), images, labels, "sum")

    assert torch.autograd.gradcheck(penalty, (torch.randn(3, 12, dtype=torch.float64, requires_grad=True),))
