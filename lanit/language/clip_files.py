"""From a CLIP's options to its architecture, its weights, and how it sees images.

A checkpoint tells neither how its images were normalised nor its activation. open_clip knows both of the tags that it
publishes, and of nothing else. For weights in a file each is what the first of these says that says something:

1. the options mean, std, interpolation and quick_gelu, and then open_clip's table for the option tag;
2. the `open_clip_config.json` by which the model was given;
3. open_clip's table for the repository of the Hub in whose cache the file lies;
4. the file itself, where `lanit embed clip` wrote it;
5. the architecture: that it has QuickGELU;
6. an `open_clip_config.json` beside the weights;
7. OpenAI's three extra entries: the file is OpenAI's;
8. open_clip's table, where all tags of the model say the same; where they do not, loading ends with a question;
9. for an architecture without tags, open_clip's defaults, under which `lanit embed clip` and open_clip itself train.

Images of this project and the towers' inputs are square, so that open_clip's resize modes are all one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained

from lanit.config import LanitError, digest
from lanit.language.clip_options import HUB_CONFIG, TOKENIZER, ClipOptions, find_checkpoint, find_config
from lanit.language.clip_weights import Checkpoint, first_lines

SHIPPED = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}


@dataclass(frozen=True)
class Preprocessing:
    """How an image tower's input, in [0, 1], is resized and, in red, green and blue, normalised."""

    mean: tuple[float, float, float] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, float, float] = open_clip.OPENAI_DATASET_STD
    interpolation: str = "bicubic"


OPEN_CLIP_DEFAULT = Preprocessing()


@dataclass(frozen=True)
class ClipFiles:
    """What `find_clip_files` found.

    Attributes:
        model: as the options name it.
        config: the architecture, open_clip's `model_cfg`, with the activation as it is to be.
        preprocessing: of the pixels.
        weights: the checkpoint.
        folders: where files that belong to these may lie.
        public: were the weights given as a tag, and not as a file?
        resize: see ClipOptions.
    """

    model: str
    config: dict[str, Any]
    preprocessing: Preprocessing
    weights: Checkpoint
    folders: tuple[Path, ...]
    public: bool
    resize: str = "antialias"

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits of architecture, preprocessing and weights: where they are one, so are embeddings."""
        with open(self.weights.path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return digest([self.config, asdict(self.preprocessing), self.resize, content])

    def describe(self) -> str:
        """Return the text of an `open_clip_config.json` that says all of it."""
        preprocess = asdict(self.preprocessing) | {"resize_mode": "squash"}
        return json.dumps({"model_cfg": self.config, "preprocess_cfg": preprocess}, indent=2) + "\n"

    def tokenizer_files(self) -> list[Path]:
        """Return the files of the Hub's tokenizer beside configuration or weights; none where there is none."""
        for folder in self.folders:
            found = [folder / name for name in TOKENIZER if (folder / name).is_file()]
            if {"tokenizer.json", "tokenizer_config.json"} & {file.name for file in found}:
                return found
        return []

    def text_config(self) -> Path | None:
        """Return the `config.json` of the Hub's text tower, where it lies there; timm's have no `model_type`."""
        if not self.config["text_cfg"].get("hf_model_name"):
            return None
        for folder in self.folders:
            path = folder / "config.json"
            if path.is_file() and '"model_type"' in path.read_text(encoding="utf-8", errors="replace"):
                return path
        return None


def find_clip_files(options: ClipOptions) -> ClipFiles:
    """Find architecture, weights and preprocessing.

    Raises:
        LanitError: there is no such model, tag or file, one is not what it should be, or nothing tells how the weights
            see images.
    """
    model = _find_model(options.model)
    published = model.published(options.pretrained)
    if options.tag is not None:
        _check_tag(options, model, published)
    if published:
        weights = Checkpoint(_download(options, model, published))
        sources = [_given(options), _seen(published, model.config)]
        folders: tuple[Path, ...] = ()
    else:
        weights = Checkpoint(_find_weights(options, model))
        folders = tuple(dict.fromkeys(file.parent for file in (model.file, weights.path) if file))
        sources = [_given(options), *_sources(options, model, weights)]
    seen = {key: value for source in reversed(sources) for key, value in source.items()}
    if lacking := [key for key in ("mean", "std", "interpolation", "quick_gelu") if key not in seen]:
        _ask(options, model, weights.path, lacking)
    if seen["interpolation"] not in ("bicubic", "bilinear"):
        raise LanitError(f"{options.model} resizes by {seen['interpolation']!r}; give clip.interpolation another")
    config = {key: value for key, value in model.config.items() if key != "quick_gelu"}
    if seen["quick_gelu"]:
        config["quick_gelu"] = True
    preprocessing = Preprocessing(tuple(seen["mean"]), tuple(seen["std"]), seen["interpolation"])
    return ClipFiles(options.model, config, preprocessing, weights, folders, bool(published), options.resize)


