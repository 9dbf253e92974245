"""Losses on their way from the device: means every few steps, and a look at each as soon as it has arrived."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from lanit import collectives


class Meter:
    """Adds up a process's contributions to the losses, and watches that they are finite.

    It waits for the device in `fetch`, in `state` and where `wrong` is told to, and nowhere else.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._coming: deque[tuple[int, list[str], Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Take in the losses of a step, scalars on the device."""
        names = list(losses)
        values = torch.stack([losses[name].float() for name in names])
        for name, value in zip(names, values):
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            self._coming.append((step, names, host, arrived))
        else:
            self._coming.append((step, names, values, None))

    def wrong(self, wait: bool = False) -> str | None:
        """Say what is not finite among the losses that have arrived; with `wait`, among all."""
        while self._coming:
            step, names, values, arrived = self._coming[0]
            if arrived is not None:
                if wait:
                    arrived.synchronize()
                elif not arrived.query():
                    return None
            self._coming.popleft()
            for name, value in zip(names, values.tolist()):
                if not math.isfinite(value):
                    what = f"the gradient norm of {name[5:]}" if name.startswith("norm_") else f"the loss {name}"
                    return f"{what} is {value} after step {step}"
        return None

    def fetch(self) -> dict[str, float]:
        """Return the means over the steps since the last call, summed over processes, which all call it at one step."""
        sums = self.state()
        self._sums, self._counts = {}, {}
        return {name: value / count for name, (value, count) in sums.items()}

    def state(self) -> dict[str, tuple[float, int]]:
        """Return sums, over processes too, and numbers of steps since the last fetch; all call it at one step."""
        names = list(self._sums)
        if not names:
            return {}
        sums = collectives.all_reduce_sum(torch.stack([self._sums[name] for name in names])).tolist()
        return {name: (value, self._counts[name]) for name, value in zip(names, sums)}

    def restore(self, state: dict[str, tuple[float, int]], is_main: bool, device: torch.device) -> None:
        """Go on from a state: one process has the sums of all."""
        self._sums = {
            name: torch.tensor(value if is_main else 0.0, device=device) for name, (value, _) in state.items()
        }
        self._counts = {name: count for name, (_, count) in state.items()}
