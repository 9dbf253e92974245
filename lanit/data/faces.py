"""Drawn cartoon faces: an endless multi-label dataset whose truth is known exactly.

A face is a pure function of its attributes, a random generator and a size. Whatever is not an attribute (skin, hair,
background and shirt colours, head shape, pose, eyes, mouth, brightness) is drawn from the generator, always in the same
number of draws: the same generator state with another attribute gives the same person with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

# Words that fill "a face with {}.". The first N of the list are the candidate domains of a sweep over N. Each has a
# place or a colour of its own, several pixels large in a 32-pixel picture, so that no attribute hides another.
ATTRIBUTES = (
    "hat",
    "glasses",
    "blue background",
    "beard",
    "green skin",
    "red hair",
    "scarf",
    "earrings",
    "red nose",
    "eye patch",
    "purple frame",
    "sun",
    "headphones",
    "balloon",
    "tongue",
    "striped shirt",
)

SKINS = ((255, 224, 196), (244, 200, 160), (224, 172, 126), (198, 140, 96), (160, 104, 70))  # never green
HAIRS = ((36, 32, 36), (92, 58, 36), (140, 98, 60), (150, 148, 150), (226, 214, 188))  # never red
BACKGROUNDS = ((226, 224, 220), (250, 232, 200), (244, 206, 204), (190, 186, 180), (214, 190, 160))  # never blue
SHIRTS = ((36, 120, 116), (84, 84, 92), (120, 52, 62), (110, 110, 50), (70, 56, 110))  # dark: white stripes show on all
BEARDS = ((40, 26, 22), (66, 40, 28), (24, 24, 28))
HATS = ((30, 30, 34), (74, 46, 30), (40, 62, 44))
EYES = ((30, 30, 30), (70, 44, 24), (30, 80, 50), (40, 70, 120))
BLUE, GREEN, RED, PURPLE = (36, 92, 236), (84, 196, 72), (226, 28, 20), (160, 28, 196)
ORANGE, GOLD, TURQUOISE, PINK = (255, 142, 10), (255, 214, 0), (0, 208, 214), (255, 64, 160)
BLACK, WHITE, TONGUE, MOUTH = (16, 16, 18), (255, 255, 255), (255, 120, 160), (110, 30, 36)

SUPERSAMPLING = 4  # drawn this many times larger, then averaged down: smooth edges at any size
UNITS = 32  # coordinates below are in pixels of a 32-pixel picture


@dataclass(frozen=True)
class DrawnFaces:
    """A reproducible draw of `images` labelled faces; face i depends on (seed, i) alone.

    Attributes:
        images: how many faces there are.
        seed: of the whole draw; draws with different seeds share no face.
        probability: with which each attribute is present, independently of the others.
    """

    images: int
    seed: int
    probability: float = 0.3

    def truth(self) -> np.ndarray:
        """Return which face has which attribute: bool (images, 16), columns in the order of `ATTRIBUTES`."""
        rng = np.random.default_rng([self.seed, 0])
        return rng.random((self.images, len(ATTRIBUTES))) < self.probability

    def image(self, index: int, attributes: Sequence[bool], size: int) -> np.ndarray:
        """Return face `index` with the given attributes: uint8 (size, size, 3)."""
        return draw(attributes, np.random.default_rng([self.seed, 1, index]), size)


def draw(attributes: Sequence[bool], rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one face.

    Args:
        attributes: 16 flags, in the order of `ATTRIBUTES`.
        rng: decides everything that is not an attribute.
        size: height and width of the picture in pixels.

    Returns:
        uint8 array (size, size, 3), RGB.
    """
    has = dict(zip(ATTRIBUTES, attributes, strict=True))
    person = _Person(rng)
    pen = _Pen(size * SUPERSAMPLING, person)
    _draw_surroundings(pen, person, has)
    _draw_body(pen, person, has)
    _draw_head(pen, person, has)
    _draw_features(pen, person, has)
    _draw_worn(pen, person, has)
    if has["purple frame"]:
        pen.fixed_frame(2.2, PURPLE)
    image = pen.image.resize((size, size), Image.Resampling.BOX)
    return np.clip(np.asarray(image, np.float32) * person.brightness + 0.5, 0, 255).astype(np.uint8)


