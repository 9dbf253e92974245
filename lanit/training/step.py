"""One training step of any method: its updates one after the other, each over all parts and processes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lanit import collectives
from lanit.methods.protocol import Batch, Method


def take_step(
    method: Method, parts: Sequence[Batch], precision: str = "fp32", norms: bool = False
) -> dict[str, Tensor]:
    """Take the updates of one step; nothing here waits for the device.

    Args:
        method: whose networks move.
        parts: this process's share of the batch.
        precision: `"fp32"`, or `"bf16"` for networks under autocast.
        norms: whether to measure gradients.

    Returns:
        this process's contributions to the losses by name, scalars on the device; with `norms` also `norm_{network}`,
        the norm of the gradient, summed over processes, that moved a network (the largest where it moved several
        times).
    """
    device = parts[0].source.device.type
    report: dict[str, Tensor] = {}
    measured: dict[str, Tensor] = {}
    updates = method.updates(parts)
    while True:
        with _autocast(device, precision):
            update = next(updates, None)
        if update is None:
            return report | {f"norm_{name}": value / collectives.world_size() for name, value in measured.items()}
        parameters = {name: list(method.networks[name].parameters()) for name in update.networks}
        moving = [parameter for ones in parameters.values() for parameter in ones]
        for tensor in (*moving, *update.leaves):
            tensor.grad = None
        for i in range(len(parts)):
            with _autocast(device, precision):
                total, terms = update.loss(i)
            # Not torch.autograd.grad: its gradients can be laid out unlike their parameters (R1's are), and fused Adam
            # pairs the two by their place in memory.
            total.backward(inputs=[*moving, *update.leaves])
            for name, value in terms.items():
                report[name] = report[name] + value if name in report else value
        update.finish()
        _sum_over_processes(moving)
        for name, ones in parameters.items():
            if norms:
                norm = torch.nn.utils.get_total_norm([p.grad for p in ones if p.grad is not None])
                measured[name] = torch.maximum(measured[name], norm) if name in measured else norm
            method.optimisers()[name].step()


@torch.no_grad()
def _sum_over_processes(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes, in one message."""
    if collectives.world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    summed = collectives.all_reduce_sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, values in zip(gradients, summed.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(values.view_as(gradient))


def _autocast(device: str, precision: str) -> contextlib.AbstractContextManager:
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=torch.bfloat16)
