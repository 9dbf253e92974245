"""Losses on their way from the device: means every few steps, and a look at each as soon as it has arrived."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from lanit import ranks


class Meter:
    """Adds up a process's contributions to the losses, and watches that they are finite; waits for the device in `fetch` alone."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._coming: deque[tuple[list[str], Tensor, torch.cuda.Event | None]] = deque()

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take in one step's losses, scalars on the device."""
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
            self._coming.append((names, host, arrived))
        else:
            self._coming.append((names, values, None))

    def wrong(self, wait: bool = False) -> tuple[str, float] | None:
        """Return, in words, which loss is not finite, and its value, among those that have
        arrived; with `wait`, among all."""
        while self._coming:
            names, values, arrived = self._coming[0]
            if arrived is not None:
                if wait:
                    arrived.synchronize()
                elif not arrived.query():
                    return None
            self._coming.popleft()
            for name, value in zip(names, values.tolist()):
                if not math.isfinite(value):
                    return f"the loss {name}", value
        return None

    def fetch(self) -> dict[str, float]:
        """Return the means over the steps since the last call, summed over processes; all processes call it at one step."""
        names = list(self._sums)
        means = ranks.total(torch.stack([self._sums[name] / self._counts[name] for name in names]))
        self._sums, self._counts = {}, {}
        return dict(zip(names, means.tolist()))
