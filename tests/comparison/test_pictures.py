"""In a grid each image stands in its row and column, under its name."""

import numpy as np
import pytest
from made_up_sweep import CLASSES, image, pictures, score, write_run

from lanit.comparison.pictures import (
    CELL,
    Pictures,
    _font,
    draw,
    draw_overview,
    latent_grid,
    read_pictures,
    reference_grid,
    smaller,
    wrap,
)
from lanit.config import LanitError


def load(**changes):
    values = pictures(**changes)
    lists = {name: [str(v) for v in values[name]] for name in ("reference_classes", "domains")}
    return Pictures(**(values | lists))


def shown(canvas, grid, row, column, above=0):
    """The pixels of a cell, which must be all alike."""
    (height, width), (top, left) = grid.cell, grid.place(row, column)
    cell = np.asarray(canvas)[above + top : above + top + height, left : left + width]
    assert cell.shape == (height, width, 3)
    assert (cell == cell[0, 0]).all()
    return cell[0, 0]


def test_references_and_sources_frame_their_translations():
    grid = reference_grid(load(sources=3, references=4))
    canvas = draw(grid)
    assert (canvas.height, canvas.width) == grid.size
    for i in range(3):
        np.testing.assert_array_equal(shown(canvas, grid, i, -1), image(i)[0, 0])
        for j in range(4):
            np.testing.assert_array_equal(shown(canvas, grid, -1, j), image(16 + j)[0, 0])
            np.testing.assert_array_equal(shown(canvas, grid, i, j), image(256 + 16 * i + j)[0, 0])
    assert list(grid.headings) == list(CLASSES[:4])


def test_latent_columns_are_domains_or_clusters():
    images = load(sources=2, domains=("hat", "red hair", "beard"))
    grid = latent_grid(images, "lanit")
    canvas = draw(grid)
    assert list(grid.headings) == ["hat", "red hair", "beard"]
    np.testing.assert_array_equal(shown(canvas, grid, 1, 2), image(512 + 16 + 2)[0, 0])
    assert list(latent_grid(images, "tunit").headings) == ["cluster 1", "cluster 2", "cluster 3"]
    assert list(latent_grid(load(latents=7), "lanit").headings)[-1] == "cluster 7"  # more clusters than names


@pytest.mark.parametrize("size, scale", [(8, 10), (32, 3), (64, 2), (80, 1), (256, 1)])
def test_small_images_are_enlarged_by_a_whole_factor(size, scale):
    grid = reference_grid(load(sources=1, references=1, size=size))
    assert grid.scale == scale and grid.cell == (size * scale, size * scale) and grid.cell[0] >= CELL


def test_enlarging_keeps_the_pixels():
    images = load(sources=1, references=1)
    images.sources[0] = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    grid = reference_grid(images)
    top, left = grid.place(0, -1)
    cell = np.asarray(draw(grid))[top : top + 80, left : left + 80]
    np.testing.assert_array_equal(cell, images.sources[0].repeat(10, 0).repeat(10, 1))


def test_headings_are_written_above_their_columns():
    grid = reference_grid(load(references=4))
    canvas = np.asarray(draw(grid))
    for column in range(4):
        _, left = grid.place(0, column)
        assert (canvas[: grid.place(-1, 0)[0], left : left + grid.cell[1]] < 100).any()


def test_the_overview_sets_the_methods_side_by_side():
    one, other = load(sources=5, references=12), load(sources=5, references=12)
    other.reference_grid[:] = 7
    canvas = draw_overview([("LANIT", one), ("TUNIT", other)], rows=2, columns=3)
    grid = smaller(one, 2, 3)
    assert canvas.width == 2 * grid.size[1] + 16
    above = canvas.height - grid.size[0]
    np.testing.assert_array_equal(shown(canvas, grid, 1, 2, above), image(256 + 16 + 2)[0, 0])
    right = canvas.crop((canvas.width - grid.size[1], 0, canvas.width, canvas.height))
    np.testing.assert_array_equal(shown(right, grid, 1, 2, above), (7, 7, 7))
    np.testing.assert_array_equal(shown(right, grid, 1, -1, above), image(1)[0, 0])


def test_the_overview_shows_one_reference_a_class_first():
    images = load(references=6)
    images.reference_classes[:] = ["hat", "hat", "mask", "mask", "beard", "hat"]
    assert list(smaller(images, 2, 3).headings) == ["hat", "mask", "beard"]
    assert list(smaller(images, 2, 4).headings) == ["hat", "hat", "mask", "beard"]


def test_long_names_fit_their_columns():
    font = _font()
    for name in ("blue background", "5_o_clock_shadow", "rhododendron-and-magnolia gardens of the north east", ""):
        lines = wrap(name, 80, font)
        assert 1 <= len(lines) <= 3 and all(font.getlength(line) <= 80 for line in lines)
    assert wrap("5_o_clock_shadow", 200, font) == ["5 o clock shadow"]


def test_a_bad_file_is_named(tmp_path):
    arrays = pictures()
    folder = write_run(tmp_path, score(), arrays)
    assert read_pictures(folder / "pictures.npz").reference_classes == list(CLASSES[:4])
    np.savez(folder / "pictures.npz", **(arrays | {"sources": arrays["sources"][:1]}))
    with pytest.raises(LanitError, match="pictures.npz has arrays that do not fit"):
        read_pictures(folder / "pictures.npz")
    np.savez(folder / "pictures.npz", sources=arrays["sources"])
    with pytest.raises(LanitError, match="pictures.npz lacks an array"):
        read_pictures(folder / "pictures.npz")
    (folder / "pictures.npz").write_bytes(b"no archive")
    with pytest.raises(LanitError, match="cannot be read"):
        read_pictures(folder / "pictures.npz")
    np.savez(folder / "pictures.npz", **(arrays | {"domains": np.array(["a", None], dtype=object)}))
    with pytest.raises(LanitError, match="cannot be read"):  # a pickle is never loaded
        read_pictures(folder / "pictures.npz")
