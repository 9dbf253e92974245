"""One StarGAN v2 step: what it descends on, what moves and what must not, and what decides it."""

import copy

import pytest
import torch
from derivation import NETWORK, batch, check_derived, check_sum, gradients, iterate, moved, reached, snapshot
from steps import take_step_without_waiting

from lanit.config import LanitError, parse
from lanit.methods.stargan2 import StarGan2
from lanit.settings.stargan2 import StarGan2Options
from lanit.training.step import take_step

# Of four images, one to another domain and back, two in their own; no image is of the last domain.
SOURCES, TARGETS = torch.eye(4)[[0, 1, 2, 2]], torch.eye(4)[[1, 1, 0, 2]]


def make(**loss):
    torch.manual_seed(0)
    options = {"network": NETWORK, "loss": loss, "learning_rate": 1e-3, "mapping_learning_rate": 2e-3}
    return StarGan2(parse(StarGan2Options, options), 16, ["a", "b", "c", "d"])


def parts(progress=0.1, **changes):
    return batch(SOURCES, TARGETS, progress, second=True, **changes)


@pytest.mark.parametrize(
    "progress, ds_weight, step, real",
    [(0.2, 0.42, 0, "references"), (0.2, 0.42, 1, "references"), (0.5, 0.0, 2, "sources"), (0.2, 0.42, 2, "sources")],
)
def test_every_loss_and_gradient_is_that_of_a_float64_derivation(progress, ds_weight, step, real):
    """With two references, of which diversification needs the second, and a penalty in every other iteration."""
    weights = {"ds": 0.7, "ds_decay": 0.5, "r1": 2.0, "r1_every": 2, "sty": 1.3, "cyc": 0.8, "adv": 0.9, "real": real}
    method = make(**weights)
    expected = iterate(method, *parts(progress, step=step), ds_weight, penalised=step % 2 == 0)
    check_derived(method, lambda: parts(progress, step=step), expected.networks, expected.totals)


def test_a_step_moves_every_network_and_never_the_averages():
    method = make()
    before, averaged = snapshot(method), copy.deepcopy(method.averaged.state_dict())
    report = take_step(method, parts())
    assert moved(method, before) == {"generator", "mapping", "style_encoder", "discriminator"}
    assert all(torch.equal(value, averaged[name]) for name, value in method.averaged.state_dict().items())
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in report.values())
    guided = {"g_adv", "sty", "ds", "cyc", "d_adv", "r1"}
    assert report.keys() == guided | {f"{name}_reference" for name in guided}


def test_each_update_moves_exactly_its_own_networks():
    networks = [{"discriminator"}, {"discriminator"}, {"generator", "mapping", "style_encoder"}, {"generator"}]
    assert reached(gradients(make(), parts())) == networks


def test_a_domain_that_no_image_is_of_learns_nothing():
    """Its branch of the mapping network, its style and its logit: unlike LANIT's labels, these are of one domain."""
    _, discriminator, latent, _ = gradients(make(), parts())
    for n in range(4):
        own = [latent[f"mapping.weights.{i}"][n] for i in range(4)]
        own += [
            latent["style_encoder.head.weight"].unflatten(0, (4, 6))[n],
            discriminator["discriminator.head.weight"][n],
        ]
        assert [bool(gradient.any()) for gradient in own] == [n < 3] * 6


@pytest.mark.parametrize(
    "term, latent, reference",
    [
        ("adv", {"generator", "mapping"}, {"generator"}),
        ("sty", {"generator", "mapping", "style_encoder"}, {"generator"}),
        ("ds", {"generator", "mapping"}, {"generator"}),
        ("cyc", {"generator", "mapping", "style_encoder"}, {"generator"}),
    ],
)
def test_each_term_reaches_the_networks_that_it_should(term, latent, reference):
    nothing = dict.fromkeys(("adv", "cyc", "sty", "ds", "r1"), 0.0)
    assert reached(gradients(make(**nothing | {term: 5.0}), parts())[2:]) == [latent, reference]


