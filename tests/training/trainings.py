"""Options of small trainings of each method, and what they are made of."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from small import settings_of

from lanit import catalogue
from lanit.cli import main

TEMPLATES = ["a face with {}."]
DOMAINS = ["hat", "glasses", "beard"]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
OPTIONS = {
    "dataset": "faces", "method": "tunit", "domains": ["hat", "glasses"], "seed": 3,
    "size": 16, "images": 48, "batch": 8, "settings": settings_of("tunit"),
    "log_every": 2, "samples": 2, "checkpoints": 6, "device": "cpu",
}  # fmt: skip


def options_of(method: str, language: dict, **changes) -> dict:
    """Options of any method of the catalogue; those of one that is led by language say that its prompts learn."""
    if catalogue.find(method).supervision == "text":
        return learned(language, method=method, settings=settings_of(method), **changes)
    domains = DOMAINS if catalogue.find(method).is_labelled else OPTIONS["domains"]
    return OPTIONS | {"method": method, "domains": domains, "settings": settings_of(method)} | changes


def learned(language: dict, **changes) -> dict:
    """Options of a LANIT whose prompts learn in the second half, fast enough to change labels."""
    options = OPTIONS | {"method": "lanit", "domains": DOMAINS, "settings": settings_of("lanit")}
    return options | {"language": language["options"] | {"prompts": "learned"}} | changes


def label_by_texts(manifest: Path, folder: Path, texts: Path, embeddings: list[Path]) -> None:
    """Make pseudo labels by the command."""
    options = json.dumps({"labeller": {"kind": "adaptive"}, "domains": DOMAINS})
    command = ["label", "--options", options, "--texts", str(texts), "--embeddings", *map(str, embeddings)]
    assert main([*command, "--manifest", str(manifest), "--output", str(folder)]) == 0


def label_by_truth(manifest: Path, folder: Path) -> None:
    """Make labels of truth by the command."""
    options = json.dumps({"labeller": {"kind": "truth"}, "domains": DOMAINS})
    assert main(["label", "--options", options, "--manifest", str(manifest), "--output", str(folder)]) == 0


def model(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")
