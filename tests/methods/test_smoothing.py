"""Smoothing: its terms against closed forms, and one whole iteration against the paper's and StarGAN v2's formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from processes import in_processes
from steps import take_step_without_waiting
from torch.distributions import Independent, Normal, kl_divergence

from lanit import catalogue, collectives
from lanit.config import LanitError, parse
from lanit.data.rng import BatchRng
from lanit.evaluation.judge import JudgeOptions, save_judge
from lanit.methods import smoothing
from lanit.methods.protocol import Batch, PerceptualMethod
from lanit.methods.smoothing import Smoothing, triplet_margin, triplet_weights
from lanit.networks.judge import Judge
from lanit.settings.smoothing import SmoothingLossOptions, SmoothingOptions
from lanit.training.step import take_step

NETWORK = {"base_channels": 4, "max_channels": 8, "style_size": 6, "latent_size": 5, "hidden_size": 8, "bottleneck": 4}
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


def batch(progress=0.1, parts=1, sources=SOURCES, step=0):
    generator = torch.Generator().manual_seed(0)
    x, y, y2 = torch.rand(3, 4, 3, 16, 16, generator=generator) * 2 - 1
    count = 4 // parts
    split = zip(*(tensor.split(count) for tensor in (x, y, sources, TARGETS, y2)))
    return [
        Batch(*own, TARGETS.sum(), count / 4, BatchRng(0, step, i * count, count, 4), step, progress, second)
        for i, (*own, second) in enumerate(split)
    ]


def gradients(method, parts):
    """The gradient of each update by parameter, with no step taken: all updates see the networks as they are now."""
    found = []
    for update in method.updates(parts):
        ones = {f"{name}.{key}": p for name in update.networks for key, p in method.networks[name].named_parameters()}
        for p in ones.values():
            p.grad = None
        for i in range(len(parts)):
            update.loss(i)[0].backward(inputs=list(ones.values()))
        found.append({key: p.grad.clone() for key, p in ones.items() if p.grad is not None})
    return found


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
    """Every update's loss and gradient once more, in float64 and loops."""
    net = {name: copy.deepcopy(network).double() for name, network in method.networks.items()}
    judge = copy.deepcopy(method.perceptual.trunk.judge).double()
    weight = method.options.loss
    x, y, y2 = (images.double() for images in (part.source, part.reference, part.second_reference))
    of_x, of_y = part.source_labels.argmax(1).tolist(), part.reference_labels.argmax(1).tolist()
    z1, z2 = BatchRng(0, 0, 0, 4, 4).normal(2, 5).double().unbind(1)
    generator, mapping, style_encoder, discriminator = (
        net[name] for name in ("generator", "mapping", "style_encoder", "discriminator")
    )

    def pick(values, domains):
        return torch.stack([row[domain] for row, domain in zip(values, domains)])

    def l1(a, b):
        return (a - b).abs().sum() / a.numel()

    def judged(images, real):
        return F.softplus(-pick(discriminator(images), of_y) if real else pick(discriminator(images), of_y)).mean()

    def r1():
        real = y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(pick(discriminator(real), of_y).sum(), real, create_graph=True)
        return 0.5 * slope.square().sum() / 4

    def content(images):
        total = 0.0
        for a, b in zip(judge.maps(x), judge.maps(images)):
            a, b = (maps / maps.square().sum(1, keepdim=True).add(1e-10).sqrt() for maps in (a, b))
            total = total + (a - b).square().sum() / (4 * a[0, 0].numel()) / 4
        return total

    style, other = pick(mapping(z1), of_y), pick(mapping(z2), of_y)
    source = pick(style_encoder(x), of_x)
    fake = generator(x, style)
    style_r, other_r = pick(style_encoder(y), of_y).detach(), pick(style_encoder(y2), of_y).detach()
    fake_r = generator(x, style_r)
    hinges = []
    for i in range(4):
        if of_x[i] != of_y[i]:
            near, far = (style[i] - other[i]).norm(), (style[i] - mapping(z1)[i, of_x[i]]).norm()
            hinges.append(F.relu(near - far + weight.margin))
    s = style.shape[1]
    squares = (style.square().sum() + source.square().sum()) / (4 * s)
    kl = squares if weight.kl_form == "squares" else squares * s / 2
    totals = [
        weight.adv * (judged(y, True) + judged(made.detach(), False)) + weight.r1 * r1() for made in (fake, fake_r)
    ]
    totals.append(
        weight.adv * judged(fake, True)
        + weight.sty * l1(pick(style_encoder(fake), of_y), style)
        + weight.cyc * l1(generator(fake, source), x)
        - ds_weight * l1(fake, generator(x, other).detach())
        + weight.triplet * (sum(hinges) / len(hinges) if hinges else 0)
        + kl_weight * kl
        + weight.content * content(fake)
    )
    totals.append(
        weight.adv * judged(fake_r, True)
        + weight.sty * l1(pick(style_encoder(fake_r), of_y), style_r)
        + weight.cyc * l1(generator(fake_r, source.detach()), x)
        - ds_weight * l1(fake_r, generator(x, other_r).detach())
        + weight.content * content(fake_r)
    )
    names = [["discriminator"], ["discriminator"], ["generator", "mapping", "style_encoder"], ["generator"]]
    found = []
    for total, ones in zip(totals, names):
        parameters = {f"{name}.{key}": p for name in ones for key, p in net[name].named_parameters()}
        grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, retain_graph=True)
        found.append({key: g for key, g in zip(parameters, grads) if g is not None})
    return totals, found


@pytest.mark.parametrize("sources", [SOURCES, TARGETS])  # the other way no image changes its domain
@pytest.mark.parametrize("progress, kl_form", [(0.2, "squares"), (0.7, "squares"), (0.7, "divergence")])
def test_every_loss_and_gradient_is_that_of_a_float64_derivation(judge, progress, kl_form, sources):
    weights = {"ds": 0.7, "r1": 2.0, "sty": 1.3, "cyc": 0.8, "adv": 0.9, "triplet": 0.6, "margin": 0.4, "content": 0.5}
    method = make(judge, **weights, kl=0.8, kl_form=kl_form)
    totals, expected = derived(
        method, *batch(progress, sources=sources), 0.7 * (1 - progress), 0.8 * max(0, (progress - 0.4) / 0.6)
    )
    values = [update.loss(0)[0].item() for update in method.updates(batch(progress, sources=sources))]
    assert values == pytest.approx([total.item() for total in totals], rel=1e-4)
    for number, (ones, others) in enumerate(zip(gradients(method, batch(progress, sources=sources)), expected)):
        assert ones.keys() == others.keys(), number
        scale = max(g.abs().max().item() for g in others.values())
        for key, gradient in ones.items():
            assert (gradient.double() - others[key]).abs().max().item() < 2e-4 * scale, (number, key)


def test_each_update_moves_exactly_its_own_networks(judge):
    method = make(judge)
    reached = [{key.split(".")[0] for key, g in ones.items() if g.any()} for ones in gradients(method, batch(0.9))]
    assert reached == [{"discriminator"}, {"discriminator"}, {"generator", "mapping", "style_encoder"}, {"generator"}]
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
    assert [{key.split(".")[0] for key, g in ones.items() if g.any()} for ones in found[2:]] == [latent, reference]


def test_a_step_tells_its_terms_and_none_that_has_no_weight(judge):
    told = take_step(make(judge), batch(0.3))
    assert {"triplet", "content", "content_reference"} <= set(told) and "kl" not in told
    assert told["content"] > 0 and all(value.isfinite() for value in told.values())
    told = take_step(make(judge, triplet=0.0, content=0.0), batch(0.7))
    assert "kl" in told and not {"triplet", "content"} & set(told)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(judge, parts):
    """The images that change their domain are counted over the whole batch, in which they are spread unevenly."""
    whole, split = (gradients(make(judge, triplet=3.0, margin=2.0), batch(0.7, parts=k)) for k in (1, parts))
    for ones, others in zip(whole, split):
        scale = max(g.abs().max().item() for g in ones.values())
        assert max((g - others[key]).abs().max().item() for key, g in ones.items()) < 1e-4 * scale
    told = [take_step(make(judge), batch(0.7, parts=k)) for k in (1, parts)]
    assert told[0].keys() == told[1].keys()
    assert told[1]["triplet"].item() == pytest.approx(told[0]["triplet"].item(), rel=1e-4)


# Of two processes the first has all images that change their domain.
UNEVEN = torch.eye(3)[[1, 1, 1, 1]]


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
    assert halves[0]["triplet"] > 0 == halves[1]["triplet"]
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
    with pytest.raises(LanitError, match="train.smoothing.settings.perceptual.weights is missing: a judge"):
        catalogue.read_settings("smoothing", {"perceptual": {"kind": "judge"}}).check(256, 10)
    with pytest.raises(LanitError, match="loss.margin must be at least 0"):
        catalogue.read_settings("smoothing", {"loss": {"margin": -0.1}})
