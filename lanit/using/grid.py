"""One picture of sources by targets: for `lanit translate --grid`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CELL = 128  # pixels that a cell has at least, so that words can be read


def draw_grid(
    targets: list[tuple[NDArray[np.uint8] | None, str | None]], rows: list[list[NDArray[np.uint8]]]
) -> NDArray[np.uint8]:
    """Draw the targets in the first row, the sources in the first column, and translations where they meet.

    Args:
        targets: the reference (H, W, 3) and the domains' names of each of the T targets, one of them or both.
        rows: of each of the S sources, itself and its T translations (H, W, 3).

    Returns:
        uint8 ((S + 1)·C, (T + 1)·C, 3), where C is H = W times the smallest whole factor that gives `CELL` or more.
    """
    size = rows[0][0].shape[0]
    factor = -(-CELL // size)
    white = np.full_like(rows[0][0], 255)
    header = [white, *(white if reference is None else reference for reference, _ in targets)]
    grid = np.concatenate([np.concatenate(row, axis=1) for row in [header, *rows]])
    picture = Image.fromarray(grid.repeat(factor, axis=0).repeat(factor, axis=1))
    cell = size * factor
    for column, (reference, words) in enumerate(targets, start=1):
        if words is not None:
            _write_words(picture, words, column * cell, cell, at_the_foot=reference is not None)
    return np.asarray(picture)


def _write_words(picture: Image.Image, words: str, left: int, cell: int, at_the_foot: bool) -> None:
    """Write words into a cell of the first row, as large as they fit, and readable on any picture."""
    draw, room = ImageDraw.Draw(picture), cell * 0.92
    place = (left + cell / 2, cell * (0.96 if at_the_foot else 0.5))
    anchor = "md" if at_the_foot else "mm"
    for points in range(cell // (9 if at_the_foot else 7), 7, -1):
        font, stroke = ImageFont.load_default(points), points // 8
        text = "\n".join(_wrap(words, font, room))
        box = draw.multiline_textbbox(place, text, font, anchor, spacing=1, align="center", stroke_width=stroke)
        if box[2] - box[0] <= room and box[3] - box[1] <= room:
            break
    draw.multiline_text(
        place, text, "black", font, anchor, spacing=1, align="center", stroke_width=stroke, stroke_fill="white"
    )


def _wrap(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> list[str]:
    lines: list[str] = []
    for word in words.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
