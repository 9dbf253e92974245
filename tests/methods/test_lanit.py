"""One LANIT step: what it updates, what it must not, and what decides it."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lanit.config import LanitError, parse
from lanit.methods import create_method, losses
from lanit.methods.lanit import Lanit, LanitOptions

NETWORK = {"base_channels": 4, "max_channels": 8, "style_size": 6, "latent_size": 5, "hidden_size": 8, "bottleneck": 4}


class LinearClip(torch.nn.Module):
    """A frozen image tower that a test can see through: one linear map, normalised."""

    logit_scale = 10.0

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(3 * 16 * 16, 7).requires_grad_(False)
        self.calls = []

    def encode_image(self, images):
        self.calls.append(len(images))
        return F.normalize(self.map(images.flatten(1)), dim=1)


def lanit(**loss):
    torch.manual_seed(0)
    method = Lanit(parse(LanitOptions, {"network": NETWORK, "loss": loss, "learning_rate": 1e-3}), 16, ["a", "b", "c"])
    method.clip = LinearClip()
    method.texts = F.normalize(torch.randn(4, 7), dim=1)
    return method


def batch(progress=0.1, seed=0, step=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0]])
    return SimpleNamespace(source=images[:4], reference=images[4:], source_labels=labels, reference_labels=labels.flip(0),
                           generator=generator, progress=progress, step=step)


def moved(method, before):
    after = method.networks.state_dict()
    return {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}


def snapshot(method):
    return copy.deepcopy(method.networks.state_dict())


def test_a_step_moves_every_network_and_never_clip_or_the_averages():
    method = lanit()
    before, averaged = snapshot(method), copy.deepcopy(method.averaged.state_dict())
    clip, texts = copy.deepcopy(method.clip.state_dict()), method.texts.clone()
    report = method.step(batch())
    assert moved(method, before) == {"generator", "mapping", "style_encoder", "discriminator"}
    assert all(torch.equal(value, averaged[name]) for name, value in method.averaged.state_dict().items())
    assert all(torch.equal(value, clip[name]) for name, value in method.clip.state_dict().items())
    assert torch.equal(texts, method.texts)
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in report.values())


def latent_guided(method, b, ds_weight=0.0):
    """The latent-guided update alone, from fixed latents."""
    z1, z2 = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    networks, d = method.networks, b.reference_labels
    styles = networks["mapping"](z1)
    fake = networks["generator"](b.source, losses.aggregate(styles, d))
    other = networks["generator"](b.source, losses.aggregate(networks["mapping"](z2), d)).detach()
    method._update_latent_guided(b.source, b.source_labels, d, styles, fake, [other], ds_weight, b.generator, {})
    return styles.detach()


def test_each_update_reaches_exactly_its_own_networks():
    method, b = lanit(), batch()
    for update, expected in (
        (lambda: method._update_discriminator(b.reference, b.reference_labels, b.source, True, {}), {"discriminator"}),
        (lambda: latent_guided(method, b), {"generator", "mapping", "style_encoder"}),
        (
            lambda: method._update_reference_guided(b.source, b.reference, b.source_labels, b.reference_labels, {}),
            {"generator"},
        ),
    ):
        before = snapshot(method)
        update()
        assert moved(method, before) == expected


def test_an_update_is_adams_on_the_losses_own_gradient():
    method, b = lanit(r1=3.0, adversarial="pair"), batch()
    twin = copy.deepcopy(method.networks["discriminator"]).double()
    d = b.reference_labels.double()
    real, fake = b.reference.double().requires_grad_(), b.source.double()
    logits = twin(real)
    (slope,) = torch.autograd.grad((logits * d / d.sum(1, keepdim=True)).sum(), real, create_graph=True)
    total = (d / d.sum() * (F.softplus(-logits) + F.softplus(twin(fake)))).sum() + 1.5 * slope.square().sum() / 4
    expected = {}
    gradients = torch.autograd.grad(total, list(twin.parameters()))
    for (name, p), g in zip(twin.named_parameters(), gradients):
        g = g + 1e-4 * p  # weight decay
        step = 1e-4 * g / (g.abs() + 1e-8)  # Adam's first, β1 = 0: both moments are unbiased
        expected[name] = (p - step).detach()
    method._update_discriminator(b.reference, b.reference_labels, b.source, True, {})
    for name, p in method.networks["discriminator"].named_parameters():
        moved_far = (p.double() - expected[name]).abs() > 1e-5
        assert moved_far.float().mean() < 0.01, name  # the sign of a vanishing gradient is rounding's


def test_a_lazy_penalty_comes_every_few_iterations_with_its_whole_weight():
    for step, penalised in ((0, True), (1, False), (3, False), (4, True)):
        assert ("r1" in lanit(r1_every=4).step(batch(step=step))) is penalised
    moves = []
    for loss in ({"r1": 6.0}, {"r1": 2.0, "r1_every": 3}, {"r1": 2.0}):
        method, b = lanit(**loss), batch()
        method._update_discriminator(b.reference, b.reference_labels, b.source, True, {})
        moves.append([parameter.grad for parameter in method.networks["discriminator"].parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(moves[0], moves[1]))
    assert not all(torch.allclose(a, b) for a, b in zip(moves[0], moves[2]))
    with pytest.raises(LanitError, match="r1_every must be at least 1"):
        lanit(r1_every=0)


def test_an_update_without_the_penalty_is_the_same_in_one_pass_or_two():
    moves = []
    for penalised in (True, False):
        method, b = lanit(r1=0.0), batch()
        method._update_discriminator(b.reference, b.reference_labels, b.source, penalised, {})
        moves.append([parameter.grad for parameter in method.networks["discriminator"].parameters()])
    for a, b in zip(*moves):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_language_loss_reaches_generator_and_mapping_through_the_frozen_tower():
    reached = {}
    for dl in (0.0, 5.0):
        method = lanit(dl=dl, adv=0.0, cyc=0.0, sty=0.0)
        latent_guided(method, batch())
        named = method.networks.named_parameters()
        reached[dl] = {name.split(".")[0] for name, p in named if p.grad is not None and p.grad.any()}
    assert reached == {0.0: set(), 5.0: {"generator", "mapping"}}


def test_the_flipped_style_is_made_from_the_translation_and_the_flipped_label(monkeypatch):
    method, b = lanit(dl=1.0), batch()
    decoded, flips = [], []
    decode, flip = method.networks["generator"].decode, losses.flip_one
    monkeypatch.setattr(method.networks["generator"], "decode", lambda c, s: decoded.append((c, s)) or decode(c, s))
    monkeypatch.setattr(losses, "flip_one", lambda d, g: flips.append(flip(d, g)) or flips[-1])
    styles = latent_guided(method, b)
    (_, d_inv), (content, both) = flips[0], decoded[-1]
    assert ((d_inv != b.reference_labels).sum(1) == 1).all()
    torch.testing.assert_close(both[4:], losses.aggregate(styles, d_inv))
    assert torch.equal(content[:4], content[4:])  # c^ŷ, twice


def test_clip_runs_once_a_step_and_on_translations_alone():
    method = lanit()
    method.step(batch())
    assert method.clip.calls == [8]  # ŷ and ŷ' of four images


def test_diversification_has_no_weight_after_its_decay():
    first, second = lanit(ds=1.0, ds_decay=0.5), lanit(ds=50.0, ds_decay=0.5)
    for method in (first, second):
        method.step(batch(progress=0.5))
    assert all(torch.equal(a, b) for a, b in zip(first.networks.parameters(), second.networks.parameters()))
    third = lanit(ds=50.0, ds_decay=0.5)
    third.step(batch(progress=0.25))
    assert not all(torch.equal(a, b) for a, b in zip(first.networks.parameters(), third.networks.parameters()))


def test_the_same_seed_gives_the_same_bits():
    results = []
    for _ in range(2):
        method = lanit()
        for seed in range(2):
            method.step(batch(seed=seed))
        results.append(snapshot(method))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_reference_style_is_the_mean_of_its_active_domains_styles():
    method, b = lanit(), batch()
    styles = method.averaged["style_encoder"](b.reference)
    expected = torch.stack([s[d.bool()].mean(0) for s, d in zip(styles, b.reference_labels)])
    torch.testing.assert_close(method.reference_style(b.reference, b.reference_labels), expected)
    assert method.translate(b.source, expected).abs().max() <= 1


def test_a_drawn_style_is_the_mean_of_its_active_domains_styles():
    method, labels = lanit(), batch().reference_labels
    latent = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    expected = losses.aggregate(method.averaged["mapping"](latent), labels)
    torch.testing.assert_close(method.latent_style(labels, torch.Generator().manual_seed(3)), expected)


def test_an_unknown_setting_is_named():
    with pytest.raises(LanitError, match=r"train.lanit.loss has an unknown key 'dll'; did you mean 'dl'"):
        create_method("lanit", {"loss": {"dll": 1}}, 16, ["a", "b"])
    with pytest.raises(LanitError, match="unknown method 'cyclegan'"):
        create_method("cyclegan", {}, 16, ["a"])
