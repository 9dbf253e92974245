"""The manifest: which image lies where; and, behind a door of its own, the truth about it.

Whatever must not see truth calls `read_manifest`, which names the columns it takes from the file: truth is never read,
so it cannot leak.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.config import LanitError, parse
from lanit.files import write_whole

if TYPE_CHECKING:
    import pandas
    import pyarrow

COLUMNS = ("key", "split", "shard", "offset", "size", "sha256")
TRUTH = "truth:"  # prefix of the columns that hold truth


@dataclass(frozen=True)
class SplitCard:
    """How many usable images and how many shards a split has."""

    images: int
    shards: int


@dataclass(frozen=True)
class DatasetCard:
    """What `dataset.json` says about a dataset.

    Attributes:
        size: height and width of the images in pixels.
        classes: names of the classes that truth knows.
        exclusive: whether each image has exactly one class.
        splits: per split, images and shards.
        resize: how the images came to their size, in words.
        quarantined: how many damaged images were left out.
        name: of the dataset, where the options give one.
        counts: per split and class, how many images show it.
        options: digest of the options that the dataset was made with.
    """

    size: int
    classes: tuple[str, ...]
    exclusive: bool
    splits: dict[str, SplitCard]
    resize: str
    quarantined: int
    name: str | None = None
    counts: dict[str, dict[str, int]] | None = None
    options: str | None = None


def read_manifest(path: Path | str, split: str) -> pandas.DataFrame:
    """Return the rows of a split, in the manifest's order, with the columns `COLUMNS` and no truth.

    Raises:
        LanitError: no such file, or no such split in it.
    """
    return read_places(path, split).to_pandas()


def read_places(path: Path | str, split: str) -> pyarrow.Table:
    """Like `read_manifest`, without the cost of importing pandas."""
    return _read_split(path, split, list(COLUMNS))


def read_truth(path: Path | str, split: str) -> pandas.DataFrame:
    """Return the truth of a split, in the manifest's order: `key`, then one bool column per class.

    For the evaluation, the label-quality report and the supervised baselines alone.

    Raises:
        LanitError: no such file, or no such split in it.
    """
    columns = [name for name in read_schema(path).names if name.startswith(TRUTH)]
    table = _read_split(path, split, ["key", *columns])
    return table.rename_columns(["key", *(name.removeprefix(TRUTH) for name in columns)]).to_pandas()


def read_card(path: Path | str) -> DatasetCard:
    """Return the dataset's card from `dataset.json`.

    Raises:
        LanitError: no such file, or it is no card.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LanitError(f"no dataset card at {path}; run shard index to make it") from None
    except ValueError:
        raise LanitError(f"{path} is not valid JSON; run shard index to make it anew") from None
    return parse(DatasetCard, values, str(path))


def write_card(card: DatasetCard, path: Path | str) -> None:
    """Write `dataset.json`; `name` is left out where the dataset has none."""
    values = {key: value for key, value in asdict(card).items() if value is not None}
    write_whole(path, (json.dumps(values, indent=2) + "\n").encode())


def read_schema(path: Path | str) -> pyarrow.Schema:
    """Return the columns and the metadata of a Parquet file, or raise a `LanitError` that says what it is not."""
    return _parquet(path, lambda parquet: parquet.read_schema(path))


def read_table(path: Path | str, columns: list[str] | None = None, filters: list | None = None) -> pyarrow.Table:
    """Return (part of) a Parquet file, or raise a `LanitError` that says what it is not."""
    return _parquet(path, lambda parquet: parquet.read_table(path, columns=columns, filters=filters))


def write_table(columns: dict[str, Any], path: Path | str, metadata: dict[str, Any] | None = None) -> None:
    """Write columns as a Parquet file, all of it or nothing; `metadata` goes along as JSON."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"lanit": json.dumps(metadata, sort_keys=True)})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    write_whole(path, sink.getvalue().to_pybytes())


def read_metadata(path: Path | str) -> dict[str, Any]:
    """Return the metadata that `write_table` put into a Parquet file."""
    metadata = read_schema(path).metadata or {}
    if b"lanit" not in metadata:
        raise LanitError(f"{path} was not made by lanit shard; run the command that makes it again")
    return json.loads(metadata[b"lanit"])


def _read_split(path: Path | str, split: str, columns: list[str]) -> pyarrow.Table:
    table = read_table(path, columns, [("split", "=", split)])
    if len(table) == 0:
        known = read_table(path, ["split"])["split"].unique().to_pylist()
        raise LanitError(f"{path} has no split {split!r}; it has {', '.join(known)}")
    return table


def _parquet(path: Path | str, read: Any) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return read(parquet)
    except FileNotFoundError:
        raise LanitError(f"no file at {path}; lanit shard makes it") from None
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError) as error:
        raise LanitError(
            f"{path} is not what lanit shard wrote ({str(error).splitlines()[0]}); remove it and run lanit shard again"
        ) from None
