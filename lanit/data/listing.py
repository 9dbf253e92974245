"""What a source offers before a pixel is read: names, splits and truth; and the checks that stop bad ones."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np

from lanit.config import LanitError
from lanit.data.images import SUFFIXES

SPLITS = ("train", "val", "test", "pretrain")  # in the order of the manifest
NEEDED = ("train", "test")  # the others are there where a source has them


@dataclass(frozen=True)
class Listing:
    """All images of a source.

    Attributes:
        splits: the split of each image.
        names: its path within the source, unique; what `Source.read` takes.
        truth: bool (images, classes).
        classes: names of the classes, as they go into a caption.
        exclusive: whether each image has exactly one class.
    """

    splits: list[str]
    names: list[str]
    truth: np.ndarray
    classes: tuple[str, ...]
    exclusive: bool


class Source(Protocol):
    """Where images come from."""

    def list(self) -> Listing:
        """Return what there is, without reading pixels."""

    def read(self, name: str, size: int) -> np.ndarray:
        """Return an image as uint8 (size, size, 3); raise `DamagedImage` where that is impossible."""

    def describe_resize(self, size: int) -> str:
        """Return how images come to their size."""


@dataclass(frozen=True)
class SplitRule:
    """Decides the split from names alone, so that it is the same on every machine.

    Attributes:
        test_last: the last k names in sorted order are the test split; or
        test_share: this share of the images, chosen by a hash of the key: an image never changes its split
            when others come or go.
        pretrain_share: the share of the images that goes to the pretrain split, chosen likewise.
        val_share: the share that goes to the val split. It is taken from what would be train: test and pretrain stay.
    """

    test_last: int | None = None
    test_share: float | None = None
    pretrain_share: float = 0.0
    val_share: float = 0.0

    def __post_init__(self) -> None:
        if (self.test_last is None) == (self.test_share is None):
            raise LanitError("source needs either test_last or test_share: what goes into the test split")
        if self.test_last is not None and self.test_last < 1:
            raise LanitError(f"source.test_last must be at least 1, not {self.test_last}")
        check_shares(test_share=self.test_share, val_share=self.val_share, pretrain_share=self.pretrain_share)

    def assign(self, names: list[str], what: str) -> list[str]:
        """Return the split of each of the `names`; `what` they are together, for the message."""
        last = set(sorted(names)[-self.test_last :]) if self.test_last else set()
        if self.test_last and self.test_last >= len(names):
            raise LanitError(
                f"{what} has {len(names)} images, so test_last = {self.test_last} leaves none to train on; lower it"
            )
        return [self._assign(name, name in last) for name in names]

    def _assign(self, name: str, is_last: bool) -> str:
        position = _fraction(name)
        if is_last or (self.test_share and position < self.test_share):
            return "test"
        if position >= 1 - self.pretrain_share:
            return "pretrain"
        return "val" if position >= 1 - self.pretrain_share - self.val_share else "train"


def in_val_share(name: str, share: float) -> bool:
    """Tell whether an image that a folder gives to train belongs to the share of it that is val."""
    return _fraction(name) >= 1 - share


def check_shares(**shares: float | None) -> None:
    """Refuse shares that are no shares, or leave nothing to train on; by the names of their keys, None is not given."""
    given = {key: share for key, share in shares.items() if share is not None}
    if min(given.values()) < 0 or sum(given.values()) >= 1 or given.get("test_share") == 0:
        named = " and ".join(f"{key} {share:g}" for key, share in given.items() if share or key == "test_share")
        raise LanitError(f"source.{named} must lie between 0 and 1 and leave something for the train split")


def key_of(name: str) -> str:
    """Return the key of an image: 16 hexadecimal digits of a digest of its path without the suffix."""
    return hashlib.sha256(_stem(name).encode()).hexdigest()[:16]


def keys_of(names: list[str]) -> list[str]:
    """Return the keys of all images.

    Raises:
        LanitError: two images have the same key, or a name is not text.
    """
    for name in names:
        if not name.isprintable():
            raise LanitError(f"the file name {name!r} has characters that cannot be written down; rename the file")
    keys = [key_of(name) for name in names]
    first: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in first:
            raise LanitError(
                f"two files have one key: {first[key]} and {name} (the suffix does not count); rename or remove one"
            )
        first[key] = name
    return keys


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


def is_image_name(name: str) -> bool:
    """Tell whether a file name has a suffix of a kind that is read, and is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def class_name(folder_or_column: str) -> str:
    """Return how a class is called in a caption: underscores are spaces."""
    return " ".join(folder_or_column.replace("_", " ").split())


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if is_image_name(name) else name


def _fraction(name: str) -> float:
    """A number in [0, 1) that looks random and depends on the name alone."""
    return int(hashlib.sha256(f"split {_stem(name)}".encode()).hexdigest()[:13], 16) / 16**13
