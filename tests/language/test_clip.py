"""Loading a CLIP, what its towers put out, and every way in which loading can fail."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from lanit.config import LanitError
from lanit.language.clip import ClipOptions, find_model, load_clip

TEXTS = ["a face with hat.", "a face with."]


@pytest.fixture
def reference(tiny):
    return open_clip.create_model_and_transforms("clip-tiny", pretrained=tiny.pretrained)


def test_texts_are_what_open_clip_gives(clip, reference):
    model = reference[0].eval()
    tokens = open_clip.get_tokenizer("clip-tiny")(TEXTS)
    assert tokens.shape == (2, 16)  # the configuration's own context length
    torch.testing.assert_close(clip.encode_text(TEXTS), model.encode_text(tokens, normalize=True))
    assert clip.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert clip.width == 16


def test_an_image_of_the_tower_s_size_is_what_open_clip_s_preprocessing_gives(clip, reference):
    from PIL import Image

    model, _, preprocess = reference
    raw = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = model.eval().encode_image(preprocess(Image.fromarray(raw.numpy()))[None], normalize=True)
    images = raw.permute(2, 0, 1)[None].float() / 127.5 - 1
    torch.testing.assert_close(clip.encode_image(images), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [24, 80])
def test_other_sizes_are_resized_as_pillow_s_bicubic_does(clip, size):
    from PIL import Image

    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    smooth = F.interpolate(coarse, (size, size), mode="bilinear")  # no overshoot, which Pillow would clip
    channels = [Image.fromarray(channel.numpy()).resize((32, 32), Image.Resampling.BICUBIC) for channel in smooth[0]]
    import numpy as np

    expected = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels]))[None]
    mean, std = torch.tensor([open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD]).view(2, 1, 3, 1, 1)
    torch.testing.assert_close(clip.pixels(smooth * 2 - 1), (expected - mean) / std, atol=0.03, rtol=0)


@pytest.mark.parametrize("size", [24, 80])
def test_images_may_be_resized_from_corner_to_corner_without_antialias(tiny, size):
    """As torch's `align_corners`: cubic convolution with a = −0.75 at places from the first pixel to the last."""
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1

    def kernel(t):
        t, a = abs(t), -0.75
        near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        return near if t <= 1 else far if t < 2 else 0.0

    weights = torch.zeros(32, size, dtype=torch.float64)
    for i in range(32):
        place = i * (size - 1) / 31
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            weights[i, min(max(j, 0), size - 1)] += kernel(place - j)
    expected = torch.einsum("ih,jw,bchw->bcij", weights, weights, (x.double() + 1) / 2)
    mean, std = torch.tensor([open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD]).view(2, 1, 3, 1, 1)
    found = load_clip(replace(tiny, resize="corners")).pixels(x)
    torch.testing.assert_close(found.double(), (expected - mean) / std, atol=1e-4, rtol=0)


def test_the_gradient_reaches_the_images_and_no_parameter(clip):
    images = torch.rand(2, 3, 48, 48).requires_grad_()
    clip.encode_image(images)[:, 0].sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in clip.parameters())


def test_training_mode_around_it_leaves_its_batch_statistics_alone(clip):
    around = torch.nn.ModuleList([clip]).train()
    before = {name: buffer.clone() for name, buffer in clip.named_buffers()}
    clip.encode_image(torch.rand(4, 3, 32, 32))
    assert not any(module.training for module in clip.modules()) and around.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in clip.named_buffers())


def test_half_precision_weights_run_in_float32(tiny, tmp_path):
    state = {key: value.half() for key, value in load_file(tiny.pretrained).items()}
    save_file(state, tmp_path / "half.safetensors")
    clip = load_clip(replace(tiny, pretrained=str(tmp_path / "half.safetensors")))
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}
    torch.testing.assert_close(clip.towers.text_projection, state["text_projection"].float())


def test_a_registered_name_with_a_pytorch_file_of_weights(tiny, tmp_path, clip):
    find_model(tiny.model)  # from here on, open_clip knows the name
    torch.save(load_file(tiny.pretrained), tmp_path / "weights.pt")
    named = load_clip(ClipOptions("clip-tiny", str(tmp_path / "weights.pt")))
    torch.testing.assert_close(named.encode_text(TEXTS), clip.encode_text(TEXTS))


