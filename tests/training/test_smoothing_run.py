"""A run of Smoothing: on labels of truth, killed and continued to the same bits, and used without its distance."""

import json

import pytest
import torch
from trainings import OPTIONS, model

from lanit.cli import main
from lanit.config import LanitError, parse
from lanit.evaluation.judge import JudgeOptions, save_judge
from lanit.methods import load_method
from lanit.methods.perceptual import load_perceptual
from lanit.networks.judge import Judge
from lanit.settings.perceptual import PerceptualOptions
from lanit.training import loop
from lanit.training.distributed import World
from lanit.training.labelling import Inputs
from lanit.training.options import TrainOptions


@pytest.fixture
def judge(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_judge(Judge(["a"], False, 16, 4), tmp_path / "judge.safetensors", JudgeOptions(width=4), {"a": 1.0})
    return tmp_path / "judge.safetensors"


@pytest.fixture
def train(manifest, judge, tmp_path):
    """Train in this process for six steps, on one domain an image, chosen among those that truth gives it."""
    labels = tmp_path / "labels"
    options = json.dumps({"labeller": {"kind": "truth"}, "domains": ["hat", "glasses", "beard"]})
    assert main(["label", "--options", options, "--manifest", str(manifest), "--output", str(labels)]) == 0
    network = {"base_channels": 4, "max_channels": 8, "style_size": 6, "latent_size": 5, "hidden_size": 8}
    settings = {"network": network | {"bottleneck": 4}, "perceptual": {"kind": "judge", "weights": str(judge)}}
    chosen = OPTIONS | {"method": "smoothing", "domains": ["hat", "glasses", "beard"], "settings": settings}

    def run(output):
        options = parse(TrainOptions, chosen | {"log_every": 1, "samples": 0})
        assert loop.train(options, Inputs(manifest, labels, ()), output, None, World(0, 1, torch.device("cpu")))
        return model(output)

    return run


def test_a_run_that_was_killed_continues_to_the_same_bits(train, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    whole, average, taken = train(tmp_path / "whole"), loop.average, []

    def killing(*arguments):
        taken.append(1)
        if len(taken) > 3:
            raise Killed
        return average(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "average", killing)
        train(tmp_path / "killed")
    continued = train(tmp_path / "killed")
    assert continued.keys() == whole.keys() and not any("perceptual" in name for name in whole)
    for name, value in whole.items():
        assert torch.equal(continued[name], value), name


def test_a_run_names_its_distance_tells_its_terms_and_translates_without_it(train, judge, tmp_path):
    train(tmp_path / "run")
    name = load_perceptual(PerceptualOptions("judge", judge)).name
    assert json.loads((tmp_path / "run" / "run.json").read_text())["perceptual"] == name
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # Before each of the six steps: no sixth, one, two …; the ramp begins after 0.4 of the budget.
    assert ["kl" in line for line in lines] == [False, False, False, True, True, True]
    assert all({"triplet", "content", "content_reference", "sty_reference"} <= line.keys() for line in lines)

    judge.unlink()
    method = load_method(tmp_path / "run")
    styles = method.latent_style(torch.eye(3), torch.Generator().manual_seed(0))
    assert method.translate(torch.zeros(3, 3, 16, 16), styles).shape == (3, 3, 16, 16)
    with pytest.raises(LanitError, match="judge.safetensors; lanit evaluate judge makes it"):
        _ = method.perceptual
