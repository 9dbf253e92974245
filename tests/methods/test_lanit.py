"""One LANIT step: what it descends on, what moves and what must not, and what decides it."""

import copy
import dataclasses
import json
import math

import derivation
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from derivation import MOVED, NETWORK, check_derived, check_sum, doubled, gradients, l1, moved, reached, snapshot
from steps import take_step_without_waiting

from lanit.config import LanitError, parse
from lanit.data.rng import BatchRng
from lanit.methods import create_method, losses
from lanit.methods import lanit as lanit_module
from lanit.methods.lanit import Flip, Lanit, flip_one
from lanit.settings.lanit import LanitOptions
from lanit.training.step import take_step

LABELS = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0]])
LANGUAGE = {"clip": {}, "templates": ["a face with {}."]}


class Words(torch.nn.Module):
    """Prompts that a test can see through: N + 1 texts that depend on one vector, as those of a text tower do."""

    def __init__(self, domains):
        super().__init__()
        self.vectors = torch.nn.Parameter(torch.randn(4))
        self.register_buffer("map", torch.randn(domains + 1, 4, 7))
        self.calls = 0

    def forward(self):
        self.calls += 1
        return F.normalize(torch.einsum("v,nvk->nk", self.vectors, self.map), dim=1)


class LinearGuide:
    """A frozen image tower that a test can see through: one linear map, normalised."""

    def __init__(self, domains, prompts=None):
        self.map = torch.nn.Linear(3 * 16 * 16, 7).requires_grad_(False)
        self.clip = self
        self.logit_scale = 10.0
        self.prompts = prompts
        self.texts = F.normalize(torch.randn(domains + 1, 7), dim=1)
        self.calls = []

    def similarities(self, images, texts):
        self.calls.append(images)
        return F.normalize(self.map(images.flatten(1)), dim=1).float() @ texts.T

    def label(self, embeddings, texts):
        f = (embeddings @ texts.T).numpy()
        return f[:, :-1] > f[:, -1:]


@pytest.fixture
def lanit(monkeypatch):
    """Makes a method of three domains or more on 16 pixels, with a linear guide."""

    def make(learned=False, uncovered="left_out", prompts=None, domains=3, **loss):
        torch.manual_seed(0)
        guide = LinearGuide(domains, Words(domains) if learned else None)
        monkeypatch.setattr("lanit.language.guide.Guide", lambda *_: guide)
        options = {"network": NETWORK, "loss": loss, "learning_rate": 1e-3, "prompts": prompts or {}}
        language = LANGUAGE | {"prompts": "learned" if learned else "frozen", "uncovered": uncovered}
        names = [f"domain {n}" for n in range(domains)]
        return Lanit(parse(LanitOptions, options), 16, names, "cpu", language, "labels")

    return make


def batch(progress=0.1, labels=LABELS, references=None, **changes):
    """Four sources with labels (4, N), and four references with the same in reverse, or with others."""
    return derivation.batch(labels, labels.flip(0) if references is None else references, progress, **changes)


def test_a_step_moves_every_network_and_never_clip_or_the_averages(lanit):
    method = lanit()
    before, averaged = snapshot(method), copy.deepcopy(method.averaged.state_dict())
    tower, texts = copy.deepcopy(method.guide.map.state_dict()), method.guide.texts.clone()
    report = take_step(method, batch())
    assert moved(method, before) == {"generator", "mapping", "style_encoder", "discriminator"}
    assert all(torch.equal(value, averaged[name]) for name, value in method.averaged.state_dict().items())
    assert all(torch.equal(value, tower[name]) for name, value in method.guide.map.state_dict().items())
    assert torch.equal(texts, method.guide.texts)
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in report.values())


def test_each_update_moves_exactly_its_own_networks(lanit):
    for learned, latent in (
        (False, {"generator", "mapping", "style_encoder"}),
        (True, {"generator", "mapping", "style_encoder", "prompts"}),
    ):
        method = lanit(learned=learned)
        assert reached(gradients(method, batch(progress=0.9))) == [
            {"discriminator"},
            {"discriminator"},
            latent,
            {"generator"},
        ]


