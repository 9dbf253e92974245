"""Sample pictures on the way: fixed sources × fixed references, translated by the averaged networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lanit.files import whole
from lanit.methods.protocol import Method


def sample_grid(method: Method, sources: Tensor, references: Tensor, labels: Tensor | None) -> np.ndarray:
    """Draw references in the first row, sources in the first column, and translations where they meet.

    Args:
        method: translates.
        sources: (S, 3, H, W) float32 in [-1, 1].
        references: (R, 3, H, W).
        labels: the method's labels of the references (R, N), or None.

    Returns:
        uint8 ((S + 1)·H, (R + 1)·W, 3).
    """
    styles = method.reference_style(references, labels)
    count, shown = len(sources), len(references)
    cells = method.translate(sources.repeat_interleave(shown, 0), styles.repeat(count, 1))
    rows = torch.cat([sources[:, None], cells.unflatten(0, (count, shown))], dim=1)  # (S, R + 1, 3, H, W)
    corner = torch.ones_like(references[:1])
    grid = torch.cat([torch.cat([corner, references])[None], rows])
    grid = grid.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # rows and columns of pixels
    return ((grid + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy()


def write_picture(path: Path, pixels: np.ndarray, smallest: int = 512) -> None:
    """Write a PNG, enlarged by whole factors until its shorter side has about `smallest` pixels."""
    from PIL import Image

    factor = max(1, smallest // min(pixels.shape[:2]))
    with whole(path) as part:
        Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1)).save(part, "PNG")
