"""TUNIT: who learns when, state, what a GPU needs, and short trainings that must succeed."""

import dataclasses
import functools
import io
import shutil

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from steps import take_step, take_step_without_waiting
from waiting import NothingWaits

from lanit.config import LanitError, parse
from lanit.data.rng import BatchRng
from lanit.methods.protocol import Batch
from lanit.methods.tunit import ClusterStyles, KeyQueue, Tunit, hinge_loss
from lanit.settings.tunit import TunitOptions

SMALL = {
    "network": {
        "base": 4,
        "guiding_base": 8,
        "max_width": 32,
        "style": 8,
        "bottleneck": 8,
        "residual_blocks": 1,
        "hidden": 16,
    },
    "loss": {"queue": 24},
}


def make(clusters=3, **changes):
    torch.manual_seed(0)
    return Tunit(parse(TunitOptions, {**SMALL, **changes}), 16, [f"cluster {k}" for k in range(clusters)])


def images_of_three_colours(seed, count):
    """Images (2, count, 3, 16, 16) of plain colours with noise and shading, and their colours (2, count)."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.tensor([[0.9, -0.8, -0.8], [-0.8, 0.9, -0.8], [-0.8, -0.8, 0.9]])
    classes = torch.randint(3, (2, count), generator=generator)
    noise = torch.randn(2, count, 3, 16, 16, generator=generator)
    return (colours[classes][..., None, None] * torch.linspace(0.5, 1, 16) + 0.1 * noise).clamp(-1, 1), classes


def make_batch(seed, progress=0.5, count=8):
    """The whole batch of one process."""
    source, reference = images_of_three_colours(seed, count)[0]
    return Batch(source, reference, None, None, None, 1.0, BatchRng(seed, 0, 0, count, count), seed, progress)


def snapshot(method):
    return {name: {k: v.clone() for k, v in network.state_dict().items()} for name, network in method.networks.items()}


def moved(before, after, method):
    """Names of the networks of which a parameter changed."""
    return {
        name
        for name, network in method.networks.items()
        if any(not torch.equal(before[name][k], after[name][k]) for k, _ in network.named_parameters())
    }


# State kept beside the networks


def test_queue_keeps_the_latest_keys():
    queue = KeyQueue(5, 1)
    assert not queue.negatives()[1].any()
    for start in (0, 3, 6):
        queue.push(torch.arange(start, start + 3.0)[:, None])
    keys, valid = queue.negatives()
    assert valid.all() and sorted(keys[:, 0].tolist()) == [4, 5, 6, 7, 8]
    queue.push(torch.arange(10.0, 17)[:, None])  # more than it holds
    assert sorted(queue.negatives()[0][:, 0].tolist()) == [12, 13, 14, 15, 16]


def test_cluster_styles_are_moving_moments():
    generator = torch.Generator().manual_seed(0)
    clusters = ClusterStyles(3, 2, momentum=0.9)
    weights, points = [[], []], [[], []]
    for i in range(4):
        styles = torch.randn(6, 2, generator=generator) + 3
        labels = torch.randint(2, (6,), generator=generator)  # cluster 2 stays empty
        clusters.update(styles, F.one_hot(labels, 3).float())
        for style, label in zip(styles, labels.tolist()):
            points[label].append(style)
            weights[label].append(0.9 ** (3 - i))
    for k in range(2):
        w, x = torch.tensor(weights[k])[:, None], torch.stack(points[k])
        mean = (w * x).sum(0) / w.sum()
        deviation = ((w * (x - mean) ** 2).sum(0) / w.sum()).sqrt()
        torch.testing.assert_close(clusters.moments(k), (mean, deviation), atol=1e-4, rtol=1e-4)
    w, x = torch.tensor(weights[0] + weights[1])[:, None], torch.stack(points[0] + points[1])
    torch.testing.assert_close(clusters.moments(2)[0], (w * x).sum(0) / w.sum(), atol=1e-4, rtol=1e-4)


# The step


def test_only_guiding_network_and_its_average_move_in_the_warmup():
    method = make()
    before = snapshot(method)
    losses = take_step(method, make_batch(0, progress=0.3))
    assert moved(before, snapshot(method), method) == {"guiding", "key_encoder"}
    assert set(losses) == {"guiding_contrastive", "guiding_information"}


def test_every_network_moves_after_the_warmup():
    method = make()
    before = snapshot(method)
    losses = take_step(method, make_batch(0, progress=0.325))
    after = snapshot(method)
    assert moved(before, after, method) == {"guiding", "key_encoder", "generator", "discriminator"}
    for name in ("guiding", "generator", "discriminator"):
        still = {k for k, _ in method.networks[name].named_parameters() if torch.equal(before[name][k], after[name][k])}
        # as long as no logit is beyond the hinge's margin, real and fake pull the discriminator's last bias equally
        assert still <= ({"layers.8.bias"} if name == "discriminator" else set())
    assert all(loss.ndim == 0 and not loss.requires_grad and loss.isfinite() for loss in losses.values())


def test_each_update_names_the_networks_that_its_loss_teaches():
    method, named = make(), []
    for update in method.updates([make_batch(0)]):
        loss, terms = update.loss(0)
        for name in update.networks:
            parameters = method.networks[name].parameters()
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
        named.append((update.networks, set(terms)))
    assert named == [
        (("guiding",), {"guiding_contrastive", "guiding_information"}),
        (("discriminator",), {"d_adversarial", "d_gradient_penalty"}),
        (("generator", "guiding"), {"g_adversarial", "g_reconstruction", "g_style"}),
    ]


def test_translations_have_style_and_output_of_the_reference_and_reconstructions_of_the_source():
    method = make(network={**SMALL["network"], "cluster_deviation": 3.0})
    guided, styled, judged = [], [], []
    method.networks["guiding"].register_forward_hook(lambda _, inputs, outputs: guided.append(outputs))
    method.networks["generator"].modulation.register_forward_hook(lambda _, inputs, outputs: styled.append(inputs[0]))
    method.networks["discriminator"].register_forward_hook(lambda _, *call: judged.append(call))
    batch = make_batch(0)
    losses = take_step(method, batch)
    styles, logits = next(outputs for outputs in guided if len(outputs[0]) == 16)  # of sources, then references
    of_source, of_reference = logits.argmax(1).chunk(2)
    assert len(set(logits.argmax(1).tolist())) > 1 and not torch.equal(of_source, of_reference)
    assert torch.equal(styled[0], styles.roll(8, 0))
    (real, real_clusters), (_, fake_clusters), (images, clusters) = (inputs for inputs, _ in judged)
    assert torch.equal(real, batch.reference) and images.shape[0] == 16
    assert torch.equal(real_clusters, of_reference) and torch.equal(fake_clusters, of_reference)
    assert torch.equal(clusters, torch.cat([of_reference, of_source]))
    real_logits, fake_logits, logits = (outputs for _, outputs in judged)
    torch.testing.assert_close(losses["d_adversarial"], hinge_loss(real_logits, fake_logits))
    torch.testing.assert_close(losses["g_adversarial"], -logits[:8].mean() - logits[8:].mean())


def test_styles_may_be_normalised_with_the_others_or_apart():
    """Apart, a reference's style does not depend on the sources that are in the batch with it."""
    for statistics, apart in (("joint", False), ("separate", True)):
        method, styled = make(statistics=statistics), []
        method.networks["generator"].modulation.register_forward_hook(lambda _, inputs, __: styled.append(inputs[0]))  # noqa: B023
        for seed in range(2):
            batch = dataclasses.replace(make_batch(0), source=make_batch(seed).source)
            updates = method.updates([batch])
            next(updates)
            next(updates).loss(0)
        references = [styles[:8].detach() for styles in styled]
        assert torch.equal(*references) is apart


def test_cluster_head_learns_from_information_alone():
    method = make(loss={"queue": 24, "mutual_information": 0.0}, optimiser={"guiding_decay": 0.0})
    before = snapshot(method)
    take_step(method, make_batch(0))
    assert torch.equal(method.networks["guiding"].cluster.weight, before["guiding"]["cluster.weight"])
    assert not torch.equal(method.networks["guiding"].style.weight, before["guiding"]["style.weight"])


def test_guiding_losses_weigh_a_tenth_after_the_warmup():
    gradients = {}
    for progress in (0.0, 0.9):
        method = make(network={**SMALL["network"], "cluster_deviation": 3.0})
        method.networks["queue"].push(torch.ones(24, 8))
        loss, _ = next(method.updates([make_batch(0, progress)])).loss(0)
        of_each = torch.autograd.grad(loss, method.networks["guiding"].parameters())
        gradients[progress] = torch.cat([gradient.flatten() for gradient in of_each])
    assert gradients[0.0].norm() > 0.1
    torch.testing.assert_close(gradients[0.9], 0.1 * gradients[0.0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_each_steps_keys_become_negatives_of_the_next(progress):
    method = make()
    keys = []
    method.networks["key_encoder"].register_forward_hook(lambda _, inputs, outputs: keys.append(outputs[0]))
    for seed in range(2):
        take_step(method, make_batch(seed, progress))
    negatives, valid = method.networks["queue"].negatives()
    assert torch.equal(negatives[valid], torch.cat([keys[0], keys[2]]))  # of the views; the references' lie between


def test_key_encoder_is_the_moving_average_of_the_guiding_network():
    method = make(key_momentum=0.75)
    expected = {k: v.clone() for k, v in method.networks["guiding"].named_parameters()}
    for seed in range(3):
        take_step(method, make_batch(seed, progress=0.0))
        for k, v in method.networks["guiding"].named_parameters():
            expected[k] = 0.75 * expected[k] + 0.25 * v
    for k, v in method.networks["key_encoder"].named_parameters():
        torch.testing.assert_close(v, expected[k])
        assert not v.requires_grad


def test_generator_average_starts_late_and_key_encoder_is_copied():
    method = make()
    assert method.averaging(0.0) == {"generator": 0.0, "key_encoder": 0.0, "clusters": 0.0}
    assert method.averaging(0.33)["generator"] == 0.999
    assert set(method.averaged) == set(method.averaging(0.5)) < set(method.networks)


@pytest.mark.parametrize("progress", [0.1, 0.6])
def test_a_saved_and_loaded_method_goes_on_with_the_same_bits(progress):
    first = make()
    for seed in range(3):
        take_step(first, make_batch(seed, progress))
    file = io.BytesIO()
    torch.save([first.networks.state_dict(), {k: o.state_dict() for k, o in first.optimisers().items()}], file)
    file.seek(0)
    networks, optimisers = torch.load(file, weights_only=True)
    torch.manual_seed(99)
    second = Tunit(parse(TunitOptions, SMALL), 16, ["a", "b", "c"])
    second.networks.load_state_dict(networks)
    for name, optimiser in second.optimisers().items():
        optimiser.load_state_dict(optimisers[name])
    for seed in (7, 8):
        expected, losses = take_step(first, make_batch(seed, progress)), take_step(second, make_batch(seed, progress))
        assert all(torch.equal(expected[k], losses[k]) for k in expected)
    a, b = snapshot(first), snapshot(second)
    assert all(torch.equal(a[name][k], b[name][k]) for name in a for k in a[name])


# On a GPU


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_nothing_in_a_step_makes_the_host_wait_for_the_device(progress):
    take_step_without_waiting(make(), make_batch(0, progress))


def test_what_waits_is_seen():
    x, mask = torch.rand(4), torch.rand(4) > 0.5
    waiting = (
        lambda: x[mask],
        lambda: x.sum().item(),
        lambda: float(x.sum()),
        lambda: bool(mask.any()),
        lambda: mask.nonzero(),
        lambda: x.masked_select(mask),
        lambda: x.unique(),
        lambda: torch.equal(x, x),
        lambda: x.index_put_((mask,), x),
        lambda: x.__setitem__(mask, x[:1]),
        lambda: torch.tensor([1.0], device=x.device),
    )
    for wait in waiting:
        with pytest.raises(AssertionError, match="wait"), NothingWaits():
            wait()
    with NothingWaits():
        x[torch.arange(2)], torch.where(mask, x, 0), x.masked_fill(mask, 0), x[1:], x * 2


def test_half_precision_is_nearly_as_good_and_leaves_state_in_full():
    terms = []
    for halved in (False, True):
        method = make(network={**SMALL["network"], "cluster_deviation": 1.0})
        terms.append({})
        for update in method.updates([make_batch(0)]):
            with torch.autocast("cpu", torch.bfloat16, enabled=halved):
                loss, new = update.loss(0)
            terms[-1] |= new
            loss.backward(inputs=[p for name in update.networks for p in method.networks[name].parameters()])
            for name in update.networks:
                method.optimisers()[name].step()
    assert all(term.dtype == torch.float32 for term in terms[1].values())
    torch.testing.assert_close(terms[1], terms[0], atol=0.05, rtol=0.1)
    state = method.networks.state_dict().values()
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for value in state)


@torch._dynamo.config.patch(fail_on_recompile_limit_hit=True)
def test_compiled_networks_take_the_same_steps(monkeypatch):
    """What the compiler is given, but for the last stage, which needs a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    plain, compiled = (make(network={**SMALL["network"], "cluster_deviation": 1.0}) for _ in range(2))
    compiled.compile()
    for seed, progress in enumerate((0.0, 0.5, 0.6)):
        expected, found = (take_step(method, make_batch(seed, progress)) for method in (plain, compiled))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] >= 7 and not counters["graph_break"]
    assert compiled.networks.state_dict().keys() == plain.networks.state_dict().keys()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled_generator_runs():
    torch._dynamo.reset()
    plain, compiled = (make(network={**SMALL["network"], "bottleneck": 16, "base": 2}) for _ in range(2))
    compiled.compile()
    images, styles = images_of_three_colours(0, 2)[0][0], torch.randn(2, 8)
    found, expected = (method.networks["generator"](images, styles) for method in (compiled, plain))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


# Learning


def test_clusters_find_three_colours():
    network = {**SMALL["network"], "guiding_base": 16, "max_width": 64, "style": 32, "cluster_deviation": 0.3}
    method = make(6, network=network, optimiser={"guiding": 5e-4})
    for seed in range(120):  # after 60 the third cluster is there on one thread, and not yet on two
        take_step(method, make_batch(seed, progress=0.0, count=24))
    images, classes = images_of_three_colours(1000, 96)
    with torch.no_grad():
        clusters = method.networks["guiding"].eval()(images[0])[1].argmax(1)
    most = [int(classes[0][clusters == k].bincount(minlength=3).max()) for k in range(6) if (clusters == k).any()]
    assert len(most) >= 3 and sum(most) >= 0.95 * 96


def test_joint_training_learns_to_reconstruct():
    method = make(loss={"queue": 24, "reconstruction": 20.0}, optimiser={"generator": 3e-3, "guiding": 1e-3})
    losses = [float(take_step(method, make_batch(seed))["g_reconstruction"]) for seed in range(40)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


# Translating


def test_translates_by_reference_and_by_cluster():
    method = make()
    for seed in range(3):
        take_step(method, make_batch(seed))
    for name in method.averaged:
        method.averaged[name].load_state_dict(method.networks[name].state_dict())
    batch = make_batch(50)
    by_reference = method.reference_style(batch.reference)
    assert by_reference.shape == (8, 8)
    torch.testing.assert_close(by_reference[:3], method.reference_style(batch.reference[:3], None))
    output = method.translate(batch.source, by_reference)
    assert output.shape == batch.source.shape and output.abs().max() <= 1 and not output.requires_grad
    one, two = torch.tensor([[0.0, 1, 0]]), torch.tensor([[0.0, 1, 1]])
    drawn = [method.latent_style(one.repeat(4, 1), torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    (_, (mean, deviation), (other_mean, other_deviation)) = map(method.averaged["clusters"].moments, range(3))
    many = method.latent_style(one.repeat(4000, 1), torch.Generator())
    torch.testing.assert_close(many.mean(0), mean, atol=float(deviation.max()) * 0.1, rtol=0)
    torch.testing.assert_close(many.std(0), deviation, atol=1e-6, rtol=0.1)
    many = method.latent_style(two.repeat(4000, 1), torch.Generator())
    spread = (deviation.square() + other_deviation.square()).sqrt() / 2  # of the mean of two independent draws
    torch.testing.assert_close(many.mean(0), (mean + other_mean) / 2, atol=float(spread.max()) * 0.1, rtol=0)
    torch.testing.assert_close(many.std(0), spread, atol=1e-6, rtol=0.1)


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (48, {}, "power of two"),
        (32, {"network": {"bottleneck": 64}}, "bottleneck"),
        (32, {"loss": {"queue": 0}}, "queue"),
        (32, {"network": {"base": 0}}, "network.base"),
        (32, {"warmup": 65.0}, "warmup"),
    ],
)
def test_sizes_that_do_not_fit_are_named(size, changes, message):
    with pytest.raises(LanitError, match=message):
        Tunit(parse(TunitOptions, changes), size, ["a", "b"])
    with pytest.raises(LanitError, match="number of clusters"):
        Tunit(TunitOptions(), 32, [])
