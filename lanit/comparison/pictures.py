"""Picture grids with labelled columns: sources × references, sources × domains, and the methods side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lanit.catalogue import METHODS
from lanit.comparison.drawing import load_matplotlib
from lanit.config import LanitError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageFont

CELL = 80  # pixels a cell has at least: smaller images are enlarged by a whole factor
GAP = 3  # between cells
EDGE = 8  # around everything, and between what was given and what was made
LINE = 14  # height of a line of text
FONT_SIZE = 12
INK, PALE = (34, 34, 34), (110, 110, 110)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What `pictures.npz` holds: uint8 images and the names that go with them."""

    sources: np.ndarray  # (S, H, W, 3)
    references: np.ndarray  # (R, H, W, 3)
    reference_grid: np.ndarray  # (S, R, H, W, 3)
    latent_grid: np.ndarray  # (S, N or K, H, W, 3); no column of a system that was given nothing but pairs
    reference_classes: list[str]  # R
    domains: list[str]  # N


@dataclasses.dataclass(frozen=True)
class Grid:
    """Images in rows and columns with a heading above each column and an optional first column and first row."""

    cells: np.ndarray  # (rows, columns, H, W, 3) uint8
    headings: Sequence[str]
    first_column: np.ndarray  # (rows, H, W, 3)
    first_row: np.ndarray | None = None  # (columns, H, W, 3)
    corner: str = "source"

    @property
    def scale(self) -> int:
        """Whole factor by which images are enlarged."""
        return max(1, math.ceil(CELL / self.cells.shape[3]))

    @property
    def cell(self) -> tuple[int, int]:
        """Height and width of a cell in pixels."""
        return self.cells.shape[2] * self.scale, self.cells.shape[3] * self.scale

    @property
    def header(self) -> int:
        """Height of the headings: as many lines as the longest needs."""
        font = _font()
        lines = max(len(wrap(text, self.cell[1], font)) for text in [*self.headings, self.corner])
        return lines * LINE + 4

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole in pixels, margins included."""
        rows, columns = self.cells.shape[:2]
        top, left = self.place(rows - 1, columns - 1)
        return top + self.cell[0] + EDGE, left + self.cell[1] + EDGE

    def place(self, row: int, column: int) -> tuple[int, int]:
        """Top and left pixel of a cell; −1 is the first row of references or the first column of sources."""
        height, width = self.cell
        top = EDGE + self.header
        if row >= 0:
            top += (height + EDGE if self.first_row is not None else 0) + row * (height + GAP)
        left = EDGE
        if column >= 0:
            left += width + EDGE + column * (width + GAP)
        return top, left


def read_pictures(path: Path) -> Pictures:
    """Read `pictures.npz` without running anything that it holds.

    Raises:
        LanitError: the file is missing, lacks an array, or its arrays do not fit together.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {field.name: file[field.name] for field in dataclasses.fields(Pictures)}
    except KeyError as error:
        raise LanitError(f"{path} lacks an array ({error}); make it again with `lanit translate`") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise LanitError(f"{path} cannot be read as pictures ({error}); make it again with `lanit translate`") from None
    sources, references, latents = arrays["sources"], arrays["references"], arrays["latent_grid"]
    image = sources.shape[1:]
    fits = (
        all(arrays[name].dtype == np.uint8 for name in ("sources", "references", "reference_grid", "latent_grid"))
        and len(image) == 3
        and image[2] == 3
        and len(sources) > 0
        and len(references) > 0
        and references.shape[1:] == image
        and arrays["reference_grid"].shape == (len(sources), len(references), *image)
        and latents.ndim == 5
        and len(latents) == len(sources)
        and latents.shape[2:] == image
        and arrays["reference_classes"].shape == (len(references),)
    )
    if not fits:
        shapes = ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in arrays.items())
        raise LanitError(f"{path} has arrays that do not fit together ({shapes}); make it again with `lanit translate`")
    arrays["reference_classes"] = [str(name) for name in arrays["reference_classes"]]
    arrays["domains"] = [str(name) for name in arrays["domains"]]
    return Pictures(**arrays)


def reference_grid(pictures: Pictures) -> Grid:
    """Sources (rows) × references (columns): the first row shows the references under the names of their classes."""
    return Grid(
        cells=pictures.reference_grid,
        headings=pictures.reference_classes,
        first_column=pictures.sources,
        first_row=pictures.references,
        corner="source ↓ reference →",
    )


