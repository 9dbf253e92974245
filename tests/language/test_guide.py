"""Language in training: similarities, labels by prompts as they are now, and what a finished run keeps of them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from lanit.config import LanitError, parse
from lanit.language.clip import ClipOptions, load_clip
from lanit.language.clip_features import TextsOptions, embed_texts
from lanit.language.guide import Guide, LanguageOptions, carry_clip, find_clip, label_changes, write_language
from lanit.language.prompts import base_features, text_features
from lanit.language.pseudo_labels import Texts, label, read_texts, write_texts

CANDIDATES, DOMAINS = ["beard", "hat", "red hair"], ["red hair", "hat"]
TEMPLATES = ["a face with {}.", "{}, drawn"]
IMAGES = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def folder(clip, tmp_path):
    """The label stage's folder: its texts are of more candidates, in another order."""
    with torch.no_grad():
        domains, base = text_features(clip, CANDIDATES, TEMPLATES), base_features(clip, TEMPLATES)
    write_texts(Texts(tuple(CANDIDATES), domains.numpy(), base.numpy()), tmp_path / "labels" / "texts.safetensors")
    return tmp_path / "labels"


@pytest.fixture
def make(tiny, folder):
    """Return a function that makes a guide, with other options than the defaults."""

    def build(domains=DOMAINS, **options) -> Guide:
        given = {"clip": asdict(tiny), "templates": TEMPLATES} | options
        return Guide(parse(LanguageOptions, given), domains, folder, "cpu")

    return build


def test_the_options_need_no_torch():
    code = "import sys, lanit.language.guide; sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_texts_are_those_of_the_label_stage_the_base_prompt_last(make, folder):
    guide, texts = make(), read_texts(folder / "texts.safetensors")
    assert guide.prompts is None
    assert torch.equal(guide.texts, torch.from_numpy(np.stack([texts.domains[2], texts.domains[1], texts.base])))


def test_learned_prompts_start_at_these_texts(make):
    guide = make(prompts="learned")
    torch.testing.assert_close(guide.prompts(), guide.texts, atol=1e-6, rtol=0)
    assert guide.prompts.describe()[0]["template"] == TEMPLATES[0]


def test_similarities_are_cosines_by_one_run_of_the_image_tower(make, monkeypatch):
    guide, runs = make(), []
    encode = guide.clip.towers.encode_image
    monkeypatch.setattr(guide.clip.towers, "encode_image", lambda images: runs.append(len(images)) or encode(images))
    images = IMAGES.clone().requires_grad_()
    similarities = guide.similarities(images, guide.texts)
    assert runs == [5] and similarities.shape == (5, 3)
    embeddings = guide.clip.encode_image(IMAGES)
    expected = torch.nn.functional.cosine_similarity(embeddings[:, None], guide.texts[None], dim=2)
    torch.testing.assert_close(similarities, expected)
    similarities.sum().backward()
    assert images.grad.abs().sum() > 0


def test_similarities_under_autocast_are_not_rounded_as_the_towers_are(make):
    """bfloat16 steps by 0.004 near 1: base prompt and domains would become equal."""
    guide = make()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings, similarities = guide.clip.encode_image(IMAGES), guide.similarities(IMAGES, guide.texts)
    assert similarities.dtype == torch.float32
    torch.testing.assert_close(similarities, embeddings @ guide.texts.T)


@pytest.mark.parametrize("labeller", [{}, {"kind": "top_k", "k": 1}, {"kind": "fixed", "threshold": 0.1}])
def test_labels_are_those_of_the_label_stage(make, labeller, unit):
    guide = make(labeller=labeller)
    rows, texts = unit(np.random.default_rng(0), 300, 16), guide.texts.numpy()
    found = guide.label(torch.from_numpy(rows), guide.texts)
    assert found.shape == (300, 2) and found.dtype == bool and 0 < found.mean() < 1
    assert (found == label(guide.options.labeller, rows @ texts[:2].T, rows @ texts[2])).all()