def derived(method, part, ds_weight, similarity, normalise):
    """What each update descends on once more, in float64 and loops, from the paper's equations."""
    net = doubled(method)
    x, y = part.source.double(), part.reference.double()
    d_x, d_y = part.source_labels.tolist(), part.reference_labels.tolist()
    weight, rng = method.options.loss, BatchRng(0, 0, 0, 4, 4)
    z1, z2 = rng.normal(2, 5).double().unbind(1)
    n, d_inv = flip_one(part.reference_labels, rng)
    n, d_inv = n.tolist(), d_inv.tolist()

    def mix(styles, d):
        return torch.stack([torch.stack([s for s, on in zip(row, o) if on]).mean(0) for row, o in zip(styles, d)])

    def adversarial(logits, d, real):
        total = sum(
            F.softplus(-logit if real else logit) for row, o in zip(logits, d) for logit, on in zip(row, o) if on
        )
        return total / (len(d) if normalise == "image" else sum(map(sum, d)))

    truly, d_truly = (y, d_y) if weight.real == "references" else (x, d_x)

    def r1():
        real = truly.clone().requires_grad_()
        of = torch.sum if weight.r1_heads == "sum" else torch.mean
        heads = torch.stack([of(row[torch.tensor(o) > 0]) for row, o in zip(net["discriminator"](real), d_truly)])
        (slope,) = torch.autograd.grad(heads.sum(), real, create_graph=True)
        return 0.5 * slope.square().sum() / len(y)

    def entropy(images, d, texts):
        encoder = method.guide.map
        v = F.normalize(F.linear(images.flatten(1), encoder.weight.double(), encoder.bias.double()), dim=1)
        total = 0.0
        for i, row in enumerate(v @ texts.T):
            f = row[n[i]]
            p = f.clamp(1e-4, 1 - 1e-4) if similarity == "cosine" else torch.sigmoid(10.0 * (f - row[-1]))
            total = total - (torch.log(p) if d[i][n[i]] else torch.log(1 - p)) / len(d)
        return total

    generator, mapping, style_encoder = net["generator"], net["mapping"], net["style_encoder"]
    texts = net["prompts"]() if "prompts" in net else method.guide.texts.double()
    fake, other = generator(x, mix(mapping(z1), d_y)), generator(x, mix(mapping(z2), d_y)).detach()
    fake_reference = generator(x, mix(style_encoder(y), d_y).detach())
    cycled = generator(fake, mix(style_encoder(x), d_x))
    inverse = generator(fake, mix(mapping(z1), d_inv))
    dl = entropy(fake, d_y, texts) + entropy(inverse, d_inv, texts)
    totals = [
        weight.adv
        * (
            adversarial(net["discriminator"](truly), d_truly, True)
            + adversarial(net["discriminator"](made.detach()), d_y, False)
        )
        + weight.r1 * r1()
        for made in (fake, fake_reference)
    ]
    totals.append(
        weight.adv * adversarial(net["discriminator"](fake), d_y, True)
        + weight.sty * l1(mix(style_encoder(fake), d_y), mix(mapping(z1), d_y))
        + weight.cyc * l1(cycled, x)
        + weight.dl * dl
        - ds_weight * l1(fake, other)
    )
    style, source = mix(style_encoder(y), d_y).detach(), mix(style_encoder(x), d_x).detach()
    totals.append(
        weight.adv * adversarial(net["discriminator"](fake_reference), d_y, True)
        + weight.sty * l1(mix(style_encoder(fake_reference), d_y), style)
        + weight.cyc * l1(generator(fake_reference, source), x)
    )
    return net, totals


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("similarity, normalise, heads", [("cosine", "image", "sum"), ("logit", "pair", "mean")])
def test_every_loss_and_gradient_is_that_of_a_float64_derivation(lanit, learned, similarity, normalise, heads):
    weights = {"ds": 0.7, "dl": 0.6, "r1": 2.0, "sty": 1.3, "cyc": 0.8, "adv": 0.9, "r1_heads": heads}
    options = {**weights, "similarity": similarity, "adversarial": normalise}
    progress = 0.1 if not learned else 0.7
    ds_weight = 0.7 * (1 - progress / (130 / 150))
    check_lanit(lanit(learned, **options), lambda: batch(progress), ds_weight, similarity, normalise)


