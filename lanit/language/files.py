"""Safetensors files of this stage, read and written as numpy arrays: nothing here needs torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from lanit.config import LanitError


def read_arrays(path: Path, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return the arrays of a safetensors file and its metadata, whose values are JSON lists of text.

    Raises:
        LanitError: the file is not there, is not a safetensors file, or lacks one of `names`.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise LanitError(f"no file at {path}; make it with `lanit embed` first")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise LanitError(f"{path} is not a safetensors file of `lanit embed` ({error}); make it again") from None
    for name in names:
        if name not in arrays and name not in metadata:
            raise LanitError(f"{path} holds no {name!r} but only {', '.join(arrays)}; give a file of `lanit embed`")
    return arrays, metadata


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, list[str]]) -> None:
    """Write arrays and metadata as one safetensors file, which is there whole or not at all."""
    from safetensors.numpy import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, unfinished, {key: json.dumps(value) for key, value in metadata.items()})
    os.replace(unfinished, path)