def test_weights_tagged_quickgelu_run_with_quickgelu(tiny, monkeypatch, clip):
    """open_clip alone warns and computes with the wrong activation."""
    settings = {"file": tiny.pretrained, "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic"}
    tags = {"plain": settings, "quick": settings | {"quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, find_model(tiny.model), tags)
    plain, quick = (load_clip(ClipOptions("clip-tiny", tag)) for tag in ("plain", "quick"))
    expected = open_clip.create_model("clip-tiny", pretrained=tiny.pretrained, force_quick_gelu=True)
    tokens = open_clip.get_tokenizer("clip-tiny")(TEXTS)
    torch.testing.assert_close(quick.encode_text(TEXTS), expected.encode_text(tokens, normalize=True))
    torch.testing.assert_close(plain.encode_text(TEXTS), clip.encode_text(TEXTS))
    assert not torch.allclose(quick.encode_text(TEXTS), plain.encode_text(TEXTS))
    torch.testing.assert_close(quick.pixels(torch.zeros(1, 3, 32, 32)), torch.zeros(1, 3, 32, 32))  # the tag's mean


def test_published_weights_that_are_not_there_name_the_file_to_get(tmp_path):
    code = (
        "from lanit.language.clip import ClipOptions, LanitError, load_clip\n"
        "try: load_clip(ClipOptions('ViT-B-32', 'openai'))\n"
        "except LanitError as error: print(error)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "open_clip_model.safetensors of timm/vit_base_patch32_clip_224.openai" in result.stdout, result.stderr
    assert "give clip.pretrained its path and clip.tag 'openai'" in result.stdout
    assert len(result.stdout.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B32", "openai", "no model 'ViT-B32'; did you mean .*ViT-B-32"),
        ("nowhere/clip.json", "x.pt", "no CLIP configuration at nowhere/clip.json"),
        ("ViT-B-32", "nowhere/weights.pt", "no CLIP checkpoint at nowhere/weights.pt"),
        ("ViT-B-32", "opanai", "no weights tagged 'opanai'; did you mean 'openai'"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(model, pretrained, message):
    with pytest.raises(LanitError, match=message):
        load_clip(ClipOptions(model, pretrained))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ('{"embed_dim": 8}', "lacks vision_cfg, text_cfg"), ("[]", "lacks")]
)
def test_a_configuration_that_is_none(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(LanitError, match=message):
        load_clip(ClipOptions(str(tmp_path / "bad.json"), "weights.pt"))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("vision_cfg", "width", 16),
        ("text_cfg", "layers", 2),
        ("text_cfg", "context_length", 24),
        ("vision_cfg", "image_size", 64),
    ],
)
def test_a_checkpoint_of_another_configuration(tiny, tmp_path, section, key, value):
    """open_clip itself would stretch position embeddings to another context length or image size."""
    config = json.loads(Path(tiny.model).read_text())
    config[section][key] = value
    (tmp_path / f"other-{key}.json").write_text(json.dumps(config))
    with pytest.raises(LanitError, match=f"does not fit the model .*other-{key}.json"):
        load_clip(replace(tiny, model=str(tmp_path / f"other-{key}.json")))


@pytest.mark.parametrize("name", ["noise.safetensors", "noise.pt", "code.pt"])
def test_a_checkpoint_that_holds_no_weights(tiny, tmp_path, name):
    path = tmp_path / name
    if name == "code.pt":
        torch.save({"visual": print}, path)  # would run code when loaded without weights_only
    else:
        path.write_bytes(b"no weights at all")
    with pytest.raises(LanitError, match="cannot be read as CLIP weights"):
        load_clip(replace(tiny, pretrained=str(path)))


def test_a_prompt_that_would_be_cut_off(clip):
    fits = " ".join(["hat"] * 14)  # and the marks of beginning and end: 16
    clip.encode_text([fits])
    with pytest.raises(LanitError, match="longer than the 16 tokens"):
        clip.encode_text(["hat", fits + " hat"])