class _Person:
    """Everything about a face that is not an attribute."""

    def __init__(self, rng: np.random.Generator) -> None:
        def choose(colours: tuple) -> tuple:
            return colours[rng.integers(len(colours))]

        self.skin, self.hair, self.background = choose(SKINS), choose(HAIRS), choose(BACKGROUNDS)
        self.shirt, self.beard, self.hat, self.eyes = choose(SHIRTS), choose(BEARDS), choose(HATS), choose(EYES)
        self.shift = rng.uniform(-1.2, 1.2), rng.uniform(-0.8, 0.8)
        self.scale = rng.uniform(0.94, 1.06)
        self.width, self.height = rng.uniform(6.6, 7.6), rng.uniform(7.8, 8.6)  # half axes of the head
        self.hair_length = rng.uniform(20.0, 23.5)
        self.mouth = int(rng.integers(3))
        self.gaze = rng.uniform(-0.5, 0.5)
        self.brightness = rng.uniform(0.92, 1.0)


class _Pen:
    """BatchRng in 32-unit coordinates that follow the person's shift and scale."""

    def __init__(self, pixels: int, person: _Person) -> None:
        self.image = Image.new("RGB", (pixels, pixels))
        self.canvas = ImageDraw.Draw(self.image)
        self.unit, self.person = pixels / UNITS, person

    def _at(self, x: float, y: float) -> tuple[float, float]:
        (dx, dy), scale = self.person.shift, self.person.scale
        return (16 + (x - 16) * scale + dx) * self.unit, (16 + (y - 16) * scale + dy) * self.unit

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: tuple) -> None:
        self.canvas.ellipse([*self._at(x - rx, y - ry), *self._at(x + rx, y + ry)], fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: tuple, radius: float = 0) -> None:
        self.canvas.rounded_rectangle([*self._at(x0, y0), *self._at(x1, y1)], radius * self.unit, fill=colour)

    def line(self, points: Sequence[tuple[float, float]], width: float, colour: tuple) -> None:
        self.canvas.line([self._at(*p) for p in points], fill=colour, width=round(width * self.unit), joint="curve")

    def polygon(self, points: Sequence[tuple[float, float]], colour: tuple) -> None:
        self.canvas.polygon([self._at(*p) for p in points], fill=colour)

    def arc(self, x: float, y: float, rx: float, ry: float, ends: tuple[int, int], width: float, colour: tuple) -> None:
        box = [*self._at(x - rx, y - ry), *self._at(x + rx, y + ry)]
        self.canvas.arc(box, *ends, fill=colour, width=round(width * self.unit))

    def fixed_ellipse(self, x: float, y: float, rx: float, ry: float, colour: tuple) -> None:
        """An ellipse that belongs to the background: it does not move with the head."""
        u = self.unit
        self.canvas.ellipse([(x - rx) * u, (y - ry) * u, (x + rx) * u, (y + ry) * u], fill=colour)

    def fixed_line(self, points: Sequence[tuple[float, float]], width: float, colour: tuple) -> None:
        u = self.unit
        self.canvas.line([(x * u, y * u) for x, y in points], fill=colour, width=round(width * u))

    def fixed_frame(self, width: float, colour: tuple) -> None:
        pixels = self.image.width - 1
        self.canvas.rectangle([0, 0, pixels, pixels], outline=colour, width=round(width * self.unit))


def _draw_surroundings(pen: _Pen, person: _Person, has: dict[str, bool]) -> None:
    pen.canvas.rectangle([0, 0, *pen.image.size], fill=BLUE if has["blue background"] else person.background)
    if has["sun"]:  # top left; the darker ring keeps it apart from a light background
        for angle in np.deg2rad(np.arange(10, 91, 20)):
            ends = [(1 + r * float(np.cos(angle)), 1 + r * float(np.sin(angle))) for r in (5, 10)]
            pen.fixed_line(ends, 1.1, (255, 176, 0))
        pen.fixed_ellipse(1, 1, 7, 7, (255, 176, 0))
        pen.fixed_ellipse(1, 1, 6, 6, (255, 236, 40))
    if has["balloon"]:  # top right
        pen.fixed_line([(27.6, 9), (28.6, 14), (27.4, 20), (28.4, 28)], 0.8, (90, 30, 60))
        pen.fixed_ellipse(27.6, 6.4, 3.5, 4.4, PINK)
        pen.fixed_ellipse(26.4, 4.8, 0.9, 1.2, (255, 200, 226))


def _draw_body(pen: _Pen, person: _Person, has: dict[str, bool]) -> None:
    skin = GREEN if has["green skin"] else person.skin
    hair = RED if has["red hair"] else person.hair
    pen.box(16 - person.width - 2.4, 5.4, 16 + person.width + 2.4, person.hair_length, hair, radius=6)  # behind
    pen.box(4, 25, 28, 40, person.shirt, radius=4)
    if has["striped shirt"]:
        for x in (7, 12.2, 17.4, 22.6):
            pen.box(x, 25.4, x + 2.5, 40, WHITE)
    pen.box(13, 20, 19, 26, _shade(skin, 0.82))


