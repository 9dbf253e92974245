"""Smoothing: its terms against closed forms, and one whole iteration against the paper's and StarGAN v2's formulas."""

import copy

import derivation
import pytest
import torch
import torch.nn.functional as F
from derivation import NETWORK, check_derived, check_sum, gradients, iterate, reached
from processes import in_processes
from steps import take_step_without_waiting
from torch.distributions import Independent, Normal, kl_divergence

from lanit import catalogue, collectives
from lanit.config import LanitError, parse
from lanit.evaluation.judge import JudgeOptions, save_judge
from lanit.methods import smoothing
from lanit.methods.protocol import PerceptualMethod
from lanit.methods.smoothing import Smoothing, triplet_margin, triplet_weights
from lanit.networks.judge import Judge
from lanit.settings.smoothing import SmoothingLossOptions, SmoothingOptions
from lanit.training.step import take_step

# Of four images, one to each domain and back; the second and the third change theirs.
SOURCES, TARGETS = torch.eye(3)[[0, 1, 2, 1]], torch.eye(3)[[0, 2, 1, 1]]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Judge(["a"], False, 16, 4)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # no feature so small that rounding decides its direction
                torch.nn.init.constant_(module.bias, 1.0)
        save_judge(network, path, JudgeOptions(width=4), {"a": 1.0})
    return str(path)


def make(judge, **loss):
    torch.manual_seed(0)
    options = {
        "network": NETWORK,
        "loss": loss,
        "learning_rate": 1e-3,
        "mapping_learning_rate": 1e-3,
        "perceptual": {"kind": "judge", "weights": judge},
    }
    return Smoothing(parse(SmoothingOptions, options), 16, ["a", "b", "c"])


def batch(progress=0.1, sources=SOURCES, **changes):
    return derivation.batch(sources, TARGETS, progress, second=True, **changes)


def test_the_triplet_is_the_hinge_of_two_distances_over_the_images_that_change_their_domain():
    torch.manual_seed(0)
    anchor, positive, negative = torch.randn(3, 4, 6, dtype=torch.float64)
    negative[1], negative[2] = anchor[1] + 0.1, anchor[2] + 10  # so far that nothing is left of the hinge
    hinges = [
        max(0.0, sum((a - p + 1e-6) ** 2).item() ** 0.5 - sum((a - n + 1e-6) ** 2).item() ** 0.5 + 0.3)
        for a, p, n in zip(anchor, positive, negative)
    ]
    assert hinges[1] > 0 == hinges[2]
    weights = triplet_weights(SOURCES, TARGETS).double()
    assert weights.tolist() == [0, 1, 1, 0]
    found = triplet_margin(anchor, positive, negative, weights / weights.sum(), 0.3)
    assert found.item() == pytest.approx((hinges[1] + hinges[2]) / 2, abs=1e-12)
    assert triplet_margin(anchor, positive, negative, torch.zeros(4), 0.3) == 0
    halves = [styles.bfloat16() for styles in (anchor, positive, negative)]
    singles = [styles.float() for styles in halves]
    torch.testing.assert_close(
        triplet_margin(*halves, torch.ones(4), 0.3), triplet_margin(*singles, torch.ones(4), 0.3), rtol=0, atol=0
    )


def test_the_triplet_pulls_styles_of_one_domain_together_and_others_apart():
    torch.manual_seed(1)
    anchor, positive, negative = torch.randn(3, 5, 6).unbind()
    for styles in (positive, negative):
        styles.requires_grad_()
    triplet_margin(anchor, positive, negative, torch.ones(5), 5.0).backward()
    towards = (anchor - positive).mul(-positive.grad).sum(1), (anchor - negative).mul(-negative.grad).sum(1)
    assert (towards[0] > 0).all() and (towards[1] < 0).all()


def test_kl_is_the_divergence_of_a_normal_about_the_style_or_its_mean_square():
    torch.manual_seed(0)
    styles = torch.randn(7, 6, dtype=torch.float64) * 2
    about = Independent(Normal(styles, torch.ones_like(styles)), 1)
    standard = Independent(Normal(torch.zeros_like(styles), torch.ones_like(styles)), 1)
    expected = kl_divergence(about, standard).mean()
    torch.testing.assert_close(smoothing.kl_divergence(styles, "divergence"), expected)
    torch.testing.assert_close(smoothing.kl_divergence(styles, "squares"), expected * 2 / 6)