def check_lanit(method, make_batch, ds_weight, similarity, normalise):
    net, totals = derived(method, *make_batch(), ds_weight, similarity, normalise)
    moving = [*MOVED[:2], (*MOVED[2], "prompts"), MOVED[3]] if "prompts" in net else MOVED
    check_derived(method, make_batch, net, totals, moving)


ONE = torch.eye(4)[[0, 1, 2, 2]]  # of four domains, one an image
THREE = 1 - torch.eye(4)[[1, 3, 0, 3]]  # three of them


@pytest.mark.parametrize(
    "sources, references, loss",
    [
        (ONE, ONE.flip(0), {}),
        (THREE, THREE.flip(0), {}),
        (THREE, THREE.flip(0), {"adversarial": "pair", "r1_heads": "mean"}),
        (ONE, THREE, {"adversarial": "pair", "real": "sources"}),
        (THREE, ONE, {"adversarial": "image", "real": "sources"}),
    ],
)
def test_an_iteration_of_one_and_of_three_active_domains_is_that_of_a_float64_derivation(
    lanit, sources, references, loss
):
    method = lanit(learned=True, domains=4, similarity="logit", r1=2.0, ds=0.7, **loss)
    ds_weight = 0.7 * (1 - 0.7 / (130 / 150))
    check_lanit(
        method,
        lambda: batch(0.7, labels=sources, references=references),
        ds_weight,
        "logit",
        loss.get("adversarial", "image"),
    )


def test_the_penalty_of_three_active_domains_is_that_of_one_head_added_up(lanit):
    """With heads of one weight, R1 on their sum is nine times that of one of them, and R1 on their mean the same."""
    found = {}
    for heads in ("sum", "mean"):
        for active in (1, 3):
            method = lanit(domains=4, adv=0.0, r1=1.0, r1_heads=heads)
            with torch.no_grad():
                weight = method.networks["discriminator"].head.weight
                weight.copy_(weight[:1].expand_as(weight))
            labels = torch.zeros(4, 4)
            labels[:, :active] = 1
            found[heads, active] = next(method.updates(batch(labels=labels))).loss(0)[0].item()
    assert found["sum", 3] == pytest.approx(9 * found["sum", 1], rel=1e-4) and found["sum", 1] > 0
    assert found["mean", 3] == pytest.approx(found["mean", 1], rel=1e-4)


@pytest.mark.parametrize("r1_every", [1, 2])
def test_real_images_are_the_references_or_the_sources(lanit, r1_every):
    for real in ("references", "sources"):
        method, seen = lanit(real=real, r1_every=r1_every), []
        method.networks["discriminator"].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))  # noqa: B023
        (part,) = batch(step=1)
        next(method.updates([part])).loss(0)
        assert torch.equal(seen[0][:4].detach(), part.reference if real == "references" else part.source)


