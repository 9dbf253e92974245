"""What the tests of the shard stage share: small photos on disk, and the stage run from plan to manifest."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lanit.config import parse
from lanit.data import images, shard


@dataclass
class Dataset:
    """A dataset that the stage made in `folder`."""

    folder: Path

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.parquet"

    @property
    def quarantine(self) -> Path:
        return self.folder / "quarantine.csv"

    def tar(self, split: str, index: int = 0) -> Path:
        return self.folder / "shards" / f"{split}-{index}.tar"


def _run_stage(values: dict, folder: Path) -> Dataset:
    """Plan, write all shards, index."""
    options = parse(shard.ShardOptions, values)
    dataset = Dataset(folder)
    shard.plan(options, folder / "plan.parquet")
    indices = []
    for split, count in options.shards.items():
        for i in range(count):
            indices.append(dataset.tar(split, i).with_suffix(".parquet"))
            shard.write(folder / "plan.parquet", options, split, i, dataset.tar(split, i), indices[-1])
    shard.index(folder / "plan.parquet", indices, dataset.manifest, dataset.quarantine, folder / "dataset.json")
    return dataset


def _faces(train: int = 40, test: int = 30, **changes) -> dict:
    """Options of a small draw of faces."""
    splits = {"train": {"images": train, "seed": 1}, "test": {"images": test, "seed": 2}}
    source = {"kind": "faces", "splits": splits, "probability": 0.5}
    return {"source": source, "size": 32, "shards": {"train": 3, "test": 1}} | changes


@pytest.fixture
def run_stage():
    """The function that runs the whole stage: (options, folder) → Dataset."""
    return _run_stage


@pytest.fixture
def faces():
    """The function that gives options of a small draw of faces."""
    return _faces


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Dataset:
    """A dataset of faces, made once."""
    return _run_stage(_faces(), tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def save(tmp_path):
    """Save an image of noise (or the given one) under a path below `tmp_path`; return the path."""

    def save(name: str, image: Image.Image | None = None, **options) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if image is None:
            noise = np.random.default_rng(sum(os.fsencode(name))).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            image = Image.fromarray(noise)
        image.save(path, **options)
        return path

    return save


@pytest.fixture
def without_heic(monkeypatch):
    """A Pillow that reads no HEIC, whatever is installed here."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pillow_heif" else find_spec(name))
    images.readable.cache_clear()
    yield
    images.readable.cache_clear()


@pytest.fixture
def animals(save, tmp_path) -> Path:
    """Class folders `cat` and `wild_dog` with ten images each in three formats; return their root."""
    for folder in ("cat", "wild_dog"):
        for i in range(10):
            save(f"animals/{folder}/{i:02d}.{('jpg', 'png', 'webp')[i % 3]}")
    return tmp_path / "animals"
