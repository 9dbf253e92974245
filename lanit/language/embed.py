"""`lanit embed clip | texts | images`: train the demo's CLIP, embed the prompts, embed the images of a shard.

lanit embed clip   --options '{"model": "clip.json", "templates": ["a face with {}."]}' --manifest M --output C
lanit embed texts  --options '{"clip": {...}, "domains": [...], "templates": [...]}' --output T
lanit embed images --options '{"clip": {"model": "ViT-B-32", "pretrained": "openai"}}' --shard S --output E
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lanit.config import parse, read_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three commands; each sets `run`."""
    commands = parser.add_subparsers(dest="part", required=True, metavar="part")
    for name, run, text in (
        ("clip", _run_clip, "train a small CLIP on captions drawn from the truth of split pretrain"),
        ("texts", _run_texts, "embed the prompts of all candidate domains, and the base prompt"),
        ("images", _run_images, "embed the images of one shard"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--options", required=True, help="JSON, or the path of a JSON or YAML file")
        if name == "clip":
            command.add_argument("--manifest", required=True, type=Path)
        if name == "images":
            command.add_argument("--shard", required=True, type=Path, help="a tar of `lanit shard write`")
        command.add_argument("--output", required=True, type=Path, help="the safetensors file to write")
        command.set_defaults(run=run)


def _run_clip(arguments: argparse.Namespace) -> None:
    from lanit.language.pretrain import PretrainOptions, pretrain

    options = parse(PretrainOptions, read_options(arguments.options))
    pretrain(options, arguments.manifest, arguments.output)


def _run_texts(arguments: argparse.Namespace) -> None:
    from lanit.language.clip_features import TextsOptions, embed_texts

    embed_texts(parse(TextsOptions, read_options(arguments.options)), arguments.output)


def _run_images(arguments: argparse.Namespace) -> None:
    from lanit.language.clip_features import ImagesOptions, embed_images

    embed_images(parse(ImagesOptions, read_options(arguments.options)), arguments.shard, arguments.output)
