"""Processes: started by torchrun, one a device."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from lanit.config import LanitError


@dataclass(frozen=True)
class World:
    """This process among all of a training."""

    rank: int
    size: int
    device: torch.device
    hosts: Any = None  # the group in which hosts talk about plain numbers, whatever their devices are doing

    @property
    def is_main(self) -> bool:
        """Is this the process that writes files and logs?"""
        return self.rank == 0

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, so that all start from the same networks."""
        if self.size > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    def broadcast(self, value: Any) -> Any:
        """Return on every process the plain value that the first one has."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0, group=self.hosts)
        return values[0]

    def all_reduce_max(self, *numbers: int) -> list[int]:
        """Return the largest of each of the processes' numbers: all decide alike, at the same step."""
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=self.hosts)
        return values.tolist()


def start(device: str) -> World:
    """Join the group that torchrun's environment names; without torchrun, be the only process.

    Args:
        device: `"cpu"` (gloo), `"cuda"` (NCCL, one GPU a process) or `"auto"` (CUDA where there is any).

    Raises:
        LanitError: CUDA is asked for and absent, or there are more processes than GPUs.
    """
    size, rank, local = (
        int(os.environ.get(name, default))
        for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
    )
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
        torch.backends.cudnn.benchmark = True  # sizes never change
        device = f"cuda:{local}"
    hosts = None
    if size > 1:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        hosts = torch.distributed.new_group(backend="gloo", timeout=timedelta(hours=1))
    return World(rank, size, torch.device(device), hosts)


def stop(world: World) -> None:
    """Leave the group."""
    if world.size > 1:
        torch.distributed.destroy_process_group()