def test_the_weight_of_kl_is_nothing_until_forty_and_whole_at_a_hundred_thousand_iterations():
    loss = SmoothingLossOptions()
    shares = {0: 0, 39_999: 0, 40_000: 0, 40_600: 0.01, 70_000: 0.5, 100_000: 1}
    assert [loss.kl_weight(step / 100_000) for step in shares] == pytest.approx(list(shares.values()))
    assert SmoothingLossOptions(kl=4, kl_start=0.0, kl_ramp=0.5).kl_weight(0.9) == 4


def derived(method, part, ds_weight, kl_weight):
    """StarGAN v2's iteration and the terms on top of it, in float64 and loops."""
    made, weight, x = iterate(method, part, ds_weight), method.options.loss, part.source.double()
    judge = copy.deepcopy(method.perceptual.trunk.judge).double()

    def content(images):
        total = 0.0
        for a, b in zip(judge.maps(x), judge.maps(images)):
            a, b = (maps / maps.square().sum(1, keepdim=True).add(1e-10).sqrt() for maps in (a, b))
            total = total + (a - b).square().sum() / (4 * a[0, 0].numel()) / 4
        return total

    hinges, of_all = [], made.networks["mapping"](made.z1)
    for i, (n, target) in enumerate(zip(made.of_x, made.of_y)):
        if n != target:
            near, far = (made.style[i] - made.other[i]).norm(), (made.style[i] - of_all[i, n]).norm()
            hinges.append(F.relu(near - far + weight.margin))
            assert hinges[-1] > 0
    size = made.style.shape[1]
    squares = (made.style.square().sum() + made.source.square().sum()) / (4 * size)
    made.totals[2] = (
        made.totals[2]
        + weight.triplet * (sum(hinges) / len(hinges) if hinges else 0)
        + kl_weight * (squares if weight.kl_form == "squares" else squares * size / 2)
        + weight.content * content(made.fake)
    )
    made.totals[3] = made.totals[3] + weight.content * content(made.fake_reference)
    return made


@pytest.mark.parametrize(
    "progress, kl_form, sources",
    [(0.2, "squares", SOURCES), (0.7, "squares", TARGETS), (0.7, "divergence", SOURCES)],  # TARGETS: no image changes
)
def test_every_loss_and_gradient_is_that_of_a_float64_derivation(judge, progress, kl_form, sources):
    weights = {"ds": 0.7, "r1": 2.0, "sty": 1.3, "cyc": 0.8, "adv": 0.9, "triplet": 0.6, "margin": 9.0, "content": 0.5}
    method = make(judge, **weights, kl=0.8, kl_form=kl_form)
    kl_weight = 0.8 * max(0, (progress - 0.4) / 0.6)
    expected = derived(method, *batch(progress, sources), 0.7 * (1 - progress), kl_weight)
    check_derived(method, lambda: batch(progress, sources), expected.networks, expected.totals)


def test_each_update_moves_exactly_its_own_networks(judge):
    method = make(judge)
    assert reached(gradients(method, batch(0.9))) == [
        {"discriminator"},
        {"discriminator"},
        {"generator", "mapping", "style_encoder"},
        {"generator"},
    ]
    state = copy.deepcopy(method.perceptual.state_dict())
    take_step(method, batch(0.9))
    torch.testing.assert_close(dict(method.perceptual.state_dict()), dict(state), rtol=0, atol=0)
    assert "perceptual" not in method.networks and "perceptual" not in method.averaged


@pytest.mark.parametrize(
    "term, latent, reference",
    [
        ("triplet", {"mapping"}, set()),
        ("kl", {"mapping", "style_encoder"}, set()),
        ("content", {"generator", "mapping"}, {"generator"}),
    ],
)
def test_each_term_reaches_the_networks_that_it_should(judge, term, latent, reference):
    nothing = dict.fromkeys(("adv", "cyc", "sty", "ds", "r1", "triplet", "kl", "content"), 0.0)
    found = gradients(make(judge, **nothing | {term: 5.0}, margin=5.0), batch(0.9))
    assert reached(found[2:]) == [latent, reference]


