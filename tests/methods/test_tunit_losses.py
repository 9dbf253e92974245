"""TUNIT's losses against float64 derivations."""

import math

import pytest
import torch
import torch.nn.functional as F

from lanit.methods.tunit import contrastive_loss, gradient_penalty, hinge_loss, mutual_information


def test_mutual_information_against_a_double_loop():
    p, q = (torch.randn(7, 4, dtype=torch.float64).softmax(1) for _ in range(2))
    joint = [[0.0] * 4 for _ in range(4)]
    for n in range(7):
        for i in range(4):
            for j in range(4):
                joint[i][j] += float(p[n, i] * q[n, j] + q[n, i] * p[n, j]) / 14
    expected = 0.0
    for i in range(4):
        for j in range(4):
            expected += joint[i][j] * math.log(joint[i][j] / sum(joint[i]) / sum(row[j] for row in joint))
    assert float(mutual_information(p, q)) == pytest.approx(expected, abs=1e-12)


def test_mutual_information_at_its_bounds():
    sure = F.one_hot(torch.arange(8) % 4).double()
    assert float(mutual_information(sure, sure)) == pytest.approx(math.log(4))
    flat = torch.full((8, 4), 0.25, dtype=torch.float64)
    assert float(mutual_information(flat, flat)) == pytest.approx(0, abs=1e-12)
    one = F.one_hot(torch.zeros(8, dtype=torch.int64), 4).float().requires_grad_()  # three clusters are empty
    value = mutual_information(one, one)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5) and bool(one.grad.isfinite().all())


def test_contrastive_loss_is_cross_entropy_over_the_valid_keys():
    query, key, negatives = (torch.randn(n, 6, dtype=torch.float64) for n in (5, 5, 9))
    valid = torch.arange(9) < 7
    logits = torch.cat([torch.stack([q @ k for q, k in zip(query, key)])[:, None], query @ negatives[:7].T], 1) / 0.07
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(contrastive_loss(query, key, negatives, valid, 0.07), expected)
    assert float(contrastive_loss(query, key, negatives, torch.zeros(9, dtype=torch.bool), 0.07)) == 0


def test_gradient_penalty_against_finite_differences():
    torch.manual_seed(0)
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def critic(images):
        return torch.tanh(images.flatten(1) * weight).sum(1) ** 2

    total, step = 0.0, 1e-5
    with torch.no_grad():
        for i in range(3):
            for j in range(4):
                shift = torch.zeros_like(x)
                shift.view(3, 4)[i, j] = step
                total += float((critic(x + shift) - critic(x - shift))[i] / (2 * step)) ** 2
    penalty = gradient_penalty(critic(x), x)
    assert penalty.item() == pytest.approx(total / 3, rel=1e-7)
    penalty.backward()
    assert weight.grad.abs().min() > 0


def test_hinge_loss():
    real, fake = torch.tensor([0.5, 3.0]), torch.tensor([-2.0, 1.0])
    assert float(hinge_loss(real, fake)) == pytest.approx((0.5 + 0) / 2 + (0 + 2) / 2)


def test_losses_of_the_guiding_network_are_exact_in_half_precision():
    torch.manual_seed(0)
    p, q, (query, key, negatives) = torch.randn(7, 4).softmax(1), torch.randn(7, 4).softmax(1), torch.randn(3, 9, 6)
    losses = (
        lambda: mutual_information(p, q),
        lambda: contrastive_loss(query, key, negatives, torch.ones(9, dtype=torch.bool), 0.07),
    )
    for loss in losses:
        with torch.autocast("cpu", torch.bfloat16):
            halved = loss()
        assert torch.equal(halved, loss())