def find_model(model: str) -> str:
    """Return the open_clip name of a model, after registering it if it is the path of a JSON configuration.

    Raises:
        LanitError: there is no such name or file, or the file is not a configuration.
    """
    found = _find_model(model)
    if found.file is None:
        return model
    if found.is_hub:
        raise LanitError(f"{found.file} is the configuration of given weights; give clip.model its model_cfg as a file")
    if open_clip.get_model_config(found.file.stem) != found.config:  # the registry is rescanned at each addition
        open_clip.add_model_config(found.file)
    return found.file.stem


@dataclass(frozen=True)
class _Model:
    name: str | None  # open_clip's, if it has the architecture
    config: dict[str, Any]
    file: Path | None  # that the architecture was given by
    preprocess: dict[str, Any] | None  # `preprocess_cfg` of that file, if it is as the Hub has it

    @property
    def is_hub(self) -> bool:
        return self.preprocess is not None

    @property
    def tags(self) -> list[str]:
        return open_clip.list_pretrained_tags_by_model(self.name) if self.name else []

    def published(self, tag: str | None) -> dict[str, Any]:
        """What open_clip's table holds for a tag; nothing where it is none."""
        return open_clip.get_pretrained_cfg(self.name, tag) if self.name and tag else {}

    def seen(self) -> dict[str, dict[str, Any]]:
        """How the weights of each tag see images."""
        return {tag: _seen(self.published(tag), self.config) for tag in self.tags}


def _find_model(model: str) -> _Model:
    if model in open_clip.list_models():
        return _Model(model, open_clip.get_model_config(model), None, None)
    path = find_config(model)
    if path is None:
        close = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "`open_clip.list_models()` lists them"
        raise LanitError(
            f"open_clip has no model {model!r}; {hint} (a model of your own is the path of its .json configuration)"
        )
    config, preprocess = _read_config(path)
    same = [name for name, shipped in SHIPPED.items() if shipped == config]
    return _Model(path.stem if path.stem in same else same[0] if same else None, config, path, preprocess)


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The architecture in a JSON file and, where the file is as the Hub has it, its `preprocess_cfg`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # what is not UTF-8, too
        raise LanitError(f"the CLIP configuration {path} is not valid JSON ({error})") from None
    given, preprocess = config if isinstance(config, dict) else {}, None
    if isinstance(given.get("model_cfg"), dict):
        given, preprocess = given["model_cfg"], given.get("preprocess_cfg") or {}
    lacking = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in given]
    if lacking:
        raise LanitError(f"the CLIP configuration {path} lacks {', '.join(lacking)}; see open_clip's model_configs")
    return given, preprocess


def _sources(options: ClipOptions, model: _Model, weights: Checkpoint) -> list[dict[str, Any]]:
    """What counts for weights in a file where the options do not tell: each what it says, the weightiest first."""
    seen = model.seen()
    default = asdict(OPEN_CLIP_DEFAULT) | {"quick_gelu": False}
    sources = [
        _agreed([seen[tag] for tag in seen if options.tag and model.published(tag) is model.published(options.tag)]),
        _read_preprocess(model.file, model.config, model.preprocess) if model.file and model.is_hub else {},
        _agreed([seen[tag] for tag in _tags_of_repository(model, weights.path)]),
        weights.told,
        _activation(model),
        {} if model.is_hub else _beside(options, model, weights.path),
    ]
    if len({key for source in (_given(options), *sources) for key in source}) < len(default) and weights.is_openai:
        sources.append(default | {"quick_gelu": True})
    return [*sources, _agreed(list(seen.values()) or [default])]


def _given(options: ClipOptions) -> dict[str, Any]:
    given = {"mean": options.mean, "std": options.std, "interpolation": options.interpolation}
    return {key: value for key, value in (given | {"quick_gelu": options.quick_gelu}).items() if value is not None}