def test_a_step_tells_its_terms_and_none_that_has_no_weight(judge):
    told = take_step(make(judge), batch(0.3))
    assert {"triplet", "content", "content_reference"} <= set(told) and "kl" not in told
    assert told["content"] > 0 and all(value.isfinite() for value in told.values())
    told = take_step(make(judge, triplet=0.0, content=0.0), batch(0.7))
    assert "kl" in told and not {"triplet", "content"} & set(told)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(judge, parts):
    """The images that change their domain are counted over the whole batch, in which they are spread unevenly."""
    check_sum(*(gradients(make(judge, triplet=3.0, margin=2.0), batch(0.7, parts=k)) for k in (1, parts)))
    told = [take_step(make(judge), batch(0.7, parts=k)) for k in (1, parts)]
    assert told[0].keys() == told[1].keys()
    assert told[1]["triplet"].item() == pytest.approx(told[0]["triplet"].item(), rel=1e-4)


# Of the images that change their domain one process has two, the other one.
UNEVEN = torch.eye(3)[[1, 1, 1, 0]]


def latent_guided():
    """The gradients of this process's part in the latent-guided update, and what it tells of the triplet."""
    method = make("none.safetensors", content=0.0, triplet=3.0, margin=2.0)
    rank = torch.distributed.get_rank() if collectives.world_size() > 1 else 0
    part = batch(0.7, parts=collectives.world_size(), sources=UNEVEN)[rank]
    *_, update, _ = method.updates([part])
    parameters = dict(method.networks["mapping"].named_parameters())
    total, told = update.loss(0)
    total.backward(inputs=list(parameters.values()))
    return {"triplet": told["triplet"]} | {key: p.grad for key, p in parameters.items()}


def test_two_processes_add_up_to_one(tmp_path):
    expected, halves = latent_guided(), in_processes(latent_guided, 2, tmp_path)
    assert min(half["triplet"] for half in halves) > 0
    for key, value in expected.items():
        torch.testing.assert_close(halves[0][key] + halves[1][key], value, rtol=1e-3, atol=1e-5)


def test_nothing_waits_for_the_device(judge):
    take_step_without_waiting(make(judge), *batch(0.7))
    take_step_without_waiting(make(judge), *batch(0.7, parts=2))


def test_in_half_precision_the_terms_are_float32_and_about_the_same(judge):
    full, half = (take_step(make(judge), batch(0.7), precision=precision) for precision in ("fp32", "bf16"))
    for name in ("triplet", "kl", "content"):
        assert half[name].dtype == torch.float32
        assert half[name].item() == pytest.approx(full[name].item(), rel=0.05, abs=0.02)


def test_without_weights_training_ends_before_anything_moves_and_translating_needs_none(tmp_path):
    method = make(str(tmp_path / "judge.safetensors"))
    before = copy.deepcopy(method.networks.state_dict())
    with pytest.raises(LanitError, match="no file at .*judge.safetensors; lanit evaluate judge makes it"):
        take_step(method, batch())
    torch.testing.assert_close(dict(method.networks.state_dict()), dict(before), rtol=0, atol=0)
    style = method.reference_style(batch()[0].reference, TARGETS)
    assert method.translate(batch()[0].source, style).abs().max() <= 1
    take_step(make(str(tmp_path / "judge.safetensors"), content=0.0), batch())


def test_the_distance_is_named_where_it_has_a_weight(judge):
    method = make(judge)
    assert isinstance(method, PerceptualMethod) and method.perceptual_name == method.perceptual.name
    assert method.perceptual_name.startswith("judge-")
    assert make("none.safetensors", content=0.0).perceptual_name is None


def test_defaults_are_the_authors_and_the_catalogue_reads_them():
    options = catalogue.read_settings("smoothing", {})
    assert catalogue.find("smoothing").supervision == "truth"
    loss = options.loss
    assert (loss.sty, loss.triplet, loss.margin, loss.kl, loss.content, loss.ds) == (2, 0.1, 0.1, 1, 1, 1)
    assert (loss.kl_start, loss.kl_ramp, loss.ds_decay) == (0.4, 0.6, 1.0)
    assert (options.perceptual.kind, options.mapping_learning_rate) == ("lpips", 1e-6)
    options.check(256, 10)
    with pytest.raises(LanitError, match="size 48 cannot be halved"):
        options.check(48, 10)
    with pytest.raises(LanitError, match="train.smoothing.settings.perceptual.weights is missing: a judge"):
        catalogue.read_settings("smoothing", {"perceptual": {"kind": "judge"}}).check(256, 10)
    with pytest.raises(LanitError, match="loss.margin must be at least 0"):
        catalogue.read_settings("smoothing", {"loss": {"margin": -0.1}})