def latent_grid(pictures: Pictures, method: str) -> Grid:
    """Sources (rows) × domains by latent code (columns), under the domains' names, or clusters' numbers without any."""
    count = pictures.latent_grid.shape[1]
    named = method not in METHODS or METHODS[method].is_labelled
    named = named and count == len(pictures.domains)
    headings = pictures.domains if named else [f"cluster {i + 1}" for i in range(count)]
    return Grid(pictures.latent_grid, headings, pictures.sources)


def smaller(pictures: Pictures, rows: int, columns: int) -> Grid:
    """The upper left of the reference grid, with one reference a class as far as that fills the columns."""
    first = {name: i for i, name in reversed(list(enumerate(pictures.reference_classes)))}
    chosen = sorted(first.values())
    chosen = sorted((chosen + [i for i in range(len(pictures.references)) if i not in chosen])[:columns])
    return Grid(
        pictures.reference_grid[:rows, chosen],
        [pictures.reference_classes[i] for i in chosen],
        pictures.sources[:rows],
        pictures.references[chosen],
    )


def draw(grid: Grid, title: str = "") -> Image.Image:
    """Draw a grid as an RGB image, with a title above where one is given."""
    from PIL import Image, ImageDraw

    height, width = grid.size
    above = LINE + 8 if title else 0
    canvas = Image.new("RGB", (width, height + above), "white")
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((EDGE, EDGE - 1), title, fill=INK, font=_font(FONT_SIZE + 2, bold=True))
    body = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(body)
    rows, columns = grid.cells.shape[:2]
    _write(pen, grid, -1, grid.corner, PALE)
    for column, heading in enumerate(grid.headings):
        _write(pen, grid, column, heading, INK)
        if grid.first_row is not None:
            _paste(body, grid, -1, column, grid.first_row[column])
    for row in range(rows):
        _paste(body, grid, row, -1, grid.first_column[row])
        for column in range(columns):
            _paste(body, grid, row, column, grid.cells[row, column])
    canvas.paste(body, (0, above))
    return canvas


def draw_overview(
    methods: Sequence[tuple[str, Pictures]], rows: int = 4, columns: int = 6, a_row: int = 2
) -> Image.Image:
    """The methods' reference grids side by side, cut to a size that a README can show."""
    from PIL import Image

    blocks = [draw(smaller(pictures, rows, columns), title) for title, pictures in methods]
    lines = [blocks[i : i + a_row] for i in range(0, len(blocks), a_row)]
    width = max(sum(block.width for block in line) + 2 * EDGE * (len(line) - 1) for line in lines)
    canvas = Image.new("RGB", (width, sum(max(block.height for block in line) for line in lines)), "white")
    top = 0
    for line in lines:
        left = 0
        for block in line:
            canvas.paste(block, (left, top))
            left += block.width + 2 * EDGE
        top += max(block.height for block in line)
    return canvas


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont, most: int = 3) -> list[str]:
    """Break a heading between words, at most `most` lines of `width` pixels; what is too long ends in an ellipsis."""
    lines: list[str] = []
    for word in text.replace("_", " ").split() or [""]:
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + "…"]
    for index, line in enumerate(lines):
        if font.getlength(line) > width:
            line = line.rstrip("…")
            while line and font.getlength(line + "…") > width:
                line = line[:-1]
            lines[index] = line + "…"
    return lines


def _write(pen, grid: Grid, column: int, text: str, colour: tuple[int, int, int]) -> None:
    font = _font()
    _, left = grid.place(0, column)
    lines = wrap(text, grid.cell[1], font)
    for index, line in enumerate(lines):  # the last line stands right above the images
        x = left + (grid.cell[1] - font.getlength(line)) / 2
        pen.text((x, EDGE + grid.header - 4 - (len(lines) - index) * LINE), line, fill=colour, font=font)


def _paste(body: Image.Image, grid: Grid, row: int, column: int, image: np.ndarray) -> None:
    from PIL import Image

    top, left = grid.place(row, column)
    height, width = grid.cell
    cell = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)  # no made-up pixels
    body.paste(cell, (left, top))


def _font(size: int = FONT_SIZE, bold: bool = False) -> ImageFont.FreeTypeFont:
    load_matplotlib()
    from matplotlib import font_manager
    from PIL import ImageFont

    # The font that matplotlib brings along: the same on every machine.
    properties = font_manager.FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return ImageFont.truetype(font_manager.findfont(properties), size)
