"""Translations by another system: `lanit evaluate pairs` says what to translate, `external` takes what came back.

    lanit evaluate pairs --manifest faces/manifest.parquet --options '{"classes": ["hat", "beard"]}' --output pairs
    lanit evaluate external --images translated --manifest faces/manifest.parquet --options … --output faces/external/a

The second leaves what a training and `lanit translate` leave of a run, so that scores and tables take it for one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanit.catalogue import EXTERNAL, METHODS
from lanit.config import Count, LanitError, code_version, digest, parse, read_options
from lanit.evaluation.assignment import Assignment, Pair, find_files, make_assignment
from lanit.evaluation.protocols import Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lanit.evaluation.features import Extractor


@dataclass(frozen=True)
class PairsOptions:
    classes: list[str]  # the evaluation classes
    protocol: Protocol = field(default_factory=Protocol)
    picture_sources: Count = 6  # rows of the picture grid


@dataclass(frozen=True)
class ExternalOptions:
    name: str  # of the system, in paths
    title: str  # in tables and plots
    dataset: str
    classes: list[str]  # the evaluation classes
    features: dict[str, Any]  # a FeatureOptions
    protocol: Protocol = field(default_factory=Protocol)
    batch: Count = 64  # images that the extractor sees at once
    picture_sources: Count = 6  # rows of the picture grid


def add_arguments(steps: argparse._SubParsersAction) -> None:
    """Add the two steps to those of `lanit evaluate`."""
    pairs = steps.add_parser("pairs", help="write what the protocol asks another system to translate")
    pairs.add_argument("--output", required=True, type=Path, help="new folder for sources, references and pairs.csv")
    pairs.set_defaults(run=run_pairs)

    external = steps.add_parser("external", help="take translations that another system made")
    external.add_argument("--images", required=True, type=Path, help="folder of <source>__<target>.png and the like")
    external.add_argument("--table", type=Path, help="CSV of source, target, reference and file, where names are free")
    external.add_argument("--output", required=True, type=Path, help="folder to write, as that of a run")
    text = "auto is a GPU where there is one"
    external.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help=text)
    external.set_defaults(run=run_external)

    for step in (pairs, external):
        step.add_argument("--manifest", required=True, type=Path, help="manifest.parquet of the dataset")
        step.add_argument("--options", required=True, help="JSON, or the path of a JSON or YAML file")


def run_pairs(arguments: argparse.Namespace) -> None:
    """Write the protocol's sources and references as PNGs, and which to translate by which."""
    options = parse(PairsOptions, read_options(arguments.options), "pairs")
    output = arguments.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LanitError(f"{output} is there already; remove it, or name another folder")

    from lanit.data.batches import ImageStore
    from lanit.data.images import encode_png
    from lanit.files import write_whole

    assignment = make_assignment(arguments.manifest, options.classes, options.protocol, options.picture_sources)
    store = ImageStore(arguments.manifest, assignment.split)
    scored = dict.fromkeys(assignment.scored)
    pictured = [pair for pair in assignment.pictured if pair not in scored]
    for folder, place in (("sources", 0), ("references", 2)):
        for row in sorted({pair[place] for pair in [*scored, *pictured]}):
            image = store.read([row])[0].permute(1, 2, 0).numpy()
            write_whole(output / folder / f"{assignment.keys[row]}.png", encode_png(image))
    write_whole(output / "pictures.csv", assignment.table(pictured))
    write_whole(output / "pairs.csv", assignment.table(scored))
    print(f"{len(scored)} pairs to translate in {output / 'pairs.csv'}, {len(pictured)} for pictures in pictures.csv")


