"""The style-aware discriminator: its terms against float64 formulas, who learns when, state, and short trainings."""

import functools
import io
import math
import subprocess
import sys

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from steps import take_step, take_step_without_waiting

from lanit.config import LanitError, parse
from lanit.data.rng import BatchRng
from lanit.methods import style_aware
from lanit.methods.protocol import Batch, PerceptualMethod
from lanit.methods.style_aware import StyleAware
from lanit.networks.perceptual import Perceptual
from lanit.settings.style_aware import StyleAwareOptions

SMALL = {
    "network": {"base_channels": 4, "max_channels": 16, "style_size": 8, "hidden_size": 8, "bottleneck": 8},
    "loss": {"distance": "l1"},
}


def make(clusters=3, perceptual=None, **changes):
    torch.manual_seed(0)
    merged = {
        key: {**SMALL.get(key, {}), **value} if isinstance(value, dict) else value for key, value in changes.items()
    }
    options = parse(StyleAwareOptions, {**SMALL, **merged})
    method = StyleAware(options, 16, [f"cluster {k}" for k in range(clusters)])
    if perceptual:
        method.distance = perceptual
    return method


def images_of_three_colours(seed, count):
    """Images (count, 3, 16, 16) of plain colours with noise and shading, and their colours (count,)."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([[0.9, -0.8, -0.8], [-0.8, 0.9, -0.8], [-0.8, -0.8, 0.9]])
    classes = torch.randint(3, (count,), generator=generator)
    noise = torch.randn(count, 3, 16, 16, generator=generator)
    return (colours[classes][..., None, None] * torch.linspace(0.5, 1, 16) + 0.1 * noise).clamp(-1, 1), classes


def make_batch(seed, progress=0.5, count=8, step=1):
    """The whole batch of one process, at a step without lazy terms."""
    source, _ = images_of_three_colours(seed, count)
    return Batch(source, source.flip(0), None, None, None, 1.0, BatchRng(seed, 0, 0, count, count), step, progress)


def snapshot(method):
    return {name: {k: v.clone() for k, v in network.state_dict().items()} for name, network in method.networks.items()}


def moved(before, after, method):
    """Names of the networks of which a parameter changed."""
    return {
        name
        for name, network in method.networks.items()
        if any(not torch.equal(before[name][k], after[name][k]) for k, _ in network.named_parameters())
    }


def points(*shape, seed=0):
    """Points (…, S) on the sphere, float64."""
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), dim=-1)


# Terms


def sinkhorn_by_loops(scores, epsilon, iterations):
    """Assignments by the definition: a matrix exp(score / ε) whose columns and rows are scaled in turn."""
    scores = scores.detach()
    images, prototypes = scores.shape
    plan = [[math.exp(float(scores[i, k]) / epsilon) for k in range(prototypes)] for i in range(images)]
    for _ in range(iterations):
        for k in range(prototypes):
            mass = sum(row[k] for row in plan)
            for row in plan:
                row[k] /= mass * prototypes
        for row in plan:
            mass = sum(row)
            for k in range(prototypes):
                row[k] /= mass * images
    return torch.tensor([[value * images for value in row] for row in plan], dtype=torch.float64)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_against_plain_loops(iterations):
    scores = points(7, 5) @ points(4, 5, seed=1).T
    expected = sinkhorn_by_loops(scores, 0.05, iterations)
    torch.testing.assert_close(style_aware.sinkhorn(scores, 0.05, iterations), expected)


def test_sinkhorn_converges_to_the_plan_of_equal_shares():
    scores, epsilon = points(12, 5) @ points(4, 5, seed=1).T, 0.1
    plan = style_aware.sinkhorn(scores, epsilon, 3000)
    torch.testing.assert_close(plan, sinkhorn_by_loops(scores, epsilon, 3000))
    torch.testing.assert_close(plan.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((4,), 3.0, dtype=torch.float64))
    # The optimum of Σ q·score + ε·entropy with those sums: log q − score / ε is a number an image plus one a prototype
    rest = plan.log() - scores / epsilon
    doubly_centred = rest - rest.mean(0) - rest.mean(1, keepdim=True) + rest.mean()
    torch.testing.assert_close(doubly_centred, torch.zeros_like(rest), atol=1e-9, rtol=0)


def test_sinkhorn_bears_any_entropy():
    scores = (points(6, 5) @ points(4, 5, seed=1).T).float()
    sharp, flat = (style_aware.sinkhorn(scores, epsilon, 50) for epsilon in (1e-4, 1e4))
    torch.testing.assert_close(sharp.sum(1), torch.ones(6))
    torch.testing.assert_close(flat, torch.full((6, 4), 0.25), atol=1e-4, rtol=0)


def test_queued_images_are_assigned_with_the_batch():
    scores = points(9, 5) @ points(4, 5, seed=1).T
    whole = style_aware.sinkhorn(scores, 0.05, 3)
    torch.testing.assert_close(style_aware.sinkhorn(scores[:4], 0.05, 3, scores[4:]), whole[:4])
    assert not torch.allclose(style_aware.sinkhorn(scores[:4], 0.05, 3), whole[:4], atol=1e-3)


def test_swapped_prediction_against_a_double_loop():
    first, second = (points(6, 5, seed=seed) @ points(4, 5, seed=9).T for seed in (0, 1))
    expected = 0.0
    for ours, theirs in ((first, second), (second, first)):
        assigned = sinkhorn_by_loops(ours, 0.05, 3)
        for i in range(6):
            total = sum(math.exp(float(theirs[i, k]) / 0.1) for k in range(4))
            for k in range(4):
                expected -= float(assigned[i, k]) * math.log(math.exp(float(theirs[i, k]) / 0.1) / total) / 6 / 2
    found = style_aware.swapped_prediction(first, second, (), 0.1, 0.05, 3)
    assert float(found) == pytest.approx(expected, abs=1e-12)
    queued = [points(5, 5, seed=seed) @ points(4, 5, seed=9).T for seed in (2, 3)]
    held = [style_aware.sinkhorn(torch.cat([own, rest]), 0.05, 3)[:6] for own, rest in zip((first, second), queued)]
    logs = [(scores / 0.1).log_softmax(1) for scores in (second, first)]
    expected = sum(-(q * p).sum(1).mean() / 2 for q, p in zip(held, logs))
    torch.testing.assert_close(style_aware.swapped_prediction(first, second, queued, 0.1, 0.05, 3), expected)


def test_assignments_are_constants():
    """The gradient of a cross-entropy with constant targets is prediction minus target, over τ."""
    first, second = (points(6, 5, seed=seed) @ points(4, 5, seed=9).T for seed in (0, 1))
    loss = style_aware.swapped_prediction(first.requires_grad_(), second.requires_grad_(), (), 0.1, 0.05, 3)
    for gradient, ours, theirs in zip(torch.autograd.grad(loss, (first, second)), (first, second), (second, first)):
        expected = ((ours / 0.1).softmax(1) - style_aware.sinkhorn(theirs, 0.05, 3)) / 0.1 / 6 / 2
        torch.testing.assert_close(gradient, expected.detach())


def test_distances_against_their_closed_forms():
    codes, targets = points(5, 6), points(5, 6, seed=1)
    cosines = sum(float(a @ b) for a, b in zip(codes, targets)) / 5
    assert float(style_aware.style_distance(codes, targets)) == pytest.approx(2 - 2 * cosines)
    first, second = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for i in range(2):
        for row in range(4):
            for column in range(4):
                a, b = first[i, :, row, column], second[i, :, row, column]
                total += 2 - 2 * float(a @ b / a.norm() / b.norm())
    assert float(style_aware.content_distance(first, second)) == pytest.approx(total / 32)
    difference = [float(a - b) for a, b in zip(first.flatten(), second.flatten())]
    assert float(style_aware.l1_distance(first, second)) == pytest.approx(sum(map(abs, difference)) / 96)
    assert float(style_aware.mse_distance(first, second)) == pytest.approx(sum(d * d for d in difference) / 96)


def test_r1_is_half_the_mean_squared_gradient():
    weight = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    penalty = style_aware.r1_penalty((weight * x).sum((1, 2, 3)).square(), x)  # gradient 2 (w·x) w
    inner = (weight * x).sum((1, 2, 3))
    expected = 0.5 * (4 * inner.square() * weight.square().sum()).mean()
    torch.testing.assert_close(penalty, expected)
    found, wanted = (torch.autograd.grad(value, weight)[0] for value in (penalty, expected))
    torch.testing.assert_close(found, wanted)


def test_styles_are_drawn_about_a_prototype_or_between_two():
    prototypes = points(3, 16).float()
    uniform, noise = torch.rand(2000, 4), torch.randn(2000, 16)
    styles = style_aware.sample_styles(prototypes, uniform, noise, 0.01)
    torch.testing.assert_close(styles.norm(dim=1), torch.ones(2000))
    first, second = ((uniform[:, i] * 3).long() for i in range(2))
    between = uniform[:, 3] < 0.5
    assert 900 < between.sum() < 1100 and [*first.unique()] == [*second.unique()] == [0, 1, 2]
    for i in range(50):
        a, b, share = prototypes[first[i]], prototypes[second[i]], uniform[i, 2]
        expected = (1 - share) * a + share * b if between[i] else a + 0.01 * noise[i]
        torch.testing.assert_close(styles[i], expected / expected.norm())


def test_rectangles_are_of_a_quarter_to_three_quarters_of_the_side():
    masks = style_aware.rectangles(torch.rand(3000, 4), 16)
    assert masks.shape == (3000, 1, 16, 16) and ((masks == 0) | (masks == 1)).all()
    width, height = masks.amax((1, 2)).sum(1), masks.amax((1, 3)).sum(1)
    assert sorted(width.unique().tolist()) == sorted(height.unique().tolist()) == list(range(4, 12))
    assert torch.equal(masks.sum((1, 2, 3)), width * height)  # one rectangle each
    starts = masks.amax((1, 2)).argmax(1)
    assert starts.min() == 0 and (starts + width).max() == 16


# The step


def test_the_terms_of_a_step_are_those_of_the_formulas():
    method = make(loss={"distance": "mse", "r1_every": 1, "content_every": 1, "r1": 2.0, "reconstruction": 0.7})
    method.networks.double()
    batch = make_batch(0, progress=1.0)
    batch = Batch(**{**batch.__dict__, "source": batch.source.double()})
    generator, discriminator = method.networks["generator"], method.networks["discriminator"]
    prototypes = method.networks["prototypes"].weight.detach()
    updates = method.updates([batch])
    of_discriminator = next(updates)
    step = of_discriminator.loss.__self__
    loss, terms = of_discriminator.loss(0)
    # discriminator and prototypes
    real, own = discriminator(step.real)
    _, other = discriminator(step.other)
    content = generator.encode(step.real)
    fake = generator.decode(content, step.target)
    scores = [codes @ prototypes.T for codes in (own, other)]
    assigned = [sinkhorn_by_loops(score, 0.05, 3) for score in scores]
    swap = -sum((q * (s / 0.1).log_softmax(1)).sum(1).mean() for q, s in zip(assigned, scores[::-1])) / 2
    adversarial = -real.sigmoid().log().mean() - (1 - discriminator.judge(fake).sigmoid()).log().mean()
    torch.testing.assert_close(terms, {"d_adversarial": adversarial.detach(), "d_swap": swap.detach()})
    torch.testing.assert_close(loss, adversarial + swap)
    # R1
    loss, terms = next(updates).loss(0)
    x = step.real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator.judge(x).sum(), x)
    penalty = sum(float(g.square().sum()) for g in gradient) / 8 / 2
    assert float(terms["d_r1"]) == pytest.approx(penalty) and loss.item() == pytest.approx(2 * penalty)
    # generator
    loss, terms = next(updates).loss(0)
    reconstruction = generator.decode(content, own.detach())
    logits = [discriminator.judge(images) for images in (fake, reconstruction)]
    adversarial = -sum(logit.sigmoid().log().mean() for logit in logits) / 2
    style = (discriminator.encode(fake) - step.target).norm(dim=1).square().mean()
    reconstructed = (reconstruction - step.real).square().mean()
    expected = {"g_adversarial": adversarial, "g_style": style, "g_reconstruction": reconstructed}
    torch.testing.assert_close(terms, {name: term.detach() for name, term in expected.items()})
    torch.testing.assert_close(loss, adversarial + style + 0.7 * reconstructed)
    # content, in two styles of which the mask decides
    loss, terms = next(updates).loss(0)
    mask = style_aware.rectangles(step.uniform[:, 6:10], 8)
    one = generator.decode_mixed(content, own.detach(), step.target, mask)
    two = generator.decode_mixed(content, step.target, own.detach(), mask)
    mixed = torch.stack([(two if step.uniform[i, 10] < 0.5 else one)[i] for i in range(8)])
    cosine = F.cosine_similarity(content, generator.encode(mixed), dim=1).mean()
    torch.testing.assert_close(loss, 2 - 2 * cosine)
    assert next(updates, None) is None and float(terms["g_content"]) == pytest.approx(float(loss))


def test_each_update_names_the_networks_that_its_loss_teaches():
    method, named = make(), []
    before = snapshot(method)
    for update in method.updates([make_batch(0, step=16)]):
        loss, terms = update.loss(0)
        for name in update.networks:
            parameters = method.networks[name].parameters()
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
        named.append((update.networks, set(terms)))
    assert named == [
        (("discriminator", "prototypes"), {"d_adversarial", "d_swap"}),
        (("discriminator",), {"d_r1"}),
        (("generator",), {"g_adversarial", "g_style", "g_reconstruction"}),
        (("generator",), {"g_content"}),
    ]
    take_step(method, make_batch(0))
    after = snapshot(method)
    assert moved(before, after, method) == {"generator", "discriminator", "prototypes"}
    for name in ("generator", "discriminator", "prototypes"):
        assert all(
            not torch.equal(before[name][k], after[name][k]) for k, _ in method.networks[name].named_parameters()
        )


def gradients_of(method, batch, terms):
    """Names of the parameters that the update with these terms gives a gradient."""
    found = set()
    for update in method.updates([batch]):
        loss, new = update.loss(0)
        if set(new) == terms:
            for name in method.networks:
                for key, parameter in method.networks[name].named_parameters():
                    (gradient,) = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)
                    if gradient is not None and gradient.abs().max() > 0:
                        found.add(f"{name}.{key}")
    return found


def test_gradients_reach_what_they_should():
    names = {f"{n}.{k}" for n, net in make().networks.items() for k, _ in net.named_parameters()}
    critic = {name for name in names if name.startswith("discriminator") and "projection" not in name}
    biases = {name for name in critic if name.endswith("critic.2.bias")}  # a constant has no part in R1
    discriminator = {name for name in names if name.startswith(("discriminator", "prototypes"))}
    generator = {name for name in names if name.startswith("generator")}
    batch = make_batch(0, step=16)
    assert gradients_of(make(), batch, {"d_adversarial", "d_swap"}) == discriminator  # not the generator's
    alone = make(loss={"adversarial": 0.0})
    assert gradients_of(alone, batch, {"d_adversarial", "d_swap"}) == {n for n in discriminator if "critic" not in n}
    alone = make(loss={"swap": 0.0})
    assert gradients_of(alone, batch, {"d_adversarial", "d_swap"}) == critic
    r1 = gradients_of(make(), batch, {"d_r1"})
    assert r1 <= critic - biases and {n for n in r1 if n.endswith("weight")} == {
        n for n in critic if n.endswith("weight")
    }
    for terms in ({"g_adversarial", "g_style", "g_reconstruction"}, {"g_content"}):
        reached = gradients_of(make(), batch, terms) & generator
        # a bias before instance norm is cancelled, but for rounding; the last layers' place is the picture
        assert {n for n in generator if n.endswith("weight")} <= reached


def test_targets_are_styles_of_the_batch_or_draws_from_prototypes():
    for share in (0.0, 0.5, 1.0):
        method = make(latent_share=share, perturbation=0.0)
        update = next(method.updates([make_batch(0, count=64)]))
        step = update.loss.__self__
        update.loss(0)
        torch.testing.assert_close(step.target.norm(dim=1), torch.ones(64))
        own = (step.target[:, None] == step.codes[None, :, 0]).all(2)  # (image, image whose style it gets)
        assert 64 * (1 - share) - 12 <= own.any(1).sum() <= 64 * (1 - share) + 12
        if share == 0:
            assert len(own.int().argmax(1).unique()) > 32 and own.diagonal().sum() < 8
        at_prototypes = (step.target @ method.networks["prototypes"].weight.T).amax(1) > 1 - 1e-5
        assert 64 * share / 2 - 12 <= at_prototypes.sum() <= 64 * share * 0.7 + 12
        assert torch.equal(step.style, step.codes[:, 0]) and not step.target.requires_grad


def test_prototypes_stay_where_they_are_at_first_and_on_the_sphere_afterwards():
    method = make(optimiser={"prototypes": 100.0, "freeze": 0.2, "warmup": 0.1})
    before = snapshot(method)
    losses = take_step(method, make_batch(0, progress=0.19))
    assert moved(before, snapshot(method), method) == {"generator", "discriminator"} and "d_swap" in losses
    for seed in range(3):
        take_step(method, make_batch(seed, progress=0.2))
        torch.testing.assert_close(method.networks["prototypes"].weight.norm(dim=1), torch.ones(3))
    assert "prototypes" in moved(before, snapshot(method), method)


def test_rates_grow_at_the_beginning_and_are_corrected_for_lazy_terms():
    def rates(method):
        return {
            name: [group["lr"] for group in optimiser.param_groups] for name, optimiser in method.optimisers().items()
        }

    method = make(optimiser={"learning_rate": 1e-3, "warmup": 0.1, "prototypes": 0.02, "mapping": 0.01})
    expected = {"generator": [16 / 17e3, 16 / 17e5], "discriminator": [16 / 17e3], "prototypes": [2e-5]}
    for progress, factor in ((0.0, 0.0), (0.025, 0.25), (0.1, 1.0), (0.7, 1.0)):
        next(method.updates([make_batch(0, progress)]))
        assert rates(method) == {k: pytest.approx([factor * rate for rate in v]) for k, v in expected.items()}
    betas = [optimiser.param_groups[0]["betas"] for optimiser in method.optimisers().values()]
    assert betas == [(0.0, 0.99 ** (16 / 17))] * 2 + [(0.0, 0.99)]
    mapping = {id(parameter) for parameter in method.networks["generator"].mapping.parameters()}
    assert {id(p) for p in method.optimisers()["generator"].param_groups[1]["params"]} == mapping
    plain = make(loss={"r1": 0.0, "content": 0.0}, optimiser={"warmup": 0.0})
    next(plain.updates([make_batch(0, 0.0)]))
    expected = {"generator": [1e-4, 1e-6], "discriminator": [1e-4], "prototypes": [1e-6]}
    assert rates(plain) == {k: pytest.approx(v) for k, v in expected.items()}


def test_lazy_terms_are_taken_when_they_are_due():
    method = make(loss={"r1_every": 4, "content_every": 3})
    taken = {step: set(take_step(method, make_batch(0, step=step))) for step in range(13)}
    assert [step for step in taken if "d_r1" in taken[step]] == [0, 4, 8, 12]
    assert [step for step in taken if "g_content" in taken[step]] == [0, 3, 6, 9, 12]
    never = make(loss={"r1": 0.0, "content": 0.0})
    assert not {"d_r1", "g_content"} & set(take_step(never, make_batch(0, step=0)))
    losses = {}
    for every in (1, 16):
        updates = make(loss={"r1_every": every}).updates([make_batch(0, step=0)])
        next(updates).loss(0)
        losses[every] = next(updates).loss(0)[0]
    torch.testing.assert_close(losses[16], 16 * losses[1])


def test_batches_smaller_than_the_number_of_prototypes_are_assigned_with_earlier_codes(monkeypatch):
    seen = []
    loss = style_aware.swapped_prediction
    monkeypatch.setattr(
        style_aware, "swapped_prediction", lambda *given: seen.append([len(q) for q in given[2]]) or loss(*given)
    )
    method = make(clusters=10, loss={"queue_start": 0.4})
    codes = []
    for step, progress in enumerate((0.0, 0.2, 0.39, 0.4)):  # with 0, 6, 12 and 18 codes before
        updates = method.updates([make_batch(step, progress, count=6, step=step)])
        for update in updates:
            update.loss(0)
            last = update.loss.__self__
        codes.append(last.codes)
    assert seen == [[], [], [], [10, 10]]
    held = method.networks["queue"].codes
    latest = torch.cat(codes)[-10:]
    assert {tuple(row.flatten().tolist()) for row in held} == {tuple(row.flatten().tolist()) for row in latest}
    first, second = method.networks["queue"].views()
    assert torch.equal(first, held[:, 0]) and torch.equal(second, held[:, 1])
    early = make(clusters=10, loss={"queue_start": 0.0})
    seen.clear()
    for step in range(3):  # 0, 6 and 12 codes so far
        next(early.updates([make_batch(step, 0.5, count=6, step=step)])).loss(0)
    large = make(clusters=6, loss={"queue_start": 0.0})
    take_step(large, make_batch(0, 0.5, count=6, step=9))
    assert seen == [[], [], [10, 10], []] and not large.networks["queue"].codes.any()


def test_a_perceptual_distance_takes_the_place_of_pixels(tmp_path, monkeypatch):
    def perceptual(first, second):
        return (first.mean((2, 3)) - second.mean((2, 3))).square().sum(1)

    method = make(loss={"distance": "perceptual"}, perceptual=perceptual)
    *_, update = ((update, update.loss(0)) for update in method.updates([make_batch(0)]))
    step = update[0].loss.__self__
    expected = perceptual(step.images.chunk(2)[1], step.real).mean()
    torch.testing.assert_close(update[1][1]["g_reconstruction"], expected.detach())
    without = make(loss={"distance": "perceptual"})
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(LanitError, match="no AlexNet at"):
        take_step(without, make_batch(0))
    assert without.translate(make_batch(0).source, without.reference_style(make_batch(0).source)).shape == (
        8,
        3,
        16,
        16,
    )


def test_a_run_can_name_the_perceptual_distance_that_it_learned_by():
    named = make(loss={"distance": "perceptual"}, perceptual=Perceptual("judge-0123abcd", torch.nn.Identity()))
    assert isinstance(named, PerceptualMethod) and named.perceptual_name == "judge-0123abcd"
    assert make(loss={"distance": "l1"}).perceptual_name is None


def test_a_saved_and_loaded_method_goes_on_with_the_same_bits():
    first = make(clusters=10, loss={"queue_start": 0.0})
    for step in range(3):
        take_step(first, make_batch(step, 0.02, step=step))  # in the warm-up
    file = io.BytesIO()
    torch.save([first.networks.state_dict(), {k: o.state_dict() for k, o in first.optimisers().items()}], file)
    file.seek(0)
    networks, optimisers = torch.load(file, weights_only=True)
    second = make(clusters=10, loss={"queue_start": 0.0})
    torch.manual_seed(99)
    second.networks.load_state_dict(networks)
    for name, optimiser in second.optimisers().items():
        optimiser.load_state_dict(optimisers[name])
    for step in (15, 16):
        expected, losses = (take_step(method, make_batch(step, 0.5, step=step)) for method in (first, second))
        assert all(torch.equal(expected[k], losses[k]) for k in expected)
    a, b = snapshot(first), snapshot(second)
    assert all(torch.equal(a[name][k], b[name][k]) for name in a for k in a[name])


# On a GPU


def test_nothing_in_a_step_makes_the_host_wait_for_the_device():
    take_step_without_waiting(make(clusters=10, loss={"queue_start": 0.0}), make_batch(0, step=16))


def test_half_precision_is_nearly_as_good_and_leaves_state_in_full():
    terms = []
    for halved in (False, True):
        method = make(clusters=10, loss={"queue_start": 0.0})
        terms.append({})
        updates = method.updates([make_batch(0, step=16)])
        while True:
            with torch.autocast("cpu", torch.bfloat16, enabled=halved):
                update = next(updates, None)
                if update is None:
                    break
                loss, new = update.loss(0)
            terms[-1] |= new
            loss.backward(inputs=[p for name in update.networks for p in method.networks[name].parameters()])
            for name in update.networks:
                method.optimisers()[name].step()
    assert all(term.dtype == torch.float32 for term in terms[1].values())
    torch.testing.assert_close(terms[1], terms[0], atol=0.05, rtol=0.1)
    state = method.networks.state_dict().values()
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for value in state)


@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)  # pytest's own patch would leave it deleted
def test_compiled_networks_take_the_same_steps(monkeypatch):
    """What the compiler is given, but for the last stage, which needs a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain, compiled = make(), make()
    compiled.compile()
    for step in (0, 1, 16):
        expected, found = (take_step(method, make_batch(step, step=step)) for method in (plain, compiled))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] >= 4 and not counters["graph_break"]
    assert compiled.networks.state_dict().keys() == plain.networks.state_dict().keys()


