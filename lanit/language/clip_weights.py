"""A file of CLIP weights: safetensors, PyTorch, or the TorchScript in which OpenAI published them; no code in it runs.

A TorchScript file is a zip of code, of raw numbers, and of a pickle that says which numbers are which parameter of
which module. `torch.jit.load` compiles and runs the code. Here only the pickle is read, by an unpickler that knows
tensors and containers alone, and the code is never looked at.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lanit.config import LanitError
from lanit.failures import is_out_of_memory
from lanit.files import recognise

# Numbers that stand among the tensors of OpenAI's files, and of no others.
OPENAI_ENTRIES = frozenset({"input_resolution", "context_length", "vocab_size"})


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights; each part is read when it is asked for.

    Raises, on reading:
        LanitError: the file holds no weights.
    """

    path: Path

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Tensors by open_clip's names, on the CPU."""
        state = self._stored
        wrapped = all(name.startswith("module.") for name in state)  # DistributedDataParallel's
        state = {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}
        return {name: value for name, value in state.items() if not (self.is_openai and name in OPENAI_ENTRIES)}

    @cached_property
    def is_openai(self) -> bool:
        """Are these OpenAI's own weights, in whichever form?"""
        return (self._names if is_safetensors(self.path) else set(self._stored)) >= OPENAI_ENTRIES

    @cached_property
    def told(self) -> dict[str, Any]:
        """What `lanit embed clip` wrote into the file on how its CLIP sees images; nothing in others' files."""
        if not is_safetensors(self.path):
            return {}
        with _reading(self.path), safe_open(self.path, "pt") as file:
            return json.loads((file.metadata() or {}).get("seen", "{}"))

    @property
    def _names(self) -> set[str]:
        with _reading(self.path), safe_open(self.path, "pt") as file:
            return set(file.keys())

    @cached_property
    def _stored(self) -> dict[str, Tensor]:
        with _reading(self.path):
            if is_safetensors(self.path):
                stored: Any = load_file(self.path)
            elif is_torchscript(self.path):
                stored = read_torchscript(self.path)
            else:
                stored = torch.load(self.path, map_location="cpu", weights_only=True)
            if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
                stored = stored["state_dict"]  # of a training
            if not isinstance(stored, dict) or not stored:
                raise ValueError(f"it holds {'nothing' if stored == {} else f'a {type(stored).__name__}'}")
            for name, value in stored.items():
                if name not in OPENAI_ENTRIES and not isinstance(value, Tensor):
                    raise ValueError(f"{name} in it is a {type(value).__name__}")
            return stored


def is_safetensors(path: Path) -> bool:
    """By content, for in the Hub's cache what a link points to has no suffix."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{" or path.suffix == ".safetensors"


def first_lines(error: Exception) -> str:
    """Return what an error says, in at most 240 characters of its first two lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:240].rstrip(":;. ") or type(error).__name__


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn all that a file may do on being read into one sentence; errors of memory and disk stay what they are."""
    if foreign := recognise(path):
        raise LanitError(f"{path} cannot be read as CLIP weights: it is {foreign}")
    try:
        yield
    except (LanitError, OSError, MemoryError):
        raise
    except Exception as error:  # torch, safetensors, pickle and zipfile each raise types of their own for damage
        if is_out_of_memory(error):
            raise
        raise LanitError(
            f"{path} cannot be read as CLIP weights ({first_lines(error)}); give a .safetensors file, a PyTorch file "
            "that holds weights only, or OpenAI's own .pt file"
        ) from None


def is_torchscript(path: Path) -> bool:
    """Is this a TorchScript archive? A PyTorch file of weights is a zip too, but holds no code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return parameters and buffers by their names, as `torch.jit.load(path).state_dict()` would, on the CPU.

    Numbers and texts among the modules' attributes are left out; a module that holds itself is followed once.

    Raises:
        pickle.UnpicklingError: the file holds something else than modules of tensors.
        zipfile.BadZipFile, KeyError, ValueError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise pickle.UnpicklingError("a TorchScript file without data.pkl")
        root = _Unpickler(io.BytesIO(archive.read(pickled)), archive, pickled.removesuffix("data.pkl")).load()
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors, [])
    return tensors


class _Module:
    """What stands for an object of any of the archive's own classes: its attributes."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _collect(value: Any, prefix: str, tensors: dict[str, Tensor], above: list[Any]) -> None:
    if isinstance(value, Tensor) or prefix.removesuffix(".") in OPENAI_ENTRIES:
        tensors[prefix.removesuffix(".")] = value
    elif isinstance(value, _Module) and not any(value is other for other in above):
        for name, attribute in getattr(value, "attributes", {}).items():
            _collect(attribute, f"{prefix}{name}.", tensors, [*above, value])


_DTYPES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Knows tensors, plain containers, and `_Module` for every class of the archive; anything else is an error."""

    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return type(name, (_Module,), {})
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and (name.startswith("build_") or name == "restore_type_tag"):
            return _first
        if (module, name) == ("torch", "device"):
            return _first
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("it refers to something else than numbers")
        data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _first(values: Any, *_: Any) -> Any:
    return values


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()
