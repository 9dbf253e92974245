"""What the protocol asks another system to translate, and which of the files that came back answers what."""

from __future__ import annotations

import csv
import io
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lanit.config import LanitError
from lanit.evaluation.protocols import Pairs, Protocol, class_columns, draw_pairs, draw_picture_rows
from lanit.evaluation.records import read_split_truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Pair = tuple[int, int, int]  # row of the source, index of the target class, row of the reference
COLUMNS = ("source", "target", "reference", "file")  # of pairs.csv
NAMES = "<source>__<target>.png or <source>__<target>__<reference>.png"
SEE = "`lanit evaluate pairs` writes what there is to translate"


@dataclass(frozen=True)
class Assignment:
    """What another system is asked to translate.

    Attributes:
        split: of the protocol.
        keys: of all images of that split.
        classes: the evaluation classes.
        pairs: what is scored.
        picture_sources: rows (S,) of the picture grid.
        picture_references: rows (C,) of the picture grid, one a class.
    """

    split: str
    keys: list[str]
    classes: list[str]
    pairs: Pairs
    picture_sources: NDArray[np.int64]
    picture_references: NDArray[np.int64]

    @property
    def scored(self) -> list[Pair]:
        """The protocol's pairs in their order; one may come again."""
        return list(zip(self.pairs.source.tolist(), self.pairs.target.tolist(), self.pairs.reference.tolist()))

    @property
    def pictured(self) -> list[Pair]:
        """The cells of the picture grid, source by source."""
        references = list(enumerate(self.picture_references.tolist()))
        return [(source, target, row) for source in self.picture_sources.tolist() for target, row in references]

    def file_name(self, pair: Pair) -> str:
        """The name by which a pair's translation is known."""
        source, target, reference = pair
        return f"{self.keys[source]}__{as_file_name(self.classes[target])}__{self.keys[reference]}.png"

    def table(self, pairs: Iterable[Pair]) -> str:
        """The pairs as CSV: the keys of source and reference, the target's name, the file that is asked for."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for source, target, reference in pairs:
            file = self.file_name((source, target, reference))
            writer.writerow([self.keys[source], self.classes[target], self.keys[reference], file])
        return stream.getvalue()


def make_assignment(manifest: Path, classes: list[str], protocol: Protocol, picture_sources: int) -> Assignment:
    """What the protocol asks for on the dataset of this manifest.

    Raises:
        LanitError: see `draw_pairs`; or the names of two classes are the same as part of a file's name.
    """
    known, truth, keys = read_split_truth(manifest, protocol.split)
    classes = [known[column] for column in class_columns(known, classes)]
    names: dict[str, str] = {}
    for name in classes:
        if (other := names.setdefault(as_file_name(name), name)) != name:
            raise LanitError(f"the classes {other!r} and {name!r} are one in names of files; rename one of them")
    pairs = draw_pairs(truth, known, classes, protocol)
    rows = draw_picture_rows(truth, known, classes, picture_sources, protocol.seed)
    return Assignment(protocol.split, keys, classes, pairs, *rows)


def find_files(assignment: Assignment, manifest: Path, folder: Path, table: Path | None) -> dict[Pair, Path]:
    """Find which pair each file is a translation of: by the table, or else by the files' names.

    A file of a source and a target without a reference answers every pair of the two.

    Raises:
        LanitError: a file (or a row of the table) names what is not there or what was not asked for, or two are of one
            pair.
    """
    if not folder.is_dir():
        raise LanitError(f"no folder of translations at {folder}; put them there or give their place ({SEE})")
    splits = _splits_of_keys(manifest)
    rows = {key: row for row, key in enumerate(assignment.keys)}
    targets = {as_file_name(name): t for t, name in enumerate(assignment.classes)}
    asked: dict[tuple[int, int], set[int]] = {}  # source, target → references
    for row, t, by in [*assignment.scored, *assignment.pictured]:
        asked.setdefault((row, t), set()).add(by)

    found: dict[Pair, Path] = {}
    for where, path, source, target, reference in _listed(folder, table, splits):
        for key, kind in ((source, "source"), (reference, "reference")):
            if key not in rows and (key or kind == "source"):
                what = f"of split {splits[key]}, and {assignment.split} is scored" if key in splits else "unknown"
                raise LanitError(f"{where} names the {kind} {key!r}, which is {what}; {SEE}")
        name = as_file_name(target)
        if name not in targets:
            known = ", ".join(assignment.classes)
            raise LanitError(f"{where} names the target {target!r}, which is none of the evaluation classes ({known})")
        references = asked.get((rows[source], targets[name]), set())
        if reference:
            references = references & {rows[reference]}
        if not references:
            what = repr(target) + (f" by {reference}" if reference else "")
            raise LanitError(f"{where} translates {source} into {what}, which is no pair of the protocol; {SEE}")
        for by in references:
            pair = rows[source], targets[name], by
            if pair in found:
                raise LanitError(f"{found[pair].name} and {path.name} in {folder} are of one pair; keep one of them")
            found[pair] = path
    return found


def as_file_name(name: str) -> str:
    """A class's name as part of a file's: "red hair" is red_hair."""
    return re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", name))


def _splits_of_keys(manifest: Path) -> dict[str, str]:
    from lanit.data.manifest import read_table

    table = read_table(manifest, ["key", "split"])
    return dict(zip(table["key"].to_pylist(), table["split"].to_pylist()))


def _listed(folder: Path, table: Path | None, keys: Iterable[str]) -> Iterator[tuple[str, Path, str, str, str]]:
    """Each translation: where that is said, its file, and the source, target and reference ("" for none)."""
    return _list_files(folder, keys) if table is None else _list_rows(folder, table)


def _list_files(folder: Path, keys: Iterable[str]) -> Iterator[tuple[str, Path, str, str, str]]:
    from lanit.data.images import SUFFIXES

    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    images = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    if others := [name for name in names if name not in set(images)]:
        text = f"left out, for {'it is' if len(others) == 1 else 'they are'} no JPEG, PNG or WebP: {others[0]}"
        print(f"warning: {len(others)} in {folder} {text}{' …' * (len(others) > 1)}", file=sys.stderr)
    for name in images:
        source, _, rest = Path(name).stem.partition("__")
        target, _, reference = rest.rpartition("__")
        if not target or reference not in keys:
            target, reference = rest, ""
        if not (source and target):
            raise LanitError(f"{folder / name} does not say what it translates; call it {NAMES}, or give a table")
        yield str(folder / name), folder / name, source, target, reference


def _list_rows(folder: Path, table: Path) -> Iterator[tuple[str, Path, str, str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig")))
        rows = [{name: (value or "").strip() for name, value in row.items() if name} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LanitError(f"{table} cannot be read as CSV ({error}); give a table like pairs.csv") from None
    for number, row in enumerate(rows, 2):
        where = f"line {number} of {table}"
        if lacking := [name for name in COLUMNS if name != "reference" and not row.get(name)]:
            columns = f"{', '.join(COLUMNS)}, of which reference may be empty"
            raise LanitError(f"{where} has no {lacking[0]}; the columns are {columns}")
        file = Path(row["file"])
        if file.is_absolute() or ".." in file.parts or not (folder / file).is_file():
            raise LanitError(f"{where} names the file {row['file']}, which is not in {folder}")
        yield where, folder / file, row["source"], row["target"], row.get("reference", "")
