"""Random numbers of one step: those of the whole batch, of which each part takes its own, however it is split."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class BatchRng:
    """The numbers that images `first` to `first + count` − 1 of a batch of `whole` get; made on the CPU on all devices.

    All parts of a batch, on whatever process, make the same calls in the same order.
    """

    def __init__(
        self, seed: int, step: int, first: int, count: int, whole: int, device: torch.device | str = "cpu"
    ) -> None:
        """`seed` and `step` decide the numbers; `device` is where they are put."""
        words = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
        self._generator = torch.Generator().manual_seed(int(words[0] >> 1))
        self._part, self._whole, self._device = slice(first, first + count), whole, torch.device(device)

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers from [0, 1): float32 (count, *shape)."""
        return self._put(torch.rand(self._whole, *shape, generator=self._generator)[self._part])

    def normal(self, *shape: int) -> Tensor:
        """Return numbers from N(0, 1): float32 (count, *shape)."""
        return self._put(torch.randn(self._whole, *shape, generator=self._generator)[self._part])

    def order(self, length: int) -> list[int]:
        """Return a permutation of range(length), one for the whole batch."""
        return torch.randperm(length, generator=self._generator).tolist()

    def _put(self, values: Tensor) -> Tensor:
        if self._device.type == "cuda":  # from pinned memory the copy waits for nothing
            values = values.pin_memory()
        return values.to(self._device, non_blocking=True)
