"""Any image file becomes RGB of one size; a damaged one gives its reason."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lanit.data import images
from lanit.data.images import DamagedImage, read_image

RED, GREY = (200, 30, 40), 100


def plain(mode: str, colour) -> Image.Image:
    return Image.new(mode, (40, 30), colour)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "JPEG"])
def test_every_format_is_read(save, suffix):
    image = read_image(save(f"a.{suffix}", plain("RGB", RED), quality=95), 16)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - RED).max() < 8


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
    with pytest.raises(DamagedImage, match="not a JPEG, PNG or WebP image"):
        read_image(path, 16)
    path.write_bytes(b"")
    with pytest.raises(DamagedImage, match="the file is empty"):
        read_image(path, 16)


def test_a_decompression_bomb_is_damaged(save, monkeypatch):
    path = save("bomb.png", plain("RGB", RED))
    for limit in (1000, 100):  # Pillow warns above the limit and raises above twice the limit: both are refused
        monkeypatch.setattr(images.Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DamagedImage, match="decompression bomb"):
            read_image(path, 16)
