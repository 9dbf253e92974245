"""Which image goes into which split, decided from names (or groups) alone, so that it is the same on every machine."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lanit.config import LanitError
from lanit.data.names import shown, stem, to_bytes

SPLITS = ("train", "val", "test", "pretrain")  # in the order of the manifest
NEEDED = ("train", "test")  # the others are there where a source has them
# Suffixes that do not count in a name: a picture saved anew in another kind keeps its split and its key.
FORGOTTEN: tuple[str, ...] = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
FORGOTTEN += (".avif", ".heic", ".heif", ".hif")
FEW = 6  # images of a class in a split, from which on chance decides: what the default k = 5 can score


@dataclass(frozen=True)
class SplitRule:
    """Splits by rule; what no part of it takes is train.

    A share is taken by a hash of each name: an image does not change its split when others come or go. Of a class with
    few images chance could leave none in a split: it gets its share there, `FEW` images at most, those whose hash is
    next.

    Attributes:
        test_last: the last k names in sorted order are the test split; or
        test_share: this share of the images.
        pretrain_share: the share that goes to the pretrain split.
        val_share: the share that goes to the val split. It is taken from what would be train: test and pretrain stay.
    """

    test_last: int | None = None
    test_share: float | None = None
    pretrain_share: float = 0.0
    val_share: float = 0.0

    def __post_init__(self) -> None:
        if self.test_last is not None and self.test_last < 1:
            raise LanitError(f"source.test_last must be at least 1, not {self.test_last}")
        shares = {"val_share": self.val_share, "pretrain_share": self.pretrain_share}
        if self.test_share is not None:
            shares = {"test_share": self.test_share} | shares
        if not (min(shares.values()) >= 0 and sum(shares.values()) < 1) or self.test_share == 0:
            named = " and ".join(f"{key} {share:g}" for key, share in shares.items() if share or key == "test_share")
            raise LanitError(f"source.{named} must lie between 0 and 1 and leave something for the train split")

    @property
    def takes_test(self) -> bool:
        """Whether the rule says what goes into the test split."""
        return self.test_last is not None or self.test_share is not None

    def check_takes_test(self) -> None:
        """Raise LanitError unless exactly one of test_last and test_share is given."""
        if (self.test_last is None) == (self.test_share is None):
            raise LanitError("source needs either test_last or test_share: what goes into the test split")

    def assign(
        self, names: list[str], what: str, truth: NDArray[np.bool_] | None = None, groups: list[str] | None = None
    ) -> list[str]:
        """Return the split of each image.

        Args:
            names: of n images, as in `Listing`.
            what: what they are together, for the message.
            truth: (n, C), which image shows which class; one class for all where it is left out.
            groups: of each image; those of one group come into one split. Each image is its own where it is left out.

        Raises:
            LanitError: `test_last` leaves nothing to train on, or would part groups.
        """
        units = (
            [f"split {stem(name, FORGOTTEN)}" for name in names] if groups is None else [f"group {g}" for g in groups]
        )
        positions = {unit: _fraction(unit) for unit in units}
        by_hash = {unit: self._by_hash(position) for unit, position in positions.items()}
        splits = np.array([by_hash[unit] for unit in units], dtype=object)
        if self.test_last is not None:
            if groups is not None:
                raise LanitError("source.test_last would part the images of a group; give test_share in its place")
            if self.test_last >= len(names):
                raise LanitError(
                    f"{what} has {len(names)} images, so test_last = {self.test_last} leaves none to train on; lower it"
                )
            last = set(sorted(names)[-self.test_last :])
            splits[[name in last for name in names]] = "test"
        truth = np.ones((len(names), 1), bool) if truth is None else truth
        for split, share, sign in (
            ("test", self.test_share or 0.0, 1),
            ("val", self.val_share, -1),
            ("pretrain", self.pretrain_share, -1),
        ):
            if share:
                _complete(splits, split, share, units, {unit: sign * at for unit, at in positions.items()}, truth)
        return splits.tolist()

    def _by_hash(self, position: float) -> str:
        if self.test_share and position < self.test_share:
            return "test"
        if position >= 1 - self.pretrain_share:
            return "pretrain"
        return "val" if position >= 1 - self.pretrain_share - self.val_share else "train"


def check_groups(splits: list[str], groups: list[str], what: str) -> None:
    """Refuse a group with images in two splits.

    Raises:
        LanitError: with the first such group, and how many there are.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        found[group].add(split)
    parted = [group for group, among in found.items() if len(among) > 1]
    if parted:
        raise LanitError(
            f"{what} puts {len(parted):,} groups into more than one split, the first {shown(parted[0])!r} into "
            f"{' and '.join(s for s in SPLITS if s in found[parted[0]])}; mend its splits, or drop the groups' column"
        )


def _complete(
    splits: NDArray, split: str, share: float, units: list[str], order: dict[str, float], truth: NDArray[np.bool_]
) -> None:
    """Move units from train to a split until it has enough of each class, the rarest class first."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, unit in enumerate(units):
        members[unit].append(i)
    counts = truth.sum(axis=0)
    for c in np.argsort(counts, kind="stable"):
        shows = truth[:, c]
        wanted = min(math.ceil(share * counts[c] - 1e-9), FEW)
        there = int((shows & (splits == split)).sum())
        left = int((shows & (splits == "train")).sum())
        if there >= wanted:
            continue
        free = {units[i] for i in np.flatnonzero(shows & (splits == "train"))}
        for unit in sorted(free, key=lambda unit: (order[unit], unit)):
            moved = int(shows[members[unit]].sum())
            if there >= wanted or left <= moved:  # a class keeps something to train on
                break
            splits[members[unit]] = split
            there, left = there + moved, left - moved


def _fraction(unit: str) -> float:
    """A number in [0, 1) that looks random and depends on the name alone."""
    return int(hashlib.sha256(to_bytes(unit)).hexdigest()[:13], 16) / 16**13
