"""Any image file becomes RGB of one size; a damaged one gives its reason."""

from __future__ import annotations

import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, features

from lanit.data import images
from lanit.data.images import DamagedImage, is_image_name, read_image

RED, GREY = (200, 30, 40), 100


def plain(mode: str, colour) -> Image.Image:
    return Image.new(mode, (40, 30), colour)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "JPEG", "jfif", "bmp", "gif", "tif", "TIFF"])
def test_every_format_is_read(save, suffix):
    path = save(f"a.{suffix}", plain("RGB", RED), quality=95)
    image = read_image(path, 16)
    assert is_image_name(path.name) and image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - RED).max() < 8


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_of_several_pictures_in_a_file_the_first_is_read(save, suffix):
    path = save(f"a.{suffix}", plain("RGB", RED), save_all=True, append_images=[plain("RGB", (0, 0, 255))] * 3)
    assert np.abs(read_image(path, 16).astype(int) - RED).max() < 8


def test_the_kind_is_that_of_the_content_whatever_the_suffix_says(save, tmp_path):
    save("a.gif", plain("RGB", RED)).rename(tmp_path / "a.jpg")
    assert np.abs(read_image(tmp_path / "a.jpg", 16).astype(int) - RED).max() < 8


def test_avif_is_read_where_pillow_can(save, tmp_path, monkeypatch):
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    path = save("a.avif", plain("RGB", RED), quality=95)
    assert is_image_name("a.avif") and np.abs(read_image(path, 16).astype(int) - RED).max() < 8
    images.readable.cache_clear()
    monkeypatch.setattr(images.features, "check", lambda name: False)
    assert not is_image_name("a.avif")
    path.rename(tmp_path / "a.jpg")
    with pytest.raises(DamagedImage, match="AVIF is read by a Pillow that was built with libavif"):
        read_image(tmp_path / "a.jpg", 16)
    images.readable.cache_clear()


def test_heic_is_named_where_it_cannot_be_read(tmp_path, without_heic):
    path = tmp_path / "a.jpg"  # as a phone's photo that was renamed
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert not is_image_name("a.heic")
    with pytest.raises(DamagedImage, match="HEIC is read where the package pillow-heif is installed"):
        read_image(path, 16)


