"""What is not what a command takes it for, or cannot be written, ends it with one sentence that names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lanit.cli import main

DOMAINS = ["hat", "glasses"]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
LANIT = {
    "base_channels": 4, "max_channels": 8, "style_size": 6, "latent_size": 5, "hidden_size": 8, "bottleneck": 4
}  # fmt: skip
# Every command: its path arguments, each with what `sweep` made; a folder's name ends in a slash.
READS = {
    "shard write": {"plan": "plan.parquet"},
    "shard index": {"plan": "plan.parquet", "indices": "train-0.parquet"},
    "embed clip": {"manifest": "manifest.parquet"},
    "embed images": {"shard": "shards/train-0.tar"},
    "label": {"texts": "texts.safetensors", "embeddings": "train-0.safetensors", "manifest": "manifest.parquet"},
    "train": {"manifest": "manifest.parquet", "labels": "labels/", "embeddings": "train-0.safetensors"},
    "evaluate judge": {"manifest": "manifest.parquet"},
    "evaluate features": {"manifest": "manifest.parquet"},
    "translate": {"run": "run/", "manifest": "manifest.parquet", "labels": "labels/"},
    "apply": {"run": "run/", "source": "photo.png", "reference": "photo.png"},
    "evaluate scores": {
        "translations": "translations.safetensors", "real": "real.safetensors", "manifest": "manifest.parquet",
        "run": "run/",
    },
    "compare": {"scores": "run/scores.json", "quality": "labels/quality.json", "pictures": "run/pictures.npz"},
}  # fmt: skip
WRITES = {
    "shard plan": {"output": "plan.parquet"},
    "shard write": {"output": "shards/train-0.tar", "index": "train-0.parquet"},
    "shard index": {"manifest": "manifest.parquet", "quarantine": "q.csv", "card": "dataset.json"},
    "embed clip": {"output": "c.safetensors"},
    "embed texts": {"output": "t.safetensors"},
    "embed images": {"output": "e.safetensors"},
    "label": {"output": "labels/"},
    "train": {"output": "run/"},
    "evaluate judge": {"output": "judge.safetensors"},
    "evaluate features": {"output": "real.safetensors"},
    "translate": {"output": "translations.safetensors", "pictures": "pictures.npz"},
    "apply": {"output": "out.png"},
    "evaluate scores": {"output": "scores.json"},
    "compare": {"output": "comparison/"},
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A folder with all that a sweep of one small LANIT leaves, made by the commands."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "clip.json").write_text(json.dumps(CLIP), encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**CLIP).state_dict(), folder / "clip.safetensors")
    Image.effect_mandelbrot((20, 20), (-2, -1, 1, 1), 50).convert("RGB").save(folder / "photo.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in CHAIN:
            assert main(command_line(command, {})) == 0, command
    return folder


def options(command: str) -> dict | None:
    splits = {
        "train": {"images": 16, "seed": 1},
        "test": {"images": 16, "seed": 2},
        "pretrain": {"images": 80, "seed": 3},
    }
    shards = {
        "source": {"kind": "faces", "splits": splits, "probability": 0.5},
        "size": 16,
        "shards": dict.fromkeys(splits, 1),
    }
    clip = {"model": "clip.json", "pretrained": "clip.safetensors"}
    labeller = {"kind": "top_k", "k": 1}
    language = {"clip": clip, "templates": ["a face with {}."], "labeller": labeller, "prompts": "learned"}
    return {
        "shard plan": shards,
        "shard write": shards,
        "embed clip": {"model": "clip.json", "templates": ["{}."], "steps": 1, "text_steps": 1, "batch": 4, "named": 2},
        "embed texts": {"clip": clip, "domains": DOMAINS, "templates": language["templates"]},
        "embed images": {"clip": clip},
        "label": {"labeller": labeller, "domains": DOMAINS},
        "train": {
            "dataset": "faces", "method": "lanit", "domains": DOMAINS, "seed": 0, "size": 16, "images": 4, "batch": 4,
            "settings": {"network": LANIT}, "language": language, "samples": 1, "device": "cpu",
        },
        "evaluate judge": {"width": 4, "epochs": 1, "batch": 8, "held_out": 0.4},
        "translate": {"classes": DOMAINS, "features": judge(), "protocol": {"pairs": 6}, "picture_sources": 1},
        "evaluate scores": {},
    }.get(command)  # fmt: skip


def judge() -> dict:
    return {"kind": "judge", "weights": "judge.safetensors"}


CHAIN = [
    "shard plan", *(f"shard write {split}" for split in ("train", "test", "pretrain")), "shard index", "embed texts",
    "embed images train", "embed images test", "label", "train", "evaluate judge", "evaluate features", "translate",
    "evaluate scores", "compare",
]  # fmt: skip


def command_line(command: str, changed: dict[str, Path | str]) -> list[str]:
    """The arguments of a command on the sweep's files, some of them changed."""
    *words, last = command.split()
    split = last if last in ("test", "pretrain") else "train"
    command = command.removesuffix(f" {last}") if last in ("train", "test", "pretrain") and words else command
    arguments = {
        "shard plan": {"output": "plan.parquet"},
        "shard write": {
            "plan": "plan.parquet", "split": split, "shard": "0", "output": f"shards/{split}-0.tar",
            "index": f"{split}-0.parquet",
        },
        "shard index": {
            "plan": "plan.parquet", "indices": "train-0.parquet test-0.parquet pretrain-0.parquet",
            "manifest": "manifest.parquet", "quarantine": "q.csv", "card": "dataset.json",
        },
        "embed clip": {"manifest": "manifest.parquet", "output": "c.safetensors"},
        "embed texts": {"output": "texts.safetensors"},
        "embed images": {"shard": f"shards/{split}-0.tar", "output": f"{split}-0.safetensors"},
        "label": {
            "texts": "texts.safetensors", "embeddings": "train-0.safetensors test-0.safetensors",
            "manifest": "manifest.parquet", "output": "labels",
        },
        "train": {
            "manifest": "manifest.parquet", "labels": "labels", "embeddings": "train-0.safetensors", "output": "run"
        },
        "evaluate judge": {"manifest": "manifest.parquet", "output": "judge.safetensors", "device": "cpu"},
        "evaluate features": {
            "features": json.dumps(judge()), "manifest": "manifest.parquet", "output": "real.safetensors",
            "device": "cpu",
        },
        "translate": {
            "run": "run", "manifest": "manifest.parquet", "labels": "labels", "output": "translations.safetensors",
            "pictures": "run/pictures.npz", "device": "cpu",
        },
        "apply": {
            "run": "run", "source": "photo.png", "reference": "photo.png", "output": "out.png", "device": "cpu"
        },
        "evaluate scores": {
            "translations": "translations.safetensors", "real": "real.safetensors", "manifest": "manifest.parquet",
            "run": "run", "output": "run/scores.json",
        },
        "compare": {
            "scores": "run/scores.json", "quality": "labels/quality.json", "pictures": "run/pictures.npz",
            "output": "comparison",
        },
    }[command]  # fmt: skip
    given = options(command)
    words = command.split()
    words += [] if given is None else ["--options", json.dumps(given)]
    for name, value in arguments.items():
        value = changed.get(name, value)
        words += [f"--{name}", *(value.split(" ") if isinstance(value, str) and "{" not in value else [str(value)])]
    return words


