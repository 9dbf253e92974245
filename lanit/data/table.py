"""Images in one folder with a table of attributes, which may also say splits and who is on them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lanit.config import LanitError
from lanit.data.images import KINDS, MAX_PIXELS, check_max_pixels, describe_resize, read_image
from lanit.data.listing import Listing
from lanit.data.names import as_text, class_name, shown, stem, to_disk
from lanit.data.sheet import GROUP, SPLIT, Sheet, brief, read_sheet
from lanit.data.splits import FORGOTTEN, SplitRule, check_groups
from lanit.data.walk import LeftOut, list_images

VALUES = {"1": True, "true": True, "1.0": True, "0": False, "-1": False, "false": False, "0.0": False, "-1.0": False}
SPLIT_WORDS = {"train": "train", "training": "train", "0": "train", "val": "val", "valid": "val", "validation": "val"}
SPLIT_WORDS |= {"dev": "val", "1": "val", "test": "test", "testing": "test", "2": "test", "pretrain": "pretrain"}


@dataclass(frozen=True)
class TableOptions:
    """Options of `kind: table`. The forms of tables are those of `lanit.data.sheet.read_sheet`.

    A column `split` (or `partition`) decides the splits: their names, or CelebA's 0, 1, 2 for train, val, test. Without
    one, test_last or test_share does. Images with the same value in a column `group` (or `identity`) come into one
    split. A column that `classes` names is a class, whatever it is called.

    Attributes:
        images: the folder that holds the images.
        table: the attributes: 0 or 1, -1 or 1, true or false.
        partition: a table of splits, groups or both, such as CelebA's `list_eval_partition.txt`.
        identities: another one, such as CelebA's `identity_CelebA.txt`.
        val_share: part of what would be train otherwise, also by a column; likewise
        pretrain_share: where a column decides the splits.
        classes: columns to use, in this order; all, where it is left out.
        allow_missing: leave out rows whose image is not there; they are a mistake otherwise.
        max_pixels: how many an image may have.
    """

    kind: Literal["table"]
    images: Path
    table: Path
    partition: Path | None = None
    identities: Path | None = None
    test_last: int | None = None
    test_share: float | None = None
    pretrain_share: float = 0.0
    val_share: float = 0.0
    classes: tuple[str, ...] | None = None
    allow_missing: bool = False
    max_pixels: int = MAX_PIXELS


class Table:
    """A folder and its table as a source; an image may have any number of classes."""

    def __init__(self, options: TableOptions) -> None:
        self.options = options
        self.rule = SplitRule(options.test_last, options.test_share, options.pretrain_share, options.val_share)
        check_max_pixels(options.max_pixels)

    def listing(self) -> Listing:
        folder, options = self.options.images, self.options
        if not folder.is_dir():
            raise LanitError(f"no folder at {folder}: put the images that {options.table} lists ({KINDS}) there")
        sheet = read_sheet(options.table, "attribute table")
        others = [(options.partition, "table of splits"), (options.identities, "table of identities")]
        sheets = [sheet, *(read_sheet(path, what) for path, what in others if path is not None)]
        columns = self._choose_classes(sheet)
        truth = np.stack([_truth(sheet, column) for column in columns], axis=1)

        left_out = LeftOut()
        files = _Files(list_images(folder, left_out))
        found = files.find_all(sheet)
        notes = left_out.notes(str(folder))
        notes = [*self._check_missing(sheet, found, notes), *files.notes(sheet, found, folder), *notes]
        there = sorted((file, i) for i, file in enumerate(found) if file is not None)
        names, truth = [file for file, _ in there], truth[[i for _, i in there]]
        groups = self._read(sheets, GROUP, files, names, columns)
        given = self._read(sheets, SPLIT, files, names, columns)
        splits, said = self._split(names, truth, given, groups)
        chosen = [i for i, split in enumerate(splits) if split]
        return Listing(
            [splits[i] for i in chosen],
            [names[i] for i in chosen],
            truth[chosen],
            tuple(class_name(column).lower() for column in columns),
            exclusive=False,
            notes=notes + said,
        )

    def read(self, name: str, size: int) -> np.ndarray:
        return read_image(self.options.images / to_disk(name), size, self.options.max_pixels)

    def describe_resize(self, size: int) -> str:
        return describe_resize(size)

    def _choose_classes(self, sheet: Sheet) -> list[str]:
        if self.options.classes is None:
            columns = [column for column in sheet.columns if column not in (sheet.find(SPLIT), sheet.find(GROUP))]
            if not columns:
                raise LanitError(f"{sheet.path} has no attribute columns; mend its header")
            return columns
        wanted = [as_text(name) for name in self.options.classes]
        unknown = [name for name in wanted if name not in sheet.columns]
        if unknown or not wanted:
            what = f"has {unknown[0]!r}, which is no column of {sheet.path}" if unknown else "is empty"
            raise LanitError(f"source.classes {what}; known are {', '.join(sheet.columns)}")
        return wanted

    def _check_missing(self, sheet: Sheet, found: list[str | None], held: list[str]) -> list[str]:
        missing = [name for name, file in zip(sheet.names, found) if file is None]
        if not missing:
            return []
        said = (
            f"{len(missing):,} of the {len(found):,} images that {sheet.path} lists are missing in "
            f"{self.options.images}, the first {brief(missing[0])}"
        )
        if not self.options.allow_missing or len(missing) == len(found):
            other = "".join(f" ({note})" for note in held)
            raise LanitError(
                f"{said}{other}; add them, remove their rows, or set source.allow_missing to leave them out"
            )
        return [f"{said}: their rows are left out"]

    def _read(
        self, sheets: list[Sheet], known: tuple[str, ...], files: _Files, names: list[str], classes: list[str]
    ) -> dict[str, str] | None:
        """Return image → field, where it is not empty, of the one column of this kind; None where there is none."""
        columns = [(sheet, column) for sheet in sheets if (column := sheet.find(known)) is not None]
        columns = [(sheet, column) for sheet, column in columns if sheet is not sheets[0] or column not in classes]
        if not columns:
            return None
        if len(columns) > 1:
            (a, first), (b, second) = columns[:2]
            raise LanitError(f"{a.path} has the column {first!r} and {b.path} the column {second!r}; give one of them")
        ((sheet, column),) = columns
        values = sheet.column(column)
        if known is SPLIT:
            values = [_split(sheet, column, value, line) for value, line in zip(values, sheet.lines)]
        wanted = set(names)
        return {file: value for file, value in zip(files.find_all(sheet), values) if file in wanted and file and value}

    def _split(
        self, names: list[str], truth: NDArray[np.bool_], given: dict[str, str] | None, groups: dict[str, str] | None
    ) -> tuple[list[str], list[str]]:
        """Return the split of each image, "" for one that is in none, and what is to be said of it."""
        what, rule = str(self.options.partition or self.options.table), self.rule
        each = None if groups is None else [groups.get(name, f"of its own: {name}") for name in names]
        if given is None:
            rule.check_takes_test()
            return rule.assign(names, what, truth, each), []
        if rule.takes_test:
            raise LanitError(f"{what} says who is in the test split, so test_last and test_share do not apply")
        for split, share in (("val", rule.val_share), ("pretrain", rule.pretrain_share)):
            if share and split in given.values():
                raise LanitError(f"{what} says who is in the {split} split, so {split}_share does not apply")
        splits = [given.get(name, "") for name in names]
        train = [i for i, split in enumerate(splits) if split == "train"]
        part = None if each is None else [each[i] for i in train]
        for i, split in zip(train, rule.assign([names[i] for i in train], what, truth[train], part)):
            splits[i] = split
        if each is not None:
            chosen = [i for i, split in enumerate(splits) if split]
            check_groups([splits[i] for i in chosen], [each[i] for i in chosen], what)
        without = [name for name, split in zip(names, splits) if not split]
        if not without:
            return splits, []
        return splits, [
            f"{len(without):,} images have no split in {what} and are left out, the first {shown(without[0])}"
        ]


class _Files:
    """The image files of the folder, to be found by the names that a table has for them."""

    def __init__(self, files: list[str]) -> None:
        self.files = set(files)
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        for file in files:
            self.by_stem[as_text(stem(file, FORGOTTEN))].append(file)

    def find_all(self, sheet: Sheet) -> list[str | None]:
        """Return the file of each row: of that name, or else the one that differs from it in its suffix alone.

        Raises:
            LanitError: several differ, or two rows have one file.
        """
        found: list[str | None] = []
        taken: dict[str, str] = {}
        for name, line in zip(sheet.names, sheet.lines):
            like = [name] if name in self.files else self.by_stem.get(as_text(stem(name, FORGOTTEN)), [])
            if len(like) > 1:
                raise LanitError(
                    f"{sheet.path} line {line}: {brief(name)} may be {shown(like[0])} or {shown(like[1])}; say which"
                )
            if like and taken.setdefault(like[0], name) is not name:
                raise LanitError(
                    f"{sheet.path} line {line}: {brief(name)} is the image of {brief(taken[like[0]])}, which has a row "
                    f"already; keep one row per image"
                )
            found.append(like[0] if like else None)
        return found

    def notes(self, sheet: Sheet, found: list[str | None], folder: Path) -> list[str]:
        said = []
        other = [(name, file) for name, file in zip(sheet.names, found) if file is not None and file != name]
        if other:
            name, file = other[0]
            said.append(
                f"{len(other):,} names in {sheet.path} are of files with another suffix, the first {brief(name)} of "
                f"{shown(file)}"
            )
        unlisted = sorted(self.files.difference(file for file in found if file is not None))
        if unlisted:
            said.append(
                f"{len(unlisted):,} images in {folder} have no row in {sheet.path} and are left out, the first "
                f"{shown(unlisted[0])}"
            )
        return said


def _truth(sheet: Sheet, column: str) -> NDArray[np.bool_]:
    fields = sheet.column(column)
    values = [VALUES.get(field.lower()) for field in fields]
    if None in values:
        i = values.index(None)
        raise LanitError(
            f"{sheet.path} line {sheet.lines[i]}: {column} is {brief(fields[i])!r}, but must be 0 or 1, -1 or 1, true "
            f"or false; leave the column out with source.classes if it is no attribute"
        )
    return np.array(values, bool)


def _split(sheet: Sheet, column: str, value: str, line: int) -> str:
    if value and value.lower() not in SPLIT_WORDS:
        raise LanitError(
            f"{sheet.path} line {line}: {column} is {brief(value)!r}, but must be train, val, test or pretrain, or "
            f"CelebA's 0, 1 or 2"
        )
    return SPLIT_WORDS[value.lower()] if value else ""
