"""Checkpoints: everything that decides the next step, in one file that is either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lanit.config import LanitError
from lanit.files import whole


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) beside `path`, force it to disk, and rename it."""
    with whole(path) as part, open(part, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        LanitError: the file is damaged; nothing is started over in silence.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a different type for each way in which a file can be damaged
        kind = type(error).__name__
        raise LanitError(f"the checkpoint {path} cannot be read ({kind}); delete it to train from the start") from error
