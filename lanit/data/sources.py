"""Where a dataset's images come from: `{kind: faces | folders | table, …}` becomes a `Source`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lanit.config import LanitError, parse
from lanit.data.faces import ATTRIBUTES, SUPERSAMPLING, DrawnFaces
from lanit.data.folders import FolderOptions, Folders
from lanit.data.listing import Listing, Source
from lanit.data.splits import NEEDED, SPLITS
from lanit.data.table import Table, TableOptions


@dataclass(frozen=True)
class FacesSplit:
    """How many faces a split has, and the seed that draws them."""

    images: int
    seed: int


@dataclass(frozen=True)
class FacesOptions:
    """Options of `kind: faces`.

    Attributes:
        splits: split → images and seed; a seed of its own for each, so that no face is in two splits.
        probability: with which each attribute is present in a face.
    """

    kind: Literal["faces"]
    splits: dict[str, FacesSplit]
    probability: float = 0.3


def open_source(values: dict[str, Any]) -> Source:
    """Return the source that the options describe.

    Raises:
        LanitError: unknown kind, or options that contradict each other.
    """
    kind = values.get("kind")
    if kind not in SOURCES:
        raise LanitError(f"source.kind must be one of {', '.join(SOURCES)}, not {kind!r}")
    options, source = SOURCES[kind]
    return source(parse(options, values, "source"))


class Faces:
    """The drawn faces as a source; an image may have any number of classes."""

    def __init__(self, options: FacesOptions) -> None:
        self.options = options
        for split, faces in options.splits.items():
            if split not in SPLITS:
                raise LanitError(f"source.splits has {split!r}; splits are {', '.join(SPLITS)}")
            if faces.images < 1 or faces.seed < 0:
                raise LanitError(f"source.splits.{split} needs at least 1 image and a seed of at least 0")
        lacking = [split for split in NEEDED if split not in options.splits]
        if lacking:
            raise LanitError(f"source.splits lacks {lacking[0]!r}; give its images and seed")
        seeds = [faces.seed for faces in options.splits.values()]
        if len(set(seeds)) < len(seeds):
            raise LanitError("two of source.splits have the same seed, so the same faces; give each split its own seed")
        if not 0 < options.probability < 1:
            raise LanitError(f"source.probability must lie between 0 and 1, not {options.probability}")

    def listing(self) -> Listing:
        splits = [split for split in SPLITS if split in self._draws]
        return Listing(
            splits=[split for split in splits for _ in range(self._draws[split].images)],
            names=[f"{split}/{i:06d}" for split in splits for i in range(self._draws[split].images)],
            truth=np.concatenate([self._truth[split] for split in splits]),
            classes=ATTRIBUTES,
            exclusive=False,
        )

    def read(self, name: str, size: int) -> np.ndarray:
        split, index = name.split("/")
        return self._draws[split].image(int(index), self._truth[split][int(index)], size)

    def describe_resize(self, size: int) -> str:
        return f"drawn {SUPERSAMPLING} times larger and averaged down to {size}x{size} pixels"

    @cached_property
    def _draws(self) -> dict[str, DrawnFaces]:
        return {s: DrawnFaces(f.images, f.seed, self.options.probability) for s, f in self.options.splits.items()}

    @cached_property
    def _truth(self) -> dict[str, np.ndarray]:
        return {split: draw.truth() for split, draw in self._draws.items()}


# Kind → its options, and what makes a `Source` of them.
SOURCES: dict[str, tuple[type, Callable[[Any], Source]]] = {
    "faces": (FacesOptions, Faces),
    "folders": (FolderOptions, Folders),
    "table": (TableOptions, Table),
}
