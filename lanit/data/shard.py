"""The shard stage.

    lanit shard plan  --options JSON [--scored JSON] --output plan.parquet
    lanit shard write --plan plan.parquet --options JSON --split S --shard I --output S-I.tar --index S-I.parquet
    lanit shard index --plan plan.parquet --indices *.parquet --manifest M.parquet --quarantine Q.csv --card C.json

`plan` finds every mistake that names alone show, before any work. `write` makes one shard and notes where each image
lies, or why it is damaged. `index` gathers the notes, and stops the run where too much is damaged.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.config import LanitError, digest, parse, read_options

if TYPE_CHECKING:
    import pyarrow

    from lanit.data.scored import Scored


@dataclass(frozen=True)
class ShardOptions:
    """Options of `shard plan` and `shard write`.

    Attributes:
        source: see `lanit.data.sources`.
        size: height and width of the images in pixels.
        shards: how many shards each split has.
        max_damaged: the share of damaged images that a run bears.
        name: of the dataset, for its card.
    """

    source: dict[str, Any]
    size: int
    shards: dict[str, int]
    max_damaged: float = 0.01
    name: str | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 1024:
            raise LanitError(f"size must lie between 8 and 1024 pixels, not {self.size}")
        if not 0 <= self.max_damaged < 1:
            raise LanitError(f"max_damaged is a share and must be at least 0 and below 1, not {self.max_damaged}")

    @property
    def called(self) -> str:
        """The dataset's name and a colon, before a sentence; nothing where it has none."""
        return f"{self.name}: " if self.name else ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the steps plan, write and index."""
    steps = parser.add_subparsers(dest="step", required=True, metavar="step")
    step = steps.add_parser("plan", help="list the source's images, assign split and shard, check names and classes")
    step.add_argument("--options", required=True, help="JSON, or the path of a JSON or YAML file")
    step.add_argument("--output", required=True, type=Path, help="plan.parquet")
    _add_scored(step)
    step.set_defaults(run=lambda a: plan(_options(a.options), a.output, _scored(a.scored)))

    step = steps.add_parser("write", help="write one shard and the places of its images")
    step.add_argument("--plan", required=True, type=Path)
    step.add_argument("--options", required=True, help="the options that the plan was made with")
    step.add_argument("--split", required=True)
    step.add_argument("--shard", required=True, type=int)
    step.add_argument("--output", required=True, type=Path, help="the tar")
    step.add_argument("--index", required=True, type=Path, help="places and damages, Parquet")
    step.set_defaults(run=lambda a: write(a.plan, _options(a.options), a.split, a.shard, a.output, a.index))

    step = steps.add_parser("index", help="gather the indices of all shards into the manifest")
    step.add_argument("--plan", required=True, type=Path)
    step.add_argument("--indices", required=True, type=Path, nargs="+")
    step.add_argument("--manifest", required=True, type=Path)
    step.add_argument("--quarantine", required=True, type=Path, help="damaged images and why, CSV")
    step.add_argument("--card", required=True, type=Path, help="dataset.json")
    _add_scored(step)
    step.set_defaults(run=lambda a: index(a.plan, a.indices, a.manifest, a.quarantine, a.card, _scored(a.scored)))


def plan(options: ShardOptions, output: Path, scored: Scored | None = None) -> None:
    """Write which image goes into which shard: key, split, shard, name, truth per class.

    Where a name is no text, `path` holds the bytes of all. What the source holds and was not taken as it is, is told on
    stderr.

    Raises:
        LanitError: whatever is wrong with the source that shows without reading pixels, and what it lacks of what is to
            be scored.
    """
    from lanit.data.listing import check_listing, count_classes, key_of, keys_of
    from lanit.data.manifest import TRUTH, write_table
    from lanit.data.names import is_text, shown, to_bytes
    from lanit.data.scored import check_pairs, check_scored
    from lanit.data.sources import open_source
    from lanit.data.splits import SPLITS

    source = open_source(options.source)
    listing = source.listing()
    keys = keys_of(listing.names)
    check_listing(listing)
    splits = [split for split in SPLITS if split in listing.splits]
    _check_shards(options.shards, Counter(listing.splits), splits)
    if scored is not None:
        check_scored(scored, count_classes(listing.splits, listing.truth, listing.classes), options.source)
        check_pairs(scored, listing.truth[[split == scored.split for split in listing.splits]], listing.classes)

    # The key is a digest, so its order is a shuffle that mixes the classes, the same on every machine.
    order, shards = [], []
    for split in splits:
        rows = sorted((i for i, s in enumerate(listing.splits) if s == split), key=lambda i: keys[i])
        order += rows
        shards += [position * options.shards[split] // len(rows) for position in range(len(rows))]
    names = [listing.names[i] for i in order]
    paths = {} if all(map(is_text, names)) else {"path": [to_bytes(name) for name in names]}
    write_table(
        {
            "key": [keys[i] for i in order],
            "split": [listing.splits[i] for i in order],
            "shard": shards,
            "name": [name if is_text(name) else shown(name) for name in names],
            **paths,
            **{TRUTH + name: listing.truth[order, k] for k, name in enumerate(listing.classes)},
        },
        output,
        metadata={
            **asdict(options),
            "digest": digest(options),
            "classes": list(listing.classes),
            "exclusive": listing.exclusive,
            "resize": source.describe_resize(options.size),
        },
    )
    twins = [name for key, name in zip(keys, listing.names) if key != key_of(name)]
    if twins:
        listing.notes.append(
            f"{len(twins):,} images share their name with another but for the suffix, the first {shown(twins[0])}: all "
            f"of them are taken"
        )
    for note in listing.notes:
        print(f"{options.called}{note}", file=sys.stderr)
    counts = Counter(listing.splits)
    print(f"{options.called}{len(keys):,} images: " + ", ".join(f"{split} {counts[split]:,}" for split in splits))


def write(plan: Path, options: ShardOptions, split: str, shard: int, output: Path, index: Path) -> None:
    """Write one shard, and per image of its plan: key, split, shard, offset, size, sha256, or the reason of its damage.

    Raises:
        LanitError: the plan was made with other options, or has no such shard.
    """
    import pyarrow

    from lanit.data.images import DamagedImage, encode_png
    from lanit.data.manifest import read_metadata, read_schema, read_table, write_table
    from lanit.data.sources import open_source
    from lanit.data.tars import write_shard

    if read_metadata(plan)["digest"] != digest(options):
        raise LanitError(f"{plan} was made with other options; run shard plan again with these")
    columns = ["key", "path" if "path" in read_schema(plan).names else "name"]
    rows = read_table(plan, columns, [("split", "=", split), ("shard", "=", shard)]).to_pylist()
    if not rows:
        raise LanitError(f"{plan} has no shard {shard} of split {split!r}")

    def name_of(row: dict[str, Any]) -> str:
        return row["path"].decode("utf-8", "surrogateescape") if "path" in row else row["name"]

    source = open_source(options.source)
    notes = [{"key": row["key"], "offset": None, "size": None, "sha256": None, "reason": None} for row in rows]
    usable = []

    def samples():
        for row, note in zip(rows, notes, strict=True):
            try:
                data = encode_png(source.read(name_of(row), options.size))
            except DamagedImage as damage:
                note["reason"] = str(damage)
                continue
            note["sha256"] = hashlib.sha256(data).hexdigest()
            usable.append(note)
            yield row["key"], data

    places = write_shard(output, samples())
    for note, (offset, size) in zip(usable, places, strict=True):
        note["offset"], note["size"] = offset, size
    types = {"offset": pyarrow.int64(), "size": pyarrow.int64()}  # a column of nulls alone would have no type
    noted = {name: pyarrow.array([n[name] for n in notes], types.get(name, pyarrow.string())) for name in notes[0]}
    write_table(noted, index, metadata={"digest": digest(options), "split": split, "shard": shard})


def index(
    plan: Path, indices: list[Path], manifest: Path, quarantine: Path, card: Path, scored: Scored | None = None
) -> None:
    """Write the manifest, the list of damaged images (split, name, reason) and the dataset's card.

    Raises:
        LanitError: indices are missing or of another plan; too many images are damaged (the list survives); or the
            damage leaves a shard or a class without an image, or too few of what is to be scored.
    """
    import numpy as np

    from lanit.data.listing import count_classes
    from lanit.data.manifest import TRUTH, DatasetCard, SplitCard, read_metadata, read_table, write_card, write_table
    from lanit.data.scored import check_pairs, check_scored

    metadata = read_metadata(plan)
    rows = read_table(plan)
    notes = _read_notes(indices, metadata["digest"], plan, rows)
    usable = [reason is None for reason in notes["reason"]]
    damaged = [i for i, good in enumerate(usable) if not good]
    splits, names, shards = (rows[column].to_pylist() for column in ("split", "name", "shard"))
    listed = sorted((splits[i], names[i], notes["reason"][i]) for i in damaged)
    _write_quarantine(listed, quarantine)
    _check_damage(listed, len(rows), metadata["max_damaged"], quarantine)

    left = Counter((splits[i], shards[i]) for i, good in enumerate(usable) if good)
    for split, shard in dict.fromkeys(zip(splits, shards, strict=True)):
        if not left[split, shard]:
            raise LanitError(f"shard {shard} of split {split} has only damaged images ({quarantine}); use fewer shards")
    kept = rows.filter(usable)
    places = {column: [v for v, good in zip(notes[column], usable) if good] for column in ("offset", "size", "sha256")}
    _check_classes(kept, metadata["classes"], quarantine)
    truth = {TRUTH + name: kept[TRUTH + name] for name in metadata["classes"]}
    shows = np.stack([column.to_numpy() for column in truth.values()], axis=1)
    counts = count_classes(kept["split"].to_pylist(), shows, metadata["classes"])
    if scored is not None:
        check_scored(scored, counts, metadata["source"])
        check_pairs(scored, shows[[split == scored.split for split in kept["split"].to_pylist()]], metadata["classes"])
    said = _find_copies(kept["name"].to_pylist(), kept["split"].to_pylist(), places["sha256"], list(map(bytes, shows)))
    if listed:
        said.append(
            f"{len(listed):,} of {len(rows):,} images are damaged and left out; {quarantine} lists them with reasons"
        )
    for note in said:
        print(f"{metadata['name']}: {note}" if metadata["name"] else note, file=sys.stderr)
    write_table(
        {**{name: kept[name] for name in ("key", "split", "shard")}, **places, **truth, "name": kept["name"]}, manifest
    )
    images = Counter(kept["split"].to_pylist())
    write_card(
        DatasetCard(
            size=metadata["size"],
            classes=tuple(metadata["classes"]),
            exclusive=metadata["exclusive"],
            splits={split: SplitCard(images[split], metadata["shards"][split]) for split in dict.fromkeys(splits)},
            resize=metadata["resize"],
            quarantined=len(damaged),
            name=metadata["name"],
            counts=counts,
            options=metadata["digest"],
        ),
        card,
    )


def _add_scored(step: argparse.ArgumentParser) -> None:
    text = "what will be scored, to be told at once that it cannot be: {classes, k, split}, JSON or the path of a file"
    step.add_argument("--scored", help=text)


def _options(text: str) -> ShardOptions:
    return parse(ShardOptions, read_options(text))


def _scored(text: str | None) -> Scored | None:
    from lanit.data.scored import parse_scored

    return None if text is None else parse_scored(read_options(text))


def _check_shards(shards: dict[str, int], images: Counter, splits: list[str]) -> None:
    for split in splits:
        if split not in shards:
            raise LanitError(f"shards lacks the split {split!r}, which the source has; say how many shards it gets")
        if shards[split] < 1:
            raise LanitError(f"shards.{split} must be at least 1, not {shards[split]}")
        if shards[split] > images[split]:
            raise LanitError(
                f"shards.{split} = {shards[split]} is more than the {images[split]} images of the split; lower it"
            )
    unknown = [split for split in shards if split not in splits]
    if unknown:
        raise LanitError(f"shards has the split {unknown[0]!r}, which the source lacks; it has {', '.join(splits)}")


def _read_notes(indices: list[Path], expected: str, plan: Path, rows: pyarrow.Table) -> dict[str, list]:
    """Return the notes of all shards, row by row as in the plan."""
    from lanit.data.manifest import read_metadata, read_table

    noted = {}
    for path in indices:
        if read_metadata(path).get("digest") != expected:
            raise LanitError(f"{path} was written from another plan than {plan}; run shard write again")
        noted.update({note["key"]: note for note in read_table(path).to_pylist()})
    keys = rows["key"].to_pylist()
    lacking = [i for i, key in enumerate(keys) if key not in noted]
    if lacking or len(noted) > len(keys):
        if not lacking:
            raise LanitError(f"the indices have {len(noted)} images but {plan} has {len(keys)}; run shard write again")
        split, shard = rows["split"][lacking[0]], rows["shard"][lacking[0]]
        raise LanitError(f"no index given has the images of shard {shard} of split {split}; run shard write for it")
    return {column: [noted[key][column] for key in keys] for column in ("offset", "size", "sha256", "reason")}


def _write_quarantine(listed: list[tuple[str, str, str]], path: Path) -> None:
    from lanit.files import write_whole

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("split", "name", "reason"))
    writer.writerows(listed)
    write_whole(path, text.getvalue())


def _check_damage(listed: list[tuple[str, str, str]], images: int, limit: float, quarantine: Path) -> None:
    """Stop where the damaged share is above the limit, leaving the list where nobody clears it away."""
    survivor = quarantine.with_suffix(f".stopped{quarantine.suffix}")
    if len(listed) <= limit * images:
        survivor.unlink(missing_ok=True)  # of an earlier run
        return
    _write_quarantine(listed, survivor)  # a workflow manager clears the outputs of a failed command, but not this
    raise LanitError(
        f"{len(listed)} of {images} images ({len(listed) / images:.1%}) are damaged, more than the limit max_damaged = "
        f"{limit:g}; {survivor} lists them with reasons: mend or remove them, or raise the limit"
    )


def _check_classes(kept: pyarrow.Table, classes: list[str], quarantine: Path) -> None:
    from pyarrow import compute

    from lanit.data.manifest import TRUTH

    for split in kept["split"].unique().to_pylist():
        part = kept.filter(compute.equal(kept["split"], split))
        for name in classes:
            if not compute.any(part[TRUTH + name]).as_py():
                raise LanitError(
                    f"every image of the class {name!r} in the {split} split is damaged ({quarantine}); replace them"
                )


def _find_copies(names: list[str], splits: list[str], digests: list[str], truth: list[bytes]) -> list[str]:
    """Return a sentence each on pictures that are there twice: in two splits, or with another truth."""
    first: dict[str, int] = {}
    copies = [(first[d], i) for i, d in enumerate(digests) if first.setdefault(d, i) != i]
    parted = [(a, b) for a, b in copies if splits[a] != splits[b]]
    at_odds = [(a, b) for a, b in copies if truth[a] != truth[b]]
    said = []
    if parted:
        a, b = parted[0]
        said.append(
            f"{len(parted):,} images are in two splits under two names, the first {names[a]} ({splits[a]}) and "
            f"{names[b]} ({splits[b]}): scores on them flatter"
        )
    if at_odds:
        a, b = at_odds[0]
        said.append(
            f"{len(at_odds):,} images are there twice and their classes differ, the first {names[a]} and {names[b]}"
        )
    return said
