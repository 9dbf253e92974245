"""Protocols: which sources are translated with which references. A protocol is part of every number under it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lanit.config import LanitError
from lanit.data.names import nfc


@dataclass(frozen=True)
class Protocol:
    """Reference-guided translation between all pairs of evaluation classes: the dataset's own, whatever N is."""

    name: Literal["reference"] = "reference"
    pairs: int = 36  # sources and references for each ordered pair of classes (the authors': 9 rounds × 40)
    k: int = 5  # nearest neighbours of density and coverage, as published
    seed: int = 0  # of the choice of sources and references
    # Whose images are translated and scored: settings are chosen on val, and test is scored once.
    split: Literal["test", "val"] = "test"

    def describe(self, classes: list[str]) -> dict[str, Any]:
        """What is stored beside each score."""
        words = (
            f"reference-guided, split {self.split}, {len(classes)} classes, {self.pairs} pairs of images a class pair"
        )
        words += f", k = {self.k}, seed {self.seed}"
        return asdict(self) | {"classes": list(classes), "description": words}


@dataclass(frozen=True)
class Pairs:
    """Rows of the protocol's split, and indices into the evaluation classes; int64 (M,), by target, then origin."""

    source: NDArray[np.int64]
    reference: NDArray[np.int64]
    target: NDArray[np.int64]
    origin: NDArray[np.int64]


def draw_pairs(truth: NDArray[np.bool_], known: list[str], classes: list[str], protocol: Protocol) -> Pairs:
    """Choose the pairs to translate.

    For each target class t and each other class c: sources that show c and not t, and for each of them a reference that
    shows t. An image comes again only when all others have come. A function of its arguments alone, and the pairs of t
    and c do not depend on which other classes there are; so all methods and all N are scored on the very same pairs.

    A class pair without such sources (where every c is also a t) has no translations; the counts beside a score tell.

    Args:
        truth: (n, K), which image of the protocol's split shows which class.
        known: names of its K columns.
        classes: the evaluation classes, some or all of them.
        protocol: how many pairs, and the seed.

    Raises:
        LanitError: an unknown class, or one without references or without sources.
    """
    columns = class_columns(known, classes)
    classes = [known[column] for column in columns]
    if protocol.pairs < 1 or protocol.k < 1:
        raise LanitError("protocol.pairs and protocol.k must be at least 1")
    for name, column in zip(classes, columns):
        if not truth[:, column].any():
            raise LanitError(
                f"the {protocol.split} split has no image of {name!r} to take as a reference; leave the class out"
            )
    drawn: list[tuple[NDArray, NDArray, int, int]] = []
    for t, target in enumerate(classes):
        shows = truth[:, columns[t]]
        references, before = np.flatnonzero(shows), len(drawn)
        for c, origin in enumerate(classes):
            sources = np.flatnonzero(truth[:, columns[c]] & ~shows)
            if c == t or len(sources) == 0:
                continue
            rng = _generator(protocol.seed, target, origin)
            drawn.append((_draw(sources, protocol.pairs, rng), _draw(references, protocol.pairs, rng), t, c))
        if len(drawn) == before:
            raise LanitError(
                f"the {protocol.split} split has no image of another class without {target!r}; leave the class out"
            )
    return Pairs(
        source=np.concatenate([sources for sources, _, _, _ in drawn]),
        reference=np.concatenate([references for _, references, _, _ in drawn]),
        target=np.repeat([t for _, _, t, _ in drawn], protocol.pairs),
        origin=np.repeat([c for _, _, _, c in drawn], protocol.pairs),
    )


def draw_picture_rows(
    truth: NDArray[np.bool_], known: list[str], classes: list[str], sources: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose sources (S,) and one reference per class (R,) for pictures: the same for all methods and all N.

    A reference shows its class and as few others as possible, so that one sees what was taken from it. Source i shows
    class i, counted round and round, and is no reference.
    """
    columns = class_columns(known, classes)
    order = _generator(seed, "pictures", "").permutation(len(truth))
    references = []
    for column in columns:
        shown = order[truth[order, column]]
        references.append(shown[truth[shown].sum(axis=1).argmin()])
    chosen: list[int] = []
    for i in range(sources):
        free = order[~np.isin(order, references + chosen)]
        if len(free) == 0:
            raise LanitError(f"{len(truth)} images are too few for pictures of {sources} sources; ask for fewer")
        shown = free[truth[free, columns[i % len(columns)]]]
        chosen.append((shown if len(shown) else free)[0])
    return np.array(chosen, np.int64), np.array(references, np.int64)


def class_columns(known: list[str], classes: list[str]) -> list[int]:
    """Columns of the evaluation classes among those that truth knows, whose names are in NFC.

    Raises:
        LanitError: fewer than two classes, one twice, or one that truth does not know.
    """
    classes = [nfc(name) for name in classes]
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise LanitError(f"the evaluation classes are {', '.join(classes) or 'none'}; name at least two, each once")
    for name in classes:
        if name not in known:
            raise LanitError(f"the evaluation class {name!r} is none of the dataset's; it has {', '.join(known)}")
    return [known.index(name) for name in classes]


def _generator(seed: int, target: str, origin: str) -> np.random.Generator:
    words = hashlib.sha256(f"{seed}\n{target}\n{origin}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(words[:16], "little")))


def _draw(candidates: NDArray, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    rounds = -(-count // len(candidates))
    return np.concatenate([rng.permutation(candidates) for _ in range(rounds)])[:count].astype(np.int64)
