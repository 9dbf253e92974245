"""BatchRng: the numbers of an image depend on seed, step and its place in the whole batch, and on nothing else."""

import pytest
import torch

from lanit.data.rng import BatchRng


def numbers(rng):
    """What a step may ask for, one after the other."""
    return rng.uniform(3), rng.normal(2, 4), rng.order(7), rng.uniform()


@pytest.mark.parametrize("count", [1, 3, 6])
def test_parts_get_slices_of_what_the_whole_batch_gets(count):
    whole = numbers(BatchRng(5, 9, 0, 12, 12))
    assert [values.shape for values in (whole[0], whole[1], whole[3])] == [(12, 3), (12, 2, 4), (12,)]
    for first in range(0, 12, count):
        part = numbers(BatchRng(5, 9, first, count, 12))
        for i in (0, 1, 3):
            assert torch.equal(part[i], whole[i][first : first + count]) and part[i].dtype == torch.float32
        assert part[2] == whole[2] and sorted(part[2]) == list(range(7)), "an order is one for all parts"


def test_numbers_are_a_function_of_seed_and_step():
    for state in (0, 1):
        torch.manual_seed(state)  # which plays no part
        seen = {(seed, step): BatchRng(seed, step, 0, 2, 2).uniform(50) for seed in (0, 1, 2) for step in (0, 1, 2)}
        again = BatchRng(1, 2, 0, 2, 2).uniform(50)
        assert torch.equal(seen[1, 2], again)
    values = list(seen.values())  # (seed, step) = (1, 2) and (2, 1) among them
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])


def test_uniform_and_normal_numbers_are_what_they_are_called():
    rng = BatchRng(0, 0, 0, 2000, 2000)
    uniform, normal = rng.uniform(5), rng.normal(5)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.005
    assert abs(normal.mean()) < 0.03 and abs(normal.var() - 1) < 0.05
