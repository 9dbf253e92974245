"""What people write in a configuration, made plain before it is checked: one spelling for one meaning.

Stands on the ground beside `lanit.config`, and needs the standard library alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lanit.config import LanitError

NAMED = ("labellers", "dataset", "clip", "features", "train")  # sections of entries that have names
NUMBER = re.compile(r"[-+]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][-+]?\d+)?")
WORDS = {"true": True, "false": False, "null": None}


def switch_off(config: dict[str, Any]) -> None:
    """Take out what is null of the sections' entries, and of their keys: mappings that merge lose nothing else."""
    for section in NAMED:
        entries = config.get(section)
        for entry in [entries, *_mappings(entries)]:
            for part in [entry, *([entry.get("shards"), entry.get("source")] if isinstance(entry, dict) else [])]:
                if isinstance(part, dict):
                    for key in [key for key, value in part.items() if value in (None, "null")]:
                        del part[key]


def plain(value: Any) -> Any:
    """Numbers, truth values and null that came as text: `1e-4` in YAML 1.1, and all that is nested in `--config`."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, str) and NUMBER.fullmatch(value):
        number = float(value)
        return int(number) if number.is_integer() else number
    return WORDS.get(value, value) if isinstance(value, str) else value


def read_numbers(config: dict[str, Any], schema: dict[str, Any]) -> None:
    """Make numbers of text, in place, where the schema of the configuration, or a method's settings, want some."""
    config.update(_as_schema(config, schema, schema.get("$defs", {})))
    for variant in _mappings(config.get("train")):
        _within(variant, plain, ("settings", "augment"))
    for section in ("clip", "features"):
        for entry in _mappings(config.get(section)):
            told = entry.get("train")
            if isinstance(told, dict):
                _within(told, plain, [key for key in told if key != "dataset"])
    for dataset in _mappings(config.get("dataset")):
        source = dataset.get("source")
        if isinstance(source, dict):
            _within(source, plain, [key for key in source if key == "splits" or str(key).endswith(("_share", "_last"))])


def check_names(config: dict[str, Any]) -> None:
    """Raise LanitError for a class or a domain that YAML takes for something else: `no` is false, `7` a number."""
    datasets = config.get("dataset")
    for name, dataset in datasets.items() if isinstance(datasets, dict) else ():
        if not isinstance(dataset, dict):
            continue
        source = dataset.get("source")
        source = source if isinstance(source, dict) else {}
        domains = dataset.get("domains")
        lists = {"classes": dataset.get("classes"), "source.classes": source.get("classes")}
        lists |= (
            {f"domains.{n}": part for n, part in domains.items()} if isinstance(domains, dict) else {"domains": domains}
        )
        for key, names in lists.items():
            for i, text in enumerate(names if isinstance(names, list) else ()):
                _check_text(f"dataset.{name}.{key}.{i}", text)
        for folder, text in source["names"].items() if isinstance(source.get("names"), dict) else ():
            _check_text(f"dataset.{name}.source.names: a key", folder)
            _check_text(f"dataset.{name}.source.names.{folder}", text)


def describe(value: Any) -> str:
    """What YAML has made of a text without quotes."""
    if isinstance(value, bool):
        words = "yes, on and true" if value else "no, off and false"
        return f"{str(value).lower()} to YAML (which reads {words} so)"
    if value is None:
        return "nothing to YAML (which reads null and ~ so)"
    kind = (
        "number" if isinstance(value, (int, float)) else "mapping" if isinstance(value, dict) else type(value).__name__
    )
    return f"the {kind} {value} to YAML"


def name_places(config: dict[str, Any], base: Path) -> None:
    """Give every file and folder in the configuration its one name, in place, as seen from the working directory.

    `~` is a home. A file that is not here but beside the Snakefile (`base`) is that one.
    """

    def find(text: str) -> str:
        text = home(text, "a path")
        beside = base / text
        return str(beside) if is_file_name(text) and not Path(text).exists() and beside.is_file() else text

    for section in ("clip", "features", "train"):
        for entry in _mappings(config.get(section)):
            entry.update(_map_text(entry, find))
    for dataset in _mappings(config.get("dataset")):
        source = dataset.get("source")
        if isinstance(source, dict):
            source.update({key: home(value, "source") for key, value in source.items() if isinstance(value, str)})


def place_name(text: str, here: Path, where: str) -> str:
    """The one name of a file or folder that is written: `x` for `./x`, `x/` and `/…/here/x`; `~` is a home.

    Relative where it lies in `here`, or is given so; absolute else.

    Raises:
        LanitError: it is `here` itself.
    """
    text = home(text, where)
    whole = os.path.normpath(here / text)
    real = os.path.join(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    if os.path.realpath(whole) == os.path.realpath(here):
        raise LanitError(f"{where} is the working directory itself; name a folder in it")
    for path, folder in ((whole, os.path.normpath(here)), (real, os.path.realpath(here))):
        if path.startswith(folder.rstrip("/") + "/"):
            return os.path.relpath(path, folder)
    return whole if os.path.isabs(text) else os.path.relpath(whole, here)


def home(text: str, where: str) -> str:
    """`~` and `~/x` as paths.

    Raises:
        LanitError: nobody here has that home.
    """
    if not re.match(r"~[\w.-]*(/|$)", text):
        return text
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise LanitError(f"{where} is {text}, in a home that is not known here; give the path from the root on")
    return found


def is_file_name(value: Any) -> bool:
    """Is this the path of a file, and not the name of a public model or tag?"""
    return isinstance(value, str) and value.endswith((".json", ".safetensors", ".pt", ".pth", ".bin"))


def _mappings(entries: Any) -> list[dict[str, Any]]:
    return [entry for entry in entries.values() if isinstance(entry, dict)] if isinstance(entries, dict) else []


def _within(entry: dict[str, Any], change: Callable[[Any], Any], keys: Any) -> None:
    entry.update({key: change(entry[key]) for key in keys if key in entry})


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _map_text(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [_map_text(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


def _check_text(where: str, value: Any) -> None:
    if not isinstance(value, str):
        raise LanitError(f"{where} is {describe(value)}; put quotes around the name")


def _as_schema(value: Any, schema: dict[str, Any], known: dict[str, Any]) -> Any:
    while "$ref" in schema:
        schema = known[schema["$ref"].rsplit("/", 1)[1]]
    kinds = schema.get("type", "any")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        others = others if isinstance(others, dict) else {}
        parts = schema.get("properties", {})
        return {key: _as_schema(part, parts.get(key, others), known) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_schema(part, schema.get("items", {}), known) for part in value]
    if kinds & {"integer", "number", "boolean"}:
        value = plain(value)
    if kinds == {"integer"} and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