def _seen(published: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """What an entry of open_clip's table says; an architecture that names QuickGELU has it under every tag."""
    return {
        "mean": tuple(published["mean"]),
        "std": tuple(published["std"]),
        "interpolation": published["interpolation"],
        "quick_gelu": bool(published.get("quick_gelu") or config.get("quick_gelu")),
    }


def _agreed(told: list[dict[str, Any]]) -> dict[str, Any]:
    """What all say alike."""
    return {key: value for key, value in told[0].items() if all(one[key] == value for one in told)} if told else {}


def _activation(model: _Model) -> dict[str, Any]:
    """The activation, where an architecture names QuickGELU, or a user's own file names either."""
    named = model.config.get("quick_gelu") or (model.file and not model.is_hub and "quick_gelu" in model.config)
    return {"quick_gelu": bool(model.config["quick_gelu"])} if named else {}


def _beside(options: ClipOptions, model: _Model, weights: Path) -> dict[str, Any]:
    """What an `open_clip_config.json` beside the weights says, where the model was given otherwise."""
    path = weights.parent / HUB_CONFIG
    if not path.is_file():
        return {}
    config, preprocess = _read_config(path)
    size, other = (of["vision_cfg"].get("image_size", 224) for of in (model.config, config))
    if (model.config["embed_dim"], size) != (config["embed_dim"], other):
        raise LanitError(
            f"{path} is of another model than {options.model} ({config['embed_dim']} dimensions at {other} pixels, not "
            f"{model.config['embed_dim']} at {size}); give clip.model that folder, or move the weights out of it"
        )
    if model.config.get("quick_gelu") and not config.get("quick_gelu") and options.quick_gelu is None:
        raise LanitError(f"{options.model} has QuickGELU, and the model in {path} has not; give clip.quick_gelu")
    return _read_preprocess(path, config, preprocess)


def _read_preprocess(path: Path, config: dict[str, Any], preprocess: dict[str, Any] | None) -> dict[str, Any]:
    said: dict[str, Any] = {"quick_gelu": bool(config.get("quick_gelu"))}
    preprocess = preprocess or {}
    for key in ("mean", "std"):
        values = preprocess.get(key)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
            raise LanitError(f"{path} holds the {key} {values!r}, where three numbers belong; give them as clip.{key}")
        said[key] = tuple(map(float, values))
    return said | ({"interpolation": preprocess["interpolation"]} if preprocess.get("interpolation") else {})


def _tags_of_repository(model: _Model, path: Path) -> list[str]:
    """The tags whose weights the Hub's cache, in which the file lies, was filled with."""
    names = [part.removeprefix("models--").replace("--", "/") for part in path.absolute().parts if "models--" in part]
    return [tag for tag in model.tags if os.path.dirname(model.published(tag).get("hf_hub", "")) in names]


def _find_weights(options: ClipOptions, model: _Model) -> Path:
    path = find_checkpoint(options.model, options.pretrained)
    if path is not None:
        return path
    close = difflib.get_close_matches(str(options.pretrained), model.tags, n=1)
    known = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(model.tags) or 'none'}"
    raise LanitError(
        f"{options.model} has no weights tagged {options.pretrained!r}; {known} (your own are given by their path)"
    )


def _check_tag(options: ClipOptions, model: _Model, published: dict[str, Any]) -> None:
    if published:
        raise LanitError(
            f"clip.tag is of weights in a file, and clip.pretrained is the tag {options.pretrained!r}: drop one"
        )
    if not model.tags:
        raise LanitError(
            f"clip.tag is of no use to {options.model}, of which open_clip publishes no weights; give clip.mean, "
            "clip.std, clip.interpolation and clip.quick_gelu"
        )
    if not model.published(options.tag):
        close = difflib.get_close_matches(str(options.tag), model.tags, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(model.tags)}"
        raise LanitError(f"clip.tag {options.tag!r} is no tag of {options.model}; {hint}")


def _download(options: ClipOptions, model: _Model, published: dict[str, Any]) -> Path:
    """The file of published weights, from open_clip's cache or the network."""
    try:
        return Path(download_pretrained(published))
    except (OSError, RuntimeError, ValueError) as error:  # network and hub errors derive from these
        repository, file = os.path.split(published.get("hf_hub", ""))
        source = f"{file or 'open_clip_model.safetensors'} of {repository} (Hugging Face Hub)"
        tokenizer = model.config["text_cfg"].get("hf_tokenizer_name")
        beside = f" with the tokenizer's files of {tokenizer} beside it" if tokenizer else ""
        raise LanitError(
            f"the weights {options.pretrained!r} of {options.model} are neither in the cache nor to be downloaded "
            f"({first_lines(error)}); fetch {source if repository else published['url']} on another machine{beside}, "
            f"and give clip.pretrained its path and clip.tag {options.pretrained!r}"
        ) from None


def _ask(options: ClipOptions, model: _Model, path: Path, lacking: list[str]) -> None:
    """Ask, where the tags of a model differ in what is lacking."""
    groups: dict[tuple, list[str]] = {}
    for tag, seen in model.seen().items():
        groups.setdefault(tuple(seen[key] for key in lacking), []).append(tag)
    alike = "; or ".join(", ".join(tags[:4]) + (", …" if len(tags) > 4 else "") for tags in groups.values())
    raise LanitError(
        f"the published weights of {options.model} differ in {', '.join(lacking)}, and {path} does not tell which it "
        f"holds; give clip.tag the one that it is, or was trained from ({alike}), or give "
        + " and ".join(f"clip.{key}" for key in lacking)
    )
