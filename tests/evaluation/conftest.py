"""What the tests of the evaluation share: a drawn dataset, a judge of it, real features, runs of made-up methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up import CLASSES

from lanit import catalogue
from lanit.cli import main
from lanit.config import parse
from lanit.methods.protocol import LabelledMethod


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    """Manifest of drawn faces: 60 to train on, 120 to test on, 300 others for the judge, 100 to choose on."""
    from lanit.data import shard

    folder = tmp_path_factory.mktemp("faces")
    counts = {"train": 60, "test": 120, "pretrain": 300, "val": 100}
    splits = {name: {"images": count, "seed": i} for i, (name, count) in enumerate(counts.items())}
    source = {"kind": "faces", "splits": splits, "probability": 0.4}
    options = parse(shard.ShardOptions, {"source": source, "size": 32, "shards": dict.fromkeys(splits, 1)})
    shard.plan(options, folder / "plan.parquet")
    indices = [folder / f"{split}-0.parquet" for split in splits]
    for split, index in zip(splits, indices):
        shard.write(folder / "plan.parquet", options, split, 0, folder / "shards" / f"{split}-0.tar", index)
    manifest, quarantine = folder / "manifest.parquet", folder / "quarantine.csv"
    shard.index(folder / "plan.parquet", indices, manifest, quarantine, folder / "dataset.json")
    return manifest


@pytest.fixture(scope="session")
def judge(manifest) -> Path:
    path = manifest.parent / "judge.safetensors"
    options = json.dumps({"width": 8, "epochs": 16, "batch": 32, "learning_rate": 0.01, "held_out": 0.2})
    assert main(["evaluate", "judge", "--options", options, "--manifest", str(manifest), "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def real(manifest, judge) -> Path:
    path = manifest.parent / "test.safetensors"
    features = json.dumps({"kind": "judge", "weights": str(judge)})
    command = ["evaluate", "features", "--features", features, "--manifest", str(manifest)]
    assert main([*command, "--output", str(path)]) == 0
    return path


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Make the folder of a run whose method is the one given."""

    def make(method, domains=("hat", "beard"), supervision=None, **changes) -> Path:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        record = {
            "dataset": "faces", "method": "made-up", "domains": list(domains), "seed": 3, "images_seen": 640,
            "train_seconds": 12.5, "code": "abc1234", "config": "0123456789ab",
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(record | changes))
        guess = "text" if isinstance(method, LabelledMethod) else "none"
        entry = catalogue.Entry("made-up", "Made up", supervision or guess, module="", settings="")
        monkeypatch.setitem(catalogue.METHODS, "made-up", entry)
        monkeypatch.setattr("lanit.methods.load_method", lambda run, device: method, raising=False)
        return folder

    return make


@pytest.fixture
def translate(manifest, judge):
    """Run `lanit translate` and return its exit code."""

    def call(run, *arguments, **options) -> int:
        given = {"classes": CLASSES, "features": {"kind": "judge", "weights": str(judge)}, "protocol": {"pairs": 12}}
        return main([
            "translate", "--run", str(run), "--manifest", str(manifest), "--options", json.dumps(given | options),
            "--output", str(run / "translations.safetensors"), "--pictures", str(run / "pictures.npz"),
            *map(str, arguments),
        ])  # fmt: skip

    return call


@pytest.fixture
def evaluate(manifest, real):
    """Run `lanit evaluate scores` and return scores.json, or its exit code where it fails."""

    def call(run, options="{}", real=real):
        code = main([
            "evaluate", "scores", "--translations", str(run / "translations.safetensors"), "--real", str(real),
            "--manifest", str(manifest), "--run", str(run), "--options", options, "--output", str(run / "scores.json"),
        ])  # fmt: skip
        return code or json.loads((run / "scores.json").read_text())

    return call
