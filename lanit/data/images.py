"""Pictures in and out of bytes: one of any usual kind becomes RGB of one size; a damaged one says what is wrong."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageFile, ImageOps, features

from lanit.config import LanitError

KINDS = "JPEG, PNG, WebP, TIFF, BMP or GIF"  # that are always read: of GIF and TIFF the first picture
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
AVIF, HEIC = (".avif",), (".heic", ".heif", ".hif")  # read where Pillow can
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
READ_WITH = dict.fromkeys(AVIF, "AVIF is read by a Pillow that was built with libavif") | dict.fromkeys(
    HEIC, "HEIC is read where the package pillow-heif is installed"
)
MAX_PIXELS = 200_000_000  # a phone's 200 megapixels, 600 MB in memory: beyond, a small file may be made to fill it
# What Pillow's parsers raise on bytes that are not what they claim to be.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)


class DamagedImage(Exception):
    """An image that cannot be used; the message is the reason, the same on every run."""


def describe_resize(size: int) -> str:
    """Return how `read_image` resizes, for the dataset's card."""
    return (
        f"EXIF orientation applied, 16-bit grey scaled from the 8, 12 or 16 bits that hold its highest value, "
        f"transparency put on white, RGB; centre square of the shorter side resized to "
        f"{size}x{size} pixels with Pillow's Lanczos filter, which widens when it reduces (antialiased)"
    )


@functools.cache
def readable() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the suffixes of files that are read here, and Pillow's names of their formats."""
    suffixes: tuple[str, ...] = SUFFIXES
    formats: tuple[str, ...] = FORMATS
    if features.check("avif"):
        suffixes, formats = suffixes + AVIF, (*formats, "AVIF")
    if importlib.util.find_spec("pillow_heif") is not None:
        suffixes, formats = suffixes + HEIC, (*formats, "HEIF")
    return suffixes, formats


def check_max_pixels(max_pixels: int) -> None:
    """Raise LanitError unless images of some size are allowed."""
    if max_pixels < 1:
        raise LanitError(f"source.max_pixels must be at least 1, not {max_pixels}")


def is_image_name(name: str) -> bool:
    """Tell whether a file name has a suffix of a kind that is read here, and is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in readable()[0] and not path.name.startswith(".")


def read_image(path: Path, size: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image file as uint8 (size, size, 3), RGB.

    Args:
        path: of the file.
        size: height and width to resize to.
        max_pixels: how many it may have.

    Raises:
        DamagedImage: the file is empty, truncated, no image, too large, or a link to nothing.
        LanitError: the file is not there any more.
    """
    return np.asarray(resize_to_square(_decode(_read_bytes(path), max_pixels), size))


def resize_to_square(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to `size` (Lanczos, antialiased) and crop the centre, in one step.

    Equal to resizing first and cropping then, but a very long picture is never enlarged as a whole.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB: upright, deep grey scaled to 8 bits, transparency composited on white.

    The image itself may be changed.

    Raises:
        DamagedImage: values of grey that are of no known range.
    """
    ImageOps.exif_transpose(image, in_place=True)  # each copy of a large photo would be a third of a gigabyte
    if image.mode == "F" or image.mode.startswith("I"):  # convert() would clip at 255 instead of scaling
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def encode_png(array: np.ndarray) -> bytes:
    """Return a uint8 array (H, W, 3) as PNG bytes, the same bytes for the same array."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Return PNG bytes that `encode_png` made as a uint8 array (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)).convert("RGB"))


def _read_bytes(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would else be waited for
    except FileNotFoundError:
        if path.is_symlink():
            raise DamagedImage(f"a dead link: nothing is at {os.readlink(path)}") from None
        raise LanitError(
            f"{path} was listed in the plan but is not there any more; put it back, or plan the shards anew"
        ) from None
    except OSError as error:
        raise DamagedImage(f"cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedImage("no file, but a folder, pipe or device")
    try:
        with open(descriptor, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DamagedImage(f"cannot be read: {error.strerror}") from None
    if not data:
        raise DamagedImage("the file is empty")
    return data


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    with warnings.catch_warnings(), _without_pillows_limit():
        warnings.simplefilter("ignore")
        try:
            file = _open(data)
        except DECODING_ERRORS:
            raise DamagedImage(_what_it_is(data)) from None
        if file.width * file.height > max_pixels:
            raise DamagedImage(
                f"{file.width}x{file.height} pixels, more than source.max_pixels = {max_pixels}; raise it if the "
                f"picture is honest"
            )
        deep = not file.mode.startswith("I") and ";16" in str([tile[3] for tile in file.tile])
        try:
            file.load()
            image = to_rgb(file)
        except DECODING_ERRORS as error:
            raise DamagedImage(f"damaged: {' '.join(str(error).split())}") from None
        if deep and 0 < np.asarray(image).max() < 16:  # Pillow keeps the upper 8 bits of colours alone
            raise DamagedImage("16-bit colours of which only the lower 12 bits are used; save it with 8 bits a channel")
        return image


def _open(data: bytes) -> ImageFile.ImageFile:
    formats = readable()[1]
    if "HEIF" in formats and data[4:8] == b"ftyp":
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(data), formats=formats)


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Pillow's limit of pixels is one for the whole process, and no key of ours: it is set aside where ours applies."""
    with _PILLOWS_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_PILLOWS_LIMIT = threading.Lock()


def _what_it_is(data: bytes) -> str:
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the image; fetch it with git lfs pull"
    if data[4:8] == b"ftyp":
        kind, suffixes = ("AVIF", AVIF) if data[8:12] in (b"avif", b"avis") else ("HEIC", HEIC)
        if suffixes[0] not in readable()[0]:
            return f"{kind}: {READ_WITH[suffixes[0]]}"
    return f"not a {KINDS} image, or its header is damaged"


def _to_8_bits(grey: np.ndarray) -> np.ndarray:
    """Scale grey to uint8 from the least of 8, 12 and 16 bits that hold its highest value, floats also from [0, 1].

    Scanners and cameras of 12 bits write files of 16, whose values would come out nearly black.
    """
    lowest, highest = grey.min(), grey.max()
    ranges = (255, 4095, 65535) if grey.dtype.kind != "f" else (1, 255, 4095, 65535)
    full = next((full for full in ranges if highest <= full), None)
    if full is None or not lowest >= 0:  # NaN is neither
        raise DamagedImage(f"values of grey from {lowest} to {highest}, which is no range that is known")
    return np.clip(grey.astype(np.float64) * (255 / full) + 0.5, 0, 255).astype(np.uint8)