def test_words_are_drawn_towards_zero_where_they_are_told_so(lanit):
    groups = [
        lanit(learned=True, prompts=own).optimisers()["prompts"].param_groups[0] for own in ({}, {"weight_decay": 1e-4})
    ]
    assert [group["weight_decay"] for group in groups] == [0.0, 1e-4]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_the_whole(lanit, learned, parts):
    """What accumulates over parts, or is summed over processes, is the gradient of the whole batch."""
    loss = {"adversarial": "pair", "similarity": "logit"}
    check_sum(*(gradients(lanit(learned, **loss), batch(0.7, parts=k)) for k in (1, parts)))
    reports = [take_step(lanit(learned, **loss), batch(0.7, parts=k)) for k in (1, parts)]
    assert reports[0].keys() == reports[1].keys()
    # The first update sees the same networks; the later ones networks that Adam moved, by signs that rounding can flip.
    assert all(reports[1][key].item() == pytest.approx(reports[0][key].item(), rel=1e-5) for key in ("d_adv", "r1"))
    assert all(
        reports[1][key].item() == pytest.approx(reports[0][key].item(), rel=0.05) for key in ("dl", "cyc", "sty")
    )


def test_an_update_is_adams_on_the_losses_own_gradient(lanit):
    """A fused optimiser pairs gradients and parameters by their place in memory: R1's once were laid out otherwise."""
    method, part = lanit(r1=3.0, adversarial="pair"), batch()
    first = next(iter(method.updates(part)))
    first.loss(0)[0].backward(inputs=list(method.networks["discriminator"].parameters()))
    expected = {}
    for name, p in method.networks["discriminator"].named_parameters():
        g = p.grad.double() + 1e-4 * p.double()  # weight decay
        expected[name] = (p.double() - 1e-4 * g / (g.abs() + 1e-8)).detach()  # β1 = 0: both moments are unbiased
    method.optimisers()["discriminator"].step()
    for name, p in method.networks["discriminator"].named_parameters():
        moved_far = (p.double() - expected[name]).abs() > 1e-5
        assert moved_far.float().mean() < 0.01, name  # the sign of a vanishing gradient is rounding's


def test_a_lazy_penalty_comes_every_few_iterations_with_its_whole_weight(lanit):
    for step, penalised in ((0, True), (1, False), (3, False), (4, True)):
        assert ("r1" in take_step(lanit(r1_every=4), batch(step=step))) is penalised
    found = [gradients(lanit(**loss), batch())[0] for loss in ({"r1": 6.0}, {"r1": 2.0, "r1_every": 3}, {"r1": 2.0})]
    assert all(torch.allclose(found[0][key], found[1][key]) for key in found[0])
    assert not all(torch.allclose(found[0][key], found[2][key]) for key in found[0])
    with pytest.raises(LanitError, match="r1_every .* at least 1"):
        lanit(r1_every=0)


def test_an_update_without_the_penalty_is_the_same_in_one_pass_or_two(lanit):
    # The reference-guided one, which has no latents: those of two steps differ.
    one, two = gradients(lanit(r1_every=2), batch(step=1))[1], gradients(lanit(r1=0.0), batch(step=0))[1]
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=1e-4)


def test_language_loss_reaches_generator_and_mapping_through_the_frozen_tower(lanit):
    for dl, expected in ((0.0, set()), (5.0, {"generator", "mapping"})):
        found = gradients(lanit(dl=dl, adv=0.0, cyc=0.0, sty=0.0, ds=0.0, similarity="logit"), batch())
        assert reached(found)[2] == expected


@pytest.mark.parametrize("half", [0, 1])
def test_prompts_get_a_gradient_from_both_halves_of_the_language_loss(lanit, half, monkeypatch):
    method = lanit(learned=True, similarity="logit")
    entropy, calls = lanit_module._domain_entropy, []

    def one_half(*arguments):
        calls.append(1)
        return entropy(*arguments) * (len(calls) % 2 == half)

    monkeypatch.setattr(lanit_module, "_domain_entropy", one_half)
    assert gradients(method, batch(0.9))[2]["prompts.vectors"].any()


