"""Pictures in and out of bytes: any JPEG, PNG or WebP becomes RGB of one size; a damaged one says what is wrong."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lanit.config import LanitError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP")
# What Pillow's parsers raise on bytes that are not what they claim to be.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)
BOMB = (Image.DecompressionBombWarning, Image.DecompressionBombError)


class DamagedImage(Exception):
    """An image that cannot be used; the message is the reason, the same on every run."""


def describe_resize(size: int) -> str:
    """Return how `read_image` resizes, for the dataset's card."""
    return (
        f"EXIF orientation applied, transparency put on white, RGB; centre square of the shorter side resized to "
        f"{size}x{size} pixels with Pillow's Lanczos filter, which widens when it reduces (antialiased)"
    )


def read_image(path: Path, size: int) -> np.ndarray:
    """Read an image file as uint8 (size, size, 3), RGB.

    Raises:
        DamagedImage: the file is empty, truncated, no image, or a decompression bomb.
        LanitError: the file is not there any more.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise LanitError(f"{path} was listed in the plan but is not there any more; run shard plan again") from None
    except OSError as error:
        raise DamagedImage(f"cannot be read: {error.strerror}") from None
    if not data:
        raise DamagedImage("the file is empty")
    return np.asarray(resize_to_square(_decode(data), size))


def resize_to_square(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to `size` (Lanczos, antialiased) and crop the centre, in one step.

    Equal to resizing first and cropping then, but a very long picture is never enlarged as a whole.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB: upright, 16-bit grey scaled to 8, transparency composited on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey PNG: convert() would clip at 255 instead of scaling
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def encode_png(array: np.ndarray) -> bytes:
    """Return a uint8 array (H, W, 3) as PNG bytes, the same bytes for the same array."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Return PNG bytes that `encode_png` made as a uint8 array (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)).convert("RGB"))


def _decode(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except BOMB:
            raise DamagedImage("decompression bomb: far too many pixels") from None
        except DECODING_ERRORS:
            raise DamagedImage("not a JPEG, PNG or WebP image, or its header is damaged") from None
        try:
            image.load()
            return to_rgb(image)
        except BOMB:
            raise DamagedImage("decompression bomb: far too many pixels") from None
        except DECODING_ERRORS as error:
            raise DamagedImage(f"damaged: {' '.join(str(error).split())}") from None
