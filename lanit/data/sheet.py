"""Tables as people have them: CelebA's text forms, and CSV with any separator, in UTF-8, UTF-16 or Latin-1."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from lanit.config import LanitError
from lanit.data.names import as_text, shown

SEPARATORS = (",", ";", "\t", "|")
# What the column of the images' names is called, in the order of preference; and those of splits and of groups.
NAMES = ("name", "image_id", "image", "image_name", "filename", "file_name", "file", "img", "path")
SPLIT = ("split", "partition", "subset")
GROUP = ("group", "identity", "person", "person_id")


@dataclass(frozen=True)
class Sheet:
    """A table of images.

    Attributes:
        path: of the file.
        columns: names of the columns but that of the images' names.
        names: of the images, one a row.
        rows: the fields of each row, in the order of the columns.
        lines: the line of the file that each row comes from.
    """

    path: Path
    columns: list[str]
    names: list[str]
    rows: list[list[str]]
    lines: list[int]

    def find(self, known: tuple[str, ...]) -> str | None:
        """Return the first column that is called one of these; None where none is."""
        by_name = {column.lower(): column for column in reversed(self.columns)}
        return next((by_name[name] for name in known if name in by_name), None)

    def column(self, name: str) -> list[str]:
        """Return the fields of a column, without spaces around them."""
        at = self.columns.index(name)
        return [row[at].strip() for row in self.rows]


def read_sheet(path: Path, what: str) -> Sheet:
    """Read a table in one of these forms, told apart by its first line.

    - CelebA's `list_attr`: a line with the count, a line with the columns, then `name value value …`;
    - CSV with a header that names a column of `NAMES`, separated by commas, semicolons, tabs or `|`;
    - without a header `name value`, as CelebA's partition and identities have it: the column is `split` where all
      values are 0, 1 or 2, else `identity`.

    Args:
        path: of the file.
        what: it is, for the message where there is none.

    Raises:
        LanitError: with the line and what is wrong in it.
    """
    if not path.is_file():
        raise LanitError(f"no {what} at {path}: put a list_attr file or a CSV with a column 'name' there")
    lines = _read_text(path).split("\n")
    separator = lines[0][4:5] if lines[0].lower().startswith("sep=") else None  # a line that Excel writes
    if lines[0].strip().isdigit():
        columns, rows = _read_celeba(path, lines)
    elif separator is None and (pairs := _read_pairs(lines)):
        columns, rows = pairs
    else:
        columns, rows = _read_csv(path, lines, separator)
    repeated = [name for name in columns if columns.count(name) > 1]
    if repeated or not columns:
        problem = f"has the column {shown(repeated[0])!r} twice" if repeated else "has no columns but that of names"
        raise LanitError(f"{path} {problem}; mend its header")
    if not rows:
        raise LanitError(f"{path} lists no images; add a row per image")
    seen: set[str] = set()
    for line, name, values in rows:
        if not name:
            raise LanitError(f"{path} line {line}: the name of the image is missing")
        if name in seen:
            raise LanitError(f"{path} line {line}: {brief(name)} has a row already; keep one row per image")
        if len(values) != len(columns):
            raise LanitError(f"{path} line {line}: {len(values)} values for {len(columns)} columns; mend the row")
        seen.add(name)
    return Sheet(path, columns, [row[1] for row in rows], [row[2] for row in rows], [row[0] for row in rows])


def brief(value: str, length: int = 60) -> str:
    """Return a field for a message: on one line and not longer than it can be read."""
    text = shown(value)
    return text if len(text) <= length else f"{text[:length]}…"


def _read_text(path: Path) -> str:
    """Return a text with `\\n` between its lines; bytes that are no UTF-8 stand as surrogates, as in names of files."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LanitError(f"{path} cannot be read ({error.strerror}); make it readable") from None
    start = data[:400]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in start and not any(start[1::2]):
        encoding = "utf-16-le"
    elif b"\0" in start and not any(start[0::2]):
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        kind = "a spreadsheet: save it as CSV" if data.startswith(b"PK") else "no text: give a list_attr file or a CSV"
        raise LanitError(f"{path} is {kind}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


Rows = list[tuple[int, str, list[str]]]  # line, name, fields


def _read_celeba(path: Path, lines: list[str]) -> tuple[list[str], Rows]:
    columns = lines[1].split() if len(lines) > 1 else []
    fields = [(i, line.split()) for i, line in enumerate(lines[2:], 3) if line.strip()]
    if len(fields) != int(lines[0]):
        raise LanitError(f"{path} says {int(lines[0])} images in line 1 but has {len(fields)} rows; is it complete?")
    return columns, [(i, row[0], row[1:]) for i, row in fields]


def _read_pairs(lines: list[str]) -> tuple[list[str], Rows] | None:
    """Return None where a line does not hold a name with a suffix, spaces and a number."""
    fields = [(i, line.split()) for i, line in enumerate(lines, 1) if line.strip()]
    if not fields or not all(len(row) == 2 and "." in row[0] and row[1].isdigit() for _, row in fields):
        return None
    column = "split" if {row[1] for _, row in fields} <= {"0", "1", "2"} else "identity"
    return [column], [(i, row[0], row[1:]) for i, row in fields]


def _read_csv(path: Path, lines: list[str], separator: str | None) -> tuple[list[str], Rows]:
    first = 0 if separator is None else 1  # of the lines
    header, at = None, -1
    for candidate in (separator,) if separator else SEPARATORS:
        columns = [column.strip() for column in _fields(path, lines, first, candidate, strict=False)]
        lowered = [column.lower() for column in columns]
        found = next((name for name in NAMES if name in lowered), None)
        if found is not None and (header is None or len(columns) > len(header)):
            header, at, separator = columns, lowered.index(found), candidate
    if header is None or separator is None:
        raise LanitError(
            f"{path} has no column 'name' (or {', '.join(NAMES[1:4])} …) in its first line, which begins with "
            f"{brief(lines[first] if len(lines) > first else '', 30)!r}, nor CelebA's count; a CSV needs a column of "
            f"the images' names and one per attribute"
        )
    rows = []
    for i in range(first + 1, len(lines)):
        if lines[i].strip():
            row = _fields(path, lines, i, separator)
            rows.append((i + 1, row[at].strip() if at < len(row) else "", row[:at] + row[at + 1 :]))
    return [as_text(column) for column in header[:at] + header[at + 1 :]], rows


def _fields(path: Path, lines: list[str], i: int, separator: str, strict: bool = True) -> list[str]:
    """Return the fields of a line; no field goes over several, so that a quote left open ends with its line."""
    if i >= len(lines):
        return []
    try:
        return next(csv.reader([lines[i]], delimiter=separator, skipinitialspace=True, strict=strict), [])
    except csv.Error as error:
        raise LanitError(
            f"{path} line {i + 1} is no row of a CSV ({error}): a quote is not closed, or doubled"
        ) from None