def test_diversification_falls_linearly_to_nothing():
    later, first = gradients(make(ds=2.0, ds_decay=0.5), parts(0.25)), gradients(make(ds=1.0), parts(0.0))
    for ones, others in zip(later, first):
        assert all(torch.equal(ones[key], others[key]) for key in ones)
    strong, weak = make(ds=50.0, ds_decay=0.5), make(ds=1.0, ds_decay=0.5)
    for method in (strong, weak):
        assert not {"ds", "ds_reference"} & set(take_step(method, parts(0.5)))
    assert all(torch.equal(a, b) for a, b in zip(strong.networks.parameters(), weak.networks.parameters()))
    assert {"ds", "ds_reference"} <= set(take_step(make(), parts(0.999)))  # its default is the whole budget


def test_a_lazy_penalty_comes_every_few_iterations_with_its_whole_weight():
    for step, penalised in ((0, True), (1, False), (3, False), (4, True)):
        assert ("r1" in take_step(make(r1_every=4), parts(step=step))) is penalised
    lazy, whole = (gradients(make(**loss), parts())[0] for loss in ({"r1": 2.0, "r1_every": 3}, {"r1": 6.0}))
    for key in lazy:
        torch.testing.assert_close(lazy[key], whole[key])


def test_for_one_domain_an_image_the_penalty_on_the_sum_is_that_on_the_mean():
    ones, others = (gradients(make(r1=5.0, r1_heads=heads), parts())[0] for heads in ("sum", "mean"))
    assert all(torch.equal(ones[key], others[key]) for key in ones)


@pytest.mark.parametrize("count", [2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(count):
    check_sum(gradients(make(), parts(0.3)), gradients(make(), parts(0.3, parts=count)))
    whole, split = ([update.loss for update in make().updates(parts(0.3, parts=k))] for k in (1, count))
    for one, many in zip(whole, split):
        told = [many(i)[1] for i in range(count)]
        for name, value in one(0)[1].items():
            assert sum(terms[name].item() for terms in told) == pytest.approx(value.item(), rel=1e-4), name


def test_networks_in_bfloat16_stay_near_those_in_float32():
    reports = [take_step(make(), parts(), precision) for precision in ("fp32", "bf16")]
    for name, value in reports[0].items():
        assert reports[1][name].dtype == torch.float32
        if not name.startswith("r1"):
            assert reports[1][name].item() == pytest.approx(value.item(), rel=0.05, abs=0.02), name
    method = make()
    before = snapshot(method)
    take_step(method, parts(), "bf16")
    assert len(moved(method, before)) == 4 and all(p.dtype == torch.float32 for p in method.networks.parameters())


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_in_a_step_makes_the_host_wait_for_the_device(count):
    take_step_without_waiting(make(), *parts(parts=count))


def test_the_same_seed_gives_the_same_bits_and_draws_nothing_from_the_global_generator():
    results = []
    for number in range(2):
        method = make()
        torch.manual_seed(number)
        state = torch.get_rng_state()
        for step in range(2):
            take_step(method, parts(step=step))
        assert torch.equal(state, torch.get_rng_state())
        results.append(snapshot(method))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_style_is_that_of_the_domain_asked_for():
    method, (part,) = make(), parts()
    codes = method.averaged["style_encoder"](part.reference)
    expected = torch.stack([codes[0, 1], codes[1, 1], codes[2, 0], codes[3, 2]])
    torch.testing.assert_close(method.reference_style(part.reference, TARGETS), expected)
    codes = method.averaged["mapping"](torch.randn(4, 5, generator=torch.Generator().manual_seed(3)))
    expected = torch.stack([codes[0, 1], codes[1, 1], codes[2, 0], codes[3, 2]])
    torch.testing.assert_close(method.latent_style(TARGETS, torch.Generator().manual_seed(3)), expected)
    assert method.translate(part.source, expected).abs().max() <= 1


def test_defaults_are_the_papers():
    options = StarGan2Options()
    loss = options.loss
    assert (loss.adv, loss.cyc, loss.sty, loss.ds, loss.r1, loss.r1_every, loss.ds_decay) == (1, 1, 1, 1, 1, 1, 1)
    assert (options.learning_rate, options.discriminator_learning_rate) == (1e-4, 1e-4)
    assert (options.mapping_learning_rate, options.weight_decay, options.ema) == (1e-6, 1e-4, 0.999)
    rates = {name: optimiser.param_groups[0]["lr"] for name, optimiser in make().optimisers().items()}
    assert rates == {"generator": 1e-3, "mapping": 2e-3, "style_encoder": 1e-3, "discriminator": 1e-4}
    with pytest.raises(LanitError, match="options.loss.ds_decay must be above 0, not 0"):
        make(ds_decay=0)
