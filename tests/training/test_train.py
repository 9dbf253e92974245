"""Training, whatever the method: fixed bits, continued after a kill, the same on one process and two, stopped by NaN."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lanit.cli import main
from lanit.config import LanitError, parse
from lanit.training import checkpoint, loop
from lanit.training.averaging import average
from lanit.training.distributed import World
from lanit.training.options import TrainOptions

ROOT = Path(__file__).parents[2]
ONE = World(0, 1, torch.device("cpu"))
NETWORK = {"base": 4, "guiding_base": 4, "max_width": 8, "style": 6, "bottleneck": 4, "residual_blocks": 1, "hidden": 8}
OPTIONS = {
    "dataset": "faces", "method": "tunit", "domains": ["hat", "glasses"], "seed": 3, "size": 16, "images": 48, "batch": 8,
    "settings": {"network": NETWORK, "warmup": 0.3, "loss": {"queue": 16}}, "log_every": 2, "samples": 2, "checkpoints": 6,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Forty drawn faces of 16 pixels, sharded."""
    folder = tmp_path_factory.mktemp("faces")
    splits = {"train": {"images": 32, "seed": 1}, "test": {"images": 8, "seed": 2}}
    options = json.dumps({"name": "faces", "size": 16, "max_damaged": 0.0, "shards": {"train": 2, "test": 1},
                          "source": {"kind": "faces", "splits": splits}})
    shards = folder / "shards"
    assert main(["shard", "plan", "--options", options, "--output", f"{shards}/plan.parquet"]) == 0
    indices = []
    for split, shard in (("train", 0), ("train", 1), ("test", 0)):
        indices.append(f"{shards}/{split}-{shard}.parquet")
        assert main(["shard", "write", "--plan", f"{shards}/plan.parquet", "--options", options, "--split", split, "--shard",
                     str(shard), "--output", f"{shards}/{split}-{shard}.tar", "--index", indices[-1]]) == 0
    assert main(["shard", "index", "--plan", f"{shards}/plan.parquet", "--indices", *indices, "--manifest",
                 f"{folder}/manifest.parquet", "--quarantine", f"{folder}/quarantine.csv", "--card",
                 f"{folder}/dataset.json"]) == 0
    return folder / "manifest.parquet"


def run(manifest, output, **changes):
    loop.train(parse(TrainOptions, OPTIONS | changes), manifest, None, output, None, ONE)
    return load_file(output / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_a_model_its_description_its_losses_and_pictures(manifest, tmp_path):
    run(manifest, tmp_path)
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["images_seen"] == 48 and described["processes"] == 1 and described["options"]["seed"] == 3
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6] and lines[-1]["images"] == 48
    pictures = sorted((tmp_path / "samples").iterdir())
    assert [picture.name for picture in pictures] == ["00000024.png", "00000048.png"]
    assert Image.open(pictures[0]).size == (7 * 16 * 4, 7 * 16 * 4)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_fixed_seed_gives_the_same_bits_and_another_seed_others(manifest, tmp_path):
    first = run(manifest, tmp_path / "a")
    assert same(first, run(manifest, tmp_path / "b"))
    assert not same(first, run(manifest, tmp_path / "c", seed=4))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def killed_after(steps, monkeypatch):
    real, taken = loop.average, []

    def counting(*arguments):
        taken.append(1)
        if len(taken) > steps:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(loop, "average", counting)


