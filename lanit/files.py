"""Files between the stages: there as a whole or not at all, and the same content gives the same bytes.

Stands on the ground beside `lanit.config`: every package writes through it. Nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanit.config import LanitError


def write_tensors(path: Path, arrays: dict[str, NDArray], metadata: dict[str, Any]) -> None:
    """Write arrays, and JSON-like metadata, as one safetensors file that is there as a whole or not at all."""
    from safetensors.numpy import save

    data = save(
        {name: np.asarray(array, order="C") for name, array in arrays.items()},
        {key: json.dumps(value) for key, value in metadata.items()},
    )
    # The library writes metadata in an order that changes from process to process: write the header again, sorted.
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    write_whole(path, len(header).to_bytes(8, "little") + header + data[8 + length :])


def read_tensors(path: Path, needed: tuple[str, ...], command: str) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Return arrays and metadata of a file that `command` made.

    Raises:
        LanitError: no such file, not a safetensors file, or without one of the `needed` arrays or metadata.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise LanitError(f"no file at {path}; {command} makes it")
    try:
        with safe_open(path, "np") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise LanitError(f"{path} is not what {command} writes ({error}); remove it and run {command} again") from None
    missing = [name for name in needed if name not in arrays and name not in metadata]
    if missing:
        raise LanitError(f"{path} has no {', '.join(missing)}; give a file that {command} wrote")
    return arrays, metadata


def write_whole(path: Path | str, data: bytes | str) -> None:
    """Write a file, text as UTF-8, so that it is there as a whole or not at all; its folder is made."""
    with whole(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


def recognise(path: Path | str) -> str | None:
    """Return what a file is that is often found in the place of weights or pictures; None where it is none of these."""
    with open(path, "rb") as file:
        return recognise_content(file.read(256))


def recognise_content(head: bytes) -> str | None:
    """Return what `recognise` does, of a file's first bytes."""
    if not head:
        return "empty; copy or fetch it again"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file itself; fetch that with `git lfs pull`"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, not the file itself; fetch that by its download link"
    return None


@contextlib.contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Give the path of a file beside `path` to write; it takes the place of `path` if nothing is raised."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield part
            os.replace(part, path)
    except OSError as error:
        if error.filename == str(part):
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Give errors of the system that name no file the name of this one: a write that fails does not know its own."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