def fill(path: Path, kind: str, real: Path) -> None:
    """Put something wrong at a path: what a file is not, what a folder is not."""
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"a file")
    elif kind == "pointer":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    elif kind == "link":
        path.symlink_to(path)
    elif kind == "hollow":  # a folder with the right names and nothing in them
        path.mkdir()
        for file in real.iterdir():
            (path / file.name).write_bytes(b"")


FILES = ["missing", "folder", "pointer", "link"]
FOLDERS = ["missing", "folder", "file", "link", "hollow"]
WRONG = [
    (command, name, kind)
    for command, arguments in READS.items()
    for name, real in arguments.items()
    for kind in (FOLDERS if real.endswith("/") else FILES)
]


@pytest.mark.parametrize(("command", "name", "kind"), WRONG, ids=["-".join(parts) for parts in WRONG])
def test_a_wrong_file_is_named(sweep, tmp_path, monkeypatch, capsys, command, name, kind):
    monkeypatch.chdir(sweep)
    path = tmp_path / "wrong" / "given"
    path.parent.mkdir()
    fill(path, kind, sweep / READS[command][name])
    shutil.copy("dataset.json", path.parent)  # lies beside a manifest
    outputs = {argument: tmp_path / "made" / Path(value).name for argument, value in WRITES[command].items()}
    capsys.readouterr()
    assert main(command_line(command, outputs | {name: path})) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "wrong/given" in said[0], said


UNWRITABLE = [
    (command, name, kind) for command, names in WRITES.items() for name in names for kind in ("below", "taken")
]


@pytest.mark.parametrize(("command", "name", "kind"), UNWRITABLE, ids=["-".join(parts) for parts in UNWRITABLE])
def test_an_output_that_cannot_be_written_is_named(sweep, tmp_path, monkeypatch, capsys, command, name, kind):
    """Below a file, or where a folder (for a folder: a file) is."""
    monkeypatch.chdir(sweep)
    target = Path(WRITES[command][name])
    path = tmp_path / "wrong" / target.name
    path.parent.mkdir()
    if kind == "below":
        path.write_bytes(b"")
        path = path / target.name
    elif WRITES[command][name].endswith("/"):
        path.write_bytes(b"")
    else:
        path.mkdir()
        (path / "something").touch()
    outputs = {argument: tmp_path / "made" / Path(value).name for argument, value in WRITES[command].items()}
    capsys.readouterr()
    assert main(command_line(command, outputs | {name: path})) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and f"wrong/{target.name}" in said[0], said
