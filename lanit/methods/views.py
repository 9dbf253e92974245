"""Views of an image that networks learn from without labels: TUNIT's second, and the style-aware discriminator's two.

Everything is computed for the whole batch at once, and a view is a function of the image and its draws, whatever the
device. Images are (B, 3, H, W) float32 in [-1, 1] in `second_view` and `style_views` and in [0, 1] in the colour
functions, whose definitions are those of torchvision, as is that of a random box.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lanit.data.rng import BatchRng
from lanit.settings.style_aware import StyleAwareViews
from lanit.settings.tunit import ViewOptions

CROP_RATIO = (3 / 4, 4 / 3)  # width over height of a crop, torchvision's
TRIES = 10  # to find a crop that fits, torchvision's
BOX_RATIO, BOX_AREA = (0.3, 3.3), (0.1, 0.33)  # of a box that is cut out, and its share of the image


def second_view(images: Tensor, rng: BatchRng, options: ViewOptions) -> Tensor:
    """Return a randomly transformed copy (B, 3, H, W) of images in [-1, 1].

    Each image has its own draws; only the order of the four colour changes, random as in torchvision, is one for all.
    """
    order = rng.order(4)
    uniform = rng.uniform(10).to(images.dtype).T  # (10, B)
    mirror = 1 - 2 * (uniform[9] < options.mirror).to(images.dtype)  # -1 where mirrored
    even = 2 * uniform - 1  # in [-1, 1]
    zoom, box = 1 + options.zoom * even[4], None
    if options.crop == "anywhere":
        tries, place = rng.uniform(TRIES, 2).to(images.dtype), rng.uniform(2).to(images.dtype)
        centre, extent = first_fitting_box(tries, place, options.zoom)
        zoom, mirror, flip = torch.ones_like(mirror), torch.ones_like(mirror), mirror  # what is mirrored is the crop
        box = centre, extent * torch.stack([flip, torch.ones_like(flip)], dim=1)
    strengths = (options.brightness, options.contrast, options.saturation, options.hue)
    with torch.autocast(images.device.type, enabled=False):  # it would round places, too
        moved = affine(
            images,
            rotation=options.rotation * even[0],
            shift=options.shift * even[1:3].T,
            shear=options.shear * even[3],
            zoom=zoom,
            mirror=mirror,
            box=box,
            border=options.border,
        )
        return _jitter(moved, order, strengths, even[5:9])


def style_views(images: Tensor, rng: BatchRng, options: StyleAwareViews) -> tuple[Tensor, Tensor]:
    """Return the style-aware discriminator's two views (B, 3, H, W) of images in [-1, 1].

    Each image has its own draws; only the order of the four colour changes, random as in torchvision, is one for all.
    """
    with torch.autocast(images.device.type, enabled=False):  # it would round places, too
        return _first_view(images, rng, options), _second_view(images, rng, options)


def _first_view(images: Tensor, rng: BatchRng, options: StyleAwareViews) -> Tensor:
    """Rotated, with probability ½ cropped to a square of one size, and mirrored."""
    turned, angle, cropped, left, top, mirrored = rng.uniform(6).to(images.dtype).unbind(1)
    one = torch.ones_like(angle)
    side = torch.where(cropped < 0.5, options.first_crop * one, one)
    centre = (1 - side)[:, None] * (2 * torch.stack([left, top], dim=1) - 1)
    extent = torch.stack([torch.where(mirrored < options.mirror, -side, side), side], dim=1)
    return crop(images, _sometimes(turned, options) * options.rotation * (2 * angle - 1), one, centre, extent)


def _second_view(images: Tensor, rng: BatchRng, options: StyleAwareViews) -> Tensor:
    """Rotated, zoomed, cropped to a box of any place, size and shape, mirrored, coloured, and a box of it blackened."""
    order = rng.order(4)
    uniform = rng.uniform(19).to(images.dtype).T  # (19, B)
    even = 2 * uniform - 1  # in [-1, 1]
    centre, extent = _random_box(uniform[:4], (options.smallest_crop, 1.0), CROP_RATIO)
    flip = torch.where(uniform[4] < options.mirror, -1.0, 1.0).to(images.dtype)
    view = crop(
        images,
        rotation=_sometimes(uniform[5], options) * options.rotation * even[6],
        zoom=1 + _sometimes(uniform[7], options) * options.zoom * even[8],
        centre=centre,
        extent=extent * torch.stack([flip, torch.ones_like(flip)], dim=1),
    )
    strengths = (options.brightness, options.contrast, options.saturation, options.hue)
    if any(strengths):
        view = _jitter(view, order, strengths, _sometimes(uniform[9], options) * even[10:14])
    blackened = cut_out(view, *_random_box(uniform[14:18], BOX_AREA, BOX_RATIO))
    return torch.where((uniform[18] < options.cut_out)[:, None, None, None], blackened, view)


def crop(images: Tensor, rotation: Tensor, zoom: Tensor, centre: Tensor, extent: Tensor) -> Tensor:
    """Rotate and zoom square images (B, 3, H, H) of any range about their centre, and enlarge a box of the result.

    What comes in from outside is the image's own reflection, as in `affine`.

    Args:
        rotation: (B,) degrees, clockwise.
        zoom: (B,) factor.
        centre: (B, 2) of the box, to the right and down, where the image runs from -1 to 1.
        extent: (B, 2) width and height of the box, as shares of the sides; negative ones mirror it.
    """
    angle = torch.deg2rad(rotation)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    (x, y), (width, height) = centre.unbind(1), extent.unbind(1)
    # Output position to input position: the box, then the inverse rotation.
    rows = [cos * width, sin * height, cos * x + sin * y, -sin * width, cos * height, cos * y - sin * x]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def cut_out(images: Tensor, centre: Tensor, extent: Tensor) -> Tensor:
    """Make a box of each image (B, 3, H, W) in [-1, 1] black (DeVries and Taylor, 2017); the box is one of `crop`'s."""
    inside = []
    for axis, length in ((0, images.shape[3]), (1, images.shape[2])):
        places = (2 * torch.arange(length, device=images.device, dtype=images.dtype) + 1) / length - 1
        inside.append((places - centre[:, axis, None]).abs() < extent[:, axis, None])  # (B, W), then (B, H)
    return images.masked_fill((inside[1][:, :, None] & inside[0][:, None, :])[:, None], -1.0)


