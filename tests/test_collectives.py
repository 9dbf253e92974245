"""Sums over processes, and the gradients that flow through them, against one process that has everything."""

import torch
import torch.distributed
from processes import in_processes

from lanit import collectives

VALUES = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]], dtype=torch.float64)  # a row for each process


def of_rank():
    """What each process finds; the loss is the sum over processes of weight · total(x²)³."""
    rank = torch.distributed.get_rank()
    x = VALUES[rank].clone().requires_grad_()
    loss = (rank + 1) * collectives.all_reduce_sum(x.square()).pow(3).sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    penalty = gradient.square().sum()
    (second,) = torch.autograd.grad(penalty, x)
    tall = VALUES.T[:, rank : rank + 1]  # not contiguous
    return {
        "count": collectives.world_size(),
        "total": collectives.all_reduce_sum(VALUES[rank]),
        "gradient": gradient.detach(),
        "second": second,
        "gathered": collectives.all_gather(torch.stack([x, x + 10])),
        "tall": collectives.all_reduce_sum(tall), "gathered tall": collectives.all_gather(tall),
    }  # fmt: skip


def test_sums_gradients_and_order_on_two_processes(tmp_path):
    found = in_processes(of_rank, 2, tmp_path)
    x = VALUES.clone().requires_grad_()
    loss = (1 + 2) * x.square().sum(0).pow(3).sum()  # what the processes' losses add up to
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    for rank, of_this in enumerate(found):
        assert of_this["count"] == 2
        assert torch.equal(of_this["total"], VALUES.sum(0))
        torch.testing.assert_close(of_this["gradient"], gradient[rank].detach())
        torch.testing.assert_close(of_this["second"], second[rank])
        expected = torch.stack([VALUES[0], VALUES[0] + 10, VALUES[1], VALUES[1] + 10])
        assert torch.equal(of_this["gathered"], expected) and not of_this["gathered"].requires_grad
        assert torch.equal(of_this["tall"], VALUES.sum(0)[:, None])
        assert torch.equal(of_this["gathered tall"], VALUES.reshape(-1, 1))


def test_with_one_process_what_goes_in_comes_out():
    x = VALUES.clone().requires_grad_()
    assert collectives.world_size() == 1 and collectives.all_reduce_sum(x) is x
    gathered = collectives.all_gather(x)
    assert torch.equal(gathered, x) and not gathered.requires_grad
