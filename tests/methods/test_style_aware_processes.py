"""The style-aware discriminator on two processes with half the batch each takes the steps of one with all of it."""

import copy

import pytest
import torch
from processes import in_processes
from steps import take_step

from lanit import collectives
from lanit.config import parse
from lanit.data.rng import BatchRng
from lanit.methods.protocol import Batch
from lanit.methods.style_aware import StyleAware
from lanit.settings.style_aware import StyleAwareOptions

BATCH = 8
STEPS = (0, 1, 2, 16)  # the first and the last with lazy terms
OPTIONS = {
    "network": {"base_channels": 4, "max_channels": 16, "style_size": 8, "hidden_size": 8, "bottleneck": 8},
    "loss": {"distance": "l1", "queue_start": 0.0},  # with more prototypes than images: from the third step on
    "optimiser": {"prototypes": 10.0, "learning_rate": 1e-3},
}


def train():
    """Four steps of this process's part, in float64; the state after each, and the terms."""
    torch.manual_seed(0)
    method = StyleAware(parse(StyleAwareOptions, OPTIONS), 16, [f"cluster {k}" for k in range(10)])
    method.networks.double()
    count = BATCH // collectives.world_size()
    first = count * (torch.distributed.get_rank() if collectives.world_size() > 1 else 0)
    states = []
    for step in STEPS:
        images = torch.randn(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(step)).double().tanh()
        source = images[first : first + count]
        draws = BatchRng(0, step, first, count, BATCH)
        terms = take_step(method, Batch(source, source, None, None, None, count / BATCH, draws, step, 0.5))
        states.append(copy.deepcopy({**method.networks.state_dict(), **terms}))
    return states


@pytest.fixture(scope="module")
def of_one():
    return train()


def different(ours, theirs):
    """Names of what differs by more than rounding."""
    return {name for name in ours if not torch.allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-9)}


def test_two_processes_take_the_steps_of_one(of_one, tmp_path):
    for of_rank in in_processes(train, 2, tmp_path):
        for step, ours, theirs in zip(STEPS, of_rank, of_one):
            assert ours.keys() == theirs.keys() and not different(ours, theirs), f"step {step}"


def test_the_comparison_is_of_things_that_move(of_one):
    before, after = of_one[1], of_one[3]
    moved = {name.partition(".")[0] for name in different(before, {**before, **after})}
    assert moved >= {"generator", "discriminator", "prototypes", "queue"}
    assert {"d_r1", "g_content"} <= after.keys() and after["queue.codes"].abs().amax((1, 2)).min() > 0
