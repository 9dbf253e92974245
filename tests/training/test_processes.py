"""Trainings as a user starts them: processes of their own, killed, told to stop, and started again."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from trainings import OPTIONS, learned, model, options_of

STEPS = {"images": 96, "log_every": 1, "checkpoints": 12, "samples": 0}  # twelve steps of 8, each told and saved
RATES = ("learning_rate", "discriminator_learning_rate", "mapping_learning_rate")


def finish(process: subprocess.Popen, status: int = 0) -> str:
    told = process.communicate(timeout=300)[0]
    assert process.returncode == status, told
    return told


def wait_for(process: subprocess.Popen, images: int) -> None:
    """Read what a training tells until it has seen so many images."""
    for line in process.stdout:
        if line.split()[:1] == [str(images)]:
            return
    pytest.fail(f"the training ended before it had seen {images} images")


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    apart = ("seconds", "images_per_second", "memory_gib")
    return [{name: value for name, value in line.items() if name not in apart} for line in lines]


@pytest.fixture(scope="module")
def options(language):
    """At rates so low that the signs of vanishing gradients, which rounding decides and Adam obeys, do not matter."""
    options = learned(language, **STEPS)
    return options | {"settings": options["settings"] | dict.fromkeys(RATES, 1e-5)}


@pytest.fixture(scope="module")
def whole(launch, options, tmp_path_factory):
    """Folders of undisturbed runs on one process and on two."""
    folders = {count: tmp_path_factory.mktemp(f"whole{count}") for count in (1, 2)}
    for count, folder in folders.items():
        finish(launch(options, folder, count))
    return folders


@pytest.mark.parametrize("processes", [1, 2])
def test_killing_every_process_and_starting_again_gives_the_same_bits(launch, options, whole, tmp_path, processes):
    process = launch(options, tmp_path, processes)
    wait_for(process, 56)
    for pid in (process.pid, *children(process)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "model.safetensors").exists()
    assert "continuing after step" in finish(launch(options, tmp_path, processes))
    first, second = model(whole[processes]), model(tmp_path)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert losses(whole[processes]) == losses(tmp_path)


def test_workers_whose_launcher_is_killed_save_and_leave(launch, options, whole, tmp_path):
    process = launch(options, tmp_path, 2)
    wait_for(process, 40)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert "continuing after step" in finish(launch(options, tmp_path, 2))  # it waits until they have left the folder
    first, second = model(whole[2]), model(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("number, workers", [(signal.SIGTERM, False), (signal.SIGUSR1, False), (signal.SIGTERM, True)])
def test_a_training_that_is_told_to_stop_saves_and_asks_to_be_started_again(
    launch, options, whole, tmp_path, number, workers
):
    """Whoever tells it: a person the launcher, SLURM perhaps a worker."""
    process = launch(options | {"checkpoints": 0}, tmp_path, 2)
    wait_for(process, 40)
    os.kill(children(process)[-1] if workers else process.pid, number)
    assert "start the same command again to go on" in finish(process, status=75)
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 1
    assert "continuing after step" in finish(launch(options, tmp_path, 2))
    first, second = model(whole[2]), model(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)


def check_same_steps(one: Path, two: Path) -> None:
    """Two runs have taken the same twelve steps at a learning rate of 1e-5, but for rounding."""
    told = losses(one), losses(two)
    assert [line.keys() for line in told[0]] == [line.keys() for line in told[1]]
    for step, (alone, together) in enumerate(zip(*told)):
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, rel=1e-2 if step else 2e-3, abs=1e-4), (step, name)
    first, second = model(one), model(two)
    apart = torch.cat([(value - second[name]).abs().flatten() for name, value in first.items()])
    # Adam may move a weight by 12e-5. Those whose gradient is rounding alone (a bias before a normalisation) are few.
    assert apart.mean() < 0.02 * 12e-5


def test_two_processes_at_half_the_batch_take_the_same_steps_as_one(whole):
    check_same_steps(whole[1], whole[2])


def test_two_processes_draw_evenly_over_domains_as_one_does(launch, language, tmp_path):
    """StarGAN v2: its references are two, its labels are of one domain, and each process sees half of a batch."""
    options = options_of("stargan2", language, **STEPS)
    options = options | {"settings": options["settings"] | dict.fromkeys(RATES, 1e-5)}
    for count in (1, 2):
        finish(launch(options, tmp_path / str(count), count))
    check_same_steps(tmp_path / "1", tmp_path / "2")


def test_a_loss_that_is_not_finite_ends_all_processes(launch, options, tmp_path):
    settings = options["settings"] | {"learning_rate": 1e30}
    told = finish(launch(options | {"settings": settings}, tmp_path, 2), status=1)
    assert "in the run in" in told and "lower the learning rate or a weight" in told
    assert not (tmp_path / "model.safetensors").exists()


def test_a_mistake_on_two_processes_is_told_and_ends_them(launch, tmp_path):
    started = time.monotonic()
    told = finish(launch(OPTIONS | {"batch": 9}, tmp_path, 2), status=1)
    assert "train.batch 9 does not divide among 2 processes" in told
    assert time.monotonic() - started < 120
