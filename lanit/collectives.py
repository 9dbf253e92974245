"""Sums over the processes of a training, through which gradients flow; with one process, what went in comes out.

Stands on the ground beside `lanit.config`. Whoever averages over a batch that several processes share needs it: a loss
adds up the contributions of all processes, so that their gradients, summed, are those of one process with all images.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def world_size() -> int:
    """Return the number of processes."""
    return torch.distributed.get_world_size() if _several() else 1


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of the processes' tensors, the same on each.

    The gradient that reaches `tensor` is the sum of the gradients that the processes have for the result: right for a
    training whose loss is the sum of what the processes compute.
    """
    return _AllReduceSum.apply(tensor) if _several() else tensor


def all_gather(tensor: Tensor) -> Tensor:
    """Return the processes' tensors (B, …), of one shape, joined in the order of their ranks; without gradients."""
    if not _several():
        return tensor.detach()
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    torch.distributed.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(context, tensor: Tensor) -> Tensor:
        summed = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return _AllReduceSum.apply(gradient)  # differentiable once more, for gradient penalties


def _several() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