# Learning


def test_prototypes_find_three_colours():
    method = make(
        network={"base_channels": 8, "max_channels": 32, "style_size": 16},
        optimiser={"learning_rate": 1e-3, "prototypes": 1.0},
        ema=0.9,
    )
    for seed in range(80):
        take_step(method, make_batch(seed, progress=0.5, count=24))
    for name in method.averaged:
        method.averaged[name].load_state_dict(method.networks[name].state_dict())
    images, classes = images_of_three_colours(1000, 96)
    logits = method.cluster_logits(images)
    assert logits.shape == (96, 3) and logits.abs().max() <= 10
    clusters = logits.argmax(1)
    most = [int(classes[clusters == k].bincount(minlength=3).max()) for k in range(3) if (clusters == k).any()]
    assert len(most) == 3 and sum(most) >= 0.95 * 96


def test_joint_training_learns_to_reconstruct():
    method = make(loss={"reconstruction": 20.0}, optimiser={"learning_rate": 3e-3})
    losses = [float(take_step(method, make_batch(seed, step=seed))["g_reconstruction"]) for seed in range(40)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


# Translating


def test_translates_by_reference_and_by_prototype():
    method = make(perturbation=0.1)
    batch = make_batch(50)
    assert method.averaging(0.0) == dict.fromkeys(("generator", "discriminator", "prototypes"), 0.999)
    assert set(method.averaged) == set(method.averaging(0.5)) < set(method.networks)
    by_reference = method.reference_style(batch.reference)
    torch.testing.assert_close(by_reference[:3], method.reference_style(batch.reference[:3], None))
    torch.testing.assert_close(by_reference.norm(dim=1), torch.ones(8))
    output = method.translate(batch.source, by_reference)
    assert output.shape == batch.source.shape and output.abs().max() <= 1 and not output.requires_grad
    torch.testing.assert_close(method.translate(batch.source, 0.3 * by_reference), output)
    one, two = torch.tensor([[0.0, 1, 0]]), torch.tensor([[0.0, 1, 1]])
    drawn = [method.latent_style(one.repeat(4, 1), torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    prototypes = method.averaged["prototypes"].weight
    many = method.latent_style(one.repeat(4000, 1), torch.Generator())
    torch.testing.assert_close(many.norm(dim=1), torch.ones(4000))
    torch.testing.assert_close(F.normalize(many.mean(0), dim=0), prototypes[1], atol=0.01, rtol=0)
    across = many - (many @ prototypes[1])[:, None] * prototypes[1]  # 7 dimensions of a deviation of 0.1, about
    assert across.square().sum(1).mean().sqrt() == pytest.approx(0.1 * 7**0.5, rel=0.1)
    still = make(perturbation=0.0)
    between = still.latent_style(two, torch.Generator())[0]
    cosines = still.averaged["prototypes"].weight @ between
    assert cosines[1] == pytest.approx(float(cosines[2])) and between.norm() == pytest.approx(1)
    assert cosines[1] == pytest.approx(math.cos(math.acos(float(prototypes[1] @ prototypes[2])) / 2), abs=1e-5)


def test_averaged_prototypes_count_by_their_direction():
    method = make(perturbation=0.0)
    images, labels = make_batch(0).source, torch.eye(3)
    logits, styles = method.cluster_logits(images), method.latent_style(labels, torch.Generator())
    codes = method.averaged["discriminator"].encode(images)
    torch.testing.assert_close(logits, codes @ method.averaged["prototypes"].weight.T / 0.1)
    method.averaged["prototypes"].weight.mul_(torch.tensor([0.5, 0.7, 0.9])[:, None])
    torch.testing.assert_close(method.cluster_logits(images), logits)
    torch.testing.assert_close(method.latent_style(labels, torch.Generator()), styles)


def test_the_number_of_prototypes_is_that_of_the_domains_or_its_own():
    assert make(clusters=5).clusters == 5
    method = make(clusters=2, network={"prototypes": 7})
    assert method.clusters == 7 and method.cluster_logits(make_batch(0).source).shape == (8, 7)
    assert not StyleAware.accumulates


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (48, {}, "power of two"),
        (32, {"network": {"bottleneck": 32}}, "network.bottleneck"),
        (32, {"network": {"bottleneck": 12}}, "network.bottleneck"),
        (32, {"network": {"prototypes": 1}}, "two prototypes"),
        (32, {"network": {"base_channels": 0}}, "network.base_channels must be at least 1, not 0"),
        (32, {"loss": {"temperature": 0.0}}, "loss.temperature"),
        (32, {"loss": {"r1_every": 0}}, "loss.r1_every"),
        (32, {"loss": {"style": -1.0}}, "loss.style"),
        (32, {"loss": {"distance": "lpips"}}, "loss.distance"),
        (32, {"optimiser": {"warmup": 3000.0}}, "optimiser.warmup must be at least 0 and at most 1"),
        (32, {"optimiser": {"betas": [0.5, 1.0]}}, "optimiser.betas"),
        (32, {"view": {"smallest_crop": 0.0}}, "view.smallest_crop"),
        (32, {"view": {"zoom": 1.0}}, "view.zoom"),
        (32, {"latent_share": math.nan}, "latent_share"),
    ],
)
def test_options_that_do_not_fit_are_named(size, changes, message):
    with pytest.raises(LanitError, match=message):
        StyleAware(parse(StyleAwareOptions, changes), size, ["a", "b"])


def test_options_are_read_without_torch():
    code = "import sys; from lanit.settings.style_aware import StyleAwareOptions; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_one_domain_is_too_few_unless_prototypes_are_counted():
    with pytest.raises(LanitError, match="network.prototypes"):
        make(clusters=1)
    assert make(clusters=1, network={"prototypes": 2}).clusters == 2