def run_external(arguments: argparse.Namespace) -> None:
    """Extract the features of another system's translations, and write what is known of them as of a run."""
    options = parse(ExternalOptions, read_options(arguments.options), "external")
    if options.name in METHODS:
        raise LanitError(f"external.name is {options.name!r}, which is a method of this project; choose another")

    from lanit.data.manifest import read_card
    from lanit.evaluation.features import FeatureOptions, choose_device, load_extractor
    from lanit.files import write_tensors, write_whole

    assignment = make_assignment(arguments.manifest, options.classes, options.protocol, options.picture_sources)
    files = find_files(assignment, arguments.manifest, arguments.images, arguments.table)
    scored = assignment.scored
    given = [i for i, pair in enumerate(scored) if pair in files]
    counts = count_targets(assignment, [scored[i] for i in given], arguments.images)
    size = read_card(arguments.manifest.parent / "dataset.json").size
    device = choose_device(arguments.device)
    extractor = load_extractor(parse(FeatureOptions, options.features, "external.features"), device)

    arrays = extract([files[scored[i]] for i in given], size, extractor, options.batch)
    arrays |= {name: getattr(assignment.pairs, name)[given] for name in ("source", "reference", "target")}
    distinct = {files[scored[i]] for i in given}
    told = {"title": options.title, "files": len(distinct), "pairs": len(given), "of": len(scored)}
    decided = asdict(options) | {"classes": assignment.classes, "features": extractor.name}
    record = {
        "dataset": options.dataset,
        "method": EXTERNAL,
        "variant": options.name,
        "domains": assignment.classes,
        "seed": 0,
        "external": told,
        "options": decided,
        "images_seen": None,
        "train_seconds": None,
        "code": code_version(),
        "config": digest([decided, digest_files(assignment, files)]),
    }
    metadata = {
        "protocol": asdict(options.protocol),
        "classes": assignment.classes,
        "features": extractor.name,
        "judged": extractor.classes,
        "config": record["config"],
    }
    write_pictures(arguments.output / "pictures.npz", assignment, files, arguments.manifest, size)
    write_tensors(arguments.output / "translations.safetensors", arrays, metadata)
    write_whole(arguments.output / "run.json", json.dumps(record, indent=1))
    spread = f"{min(counts.values())} to {max(counts.values())} a class"
    print(f"{options.title}: {len(distinct)} files for {len(given)} of {len(scored)} pairs, {spread}")


def count_targets(assignment: Assignment, pairs: Iterable[Pair], folder: Path) -> dict[str, int]:
    """How many of the pairs are of each class.

    Raises:
        LanitError: none is of one, so that a mean over the classes would be another than that of other systems.
    """
    counts = dict.fromkeys(assignment.classes, 0)
    for _, target, _ in pairs:
        counts[assignment.classes[target]] += 1
    if without := [name for name, count in counts.items() if count == 0]:
        raise LanitError(
            f"{folder} has no translation into {', '.join(map(repr, without))}, and each evaluation class needs some; "
            "add them, or leave these classes out for all systems"
        )
    return counts


def extract(files: list[Path], size: int, extractor: Extractor, batch: int) -> dict[str, NDArray[np.float32]]:
    """Features (M, D) and, from a judge, logits (M, K) of M files, each read once however often it comes.

    Raises:
        LanitError: a file is damaged.
    """
    import torch

    distinct = list(dict.fromkeys(files))
    place = {path: i for i, path in enumerate(distinct)}
    features: list[Tensor] = []
    logits: list[Tensor | None] = []
    for start in range(0, len(distinct), batch):
        images = [torch.from_numpy(read_translation(path, size)) for path in distinct[start : start + batch]]
        features.append(extractor.features(torch.stack(images).permute(0, 3, 1, 2)))
        logits.append(extractor.logits(features[-1]))
    of_each = [place[path] for path in files]
    arrays = {"features": torch.cat(features)[of_each].numpy()}
    if judged := [rows for rows in logits if rows is not None]:
        arrays["logits"] = torch.cat(judged)[of_each].numpy()
    return arrays


def read_translation(path: Path, size: int) -> NDArray[np.uint8]:
    """A translation as uint8 (size, size, 3), brought there as the dataset's images are.

    Raises:
        LanitError: the file is damaged.
    """
    from lanit.data.images import DamagedImage, read_image

    try:
        return read_image(path, size).copy()
    except DamagedImage as damage:
        raise LanitError(f"{path} cannot be scored ({damage}); make it again or remove it") from None


def digest_files(assignment: Assignment, files: dict[Pair, Path]) -> str:
    """Digest of what each pair is answered with, whatever the files are called."""
    contents = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in set(files.values())}
    return digest(sorted([assignment.file_name(pair), contents[path]] for pair, path in files.items()))


def write_pictures(path: Path, assignment: Assignment, files: dict[Pair, Path], manifest: Path, size: int) -> None:
    """Write pictures.npz: sources × one reference a class, white where no translation is; nothing by latent codes."""
    import io

    import numpy as np

    from lanit.data.batches import ImageStore
    from lanit.files import write_whole

    store = ImageStore(manifest, assignment.split)
    white = np.full((size, size, 3), 255, np.uint8)
    cells = [read_translation(files[pair], size) if pair in files else white for pair in assignment.pictured]
    sources, references = assignment.picture_sources, assignment.picture_references
    file = io.BytesIO()
    np.savez(
        file,
        sources=store.read(sources).permute(0, 2, 3, 1).numpy(),
        references=store.read(references).permute(0, 2, 3, 1).numpy(),
        reference_grid=np.stack(cells).reshape(len(sources), len(references), size, size, 3),
        latent_grid=np.empty((len(sources), 0, size, size, 3), np.uint8),
        reference_classes=np.array(assignment.classes),
        domains=np.array([], dtype="<U1"),
    )
    write_whole(path, file.getvalue())