def _draw_head(pen: _Pen, person: _Person, has: dict[str, bool]) -> None:
    skin = GREEN if has["green skin"] else person.skin
    hair = RED if has["red hair"] else person.hair
    w, h = person.width, person.height
    pen.ellipse(16, 15.4, w, h, skin)
    if has["beard"]:
        pen.polygon(
            [
                (16 - w, 16),
                (16 - w * 0.72, 18),
                (16, 18.4),
                (16 + w * 0.72, 18),
                (16 + w, 16),
                (16 + w * 0.78, 22),
                (16, 26),
                (16 - w * 0.78, 22),
            ],
            person.beard,
        )
        pen.ellipse(16, 21.6, w * 0.8, 4.2, person.beard)
    pen.canvas.chord([*pen._at(16 - w - 1, 4.6), *pen._at(16 + w + 1, 19)], 192, 348, fill=hair)  # fringe


def _draw_features(pen: _Pen, person: _Person, has: dict[str, bool]) -> None:
    for x in (12.6, 19.4):
        pen.ellipse(x, 14, 1.8, 1.7, WHITE)
        pen.ellipse(x + person.gaze, 14, 1.0, 1.1, person.eyes)
    lips = (236, 150, 140) if has["beard"] else MOUTH
    if person.mouth == 0:
        pen.arc(16, 19.4, 2.8, 1.8, (10, 170), 0.9, lips)
    elif person.mouth == 1:
        pen.line([(13.6, 20.6), (18.4, 20.6)], 0.9, lips)
    else:
        pen.ellipse(16, 20.4, 2.0, 1.1, lips)
    if has["tongue"]:
        pen.box(13.8, 20.2, 18.2, 25.2, TONGUE, radius=2)
        pen.line([(16, 21), (16, 23.6)], 0.5, (214, 70, 112))
    if has["red nose"]:
        pen.ellipse(16, 17.2, 2.7, 2.4, RED)
    else:
        skin = GREEN if has["green skin"] else person.skin
        pen.ellipse(16, 17.0, 0.9, 0.8, _shade(skin, 0.8))


def _draw_worn(pen: _Pen, person: _Person, has: dict[str, bool]) -> None:
    w = person.width
    if has["eye patch"]:  # its strap runs behind the glasses
        pen.line([(16 - w - 0.6, 17.4), (16 + w - 0.2, 9.4)], 1.3, BLACK)
    if has["glasses"]:
        for x in (12.2, 19.8):
            pen.ellipse(x, 14, 3.6, 3.4, BLACK)
            pen.ellipse(x, 14, 2.3, 2.1, (214, 240, 250))
            pen.ellipse(x + person.gaze, 14, 0.8, 0.9, person.eyes)
        pen.line([(15, 13.4), (17, 13.4)], 0.9, BLACK)
        pen.line([(16 - w - 1, 13.2), (9.4, 13.6)], 0.9, BLACK)
        pen.line([(22.6, 13.6), (16 + w + 1, 13.2)], 0.9, BLACK)
    if has["eye patch"]:
        pen.ellipse(19.8, 14.2, 3.8, 3.8, BLACK)
    if has["scarf"]:
        pen.box(9, 24.2, 23, 28, ORANGE, radius=1.8)
        pen.box(19, 26, 22.8, 33, _shade(ORANGE, 0.9), radius=0.8)
    if has["hat"]:
        pen.box(16 - w + 1, -1.4, 16 + w - 1, 7.2, person.hat, radius=1.2)
        pen.box(16 - w + 1, 3.8, 16 + w - 1, 5.8, (236, 232, 222))
        pen.box(16 - w - 3, 5.8, 16 + w + 3, 8.0, person.hat, radius=1)
    if has["headphones"]:
        pen.arc(16, 12.4, w + 2.2, 9.4, (180, 360), 1.5, TURQUOISE)
        for side in (-1, 1):
            pen.ellipse(16 + side * (w + 1.6), 13.6, 2.1, 3.4, TURQUOISE)
    if has["earrings"]:
        for side in (-1, 1):
            pen.ellipse(16 + side * (w + 1.4), 20.2, 2.5, 3.0, (150, 104, 0))
            pen.ellipse(16 + side * (w + 1.4), 20.2, 2.0, 2.5, GOLD)


def _shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    red, green, blue = colour
    return round(red * factor), round(green * factor), round(blue * factor)
