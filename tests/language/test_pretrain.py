"""The demo's own CLIP: its captions, its loss, and that it learns what captions say."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from scipy.stats import hypergeom
from torch.nn import functional as F

from lanit.cli import main
from lanit.config import LanitError
from lanit.language.clip import ClipOptions, load_clip
from lanit.language.clip_files import OPEN_CLIP_DEFAULT
from lanit.language.clip_weights import Checkpoint
from lanit.language.pretrain import PretrainOptions, Tokens, augment, draw_names, info_nce, pretrain, train_towers
from lanit.language.prompts import base_features, fill, text_features
from lanit.language.pseudo_labels import adaptive

CONFIG = Path(__file__).resolve().parents[2] / "workflow" / "configs" / "clip-faces.json"


def test_captions_name_what_a_random_look_at_the_image_finds():
    rng = np.random.default_rng(0)
    shown = np.array([True, False, True, True, False, True])
    drawn = [draw_names(rng, shown, 3) for _ in range(8000)]
    assert all(shown[names].all() and len(set(names.tolist())) == len(names) for names in drawn)
    found = np.bincount([len(names) for names in drawn]) / 8000
    expected = np.mean([hypergeom(6, 4, looks).pmf(np.arange(5)) for looks in range(1, 7)], axis=0)
    expected[3] += expected[4]  # not more than three are named
    assert found == pytest.approx(expected[:4], abs=0.02)
    share = np.bincount(np.concatenate(drawn), minlength=6)[shown] / 8000
    assert share == pytest.approx(np.full(4, share.mean()), abs=0.03)  # none is preferred


def test_info_nce_is_the_sum_that_its_paper_writes():
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(4, 8, generator=generator), dim=-1)
    texts = F.normalize(torch.randn(4, 3, 8, generator=generator), dim=-1)
    total = 0.0
    for i in range(4):
        for s in range(3):
            pair = torch.exp(5 * images[i] @ texts[i, s])
            total -= torch.log(pair / sum(torch.exp(5 * images[j] @ texts[i, s]) for j in range(4)))
            total -= torch.log(pair / sum(torch.exp(5 * images[i] @ text) for text in texts.flatten(0, 1)))
    torch.testing.assert_close(info_nce(images, texts, torch.tensor(5.0)), total / 24)


def test_info_nce_of_one_caption_an_image_is_open_clip_s():
    generator = torch.Generator().manual_seed(1)
    images, texts = (F.normalize(torch.randn(6, 8, generator=generator), dim=-1) for _ in range(2))
    expected = open_clip.ClipLoss()(images, texts, torch.tensor(7.0))
    torch.testing.assert_close(info_nce(images, texts[:, None], torch.tensor(7.0)), expected)


def test_augmented_images_are_the_same_pictures_moved_a_little():
    ramp = torch.linspace(-1, 1, 32).expand(64, 3, 32, 32)  # from left to right
    moved = augment(ramp, torch.Generator().manual_seed(0))
    slope = (moved[..., 16:28].mean(dim=(1, 2, 3)) - moved[..., 4:16].mean(dim=(1, 2, 3))).numpy()
    assert moved.shape == ramp.shape and 16 < (slope < 0).sum() < 48  # about half are mirrored
    assert np.abs(np.abs(slope) - 12 * 2 / 31).max() < 0.25 * 12 * 2 / 31  # contrast within a fifth, and noise
    assert torch.equal(moved, augment(ramp, torch.Generator().manual_seed(0)))


def test_short_ids_stand_for_the_tokenizer_s_own_and_the_trained_vectors_come_back(tiny):
    names, templates = ["hat", "red hair", "purple frame"], ["a face with {}.", "photo of {}"]
    tokenizer = open_clip.get_tokenizer("clip-tiny")
    tokens = Tokens(tokenizer, PretrainOptions(tiny.model, templates, named=3), names)
    captions = [fill(template, chosen) for template in templates for chosen in ([], ["hat"], names, names[::-1])]
    assert torch.equal(tokens.ids[tokens(captions)], tokenizer(captions))
    towers = open_clip.create_model("clip-tiny", pretrained=tiny.pretrained)
    before, expected = towers.token_embedding.weight.clone(), towers.encode_text(tokenizer(captions))
    with tokens.compact(towers):
        torch.testing.assert_close(towers.encode_text(tokens(captions)), expected)
        towers.token_embedding.weight.data += 1
    changed = (towers.token_embedding.weight != before).any(dim=1).nonzero().flatten()
    assert torch.equal(changed, tokens.ids)


def test_it_learns_to_label_by_the_adaptive_threshold(tiny, tmp_path):
    """Three coloured halves as attributes: absent ones come to lie below the base prompt, and present ones above.

    With a random part of the shown attributes as captions, images that show all three would get no label at all.
    """
    rng = np.random.default_rng(0)
    truth = rng.random((240, 3)) < 0.5
    images = rng.integers(90, 130, (240, 3, 32, 32), dtype=np.uint8)
    for row, shown in enumerate(truth):
        for k in np.flatnonzero(shown):
            images[row, k, 16 * (k // 2) : 16 * (k // 2) + 16, :] = 255  # half the height, one channel each
    names = ["red top", "green top", "blue bottom"]
    options = PretrainOptions(tiny.model, ["a {}.", "some {}"], text_steps=30, steps=60, batch=40, named=3)
    towers = train_towers(options, torch.from_numpy(images[:160]), truth[:160], names)
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in towers.state_dict().items()}, tmp_path / "clip.safetensors")
    clip = load_clip(ClipOptions(tiny.model, str(tmp_path / "clip.safetensors")))
    with torch.inference_mode():
        embeddings = clip.encode_image(torch.from_numpy(images[160:]).float() / 127.5 - 1)
        similarities = embeddings @ text_features(clip, names, options.templates).T
        base = embeddings @ base_features(clip, options.templates)
    assert (adaptive(similarities.numpy(), base.numpy()) == truth[160:]).mean() > 0.95


def test_the_command_writes_the_same_weights_twice_and_they_load(tiny, faces, tmp_path, capsys):
    steps = {"steps": 2, "text_steps": 2, "batch": 8, "named": 2, "seed": 5}
    options = json.dumps({"model": tiny.model, "templates": ["{}."]} | steps)
    written = []
    for name in ("a.safetensors", "b.safetensors"):
        output = tmp_path / name
        assert main(["embed", "clip", "--options", options, "--manifest", str(faces), "--output", str(output)]) == 0
        written.append(output.read_bytes())
    assert written[0] == written[1]
    clip = load_clip(ClipOptions(tiny.model, str(tmp_path / "a.safetensors")))
    assert clip.digest != load_clip(tiny).digest
    told = Checkpoint(tmp_path / "a.safetensors").told
    assert told == json.loads(json.dumps(asdict(OPEN_CLIP_DEFAULT) | {"quick_gelu": False}))
    assert "40 images, 16 attributes" in capsys.readouterr().out


def test_the_demo_s_configuration_reads_its_longest_captions():
    from lanit.data.faces import ATTRIBUTES
    from lanit.language.clip import find_model

    tokenizer = open_clip.get_tokenizer(find_model(str(CONFIG)))
    template = "a high quality face image of {}."  # the longest of the authors' nine
    Tokens(tokenizer, PretrainOptions(str(CONFIG), [template]), ATTRIBUTES)


def test_a_clip_trained_here_is_seen_as_it_was_trained_under_any_model_s_name(tiny, faces, tmp_path, monkeypatch):
    """open_clip's table says otherwise of ViT-B-16-SigLIP, whose published weights these are not."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16-SigLIP", json.loads(Path(tiny.model).read_text()))
    options = {"model": "ViT-B-16-SigLIP", "templates": ["{}."], "steps": 1, "text_steps": 1, "batch": 4, "named": 2}
    output = str(tmp_path / "clip.safetensors")
    assert main(["embed", "clip", "--options", json.dumps(options), "--manifest", str(faces), "--output", output]) == 0
    clip = load_clip(ClipOptions("ViT-B-16-SigLIP", output))
    torch.testing.assert_close(clip.pixels.mean.flatten(), 2 * torch.tensor(open_clip.OPENAI_DATASET_MEAN) - 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "learns from split 'pretrain' alone, not from 'test'"),
        ({"templates": ["a face"]}, "must hold {} once"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"named": 9}, "longer than the 16 tokens"),
        (
            {"model": "ViT-B-16-SigLIP"},
            "cut by timm/ViT-B-16-SigLIP, .*open_clip's own tokenizer alone",
        ),
        ({"image_learning_rate": float("inf"), "text_steps": 0}, "no longer finite at step"),
    ],
)
def test_mistakes_end_with_one_sentence(tiny, faces, tmp_path, changes, message):
    usual = {"model": tiny.model, "templates": ["a {}."], "steps": 3, "batch": 8, "named": 2}
    options = PretrainOptions(**(usual | changes))
    with pytest.raises(LanitError, match=message):
        pretrain(options, faces, tmp_path / "clip.safetensors")
    assert not list(tmp_path.iterdir())