def test_a_run_that_was_killed_continues_to_the_same_bits(manifest, tmp_path, monkeypatch):
    whole = run(manifest, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(4, patch)
        run(manifest, tmp_path / "killed")
    assert (tmp_path / "killed" / "checkpoint.pt").exists() and not (tmp_path / "killed" / "model.safetensors").exists()
    assert same(whole, run(manifest, tmp_path / "killed"))
    losses = [
        [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in (tmp_path / f / "metrics.jsonl").open()]
        for f in ("whole", "killed")
    ]
    assert losses[0] == losses[1]


def test_a_checkpoint_of_other_options_is_not_continued(manifest, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(4, patch)
        run(manifest, tmp_path / "x", seed=9)
    assert same(run(manifest, tmp_path / "x"), run(manifest, tmp_path / "y"))
    assert "other options: training starts from the beginning" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_an_error_not_a_new_start(manifest, tmp_path):
    tmp_path.joinpath("checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(LanitError, match="checkpoint.pt cannot be read .* delete it to train from the start"):
        run(manifest, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_itself(manifest, tmp_path, monkeypatch):
    from lanit.methods.tunit import Tunit

    step = Tunit.step

    def poisoned(self, batch):
        report = step(self, batch)
        return report | {"iic": torch.tensor(float("nan"))} if batch.progress > 0.5 else report

    monkeypatch.setattr(Tunit, "step", poisoned)
    with pytest.raises(LanitError, match="the loss iic of the run in .* is nan"):
        run(manifest, tmp_path)
    state = checkpoint.load(tmp_path / "checkpoint.pt", torch.device("cpu"))
    assert state["step"] <= 4 and not (tmp_path / "model.safetensors").exists()


def test_two_processes_end_with_one_model(manifest, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lanit", "train",
               "--options", json.dumps(OPTIONS | {"images": 16}), "--manifest", str(manifest), "--output", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run.json").read_text())["processes"] == 2
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_two_processes_draw_together_what_one_draws(manifest):
    options = parse(TrainOptions, OPTIONS | {"augment": {"crop": False, "flip": False}})
    whole = loop.Feed(options, manifest, None, ONE)._batch(3)
    halves = [loop.Feed(options, manifest, None, World(rank, 2, torch.device("cpu")))._batch(3) for rank in range(2)]
    assert torch.equal(whole.source, torch.cat([half.source for half in halves]))
    assert torch.equal(whole.reference, torch.cat([half.reference for half in halves]))
    assert not torch.equal(whole.source, whole.reference)


def test_images_without_an_active_domain_are_never_drawn(manifest, monkeypatch):
    from types import SimpleNamespace

    import lanit.language.labels as labels

    found = np.zeros((32, 2), bool)
    found[[3, 7, 20, 21], [0, 1, 0, 1]] = True
    monkeypatch.setattr(labels, "read_labels", lambda folder, split: SimpleNamespace(labels=found))
    feed = loop.Feed(parse(TrainOptions, OPTIONS), manifest, Path("labels"), ONE)
    for step in range(4):
        batch = feed._batch(step)
        assert batch.source_labels.any(1).all() and batch.reference_labels.any(1).all()
    found[:] = False
    with pytest.raises(LanitError, match="only 0 of 32 images have an active domain .* look at the prompts"):
        loop.Feed(parse(TrainOptions, OPTIONS), manifest, Path("labels"), ONE)


def test_an_average_moves_by_its_decay_and_copies_buffers():
    networks = torch.nn.ModuleDict({"a": torch.nn.BatchNorm1d(2), "b": torch.nn.Linear(2, 2)})
    averaged = torch.nn.ModuleDict({"a": torch.nn.BatchNorm1d(2), "b": torch.nn.Linear(2, 2)})
    for parameter, value in ((networks["a"].weight, 3.0), (averaged["a"].weight, 1.0)):
        torch.nn.init.constant_(parameter, value)
    networks["a"].running_mean.fill_(5.0)
    untouched = averaged["b"].weight.clone()
    average(averaged, networks, {"a": 0.75})
    assert averaged["a"].weight.tolist() == [1.5, 1.5] and averaged["a"].running_mean.tolist() == [5.0, 5.0]
    assert torch.equal(averaged["b"].weight, untouched)


@pytest.mark.parametrize("changes, message", [
    ({"imagse": 3}, "unknown key 'imagse'; did you mean 'images'"),
    ({"batch": 0}, "train.batch"),
    ({"method": "lanit"}, "trains on pseudo labels; give their folder with --labels"),
    ({"device": "cuda"}, "torch sees no GPU here"),
    ({"settings": {"network": {"bsae": 4}}}, r"train.tunit.network has an unknown key 'bsae'"),
])
def test_a_mistake_is_one_sentence_and_exit_2(manifest, tmp_path, capsys, changes, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    options = json.dumps(OPTIONS | changes)
    assert main(["train", "--options", options, "--manifest", str(manifest), "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_batch_that_does_not_divide_among_processes_is_an_error(manifest, tmp_path):
    with pytest.raises(LanitError, match="does not divide among 3 processes"):
        loop.train(parse(TrainOptions, OPTIONS), manifest, None, tmp_path, None, World(0, 3, torch.device("cpu")))
