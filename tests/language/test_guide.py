"""Language in training: similarities, labels by prompts as they are now, and what a finished run keeps of them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from lanit.config import LanitError, parse
from lanit.language.clip import ClipOptions, load_clip
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
    carry_clip(public, tmp_path / "run")
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