def test_labels_follow_learned_prompts(make, unit):
    guide = make(prompts="learned")
    rows = torch.from_numpy(unit(np.random.default_rng(0), 300, 16))
    before = guide.label(rows, guide.texts)
    assert (guide.label(rows, guide.prompts()) == before).mean() > 0.99
    with torch.no_grad():
        guide.prompts.vectors += torch.linspace(-1, 1, 16)
    assert (guide.label(rows, guide.prompts()) == before).mean() < 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domains": ["hatt"]}, "'hatt' has no text features; did you mean 'hat'"),
        ({"labeller": {"kind": "top_k", "k": 3}}, "k must be from 1 to the 2 domains"),
        ({"clip": {"model": "x", "weights": "y"}}, "language.clip has an unknown key 'weights'"),
        ({"prompts": "learned", "templates": ["{}"]}, "nothing to learn"),
        ({"prompts": "learned", "templates": ["a drawing of {}"]}, "would not start at the texts in .*texts.safetens"),
        ({"prompts": "learnt"}, "prompts must be one of frozen, learned"),
    ],
)
def test_what_does_not_go_together(make, options, message):
    with pytest.raises(LanitError, match=message):
        make(**options)


def test_texts_of_another_clip(make, folder):
    write_texts(Texts(("hat",), np.eye(1, 8, dtype=np.float32), np.ones(8, np.float32)), folder / "texts.safetensors")
    with pytest.raises(LanitError, match="texts of 8 dimensions and the CLIP 16"):
        make(["hat"])


@pytest.mark.parametrize("changes", [{"mean": [0.5, 0.5, 0.5]}, {"quick_gelu": True}, {"interpolation": "bilinear"}])
def test_texts_of_a_clip_that_sees_otherwise(tiny, make, tmp_path, changes):
    options = parse(TextsOptions, {"clip": asdict(tiny) | changes, "domains": CANDIDATES, "templates": TEMPLATES})
    embed_texts(options, tmp_path / "labels" / "texts.safetensors")
    make(clip=asdict(tiny) | changes)
    with pytest.raises(LanitError, match="clip-tiny.json is of another CLIP than the texts in .*texts.safetensors"):
        make()


def test_a_run_keeps_the_averaged_texts_what_they_learned_and_its_clip(make, tmp_path):
    guide = make(prompts="learned")
    averaged = copy.deepcopy(guide.prompts)
    with torch.no_grad():
        averaged.vectors += torch.linspace(-1, 1, 16)
    changes = label_changes(np.eye(2, dtype=bool), np.ones((2, 2), dtype=bool), DOMAINS)
    run = tmp_path / "run"
    write_language(run, guide.options.clip, averaged(), DOMAINS, averaged, changes)
    texts = read_texts(run / "texts.safetensors")
    assert texts.names == tuple(DOMAINS)
    assert (np.concatenate([texts.domains, texts.base[None]]) == averaged().detach().numpy()).all()
    told = json.loads((run / "prompts.json").read_text())
    assert told == {"templates": averaged.describe(), "labels": changes}
    assert told["templates"][0]["vectors"][0]["moved"] > 0
    files = {"clip.json", "clip.safetensors", "prompts.json", "texts.safetensors"}
    assert {path.name for path in run.iterdir()} == files
    write_language(tmp_path / "frozen", guide.options.clip, guide.texts, DOMAINS, None, None)
    assert {path.name for path in (tmp_path / "frozen").iterdir()} == files - {"prompts.json"}


def test_a_carried_clip_is_found_and_is_the_same_after_its_source_has_gone(tiny, clip, tmp_path):
    source = {"model": str(tmp_path / "own.json"), "pretrained": str(tmp_path / "linked.safetensors")}
    Path(source["model"]).write_bytes(Path(tiny.model).read_bytes())
    Path(tmp_path / "own.safetensors").write_bytes(Path(tiny.pretrained).read_bytes())
    Path(source["pretrained"]).symlink_to("own.safetensors")
    for _ in range(2):  # a run that is started again carries again
        carry_clip(source, tmp_path / "run")
    weights = tmp_path / "run" / "clip.safetensors"
    assert weights.stat().st_ino == (tmp_path / "own.safetensors").stat().st_ino  # takes no room
    Path(source["model"]).write_text("{}")  # edited in place
    (tmp_path / "own.safetensors").unlink()
    found = find_clip(tmp_path / "run", source)
    assert found == {"model": str(tmp_path / "run" / "clip.json"), "pretrained": str(weights)}
    carried = load_clip(parse(ClipOptions, found))
    torch.testing.assert_close(carried.encode_text(["a face with hat"]), clip.encode_text(["a face with hat"]))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"clip.json", "clip.safetensors"}


