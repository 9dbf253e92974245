"""Real processes on this machine, joined in a group as those of a training are."""

import torch
import torch.distributed
import torch.multiprocessing


def in_processes(function, size, folder):
    """What `function()` returns in each of `size` processes; it must be at the top of a module."""
    torch.multiprocessing.spawn(_join, (function, size, folder), nprocs=size)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _join(rank, function, size, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.save(function(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
