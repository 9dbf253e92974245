"""Augmentation of training images, a whole batch at once on its device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from lanit.data.rng import BatchRng

SCALE = (0.8, 1.0)  # share of the image's area that a crop keeps
RATIO = (0.9, 1.1)  # width of the crop over its height, drawn evenly on a logarithmic scale
PROBABILITY = 0.5  # of a crop, and of a flip


def augment(images: torch.Tensor, rng: BatchRng, crop: bool, flip: bool) -> torch.Tensor:
    """Return the images, each cropped at random (and resized back) with probability 1/2, and mirrored with 1/2.

    The crop is the authors' (scale 0.8–1, ratio 0.9–1.1). As many numbers are drawn whatever is switched off.

    Args:
        images: float (B, 3, H, W).
        rng: decides crops and flips, for B images on their device.
        crop: whether to crop.
        flip: whether to mirror.

    Returns:
        float (B, 3, H, W); an image that is neither cropped nor mirrored is unchanged to the bit.
    """
    do_crop, do_flip, area, ratio, left, top = rng.uniform(6).unbind(1)
    if crop:
        cropped = _crop(images, area, ratio, left, top)
        images = torch.where((do_crop < PROBABILITY)[:, None, None, None], cropped, images)
    if flip:
        images = torch.where((do_flip < PROBABILITY)[:, None, None, None], images.flip(3), images)
    return images


def _crop(
    images: torch.Tensor, area: torch.Tensor, ratio: torch.Tensor, left: torch.Tensor, top: torch.Tensor
) -> torch.Tensor:
    """Cut a box out of each image and enlarge it; all numbers are (B,), uniform in [0, 1)."""
    area = SCALE[0] + area * (SCALE[1] - SCALE[0])
    ratio = torch.exp(math.log(RATIO[0]) + ratio * (math.log(RATIO[1]) - math.log(RATIO[0])))
    width = (area * ratio).sqrt().clamp(max=1)  # shares of the image's sides
    height = (area / ratio).sqrt().clamp(max=1)
    # Coordinates run from −1 to 1: a box of share w whose centre lies at c covers c ± w.
    x, y = (1 - width) * (2 * left - 1), (1 - height) * (2 * top - 1)
    theta = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
    theta[:, 0, 0], theta[:, 0, 2], theta[:, 1, 1], theta[:, 1, 2] = width, x, height, y
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
