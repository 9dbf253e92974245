"""TUNIT on two processes with half the batch each takes the steps that one process takes with all of it."""

import copy

import pytest
import torch
from processes import in_processes
from steps import take_step

from lanit import collectives
from lanit.config import parse
from lanit.data.rng import BatchRng
from lanit.methods.protocol import Batch
from lanit.methods.tunit import Tunit
from lanit.settings.tunit import TunitOptions

BATCH = 8
PROGRESS = (0.0, 0.1, 0.5, 0.6)  # two steps of the warm-up, two after it
OPTIONS = {
    "network": {
        "base": 4,
        "guiding_base": 8,
        "max_width": 32,
        "style": 8,
        "bottleneck": 8,
        "residual_blocks": 1,
        "hidden": 16,
        "cluster_deviation": 3.0,  # clusters that differ, from the start
    },
    "loss": {"queue": 12},  # which the second step's keys overflow
    "key_momentum": 0.9,
}


def train():
    """Four steps of this process's part, in float64; the state after each, and the terms."""
    torch.manual_seed(0)
    method = Tunit(parse(TunitOptions, OPTIONS), 16, ["a", "b", "c"])
    method.networks.double()
    count = BATCH // collectives.world_size()
    first = count * (torch.distributed.get_rank() if collectives.world_size() > 1 else 0)
    states = []
    for step, progress in enumerate(PROGRESS):
        images = torch.randn(2, BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(step)).double().tanh()
        source, reference = images[:, first : first + count]
        rng = BatchRng(0, step, first, count, BATCH)
        terms = take_step(method, Batch(source, reference, None, None, None, count / BATCH, rng, step, progress))
        states.append(copy.deepcopy({**method.networks.state_dict(), **terms}))
    return states


@pytest.fixture(scope="module")
def of_one():
    return train()


def different(ours, theirs):
    """Names of what differs by more than rounding."""
    return {name for name in ours if not torch.allclose(ours[name], theirs[name], rtol=1e-7, atol=1e-10)}


def test_two_processes_take_the_steps_of_one(of_one, tmp_path):
    for of_rank in in_processes(train, 2, tmp_path):
        for step, (ours, theirs) in enumerate(zip(of_rank, of_one)):
            assert ours.keys() == theirs.keys() and not different(ours, theirs), f"step {step}"


def test_the_comparison_is_of_things_that_move(of_one):
    before, after = of_one[1], of_one[3]
    moved = {name.partition(".")[0] for name in different(before, after)}
    assert moved >= {"guiding", "key_encoder", "queue", "clusters", "generator", "discriminator"}
    assert int(after["queue.pushed"]) == 32 and (after["clusters.mass"] > 0).sum() > 1
