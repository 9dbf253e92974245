"""The batches of one process: a function of (seed, step), of labels, and of nothing else."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanit.config import LanitError
from lanit.data.augment import augment
from lanit.data.batches import ImageStore, balanced_indices, prefetch, sample_indices
from lanit.data.rng import BatchRng
from lanit.methods.protocol import Batch, LabelledMethod, LanguageMethod
from lanit.training.distributed import World
from lanit.training.options import TrainOptions

SCARCE = 0.01  # share of images with a label below which somebody should look


class Feed:
    """Reads, augments and labels what a process sees at a step, ahead of its use.

    Images without an active domain are known beforehand, and never drawn: no batch is drawn twice.
    """

    def __init__(self, options: TrainOptions, manifest: Path, world: World):
        self.options, self.world = options, world
        self.store = ImageStore(manifest, "train")
        self.labels: Tensor | None = None  # (M, N), for all images of the split
        self.pool = np.arange(len(self.store))  # rows that are drawn from
        self._balanced, self._references, self._draws_fully_covered = False, 1, True
        self._share_without = 0.0
        self._members: list[np.ndarray] = []  # rows of each domain, where images are drawn evenly over domains
        self._samples: tuple[Tensor, Tensor, Tensor | None] | None = None

    @property
    def share_without(self) -> float:
        """Share of the images that no domain is active for."""
        return self._share_without

    def draw_as(self, method: LabelledMethod) -> None:
        """Draw as a method asks: evenly over domains or not, one or two references, images of all domains or not."""
        self._balanced, self._references = method.balanced, method.references
        self._draws_fully_covered = not isinstance(method, LanguageMethod) or method.draws_fully_covered

    def label(self, labels: NDArray[np.bool_], advice: str) -> None:
        """Give the images labels (M, N), and draw from now on from those that have one.

        Raises:
            LanitError: there are not enough of them for one batch; the message ends with `advice`.
        """
        drawn, what = labels.any(1), "have an active domain"
        self._share_without = float(1 - drawn.mean())
        if not self._draws_fully_covered:  # a slack domain's column, which comes after the candidates', is off in these
            drawn, what = drawn & ~labels[:, : len(self.options.domains)].all(1), "have an active domain and not all"
        pool = np.flatnonzero(drawn)
        found = f"only {len(pool)} of {len(labels)} images {what}"
        if len(pool) < self.options.batch:
            raise LanitError(f"{found}, less than one batch of {self.options.batch}; {advice}")
        if len(pool) < SCARCE * len(labels) and self.world.is_main:
            print(f"warning: {found}; {advice}", file=sys.stderr, flush=True)
        self.pool, self.labels = pool, torch.from_numpy(labels.astype(np.float32))
        if self._balanced:
            self._members = [rows for rows in map(np.flatnonzero, labels.T) if len(rows)]

    def digest(self) -> str:
        """What tells these images, in this order, and their labels apart from others."""
        found = hashlib.sha256(self.store.identity().encode())
        if self.labels is not None:
            found.update(self.labels.bool().numpy().tobytes())
        return found.hexdigest()

    def batches(self, first: int, last: int) -> Generator[list[Batch], None, None]:
        """This process's parts of the batches of steps `first` to `last` − 1, loaded ahead of their use."""
        return prefetch(self.parts, range(first, last))

    def parts(self, step: int) -> list[Batch]:
        """This process's parts of the batch of one step."""
        options, world = self.options, self.world
        drawn = {role: self._draw(role, step) for role in ("source", "reference")}
        if self._references == 2:
            drawn["second_reference"] = self._draw("second_reference", step, drawn["reference"])
        pairs = (
            {}
            if self.labels is None
            else {role: self._put(self.labels[drawn[role]].sum()) for role in ("source", "reference")}
        )
        count = options.batch // (world.size * options.accumulate)
        begin = world.rank * options.accumulate * count
        starts = range(begin, begin + options.accumulate * count, count)
        return [self._part(drawn, start, count, pairs, step) for start in starts]

    def samples(self, count: int = 6) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evenly spaced sources and references of the first pool, and the references' first labels: always the same."""
        if self._samples is None:
            rows = self.pool[np.linspace(0, len(self.pool) - 1, 2 * count).astype(int)]
            images = self._images(rows)
            labels = None if self.labels is None else self._put(self.labels[rows[count:]])
            self._samples = images[:count], images[count:], labels
        return self._samples

    def _draw(self, role: str, step: int, like: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The rows that a step's whole batch has in a role; with `like`, each of the domain of that row."""
        options = self.options
        if not self._balanced:
            return self.pool[sample_indices(len(self.pool), options.seed, step, options.batch, role)]
        domains = None
        if like is not None:
            assert self.labels is not None, "domains come of labels"
            # The place among the domains that have images; labels are one-hot here.
            there = [n for n, has in enumerate(self.labels.any(0).tolist()) if has]
            domains = self.labels[like][:, there].argmax(1).numpy()
        return balanced_indices(self._members, options.seed, step, options.batch, role, domains)

    def _part(
        self, drawn: dict[str, NDArray[np.int64]], start: int, count: int, pairs: dict[str, Tensor], step: int
    ) -> Batch:
        options = self.options
        rows = [chosen[start : start + count] for chosen in drawn.values()]
        rng = BatchRng(options.seed, step, start, count, options.batch, self.world.device)
        images = [
            augment(self._images(chosen), rng, crop=options.augment.crop, flip=options.augment.flip).contiguous(
                memory_format=torch.channels_last
            )
            for chosen in rows
        ]
        labels = [None if self.labels is None else self._put(self.labels[chosen]) for chosen in rows[:2]]
        return Batch(
            source=images[0],
            reference=images[1],
            source_labels=labels[0],
            reference_labels=labels[1],
            pairs=pairs.get("reference"),
            share=count / options.batch,
            rng=rng,
            step=step,
            progress=options.progress(step),
            second_reference=images[2] if len(images) > 2 else None,
            source_pairs=pairs.get("source"),
        )

    def _images(self, rows: NDArray[np.int64]) -> Tensor:
        return self._put(self.store.read(rows)).float() / 127.5 - 1

    def _put(self, values: Tensor) -> Tensor:
        if self.world.device.type == "cuda":  # from pinned memory the copy waits for nothing
            values = values.pin_memory()
        return values.to(self.world.device, non_blocking=True)