def test_heic_is_read_where_its_package_is(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    plain("RGB", RED).save(tmp_path / "a.heic", format="HEIF")
    assert is_image_name("a.heic") and np.abs(read_image(tmp_path / "a.heic", 16).astype(int) - RED).max() < 8


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(DamagedImage, match="a pointer of Git LFS in place of the image; fetch it"):
        read_image(tmp_path / "a.jpg", 16)


@pytest.mark.parametrize(
    "name, image, colour",
    [
        ("grey.png", plain("L", GREY), (GREY,) * 3),
        ("grey.jpg", plain("L", GREY), (GREY,) * 3),
        ("bits.png", plain("1", 1), (255,) * 3),
        ("deep.png", Image.fromarray(np.full((30, 40), GREY * 257, np.uint16)), (GREY,) * 3),
        ("palette.png", plain("RGB", RED).quantize(4), RED),
        ("grey-alpha.png", plain("LA", (0, 0)), (255,) * 3),
        ("half-alpha.png", plain("RGBA", (0, 0, 0, 128)), (127,) * 3),
        ("opaque.webp", plain("RGBA", (*RED, 255)), RED),
        ("cmyk.jpg", plain("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(save, name, image, colour):
    options = {"lossless": True} if name.endswith("webp") else {}
    found = read_image(save(name, image, **options), 16).astype(int)
    assert np.abs(found - colour).max() <= 3


def test_a_transparent_palette_colour_shows_white(save):
    image = Image.new("P", (40, 30), 0)
    image.putpalette([*RED, 10, 20, 200])
    image.paste(1, (20, 0, 40, 30))
    found = read_image(save("palette.png", image, transparency=0), 30)
    assert found[15, 3].tolist() == [255, 255, 255] and found[15, 27].tolist() == [10, 20, 200]


def test_sixteen_bits_keep_their_gradations(save):
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    found = read_image(save("ramp.png", Image.fromarray(ramp)), 64)[0, :, 0]
    assert np.abs(found - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("highest, kind", [(255, np.uint16), (4095, np.uint16), (1.0, np.float32), (255.0, np.float32)])
def test_deep_grey_is_scaled_from_the_bits_that_it_uses(save, highest, kind):
    """A scan of 12 bits in a file of 16 is not black; nor is one of 8, nor floats from 0 to 1."""
    ramp = np.tile(np.linspace(0, highest, 64).astype(kind), (64, 1))
    found = read_image(save("scan.tif", Image.fromarray(ramp)), 64)[0, :, 0]
    assert np.abs(found - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("value, kind", [(70_000, np.int32), (-5, np.int32), (np.nan, np.float32), (1e9, np.float32)])
def test_grey_of_no_known_range_is_damaged(save, value, kind):
    image = np.full((20, 20), 100, kind)
    image[3, 4] = value
    with pytest.raises(DamagedImage, match="values of grey from .*, which is no range that is known"):
        read_image(save("odd.tif", Image.fromarray(image)), 16)


def test_deep_colours_that_come_out_black_are_damaged(tmp_path):
    """Pillow keeps the upper 8 bits of 16-bit colours; a whole 16 bits are read, 12 in 16 are named."""
    for full, fails in ((65535, False), (4095, True)):
        path = tmp_path / f"{full}.png"
        path.write_bytes(deep_png(np.full((20, 20, 3), full, np.uint16)))
        if fails:
            with pytest.raises(DamagedImage, match="16-bit colours of which only the lower 12 bits are used"):
                read_image(path, 16)
        else:
            assert (read_image(path, 16) == 255).all()


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write, of uint16 (H, W, 3)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_exif_orientation_is_applied(save):
    upright = Image.new("RGB", (32, 32), "white")
    upright.paste("red", (0, 0, 32, 16))  # red is up
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn 90° clockwise to see me": so store it turned the other way
    path = save("turned.jpg", upright.transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95)
    found = read_image(path, 32).astype(int)
    assert found[4, :, 1].max() < 60 and found[28, :, 1].min() > 200


def test_resizing_is_shorter_side_then_centre_crop(save):
    noise = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = np.asarray(image.resize((50, 30), Image.Resampling.LANCZOS).crop((10, 0, 40, 30)))
    assert np.abs(read_image(save("wide.png", image), 30).astype(int) - expected).max() <= 1


def test_reducing_does_not_alias(save):
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    found = read_image(save("board.png", Image.fromarray(board)), 32)
    assert np.abs(found.astype(int) - 127).max() <= 2


def test_a_very_long_picture_is_read_without_being_enlarged_as_a_whole(save):
    assert read_image(save("long.png", Image.new("L", (20_000, 1), 9)), 256).shape == (256, 256, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_truncated_file_is_damaged(save, suffix):
    path = save(f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedImage):
        read_image(path, 16)


def test_a_file_that_is_no_image_is_damaged(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(DamagedImage, match="not a JPEG, PNG, WebP, TIFF, BMP or GIF image"):
        read_image(path, 16)
    path.write_bytes(b"")
    with pytest.raises(DamagedImage, match="the file is empty"):
        read_image(path, 16)


def test_an_image_with_more_pixels_than_allowed_is_damaged_and_the_key_named(save, monkeypatch):
    path = save("large.png", plain("RGB", RED))
    monkeypatch.setattr(images.Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit is not ours
    assert read_image(path, 16).shape == read_image(path, 16, max_pixels=1200).shape == (16, 16, 3)
    assert images.Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(DamagedImage, match="40x30 pixels, more than source.max_pixels = 1199; raise it"):
        read_image(path, 16, max_pixels=1199)


def test_a_dead_link_is_named_as_one(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "unplugged" / "a.jpg")
    with pytest.raises(DamagedImage, match="a dead link: nothing is at .*unplugged/a.jpg"):
        read_image(tmp_path / "a.jpg", 16)


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "endless device", "folder"])
def test_what_is_no_file_is_damaged_and_never_waited_for(tmp_path, kind):
    path = tmp_path / "a.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "endless device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe") if kind == "link to a pipe" else (tmp_path / "pipe").rename(path)
    reasons = []

    def read():
        try:
            read_image(path, 16)
        except DamagedImage as damage:
            reasons.append(str(damage))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert reasons == ["no file, but a folder, pipe or device"]