@pytest.mark.parametrize(
    "told", [{"mean": [0.3, 0.4, 0.5], "std": [0.2, 0.2, 0.3]}, {"interpolation": "bilinear"}, {"quick_gelu": True}, {}]
)
def test_a_run_sees_as_it_was_trained_whatever_becomes_of_what_told_so(tiny, tmp_path, told):
    """By keys of the configuration, and by what lay beside the weights."""
    hub = tmp_path / "hub"
    hub.mkdir()
    seen = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    config = {"model_cfg": json.loads(Path(tiny.model).read_text()), "preprocess_cfg": seen}
    (hub / "open_clip_config.json").write_text(json.dumps(config))
    (hub / "weights.safetensors").write_bytes(Path(tiny.pretrained).read_bytes())
    given = {"model": tiny.model, "pretrained": str(hub)} | told
    trained = load_clip(parse(ClipOptions, given))
    assert carry_clip(given, tmp_path / "run") == trained.digest
    for path in hub.iterdir():
        path.unlink()
    carried = load_clip(parse(ClipOptions, find_clip(tmp_path / "run", given)))
    assert torch.equal(carried.pixels(IMAGES), trained.pixels(IMAGES))
    assert torch.equal(carried.encode_image(IMAGES), trained.encode_image(IMAGES))
    assert torch.equal(carried.encode_text(TEMPLATES), trained.encode_text(TEMPLATES))
    assert carried.digest == trained.digest
    torch.testing.assert_close(trained.pixels.mean.flatten(), 2 * torch.tensor(told.get("mean", seen["mean"])) - 1)


def test_a_local_file_of_a_public_model_is_carried_with_what_its_tag_tells(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14", json.loads(Path(tiny.model).read_text()))
    given = {"model": "ViT-L-14", "pretrained": tiny.pretrained, "tag": "laion2b_s32b_b82k"}
    carry_clip(given, tmp_path)
    monkeypatch.delitem(open_clip.pretrained._PRETRAINED["ViT-L-14"], "laion2b_s32b_b82k")  # of a later open_clip
    carried = load_clip(parse(ClipOptions, find_clip(tmp_path, given)))
    torch.testing.assert_close(
        carried.pixels(IMAGES[..., :1, :1].expand(-1, -1, 32, 32)), IMAGES[..., :1, :1].expand(-1, -1, 32, 32)
    )


def test_a_clip_that_has_gone_leaves_the_run_whole_with_a_warning(tmp_path, capsys):
    gone = {"model": "ViT-L-14", "pretrained": "gone/clip.safetensors"}
    assert carry_clip(gone, tmp_path / "run") is None and not (tmp_path / "run").exists()
    assert "does not carry its CLIP: no CLIP checkpoint at gone/clip.safetensors" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_found_by_its_architecture_and_the_options(tiny, tmp_path):
    (tmp_path / "clip.json").write_text(Path(tiny.model).read_text())
    (tmp_path / "clip.safetensors").write_bytes(Path(tiny.pretrained).read_bytes())
    found = find_clip(tmp_path, {"model": "/gone.json", "pretrained": "/gone.safetensors", "quick_gelu": True})
    assert found["quick_gelu"] and load_clip(parse(ClipOptions, found)).width == 16


def test_without_hard_links_the_weights_are_copied(tiny, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    carry_clip(asdict(tiny), tmp_path)
    assert (tmp_path / "clip.safetensors").read_bytes() == Path(tiny.pretrained).read_bytes()


def test_a_public_clip_is_not_carried(tmp_path, monkeypatch):
    public = {"model": "ViT-B-32", "pretrained": "openai"}
    monkeypatch.chdir(tmp_path)
    Path("openai").write_text("a file by the name of a tag")
    Path("cached").write_text("the weights")
    monkeypatch.setattr("lanit.language.clip_files.download_pretrained", lambda _: "cached")
    assert carry_clip(public, tmp_path / "run")
    assert not (tmp_path / "run").exists() and find_clip(tmp_path / "run", public) == public


def test_changes_of_labels():
    before = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
    after = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    assert label_changes(before, after, ["hat", "beard", "scarf"]) == {
        "changed": 3 / 12,
        "per_domain": {
            "hat": {"before": 0.5, "after": 0.5, "changed": 0.5},
            "beard": {"before": 0.25, "after": 0.5, "changed": 0.25},
            "scarf": {"before": 0.0, "after": 0.0, "changed": 0.0},
        },
        "without_before": 0.5,
        "without_after": 0.25,
    }
