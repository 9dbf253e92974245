"""`lanit label`: pseudo labels of all splits from cached embeddings, and how good they are. Needs no torch.

    lanit label --options '{"labeller": {"kind": "adaptive"}, "domains": ["hat", "glasses"]}' \\
        --texts texts.safetensors --embeddings train-0.safetensors test-0.safetensors --manifest M --output DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lanit.config import LanitError, parse, read_options
from lanit.files import read_tensors, write_whole
from lanit.language.pseudo_labels import (
    LabellerOptions,
    Labels,
    Texts,
    check_clip,
    check_labeller,
    choose,
    label,
    read_texts,
    write_labels,
    write_texts,
)
from lanit.language.truth_labels import truth_labels


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """Which candidates label the images, and by which rule."""

    domains: list[str]
    labeller: LabellerOptions = dataclasses.field(default_factory=LabellerOptions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments; sets `run`."""
    parser.add_argument("--options", required=True, help="JSON, or the path of a JSON or YAML file")
    text = "the file of `lanit embed texts`; not for labels of truth"
    parser.add_argument("--texts", type=Path, help=text)
    text = "files of `lanit embed images`; not for labels of truth"
    parser.add_argument("--embeddings", nargs="+", type=Path, help=text)
    parser.add_argument("--manifest", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")
    parser.set_defaults(run=_run)


def make_labels(
    options: LabelOptions, texts_path: Path | None, embeddings: Sequence[Path], manifest: Path, output: Path
) -> dict[str, Any]:
    """Write labels of every split that has embeddings, the chosen texts, and `quality.json`; return the latter.

    Labels of truth are of all splits but pretrain, and come of no text.

    Raises:
        LanitError: domains, texts, embeddings and manifest do not go together.
    """
    check_labeller(options.labeller, len(options.domains))
    if options.labeller.kind == "truth":
        if texts_path is not None or embeddings:
            raise LanitError("labels of truth come of no text; leave out --texts and --embeddings")
        texts, made = None, truth_labels(options.labeller, options.domains, manifest)
    else:
        if texts_path is None or not embeddings:
            raise LanitError(f"the labeller {options.labeller.kind} needs --texts and --embeddings")
        texts = choose(read_texts(texts_path), options.domains)
        rows = _read_embeddings(embeddings, texts_path, texts)
        made = _by_split(rows, texts, options.labeller, manifest)
    quality: dict[str, Any] = {
        "labeller": {key: value for key, value in dataclasses.asdict(options.labeller).items() if value is not None},
        "domains": list(options.domains),
        "splits": {},
    }
    for split, labels in made:
        write_labels(labels, output, split)
        quality["splits"][split] = _judge(labels, manifest, split)
    if texts is not None:
        write_texts(texts, output / "texts.safetensors")
    write_whole(output / "quality.json", json.dumps(quality, indent=2) + "\n")
    return quality


def _run(arguments: argparse.Namespace) -> None:
    options = parse(LabelOptions, read_options(arguments.options))
    quality = make_labels(options, arguments.texts, arguments.embeddings or [], arguments.manifest, arguments.output)
    for split, values in quality["splits"].items():
        known = values["f1_macro"] is not None
        macro = f", macro F1 {values['f1_macro']:.3f}" if known else ""
        print(f"{split}: {values['images']} images, {values['mean_labels']:.2f} labels an image{macro}")


def _read_embeddings(paths: Sequence[Path], texts_path: Path, texts: Texts) -> dict[str, np.ndarray]:
    rows: dict[str, np.ndarray] = {}
    width = len(texts.base)
    for path in paths:
        arrays, metadata = read_tensors(path, ("embeddings", "keys"), "lanit embed")
        embeddings = arrays["embeddings"]
        if embeddings.shape[1] != width:
            raise LanitError(
                f"{path} holds embeddings of {embeddings.shape[1]} dimensions and {texts_path} texts of {width}; "
                "make both with the same CLIP"
            )
        check_clip(path, metadata.get("clip"), texts, texts_path)
        for key, row in zip(metadata["keys"], embeddings, strict=True):
            if key in rows:
                raise LanitError(f"{path} embeds the image {key} a second time; give the embeddings of each shard once")
            rows[key] = row
    return rows


def _by_split(
    rows: dict[str, np.ndarray], texts: Texts, labeller: LabellerOptions, manifest: Path
) -> Iterator[tuple[str, Labels]]:
    """Yield (split, Labels) in the manifest's order for the splits that have embeddings."""
    from lanit.data.manifest import read_places, read_table

    used = 0
    for split in read_table(manifest, ["split"])["split"].unique().to_pylist():
        places = read_places(manifest, split)
        keys, shards = places["key"].to_pylist(), places["shard"].to_pylist()
        if not any(key in rows for key in keys):
            continue  # no embedding of this split was given: it gets no labels
        lacking = sorted({shard for key, shard in zip(keys, shards) if key not in rows})
        if lacking:
            named = ", ".join(f"{split}-{shard}" for shard in lacking)
            raise LanitError(f"images of {named} have no embeddings; give those of all shards of split {split!r}")
        used += len(keys)
        embeddings = np.stack([rows[key] for key in keys])
        similarities, base = embeddings @ texts.domains.T, embeddings @ texts.base
        labels = label(labeller, similarities, base)
        yield split, Labels(tuple(keys), texts.names, similarities, base, labels)
    if used != len(rows):
        raise LanitError(
            f"{len(rows) - used} of the {len(rows)} embedded images are not in {manifest}; "
            "embed the shards that this manifest lists"
        )


def _judge(labels: Labels, manifest: Path, split: str) -> dict[str, Any]:
    from lanit.data.manifest import read_truth
    from lanit.language.quality import compare, describe

    table = read_truth(manifest, split)
    truth = {name: table[name].to_numpy() for name in table.columns if name != "key"}
    return describe(labels) | compare(labels, truth)
