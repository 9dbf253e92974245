"""Which CLIP: its options, and where its files lie. Nothing here needs torch or open_clip.

A CLIP's files may come as the Hugging Face Hub has them: a folder with `open_clip_config.json` (the architecture, and
how images are seen), the weights and, for some models, a tokenizer. Such a folder may be one that somebody filled by
hand, a snapshot, or `models--ORGANISATION--NAME` of the Hub's cache, which holds snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lanit.config import LanitError

HUB_CONFIG = "open_clip_config.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# The names that open_clip's own repositories give their weights, the safest first; then those of others' repositories.
WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
# What a tokenizer of the Hub may consist of.
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
)  # fmt: skip


@dataclass(frozen=True)
class ClipOptions:
    """Which CLIP, with which weights, and how it sees images where its files do not tell.

    Raises:
        LanitError: a mean or deviation is out of range.
    """

    # An open_clip name ("ViT-B-32"), the path of a JSON configuration, or a folder as the Hub has it.
    model: str
    # An open_clip tag ("openai"), the path of a checkpoint (.safetensors, .bin, .pt), or a folder; None: in `model`.
    pretrained: str | None = None
    # Of weights in a file: the open_clip tag that they were published under, and are seen as.
    tag: str | None = None
    # Or one by one: of the pixels in [0, 1] in red, green and blue; and of the towers' activation.
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    quick_gelu: bool | None = None
    # How images come to the tower's size: with antialias, as CLIP was trained, or from corner to corner and without it,
    # as in LANIT's released code.
    resize: Literal["antialias", "corners"] = "antialias"

    def __post_init__(self) -> None:
        for key, lowest in (("mean", 0.0), ("std", 1e-3)):
            values = getattr(self, key)
            if values is not None and not all(lowest <= value <= 1 for value in values):
                raise LanitError(
                    f"clip.{key} must hold three values from {lowest:g} to 1, of pixels in [0, 1], not {list(values)}; "
                    "divide by 255 what is meant for pixels up to 255"
                )


def is_path(value: str | None) -> bool:
    """Is this the path of a file or folder, and not the name of a public model or tag?"""
    if value is None:
        return False
    if "/" in value or value.endswith((".json", *WEIGHT_SUFFIXES)):
        return True
    return (Path(value) / HUB_CONFIG).is_file() or (Path(value) / "snapshots").is_dir()


def open_folder(path: Path) -> Path:
    """Return the folder that holds a model's files: the one given, or the snapshot of a folder of the Hub's cache.

    Raises:
        LanitError: the cache holds several snapshots, and does not tell which is the one.
    """
    snapshots = path / "snapshots"
    if (path / HUB_CONFIG).is_file() or not snapshots.is_dir():
        return path
    reference = path / "refs" / "main"
    if reference.is_file():
        named = snapshots / Path(reference.read_text(encoding="utf-8").strip()).name
        if named.is_dir():
            return named
    found = sorted(folder for folder in snapshots.iterdir() if folder.is_dir())
    if len(found) != 1:
        raise LanitError(f"{snapshots} holds {len(found)} snapshots, none of them named in refs/main; give one's path")
    return found[0]


def find_weights(folder: Path) -> Path:
    """Return the weights in a folder as the Hub has it.

    Raises:
        LanitError: there are none, or several of which none has a name that open_clip gives.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES and file.is_file())
    if len(found) == 1:
        return found[0]
    there = f"{len(found)} files that could be ({', '.join(file.name for file in found[:3])})" if found else "none"
    raise LanitError(f"no CLIP weights in {folder}: there are {there}; put {WEIGHTS[0]} there, or give clip.pretrained")


def find_config(model: str) -> Path | None:
    """Return the configuration's file where a model is given by a path, and None where it is given by a name.

    Raises:
        LanitError: the path leads nowhere, or to a folder without a configuration.
    """
    if not is_path(model):
        return None
    path = Path(model).expanduser()
    if path.is_dir():
        path = open_folder(path) / HUB_CONFIG
        if not path.is_file():
            raise LanitError(
                f"{path.parent} holds no {HUB_CONFIG}; put it there, or give clip.model the open_clip name of the "
                "model and clip.pretrained this folder"
            )
    if not path.is_file():
        raise LanitError(
            f"no CLIP configuration at {model}; give an open_clip name, the path of its JSON file, or a folder with "
            f"{HUB_CONFIG} and weights"
        )
    return path


def find_checkpoint(model: str, pretrained: str | None) -> Path | None:
    """Return the file of a model's weights, and None where they are given by a name.

    Raises:
        LanitError: the path leads nowhere, to a folder without weights, or is not given where it is needed.
    """
    if pretrained is None:
        config = find_config(model)
        if config is None or config.name != HUB_CONFIG:
            raise LanitError(
                f"clip.pretrained is missing: give an open_clip tag of {model}, or the path of its weights"
            )
        return find_weights(config.parent)
    path = Path(pretrained).expanduser()
    if path.is_file():
        return path
    if not is_path(pretrained):
        return None
    if not path.is_dir():
        raise LanitError(f"no CLIP checkpoint at {pretrained}; put the weights of {model} there or give their path")
    return find_weights(open_folder(path))


def list_files(model: str, pretrained: str | None) -> list[str]:
    """Return the paths of all local files that a CLIP is read from: what comes of it depends on them.

    Raises:
        LanitError: see `find_config` and `find_checkpoint`.
    """
    files = [path for path in (find_config(model), find_checkpoint(model, pretrained)) if path is not None]
    folders = dict.fromkeys(file.parent for file in files)
    files += [folder / name for folder in folders for name in (HUB_CONFIG, *TOKENIZER) if (folder / name).is_file()]
    return list(dict.fromkeys(map(str, files)))
