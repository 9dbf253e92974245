"""Processes: started by torchrun, one a device; gradients averaged by hand, since one step has several backward passes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn

from lanit.config import LanitError


@dataclass(frozen=True)
class World:
    """This process among all of a training."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Is this the process that writes files and logs?"""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one message."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(mean.view_as(gradient))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, so that all start from the same networks."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)


def start(device: str) -> World:
    """Join the group that torchrun's environment names; without torchrun, be the only process.

    Args:
        device: `"cpu"` (gloo), `"cuda"` (NCCL, one GPU a process) or `"auto"` (CUDA where there is any).

    Raises:
        LanitError: CUDA is asked for and absent, or there are more processes than GPUs.
    """
    size, rank, local = (int(os.environ.get(name, default)) for name, default in
                         (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise LanitError("train.device is cuda, but torch sees no GPU here; use auto or cpu, or mend the driver")
        if local >= torch.cuda.device_count():
            raise LanitError(
                f"process {local} has no GPU of its own: this machine shows {torch.cuda.device_count()}; "
                "start at most as many processes a node as it has GPUs"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    if size > 1:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return World(rank, size, torch.device(device))


def stop(world: World) -> None:
    """Leave the group."""
    if world.size > 1:
        torch.distributed.destroy_process_group()
