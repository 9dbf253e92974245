"""Own images through the shard stage under Snakemake: what is to be said of them is said on the terminal, once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lanit.data.manifest import read_card

ROOT = Path(__file__).parents[2]


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Two classes of twelve pictures, one of them in two splits, and a file that is none."""
    for c, folder in enumerate(("cat", "dog")):
        (tmp_path / "animals" / folder).mkdir(parents=True)
        for i in range(12):
            pixels = np.full((20, 20, 3), [100 * c, 5 * i, 0], np.uint8)
            Image.fromarray(pixels).save(tmp_path / "animals" / folder / f"{i:02d}.png")
    (tmp_path / "animals" / "cat" / "11.png").write_bytes((tmp_path / "animals" / "cat" / "00.png").read_bytes())
    (tmp_path / "animals" / "cat" / "film.mp4").write_bytes(b"...")
    return tmp_path / "animals"


def mine(**source) -> dict:
    """An overlay with one more dataset, with what it needs of the demo's."""
    dataset = {
        "size": 16,
        "source": {"kind": "folders", "root": "animals", "test_last": 3} | source,
        "shards": {"train": 1, "test": 1},
        "domains": ["cat", "dog"],
        "classes": ["cat", "dog"],
        "templates": ["a {}."],
        "clip": "faces",
        "features": "none",
    }
    features = {"none": {"kind": "inception", "weights": None}}
    overlay = {"datasets": ["mine"], "dataset": {"mine": dataset}, "domains": [2], "features": features}
    return overlay | {"evaluate": {"k": 2}}


def test_what_is_to_be_said_of_the_images_is_on_the_terminal_once_though_all_went_well(snakemake, animals, tmp_path):
    result = snakemake("--cores", "2", "results/mine/manifest.parquet", overlays=[mine()], timeout=600)
    assert result.returncode == 0, result.stdout
    logs = tmp_path / "results" / "logs"
    for sentence, log in (
        ("mine: left out of animals: 1 .mp4 (the first cat/film.mp4)", "plan_shards/mine.log"),
        ("mine: 24 images: train 18, test 6", "plan_shards/mine.log"),
        ("mine: 1 images are in two splits under two names, the first cat/", "index_shards/mine.log"),
    ):
        assert result.stdout.count(sentence) == 1 and (logs / log).read_text().count(sentence) == 1
    assert read_card(tmp_path / "results" / "mine" / "dataset.json").splits["test"].images == 6


def test_what_cannot_be_scored_is_said_before_anything_else_runs(snakemake, animals, tmp_path):
    """By the plan where the images are new; where they are known, before a job starts."""
    target = "results/mine/manifest.parquet"
    for overlay, sentence in (
        ({"dataset": {"mine": {"classes": ["cat", "dgo"]}}}, "'dgo' is none of the source's; did you mean 'dog'?"),
        ({"evaluate": {"k": 5}}, "raise source.test_last to 6, or lower evaluate.k to 2"),
    ):
        result = snakemake("--cores", "2", target, overlays=[mine(), overlay], timeout=600)
        assert result.returncode != 0 and sentence in result.stdout
        assert not list((tmp_path / "results").rglob("*.parquet")) + list((tmp_path / "results").rglob("*.tar"))
    assert snakemake("--cores", "2", target, overlays=[mine()], timeout=600).returncode == 0
    result = snakemake("--dry-run", overlays=[mine(), {"evaluate": {"k": 5}}])
    assert "configuration: dataset.mine cannot be scored: the test split has 3 images of 'cat'" in result.stdout
    result = snakemake("--dry-run", target, overlays=[mine(), {"evaluate": {"k": 1}}])
    assert "Nothing to be done" in result.stdout, "another k makes no shard anew"
    more = {"dataset": {"mine": {"source": {"test_last": 6}}}, "evaluate": {"k": 5}}
    result = snakemake("--dry-run", target, overlays=[mine(), more])
    assert result.returncode == 0 and "plan_shards" in result.stdout, "advice that was followed is not refused again"


def test_the_readmes_example_plans_forty_pictures_a_class(snakemake, tmp_path):
    """As many as one has at first: each class has enough of them in the test split."""
    example = re.search(r"```yaml\n(# mine.yaml.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    (tmp_path / "mine.yaml").write_text(example)
    for folder in yaml.safe_load(example)["dataset"]["mine"]["classes"]:
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for i in range(40):
            Image.new("L", (1, 1), i).save(tmp_path / "photos" / folder / f"IMG_{i:04d}.JPG")
    overlays = [ROOT / "workflow" / "configs" / "paper.yaml", tmp_path / "mine.yaml"]
    result = snakemake("--cores", "1", "results-mine/mine/shards/plan.parquet", overlays=overlays, timeout=600)
    assert result.returncode == 0, result.stdout
    assert "mine: 160 images: train " in result.stdout
