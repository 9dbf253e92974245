"""Perceptual distances by name: what is loaded from where, what is refused, and that nothing is fetched or run."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import pickle
import socket
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lanit.config import LanitError, parse
from lanit.evaluation.features import FeatureOptions, load_extractor
from lanit.evaluation.judge import JudgeOptions, save_judge
from lanit.methods import perceptual
from lanit.methods.perceptual import load_perceptual
from lanit.networks.judge import Judge
from lanit.networks.perceptual import ALEXNET_WIDTHS
from lanit.settings.perceptual import PerceptualOptions

KINDS = ["lpips", "stlpips", "judge", "clip"]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
needs_package = pytest.mark.skipif(
    not (importlib.util.find_spec("lpips") and importlib.util.find_spec("stlpips_pytorch")),
    reason="the extra lanit[perceptual] is not installed",
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("something reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def linear(generator):
    return {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1, generator=generator) for i, w in enumerate(ALEXNET_WIDTHS)}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, PerceptualOptions]:
    """Kind → options that name files of random weights, in the forms in which the real ones come."""
    import open_clip

    folder, generator = tmp_path_factory.mktemp("weights"), torch.Generator().manual_seed(0)

    def convolution(name, *shape):
        weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5 / shape[2]
        return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(shape[0])}

    sizes = [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3)]
    alexnet = {"classifier.6.bias": torch.zeros(1000)}
    for i, shape in zip((0, 3, 6, 8, 10), sizes):
        alexnet |= convolution(f"features.{i}", *shape)
    torch.save(alexnet, folder / "alexnet.pth")
    torch.save(linear(generator), folder / "linear.pth")

    tolerant = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)} | linear(generator)
    for name, shape in zip(("1.0", "2.5", "3.9", "4.11", "5.13"), sizes):
        tolerant |= convolution(f"net.slice{name}", *shape)
    for name, channels in (("1.1", 64), ("2.4", 64), ("3.8", 192)):
        tolerant[f"net.slice{name}.filt"] = torch.full((channels, 1, 3, 3), 1 / 9)
    torch.save(tolerant, folder / "tolerant.pth")

    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_judge(Judge(["a"], False, 32, 4), folder / "judge.safetensors", JudgeOptions(width=4), {"a": 1.0})
        (folder / "clip-perceptual.json").write_text(json.dumps(CLIP))
        open_clip.add_model_config(folder / "clip-perceptual.json")
        save_file(open_clip.create_model("clip-perceptual").state_dict(), folder / "clip.safetensors")
    clip = {"model": str(folder / "clip-perceptual.json"), "pretrained": str(folder / "clip.safetensors")}
    return {
        "lpips": PerceptualOptions("lpips", folder / "alexnet.pth", folder / "linear.pth"),
        "stlpips": PerceptualOptions("stlpips", folder / "tolerant.pth"),
        "judge": PerceptualOptions("judge", folder / "judge.safetensors"),
        "clip": PerceptualOptions("clip", clip=clip),
    }


def pair(size=32):
    return torch.rand(2, 2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_distance_with_gradients_to_images_and_none_to_weights(files, kind):
    state = torch.get_rng_state()
    distance, (first, second) = load_perceptual(files[kind]), pair()
    assert torch.equal(state, torch.get_rng_state())  # a training draws the same with it as without
    apart = distance(first, second.requires_grad_())
    assert apart.shape == (2,) and (apart > 0).all()
    torch.testing.assert_close(apart, distance(second, first))
    assert torch.equal(distance(first, first), torch.zeros(2))
    apart.sum().backward()
    assert second.grad.isfinite().all() and second.grad.any()
    assert not any(module.training for module in distance.modules())
    assert not any(parameter.requires_grad for parameter in distance.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_is_the_kind_and_the_weights(files, kind, tmp_path):
    name = load_perceptual(files[kind]).name
    assert name == load_perceptual(files[kind]).name and name.startswith(f"{kind}-")
    assert len(name) == len(kind) + 9
    if kind in ("lpips", "stlpips"):
        assert load_perceptual(dataclasses.replace(files[kind], enlarge_to=96)).name == f"{name}-96px"


def test_the_name_changes_with_any_of_the_weights(files, tmp_path):
    options, generator = files["lpips"], torch.Generator().manual_seed(9)
    torch.save(linear(generator), tmp_path / "linear.pth")
    other = load_perceptual(dataclasses.replace(options, linear=tmp_path / "linear.pth"))
    assert other.name != load_perceptual(options).name


def test_a_judge_has_the_name_that_it_has_as_an_extractor(files):
    path = files["judge"].weights
    assert load_perceptual(files["judge"]).name == load_extractor(FeatureOptions("judge", path)).name


def test_clip_is_compared_in_the_stem_and_every_stage(files):
    distance, (first, second) = load_perceptual(files["clip"]), pair()
    maps = distance.trunk(first)
    assert [x.shape[1:] for x in maps] == [(8, 8, 8), (32, 8, 8), (64, 4, 4), (128, 2, 2), (256, 1, 1)]
    cosines = [torch.cosine_similarity(a, b, dim=1).mean((1, 2)) for a, b in zip(maps, distance.trunk(second))]
    torch.testing.assert_close(distance(first, second), torch.stack([2 - 2 * c for c in cosines]).mean(0))


def test_a_transformers_clip_is_compared_in_the_patches_of_every_block(tmp_path):
    import open_clip

    tower = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
    (tmp_path / "clip-patches.json").write_text(json.dumps(CLIP | {"vision_cfg": tower}))
    open_clip.add_model_config(tmp_path / "clip-patches.json")
    with torch.random.fork_rng():
        save_file(open_clip.create_model("clip-patches").state_dict(), tmp_path / "clip.safetensors")
    clip = {"model": str(tmp_path / "clip-patches.json"), "pretrained": str(tmp_path / "clip.safetensors")}
    distance, (first, second) = load_perceptual(PerceptualOptions("clip", clip=clip)), pair(16)
    assert [x.shape[1:] for x in distance.trunk(first)] == [(32, 4, 4)] * 3
    distance(first, second.requires_grad_()).sum().backward()
    assert second.grad.isfinite().all() and second.grad.any()


def test_alexnet_comes_from_torchvisions_place_if_it_is_what_was_published(files, tmp_path, monkeypatch):
    import torchvision.models

    options = dataclasses.replace(files["lpips"], weights=None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    usual = "put https://.*/alexnet-owt-7be5be79.pth there, give perceptual.weights its path, or choose another"
    with pytest.raises(LanitError, match=f"no AlexNet at {tmp_path}/hub/checkpoints/alexnet-owt-7be5be79.pth; {usual}"):
        load_perceptual(options)

    content = files["lpips"].weights.read_bytes()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(content)
    with pytest.raises(LanitError, match="damaged or another file: its SHA-256 is not 7be5be79…; fetch AlexNet's"):
        load_perceptual(options)

    name = f"alexnet-own-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    published = types.SimpleNamespace(IMAGENET1K_V1=types.SimpleNamespace(url=f"https://example.org/{name}"))
    monkeypatch.setattr(torchvision.models, "AlexNet_Weights", published)
    assert load_perceptual(options).name == load_perceptual(files["lpips"]).name


@pytest.mark.parametrize(
    "package, kind, key", [("lpips", "lpips", "linear"), ("stlpips_pytorch", "stlpips", "weights")]
)
def test_without_the_package_a_sentence_says_what_to_install(files, monkeypatch, package, kind, key):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    wanted = f"come with the package {package}, which is not installed; install the extra lanit.perceptual., give"
    with pytest.raises(LanitError, match=f"{wanted} perceptual.{key} the file's path, or choose another"):
        load_perceptual(dataclasses.replace(files[kind], **{key: None}))


def test_a_packages_file_that_changed_is_refused(files, monkeypatch, tmp_path):
    (tmp_path / "weights" / "v0.1").mkdir(parents=True)
    torch.save(linear(torch.Generator()), tmp_path / perceptual.LPIPS_FILE)
    package = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: package)
    with pytest.raises(LanitError, match="damaged or another file: its SHA-256 is not df73285e35b2…"):
        load_perceptual(dataclasses.replace(files["lpips"], linear=None))


class Runs:
    """A pickle that would make a folder where it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_runs_no_code(files, tmp_path):
    for name, save in (("zip.pth", torch.save), ("raw.pth", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        save({"features.0.weight": Runs(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(
            LanitError, match=f"{name} cannot be read as AlexNet's weights.*give a PyTorch file of weights"
        ):
            load_perceptual(dataclasses.replace(files["lpips"], weights=tmp_path / name))
    assert not (tmp_path / "ran").exists()


def damaged(kind: str, good: bytes) -> bytes:
    return {
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:7be5be79\nsize 244408911\n",
        "cut": good[: len(good) // 2],
        "zip": b"PK\x05\x06" + bytes(18),
        "noise": bytes(range(256)) * 8,
    }[kind]


@pytest.mark.parametrize("what", ["empty", "text", "cut", "zip", "noise"])
def test_what_is_no_weights_is_refused_in_one_sentence(files, tmp_path, what):
    path = tmp_path / "file.pth"
    path.write_bytes(damaged(what, files["lpips"].weights.read_bytes()))
    for kind, key in (("lpips", "weights"), ("lpips", "linear"), ("stlpips", "weights")):
        with pytest.raises(LanitError, match=r"file.pth cannot be read as .* \(.+\); give a PyTorch file") as error:
            load_perceptual(dataclasses.replace(files[kind], **{key: path}))
        assert "\n" not in str(error.value) and len(str(error.value)) < 300
    with pytest.raises(LanitError, match="file.pth is not what lanit evaluate judge writes"):
        load_perceptual(PerceptualOptions("judge", path))


def test_weights_of_another_network_are_refused_by_the_name_that_does_not_fit(files, tmp_path):
    path = tmp_path / "file.pth"

    def refused(kind, message, **where):
        with pytest.raises(LanitError, match=message):
            load_perceptual(dataclasses.replace(files[kind], **where))

    state = torch.load(files["lpips"].weights, weights_only=True)
    for change, message in [
        (
            {"features.3.weight": torch.zeros(192, 64, 3, 3)},
            r"another network's: 3.weight has torch.float32 of shape \(192, 64, 3",
        ),
        (
            {"features.3.weight": state["features.3.weight"] * float("nan")},
            "3.weight has torch.float32 .*finite numbers",
        ),
        ({"features.3.weight": None}, "holds something else than AlexNet's weights"),
    ]:
        torch.save(state | change, path)
        refused("lpips", message, weights=path)
    torch.save({key: value for key, value in state.items() if "10" not in key}, path)
    refused("lpips", "another network's: 10.weight is missing", weights=path)
    refused("lpips", "another network's: lin0.model.1.weight is missing", linear=path)
    refused("stlpips", "another network's: 0.weight is missing", weights=path)
    torch.save([torch.zeros(1)], path)
    refused("lpips", "holds something else than AlexNet's weights by torchvision; give a state dict", weights=path)
    weights = linear(torch.Generator())
    weights["lin2.model.1.weight"][0, 5] = -0.1
    torch.save(weights, path)
    refused("lpips", "negative weights in lin2.model.1.weight", linear=path)
    refused("lpips", "no file at .*/none.pth; put AlexNet's weights by torchvision there or give their path",
            weights=tmp_path / "none.pth")  # fmt: skip
    refused("lpips", f"no file at {tmp_path}; put", weights=tmp_path)


def test_a_judge_that_is_not_the_one_described_is_refused(files, tmp_path):
    from safetensors import safe_open

    with safe_open(files["judge"].weights, "pt") as file:
        about, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(state, tmp_path / "judge.safetensors", about | {"width": "8"})
    with pytest.raises(LanitError, match="does not hold the judge that it describes .*; train it again"):
        load_perceptual(PerceptualOptions("judge", tmp_path / "judge.safetensors"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "judge"}, "perceptual.weights is missing: a judge is given by the path"),
        ({"kind": "clip"}, "perceptual.clip is missing"),
        (
            {"kind": "stlpips", "linear": "x"},
            "perceptual.linear is read by lpips alone, and perceptual.kind is stlpips",
        ),
        ({"kind": "clip", "weights": "x"}, "perceptual.weights is read by lpips and stlpips and judge alone"),
        ({"kind": "judge", "weights": "x", "enlarge_to": 64}, "perceptual.enlarge_to is read by lpips and stlpips"),
        ({"kind": "lpips", "enlarge_to": 16}, "perceptual.enlarge_to must be at least 32, not 16"),
        ({"kind": "lpips", "clip": {}}, "perceptual.clip is read by clip alone"),
        ({"kind": "vgg"}, "must be one of lpips, stlpips, judge, clip, not 'vgg'"),
        ({}, "lacks the key 'kind'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(LanitError, match=message):
        load_perceptual(parse(PerceptualOptions, options, "perceptual"))


@needs_package
@pytest.mark.parametrize("size", [64, 97])
def test_lpips_is_what_its_package_gives(files, size):
    import lpips

    distance = load_perceptual(dataclasses.replace(files["lpips"], linear=None))
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = torch.load(files["lpips"].weights, weights_only=True)
    for name, value in theirs.net.named_parameters():
        value.data.copy_(state["features." + name.split(".", 1)[1]])
    first, second = pair(size)
    torch.testing.assert_close(distance(first, second), theirs(first, second).flatten(), rtol=1e-4, atol=1e-7)


@needs_package
@pytest.mark.parametrize("size", [64, 97])
def test_shift_tolerant_lpips_is_what_its_package_gives(monkeypatch, size):
    import sys

    # Its modules import two programs for looking at things, which it does not need to compute.
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(embed=None))
    monkeypatch.setitem(sys.modules, "torchsummary", types.SimpleNamespace(summary=None))
    from stlpips_pytorch import stlpips

    distance, (first, second) = load_perceptual(PerceptualOptions("stlpips")), pair(size)
    assert distance.name == f"stlpips-{perceptual.STLPIPS_SHA256[:8]}"
    theirs = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    torch.testing.assert_close(distance(first, second), theirs(first, second).flatten(), rtol=1e-4, atol=1e-7)
