"""Parts of many files, read with few descriptors: a dataset may have more shards than a process may open files."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

AT_MOST = 64  # descriptors kept open: opening a file anew is a hundredth of decoding an image from it


class Descriptors:
    """Open files, the least recently used of which are closed; safe in threads.

    Args:
        at_most: how many stay open. While more than that are being read at once, more are.
    """

    def __init__(self, at_most: int = AT_MOST) -> None:
        self.at_most = at_most
        self._open: OrderedDict[Path, int] = OrderedDict()  # the least recently used first
        self._reading: dict[Path, int] = {}  # how many threads read each of them now
        self._lock = threading.Lock()

    def read(self, path: Path, size: int, offset: int) -> bytes:
        """Return up to `size` bytes of a file from `offset` on.

        Raises:
            OSError: the file is not there or cannot be read.
        """
        with self._descriptor(path) as descriptor:
            return os.pread(descriptor, size, offset)

    def close(self) -> None:
        """Close what nobody reads; reading opens it again."""
        with self._lock:
            self._close_idle(0)

    def __len__(self) -> int:
        return len(self._open)

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    @contextlib.contextmanager
    def _descriptor(self, path: Path) -> Iterator[int]:
        with self._lock:
            if path not in self._open:
                self._close_idle(self.at_most - 1)
                self._open[path] = self._open_file(path)
            self._open.move_to_end(path)
            self._reading[path] = self._reading.get(path, 0) + 1
            descriptor = self._open[path]
        try:
            yield descriptor
        finally:
            with self._lock:
                self._reading[path] -= 1
                if not self._reading[path]:
                    del self._reading[path]
                self._close_idle(self.at_most)

    def _open_file(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                raise
        self._close_idle(0)  # something else in the process has taken the rest
        return os.open(path, os.O_RDONLY)

    def _close_idle(self, down_to: int) -> None:
        for path in [path for path in self._open if path not in self._reading]:
            if len(self._open) <= down_to:
                return
            os.close(self._open.pop(path))
