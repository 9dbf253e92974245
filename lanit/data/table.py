"""Images in one flat folder with a table of attributes: CelebA's `list_attr` form or CSV."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lanit.config import LanitError
from lanit.data.images import describe_resize, read_image
from lanit.data.listing import Listing, SplitRule, class_name, is_image_name

VALUES = {"1": True, "true": True, "0": False, "-1": False, "false": False}


@dataclass(frozen=True)
class TableOptions:
    """Options of `kind: table`.

    Attributes:
        images: the folder that holds the images.
        table: either CelebA's form (a line with the count, a line with the attribute names, then `name 1 -1 …`), or CSV
            with a column `name` and columns of 0/1, -1/1 or true/false.
        classes: columns to use, in this order; all, where it is left out.
    """

    kind: Literal["table"]
    images: Path
    table: Path
    test_last: int | None = None
    test_share: float | None = None
    pretrain_share: float = 0.0
    val_share: float = 0.0
    classes: tuple[str, ...] | None = None


class Table:
    """A flat folder and its table as a source; an image may have any number of classes."""

    def __init__(self, options: TableOptions) -> None:
        self.options = options
        self.rule = SplitRule(options.test_last, options.test_share, options.pretrain_share, options.val_share)

    def list(self) -> Listing:
        folder, table = self.options.images, self.options.table
        if not folder.is_dir():
            raise LanitError(f"no folder at {folder}: put the images that {table} lists (JPEG, PNG or WebP) there")
        if not table.is_file():
            raise LanitError(f"no attribute table at {table}: put a list_attr file or a CSV with a column 'name' there")
        columns, names, truth = read_table(table)
        self._check_files(names)
        columns, truth = self._choose_classes(columns, truth)
        order = np.argsort(names, kind="stable")
        names = [names[i] for i in order]
        classes = tuple(class_name(column).lower() for column in columns)
        return Listing(self.rule.assign(names, str(table)), names, truth[order], classes, exclusive=False)

    def read(self, name: str, size: int) -> np.ndarray:
        return read_image(self.options.images / name, size)

    def describe_resize(self, size: int) -> str:
        return describe_resize(size)

    def _check_files(self, names: list[str]) -> None:
        folder, table = self.options.images, self.options.table
        there = {path.name for path in folder.iterdir() if is_image_name(path.name)}
        missing = [name for name in names if name not in there]
        if missing:
            raise LanitError(
                f"{len(missing)} of the {len(names)} images that {table} lists are missing in {folder}, the first "
                f"{missing[0]}; add them or remove their rows"
            )
        unlisted = len(there - set(names))
        if unlisted:
            print(f"{unlisted} images in {folder} have no row in {table} and are left out", file=sys.stderr)

    def _choose_classes(self, columns: list[str], truth: np.ndarray) -> tuple[list[str], np.ndarray]:
        wanted = self.options.classes
        if wanted is None:
            return columns, truth
        unknown = [name for name in wanted if name not in columns]
        if unknown or not wanted:
            what = f"has {unknown[0]!r}, which is no column of {self.options.table}" if unknown else "is empty"
            raise LanitError(f"source.classes {what}; known are {', '.join(columns)}")
        return list(wanted), truth[:, [columns.index(name) for name in wanted]]


def read_table(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Return columns, image names and truth, bool (images, columns), of a table in either form.

    Raises:
        LanitError: with the line and what is wrong in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise LanitError(f"{path} is not a text file; give CelebA's list_attr file or a CSV") from None
    celeba = bool(lines) and lines[0].strip().isdigit()
    columns, rows = _read_celeba(path, lines) if celeba else _read_csv(path, lines)
    repeated = [name for name in columns if columns.count(name) > 1]
    if repeated or not columns:
        what = f"has the column {repeated[0]!r} twice" if repeated else "has no attribute columns"
        raise LanitError(f"{path} {what}; mend its header")
    if not rows:
        raise LanitError(f"{path} lists no images; add a row per image")
    names: list[str] = []
    seen: set[str] = set()
    truth = np.empty((len(rows), len(columns)), bool)
    for i, (line, name, values) in enumerate(rows):
        if not is_image_name(name) or "/" in name or "\\" in name:
            raise LanitError(f"{path} line {line}: {name!r} is not the name of a JPEG, PNG or WebP file in one folder")
        if name in seen:
            raise LanitError(f"{path} line {line}: {name} has a row already; keep one row per image")
        if len(values) != len(columns):
            raise LanitError(f"{path} line {line}: {len(values)} values for {len(columns)} attributes; mend the row")
        for j, value in enumerate(values):
            if value.strip().lower() not in VALUES:
                raise LanitError(
                    f"{path} line {line}: {columns[j]} is {value!r}, but must be 0 or 1, -1 or 1, true or false"
                )
            truth[i, j] = VALUES[value.strip().lower()]
        names.append(name)
        seen.add(name)
    return columns, names, truth


def _read_celeba(path: Path, lines: list[str]) -> tuple[list[str], list[tuple[int, str, list[str]]]]:
    columns = lines[1].split() if len(lines) > 1 else []
    rows = [(i, *_first_and_rest(line.split())) for i, line in enumerate(lines[2:], 3) if line.strip()]
    if len(rows) != int(lines[0]):
        raise LanitError(f"{path} says {int(lines[0])} images in line 1 but has {len(rows)} rows; is it complete?")
    return columns, rows


def _read_csv(path: Path, lines: list[str]) -> tuple[list[str], list[tuple[int, str, list[str]]]]:
    reader = csv.reader(lines)
    header = [column.strip() for column in next(reader, [])]
    if header.count("name") != 1:
        raise LanitError(
            f"{path} has no column 'name' in its first line, nor CelebA's count; a CSV needs the columns 'name' and "
            f"one per attribute"
        )
    at = header.index("name")
    rows = []
    for row in reader:
        if row:
            name = row[at].strip() if at < len(row) else ""
            rows.append((reader.line_num, name, row[:at] + row[at + 1 :]))
    return header[:at] + header[at + 1 :], rows


def _first_and_rest(fields: list[str]) -> tuple[str, list[str]]:
    return fields[0], fields[1:]
