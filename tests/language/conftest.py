"""A tiny CLIP with random weights, and a manifest of drawn truth, made once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from lanit.language.clip import ClipOptions, find_model, load_clip

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ClipOptions:
    """Options of a tiny open_clip model whose random weights lie in a file."""
    folder = tmp_path_factory.mktemp("clip")
    config = folder / "clip-tiny.json"
    config.write_text(json.dumps(CONFIG))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        towers = open_clip.create_model(find_model(str(config)))
        for name, buffer in towers.visual.named_buffers():  # batch statistics that training could have left
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    save_file(towers.state_dict(), folder / "clip-tiny.safetensors")
    return ClipOptions(str(config), str(folder / "clip-tiny.safetensors"))


@pytest.fixture(scope="session")
def clip(tiny: ClipOptions):
    return load_clip(tiny)


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a small faces dataset, made by the shard commands: train 2 × 6, test 8 and pretrain 40 faces."""
    from lanit.cli import main

    folder = tmp_path_factory.mktemp("faces")
    drawn = {"train": (12, 1), "test": (8, 2), "pretrain": (40, 3)}
    splits = {split: {"images": images, "seed": seed} for split, (images, seed) in drawn.items()}
    source = {"kind": "faces", "splits": splits}
    shards = {"train": 2, "test": 1, "pretrain": 1}
    options = json.dumps({"source": source, "size": 32, "shards": shards, "max_damaged": 0.0})
    plan, indices = str(folder / "plan.parquet"), []
    assert main(["shard", "plan", "--options", options, "--output", plan]) == 0
    for split, count in shards.items():
        for i in range(count):
            tar, index = folder / "shards" / f"{split}-{i}.tar", folder / "shards" / f"{split}-{i}.parquet"
            part = ["--plan", plan, "--options", options, "--split", split, "--shard", str(i)]
            assert main(["shard", "write", *part, "--output", str(tar), "--index", str(index)]) == 0
            indices.append(str(index))
    manifest = folder / "manifest.parquet"
    outputs = ["--quarantine", str(folder / "q.csv"), "--card", str(folder / "dataset.json")]
    outputs += ["--manifest", str(manifest)]
    assert main(["shard", "index", "--plan", plan, "--indices", *indices, *outputs]) == 0
    return manifest


@pytest.fixture
def unit():
    """Return a function that makes L2-normalised float32 rows."""

    def make(rng: np.random.Generator, *shape: int) -> np.ndarray:
        rows = rng.normal(size=shape).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    return make