def _random_box(uniform: Tensor, areas: tuple[float, float], ratios: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Centre and extent (B, 2) of boxes within the image, drawn evenly by area, shape and place.

    Args:
        uniform: (4, B) in [0, 1): area, logarithm of width over height, and place from the left and from the top.
        areas, ratios: their ranges; of the ratios those count with which a box of its area fits.
    """
    area = areas[0] + (areas[1] - areas[0]) * uniform[0]
    flattest = -area.log()  # a box as wide, or as high, as the image
    low, high = (-flattest).clamp(min=math.log(ratios[0])), flattest.clamp(max=math.log(ratios[1]))
    ratio = (low + (high - low) * uniform[1]).exp()
    extent = torch.stack([area * ratio, area / ratio], dim=1).sqrt()
    return (1 - extent) * (2 * uniform[2:].T - 1), extent


def _sometimes(uniform: Tensor, options: StyleAwareViews) -> Tensor:
    """1 where a change applies, 0 where it does not: (B,)."""
    return (uniform < options.applied).to(uniform.dtype)


def _jitter(images: Tensor, order: list[int], strengths: tuple[float, float, float, float], even: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of images in [-1, 1], in that order or another.

    Args:
        images: (B, 3, H, W).
        order: of the four changes, a permutation of range(4).
        strengths: half-widths of the draws, about a factor of 1 or, for the hue, about 0.
        even: (4, B) in [-1, 1].
    """
    brightness, contrast, saturation, hue = (strength * draw for strength, draw in zip(strengths, even))
    changes = (
        lambda x: adjust_brightness(x, 1 + brightness),
        lambda x: adjust_contrast(x, 1 + contrast),
        lambda x: adjust_saturation(x, 1 + saturation),
        lambda x: adjust_hue(x, hue),
    )
    coloured = (images + 1) / 2
    for change in order:
        coloured = changes[change](coloured)
    return coloured * 2 - 1


def affine(
    images: Tensor,
    rotation: Tensor,
    shift: Tensor,
    shear: Tensor,
    zoom: Tensor,
    mirror: Tensor,
    box: tuple[Tensor, Tensor] | None = None,
    border: str = "reflection",
) -> Tensor:
    """Mirror, zoom, shear, rotate about the centre and then shift square images (B, 3, H, H), and show a box of them.

    All in one bilinear sampling.

    Args:
        images: of any range, or in [-1, 1] with a black border.
        rotation: (B,) degrees, clockwise.
        shift: (B, 2) share of the side, to the right and down.
        shear: (B,) degrees along x.
        zoom: (B,) factor.
        mirror: (B,) -1 mirrors left and right, 1 does not.
        box: centre and extent (B, 2) of what is shown of the result; see `crop`. None is all of it.
        border: what comes in from outside: the image's own `"reflection"`, as a border of one colour would tell the two
            views apart, or `"black"`.
    """
    angle, tilt = torch.deg2rad(rotation), torch.tan(torch.deg2rad(shear))
    cos, sin = torch.cos(angle), torch.sin(angle)
    # The inverse, output position to input position: mirror / zoom . [[1, tilt], [0, 1]] . [[cos, sin], [-sin, cos]].
    rows = torch.stack([mirror * (cos - tilt * sin), mirror * (sin + tilt * cos), -sin, cos], dim=1)
    matrix = rows.view(-1, 2, 2) / zoom[:, None, None]
    offset = -matrix @ (2 * shift[:, :, None])  # positions run from -1 to 1
    if box is not None:
        centre, extent = box
        offset, matrix = offset + matrix @ centre[:, :, None], matrix * extent[:, None, :]
    grid = F.affine_grid(torch.cat([matrix, offset], dim=2), list(images.shape), align_corners=False)
    if border == "black":
        return F.grid_sample(images + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def first_fitting_box(tries: Tensor, place: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Centre and extent (B, 2) of the boxes of torchvision's RandomResizedCrop, but for its rounding to pixels.

    Area and aspect are drawn until a box fits into the image; where none of the tries does, the box is the image.

    Args:
        tries: (B, T, 2) in [0, 1): area, and logarithm of width over height.
        place: (B, 2) in [0, 1): from the left and from the top.
        width: the area, and the aspect, lie between 1 - width and 1 + width.
    """
    area = 1 + width * (2 * tries[..., 0] - 1)
    low, high = math.log(1 - width), math.log(1 + width)
    aspect = (low + (high - low) * tries[..., 1]).exp()
    extents = torch.stack([area * aspect, area / aspect], dim=-1).sqrt()  # (B, T, 2)
    fits = (extents <= 1).all(-1)
    first = fits.to(torch.uint8).argmax(1)  # of equals, the first
    extent = extents.gather(1, first[:, None, None].expand(-1, 1, 2)).squeeze(1)
    extent = torch.where(fits.any(1)[:, None], extent, torch.ones_like(extent))
    return (1 - extent) * (2 * place - 1), extent


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