def test_prompts_move_in_the_second_phase_alone_and_with_them_the_labels(lanit):
    method = lanit(learned=True, prompts={"start": 0.5, "learning_rate": 0.5, "relabel_every": 3})
    before = snapshot(method)
    take_step(method, batch(0.4))
    assert "prompts" not in moved(method, before)
    embeddings = F.normalize(torch.randn(200, 7), dim=1)
    first = method.relabel(embeddings)
    take_step(method, batch(0.6))
    assert "prompts" in moved(method, before)
    second = method.relabel(embeddings)
    assert first.dtype == bool and first.shape == (200, 3) and (first != second).any()
    f = embeddings @ method.networks["prompts"]().detach().T
    assert np.array_equal(second, (f[:, :3] > f[:, 3:]).numpy())
    asked = [step for step in range(8) if method.relabels(step, step / 8)]
    assert asked == [6]  # every third step of the second half
    assert not any(lanit().relabels(step, 0.9) for step in range(200))


def test_clip_sees_translations_alone_and_texts_are_made_once_a_step_and_in_the_second_phase(lanit):
    for progress, parts, texts in ((0.1, 1, 0), (0.9, 1, 1), (0.9, 2, 1)):
        method = lanit(learned=True)
        b = batch(progress, parts=parts)
        method.guide.prompts.calls = 0
        take_step(method, b)
        assert method.guide.prompts.calls == texts
        seen = method.guide.calls
        assert [len(images) for images in seen] == [8 // parts] * parts  # ŷ and ŷ' of the part's images, in one call
        real = torch.cat([torch.cat([part.source, part.reference]) for part in b]).flatten(1)
        assert torch.cdist(torch.cat(seen).flatten(1), real).min() > 1


@pytest.mark.parametrize("uncovered", ["left_out", "slack"])
@pytest.mark.parametrize("progress, parts", [(0.1, 1), (0.9, 1), (0.9, 2)])
def test_nothing_in_a_step_makes_the_host_wait_for_the_device(lanit, progress, parts, uncovered):
    labels = torch.cat([LABELS, torch.zeros(4, 1)], 1) if uncovered == "slack" else LABELS
    take_step_without_waiting(lanit(learned=True, uncovered=uncovered), *batch(progress, parts=parts, labels=labels))


def test_the_flipped_style_is_made_from_the_translation_and_the_flipped_label(lanit, monkeypatch):
    method, (part,) = lanit(dl=1.0), batch()
    decoded = []
    decode = method.networks["generator"].decode
    monkeypatch.setattr(method.networks["generator"], "decode", lambda c, s: decoded.append((c, s)) or decode(c, s))
    draft = method._draft(part, diversify=True, alone=True)
    domain, flipped = flip_one(part.reference_labels, part.rng)
    method._latent_guided_loss(part, draft, 0.0, Flip(domain, flipped, method.guide.texts))
    content, both = decoded[-1]
    assert ((flipped != part.reference_labels).sum(1) == 1).all()
    torch.testing.assert_close(both[4:], losses.aggregate(draft.made[0], flipped))
    assert torch.equal(content[:4], content[4:])  # c^ŷ, twice


def test_diversification_has_no_weight_after_its_decay(lanit):
    first, second = lanit(ds=1.0, ds_decay=0.5), lanit(ds=50.0, ds_decay=0.5)
    for method in (first, second):
        take_step(method, batch(progress=0.5))
    assert all(torch.equal(a, b) for a, b in zip(first.networks.parameters(), second.networks.parameters()))
    third = lanit(ds=50.0, ds_decay=0.5)
    take_step(third, batch(progress=0.25))
    assert not all(torch.equal(a, b) for a, b in zip(first.networks.parameters(), third.networks.parameters()))


def test_the_same_seed_gives_the_same_bits_and_draws_nothing_from_the_global_generator(lanit):
    results = []
    for number in range(2):
        method = lanit()
        torch.manual_seed(number)
        state = torch.get_rng_state()
        for step in range(2):
            take_step(method, batch(step=step))
        assert torch.equal(state, torch.get_rng_state())
        results.append(snapshot(method))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_slack_domain_has_networks_of_its_own_and_trains(lanit):
    method = lanit(uncovered="slack")
    labels = method.extend_labels(
        np.array([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])
    )
    assert labels[:, 3].tolist() == [False, True, False, False]
    before = snapshot(method)
    report = take_step(method, batch(labels=torch.from_numpy(labels).float()))
    assert all(value.isfinite() for value in report.values())
    assert moved(method, before) == {"generator", "mapping", "style_encoder", "discriminator"}
    assert method.networks["discriminator"](torch.zeros(1, 3, 16, 16)).shape == (1, 4)
    assert np.array_equal(lanit().extend_labels(labels[:, :3]), labels[:, :3])


def test_networks_in_bfloat16_stay_near_those_in_float32(lanit):
    reports = [take_step(lanit(ds=0.0), batch(), precision) for precision in ("fp32", "bf16")]
    for name, value in reports[0].items():
        assert reports[1][name].dtype == torch.float32
        if not name.startswith("r1"):
            assert reports[1][name].item() == pytest.approx(value.item(), rel=0.05, abs=0.02), name
    method = lanit(learned=True)
    before = snapshot(method)
    take_step(method, batch(0.9), "bf16")
    assert len(moved(method, before)) == 5 and all(p.dtype == torch.float32 for p in method.networks.parameters())


def test_gradient_norms_are_those_of_each_network(lanit):
    report = take_step(lanit(), batch(), norms=True)
    method = lanit()
    update = next(iter(method.updates(batch())))
    update.loss(0)[0].backward(inputs=list(method.networks["discriminator"].parameters()))
    first = math.sqrt(sum(p.grad.double().square().sum().item() for p in method.networks["discriminator"].parameters()))
    assert report["norm_discriminator"].item() >= first * (1 - 1e-5)
    assert {name for name in report if name.startswith("norm_")} == {
        "norm_generator", "norm_mapping", "norm_style_encoder", "norm_discriminator"
    }  # fmt: skip


def test_a_reference_style_is_the_mean_of_its_active_domains_styles(lanit):
    method, (part,) = lanit(), batch()
    styles = method.averaged["style_encoder"](part.reference)
    expected = torch.stack([s[d.bool()].mean(0) for s, d in zip(styles, part.reference_labels)])
    torch.testing.assert_close(method.reference_style(part.reference, part.reference_labels), expected)
    assert method.translate(part.source, expected).abs().max() <= 1


def test_a_drawn_style_is_the_mean_of_its_active_domains_styles(lanit):
    method, (part,) = lanit(), batch()
    latent = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    expected = losses.aggregate(method.averaged["mapping"](latent), part.reference_labels)
    torch.testing.assert_close(method.latent_style(part.reference_labels, torch.Generator().manual_seed(3)), expected)


def test_mistakes_are_named(lanit):
    with pytest.raises(LanitError, match=r"train.lanit.settings.loss has an unknown key 'dll'; did you mean 'dl'"):
        create_method("lanit", {"loss": {"dll": 1}}, 16, ["a", "b"])
    with pytest.raises(LanitError, match="there is no method 'cyclegan'; known are stargan2, .*, lanit"):
        create_method("cyclegan", {}, 16, ["a"])
    with pytest.raises(LanitError, match="prompts learn from the language loss alone"):
        lanit(learned=True, dl=0)
    with pytest.raises(LanitError, match="prompts.start must be at least 0 and at most 1, not 1.5"):
        lanit(prompts={"start": 1.5})
    with pytest.raises(LanitError, match="language.prompts must be one of frozen, learned, not 'thawed'"):
        Lanit(LanitOptions(), 16, ["a"], "cpu", LANGUAGE | {"prompts": "thawed"})


def test_settings_survive_a_round_through_json():
    options = parse(LanitOptions, {"network": NETWORK, "betas": [0.5, 0.9], "prompts": {"start": 0.5}})
    assert parse(LanitOptions, json.loads(json.dumps(dataclasses.asdict(options)))) == options
