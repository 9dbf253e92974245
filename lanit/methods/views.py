"""The second view of an image that TUNIT's guiding network learns from: affine map, colour jitter, mirroring.

Everything is computed for the whole batch at once, and a view is a function of the image and its draws, whatever the
device. Images are (B, 3, H, W) float32 in [-1, 1] in `second_view` and in [0, 1] in the colour functions, whose
definitions are those of torchvision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lanit.data.rng import BatchRng
from lanit.settings.tunit import ViewOptions


def second_view(images: Tensor, rng: BatchRng, options: ViewOptions) -> Tensor:
    """Return a randomly transformed copy (B, 3, H, W) of images in [-1, 1].

    Each image has its own draws; only the order of the four colour changes, random as in torchvision, is one for all.
    """
    order = rng.order(4)
    uniform = rng.uniform(10).to(images.dtype).T  # (10, B)
    mirror = 1 - 2 * (uniform[9] < options.mirror).to(images.dtype)  # -1 where mirrored
    even = 2 * uniform - 1  # in [-1, 1]
    moved = affine(
        images,
        rotation=options.rotation * even[0],
        shift=options.shift * even[1:3].T,
        shear=options.shear * even[3],
        zoom=1 + options.zoom * even[4],
        mirror=mirror,
    )
    changes = (
        lambda x: adjust_brightness(x, 1 + options.brightness * even[5]),
        lambda x: adjust_contrast(x, 1 + options.contrast * even[6]),
        lambda x: adjust_saturation(x, 1 + options.saturation * even[7]),
        lambda x: adjust_hue(x, options.hue * even[8]),
    )
    coloured = (moved + 1) / 2
    for change in order:
        coloured = changes[change](coloured)
    return coloured * 2 - 1


def affine(images: Tensor, rotation: Tensor, shift: Tensor, shear: Tensor, zoom: Tensor, mirror: Tensor) -> Tensor:
    """Mirror, zoom, shear, rotate about the centre and then shift square images (B, 3, H, H) of any range.

    What comes in from outside is the image's own reflection: a border of one colour would tell the two views apart.

    Args:
        rotation: (B,) degrees, clockwise.
        shift: (B, 2) share of the side, to the right and down.
        shear: (B,) degrees along x.
        zoom: (B,) factor.
        mirror: (B,) -1 mirrors left and right, 1 does not.
    """
    angle, tilt = torch.deg2rad(rotation), torch.tan(torch.deg2rad(shear))
    cos, sin = torch.cos(angle), torch.sin(angle)
    # The inverse, output position to input position: mirror / zoom . [[1, tilt], [0, 1]] . [[cos, sin], [-sin, cos]].
    rows = torch.stack([mirror * (cos - tilt * sin), mirror * (sin + tilt * cos), -sin, cos], dim=1)
    matrix = rows.view(-1, 2, 2) / zoom[:, None, None]
    offset = -matrix @ (2 * shift[:, :, None])  # positions run from -1 to 1
    grid = F.affine_grid(torch.cat([matrix, offset], dim=2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply images in [0, 1] by their factors (B,), and clamp."""
    return (images * factor[:, None, None, None]).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move images in [0, 1] away from (factor (B,) above 1) or towards (below 1) their mean grey."""
    mean = _grey(images).mean((2, 3), keepdim=True)
    return torch.lerp(mean, images, factor[:, None, None, None]).clamp(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Move pixels in [0, 1] away from (factor (B,) above 1) or towards (below 1) their grey."""
    return torch.lerp(_grey(images), images, factor[:, None, None, None]).clamp(0, 1)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue (of HSV) of images in [0, 1] by `turn` (B,), in full circles."""
    value, brightest = images.max(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    # The hue in sixths of the circle: where the brightest channel stands, plus the difference of the next two.
    following = torch.arange(1, 4, device=images.device) % 3  # of red, green, blue: green, blue, red
    difference = images[:, following] - images[:, following[following]]
    sixths = 2 * brightest + difference.gather(1, brightest) / chroma.clamp_min(1e-8)
    sixths = sixths + 6 * turn[:, None, None, None]
    # Back: each channel falls from `value` by the chroma, more the further the hue is from that channel's own.
    phases = torch.arange(5, 0, -2, device=images.device)[:, None, None]  # 5, 3, 1; made there: nothing waits
    k = (phases + sixths).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    """Luma (B, 1, H, W) by ITU-R 601."""
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue
