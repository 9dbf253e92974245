"""What a source offers before a pixel is read: names, splits and truth; and the checks that stop bad ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from lanit.config import LanitError
from lanit.data.names import shown, stem, to_bytes
from lanit.data.splits import FORGOTTEN, NEEDED, SPLITS


@dataclass(frozen=True)
class Listing:
    """All images of a source.

    Attributes:
        splits: the split of each image.
        names: its path within the source, unique, in the form of `lanit.data.names`; what `Source.read` takes.
        truth: bool (images, classes).
        classes: names of the classes, as they go into a caption.
        exclusive: whether each image has exactly one class.
        notes: sentences on what the source holds and was not taken as it is.
    """

    splits: list[str]
    names: list[str]
    truth: np.ndarray
    classes: tuple[str, ...]
    exclusive: bool
    notes: list[str] = field(default_factory=list)


class Source(Protocol):
    """Where images come from."""

    def listing(self) -> Listing:
        """Return what there is, without reading pixels."""

    def read(self, name: str, size: int) -> np.ndarray:
        """Return an image as uint8 (size, size, 3); raise `DamagedImage` where that is impossible."""

    def describe_resize(self, size: int) -> str:
        """Return how images come to their size."""


def key_of(name: str) -> str:
    """Return the key of an image: 16 hexadecimal digits of a digest of its path without the suffix."""
    return _digest(stem(name, FORGOTTEN))


def keys_of(names: list[str]) -> list[str]:
    """Return the keys of all images; of those that differ in their suffix alone it is the digest of the whole path.

    Raises:
        LanitError: two images have the same key.
    """
    stems = Counter(stem(name, FORGOTTEN) for name in names)
    keys = [key_of(name) if stems[stem(name, FORGOTTEN)] == 1 else _digest(name) for name in names]
    first: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in first:
            raise LanitError(f"{shown(first[key])} and {shown(name)} have one key by chance; rename one of them")
        first[key] = name
    return keys


def count_classes(splits: Sequence[str], truth: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return split → class → how many images show it, the splits in the manifest's order."""
    of = np.array(splits)
    return {
        split: dict(zip(classes, truth[of == split].sum(axis=0).tolist(), strict=True))
        for split in SPLITS
        if split in splits
    }


def check_listing(listing: Listing) -> None:
    """Refuse an empty split and a class without an image in some split.

    Raises:
        LanitError: with the split and the class.
    """
    repeated = [name for name, count in Counter(listing.classes).items() if count > 1]
    if repeated:
        raise LanitError(f"the source has two classes of the name {repeated[0]!r}; give each its own name")
    splits = np.array(listing.splits)
    for split in (s for s in SPLITS if s in NEEDED or s in listing.splits):
        chosen = splits == split
        if not chosen.any():
            raise LanitError(f"the {split} split is empty; add images to it or change the rule that splits")
        lacking = [name for name, there in zip(listing.classes, listing.truth[chosen].any(axis=0)) if not there]
        if lacking:
            raise LanitError(
                f"no image of the {split} split has the class {lacking[0]!r} (of {int(chosen.sum())} images); add "
                f"some, or leave the class out with source.classes where the source has it"
            )


def _digest(name: str) -> str:
    return hashlib.sha256(to_bytes(name)).hexdigest()[:16]
