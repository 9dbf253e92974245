"""Training batches: images by index from the shards, in an order that is a function of seed and step alone."""

from __future__ import annotations

import functools
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from lanit.config import LanitError
from lanit.data.descriptors import Descriptors
from lanit.data.images import decode_png
from lanit.data.manifest import read_places
from lanit.data.tars import shard_path

T = TypeVar("T")

THREADED_FROM = 16  # images to decode at once from which handing them to threads pays


class ImageStore:
    """The images of a split by their row in the manifest; decoded images stay in memory up to a limit.

    Args:
        manifest: path of `manifest.parquet`; the shards lie in `shards/` beside it.
        split: whose images these are.
        cache_bytes: how much memory decoded images may take.

    Raises:
        LanitError: a shard is missing, or shorter than the manifest says.
    """

    def __init__(self, manifest: Path | str, split: str, cache_bytes: int = 512 * 2**20) -> None:
        places = read_places(manifest, split)
        self.keys: list[str] = places["key"].to_pylist()
        self._digests: list[str] = places["sha256"].to_pylist()
        self._shards, self._offsets, self._sizes = (places[c].to_numpy() for c in ("shard", "offset", "size"))
        self._files = Descriptors()
        self._paths = {int(shard): shard_path(manifest, split, shard) for shard in np.unique(self._shards)}
        ends = np.zeros(max(self._paths) + 1, np.int64)
        np.maximum.at(ends, self._shards, self._offsets + self._sizes)
        for shard, path in self._paths.items():
            _check_length(path, int(ends[shard]))
        first = self._decode(0)
        self._cache = np.empty((min(len(self), cache_bytes // first.nbytes), *first.shape), np.uint8)
        self._slots = np.full(len(self), -1)  # row in the cache of each image, or -1
        self._cached = 0
        self._reading = threading.Lock()  # sample pictures are read while batches are loaded ahead
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Iterable[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return the images of these rows: uint8 (B, 3, H, W).

        Raises:
            IndexError: a row is out of range.
            LanitError: a shard has changed since the manifest was made.
        """
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} asked of {len(self)} images")
        images = np.empty((len(rows), *self._cache.shape[1:]), np.uint8)
        with self._reading:
            slots = self._slots[rows]
            images[slots >= 0] = self._cache[slots[slots >= 0]]
            new, inverse = np.unique(rows[slots < 0], return_inverse=True)
            if len(new):
                decoded = np.stack(self._decode_many(new))
                images[slots < 0] = decoded[inverse]
                self._keep(new, decoded)
        return torch.from_numpy(images)

    def identity(self) -> str:
        """Return the digests of all images in their order, as one text."""
        return "".join(self._digests)

    def close(self) -> None:
        """Close the shards and end the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._files.close()

    def _keep(self, rows: np.ndarray, decoded: np.ndarray) -> None:
        count = min(len(rows), len(self._cache) - self._cached)
        slots = np.arange(self._cached, self._cached + count)
        self._cache[slots] = decoded[:count]
        self._slots[rows[:count]] = slots
        self._cached += count

    def _decode_many(self, rows: np.ndarray) -> list[np.ndarray]:
        if len(rows) < THREADED_FROM:
            return [self._decode(row) for row in rows]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")
        return list(self._pool.map(self._decode, rows))

    def _decode(self, row: int) -> np.ndarray:
        path = self._paths[int(self._shards[row])]
        try:
            data = self._files.read(path, int(self._sizes[row]), int(self._offsets[row]))
        except OSError as error:
            raise LanitError(f"{path} cannot be read ({error.strerror}); run the shard stage again") from None
        if hashlib.sha256(data).hexdigest() != self._digests[row]:
            raise LanitError(
                f"{path} is not the shard that the manifest describes (image {self.keys[row]} differs); "
                f"remove it and run the shard stage again"
            )
        return decode_png(data).transpose(2, 0, 1)


def sample_indices(pool_size: int, seed: int, step: int, batch: int, role: str) -> np.ndarray:
    """Return which images of a pool the batch of a step holds: int64 (batch,), each in [0, pool_size).

    A pure function, so resuming needs no state, and each of several processes takes its own part of the result. The
    pool is shuffled anew in each epoch, and no image comes twice in one.

    Args:
        pool_size: number of images to draw from.
        seed: of the training.
        step: number of the step, from 0.
        batch: images a step.
        role: what the images are for ("source", "reference", …); each role has an order of its own.
    """
    if pool_size < 1:
        raise ValueError("the pool to draw from is empty")
    epochs, places = np.divmod(step * batch + np.arange(batch), pool_size)
    chosen = np.empty(batch, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        chosen[here] = _permutation(pool_size, seed, int(epoch), role)[places[here]]
    return chosen


def balanced_indices(
    members: Sequence[np.ndarray], seed: int, step: int, batch: int, role: str, domains: np.ndarray | None = None
) -> np.ndarray:
    """Return which images the batch of a step holds, drawn evenly over domains and with replacement: int64 (batch,).

    The expectation of StarGAN v2's weighted sampler, as a pure function of its arguments: see `sample_indices`.

    Args:
        members: rows of the images of each domain, none empty.
        seed, step, batch, role: as in `sample_indices`.
        domains: index into `members` for each place (batch,), where it is not to be drawn.
    """
    words = hashlib.sha256(f"{seed} {step} {role} balanced".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(words[:16], "little")).random_raw(2 * batch).reshape(2, batch)
    uniform = (raw >> np.uint64(11)) * 2.0**-53  # [0, 1), by the raw stream, which numpy keeps the same
    if domains is None:
        domains = (uniform[0] * len(members)).astype(np.int64)
    return np.array([members[n][int(u * len(members[n]))] for n, u in zip(domains, uniform[1])], np.int64)


def prefetch(load: Callable[[int], T], steps: Iterable[int], depth: int = 2) -> Generator[T, None, None]:
    """Yield `load(step)` for each step in order, loading up to `depth` steps ahead in a background thread.

    An error of `load` is raised here, at its step. Closing the iterator ends the thread.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped, finished = threading.Event(), object()

    def put(item: tuple) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in steps:
                put((load(step), None))
                if stopped.is_set():
                    return
            put((None, finished))
        except BaseException as error:  # raised again in the thread that asked
            put((None, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is finished:
                return
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()


def _check_length(path: Path, expected: int) -> None:
    try:
        length = path.stat().st_size
    except FileNotFoundError:
        raise LanitError(f"no shard at {path}, which the manifest names; run the shard stage again") from None
    if length < expected:
        raise LanitError(
            f"{path} has {length} bytes but the manifest needs {expected}; remove it and run the shard stage again"
        )


@functools.lru_cache(maxsize=8)
def _permutation(size: int, seed: int, epoch: int, role: str) -> np.ndarray:
    """Shuffle range(size) with a counter-based generator, whose raw stream numpy keeps the same in all versions."""
    words = hashlib.sha256(f"{seed} {epoch} {role}".encode()).digest()
    order = np.argsort(np.random.Philox(key=int.from_bytes(words[:16], "little")).random_raw(size), kind="stable")
    order.setflags(write=False)
    return order
