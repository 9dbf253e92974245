"""From a trained method to pixels, in the stage and in use alike: its labels, its translations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanit.config import LanitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lanit.methods.protocol import Method


def method_labels(method: Method, labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Labels (M, N) of the named domains as the method's own (M, N')."""
    from lanit.methods.protocol import LabelledMethod

    return method.extend_labels(labels) if isinstance(method, LabelledMethod) else labels


def at_least_one(method: Method, labels: NDArray[np.bool_], similarities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The method's labels (M, N') of images, by their pseudo labels and similarities (M, N).

    An image above the threshold in no domain is in the method's slack domain, where it has one, or else in its nearest.
    """
    import numpy as np

    chosen = np.array(method_labels(method, labels), dtype=bool)
    without = ~chosen.any(axis=1)
    chosen[without, similarities[without].argmax(axis=1)] = True
    return chosen


def translate_images(method: Method, images: Tensor, styles: Tensor) -> Tensor:
    """Translate images (B, 3, H, W) in [-1, 1], and round as a saved PNG would: uint8 (B, 3, H, W) on the CPU.

    Raises:
        LanitError: a translation is not finite.
    """
    import torch

    with torch.no_grad():
        images = method.translate(images, styles)
    if not torch.isfinite(images).all():
        raise LanitError("the run's translations are not finite; its training diverged, so train it anew")
    return images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).cpu()
