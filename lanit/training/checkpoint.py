"""Checkpoints: everything that decides the next step, in files that are whole or not there; the last two are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lanit.config import LanitError
from lanit.files import whole

KEPT = 2  # the one before serves where the newest turns out to be damaged


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) as the checkpoint after `step`: beside its place, synced, renamed."""
    with whole(path_of(folder, step)) as part, open(part, "wb") as file:
        writer = _Writer(file)
        try:
            torch.save(state, writer)  # type: ignore[arg-type]  # it needs no more of a file than this
        except RuntimeError as error:  # torch's own, for whatever a write raises
            raise writer.error or error from None
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)  # the rename too outlives a power cut
    os.close(directory)
    found = find(folder)
    place = found.index(path_of(folder, step)) + 1
    # Later ones were damaged: the run went on from before.
    for path in (*found[: max(0, place - KEPT)], *found[place:]):
        path.unlink()


class _Writer:
    """A file as torch writes to it; keeps what the system said where it did not take the data."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, into the host's memory.

    Raises:
        LanitError: the file is damaged.
        OSError: it is not to be read at all.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises a different type for each way in which a file can be damaged
        raise LanitError(f"the checkpoint {path} cannot be read ({type(error).__name__})") from error


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return path and state of the newest checkpoint that can be read, or None where there is none at all.

    A damaged one is passed over with a warning in favour of the one before.

    Raises:
        LanitError: all are damaged; nothing is started over in silence.
    """
    found = find(folder)
    for path in reversed(found):
        try:
            return path, load(path)
        except LanitError as error:
            print(f"warning: {error}; trying the one before it", file=sys.stderr, flush=True)
    if found:
        raise LanitError(f"no checkpoint in {folder} can be read; delete the folder to train from the start")
    return None


def find(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the newest last."""
    return sorted(folder.glob("[0-9]*.pt"))


def path_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step`."""
    return folder / f"{step:09d}.pt"


def clear(folder: Path) -> None:
    """Remove all checkpoints, and what a kill left of one that was being written."""
    clear_parts(folder)
    for path in find(folder):
        path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def clear_parts(folder: Path) -> None:
    """Remove what kills left of checkpoints that were being written."""
    for path in folder.glob(".*.pt.*"):
        path.unlink()
