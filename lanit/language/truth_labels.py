"""Labels of truth, for methods that learn with supervision and for no other: each image in one of its domains.

Written in the form of pseudo labels: f_n is 1 where truth has the domain and 0 where not, and f_p is ½ for all images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lanit.config import LanitError
from lanit.data.names import nfc
from lanit.language.pseudo_labels import LabellerOptions, Labels, check_domains


def truth_labels(options: LabellerOptions, domains: Sequence[str], manifest: Path) -> Iterator[tuple[str, Labels]]:
    """Yield (split, Labels) in the manifest's order, for every split but pretrain.

    Raises:
        LanitError: a domain comes twice, is no class of the dataset, or is that of no training image.
    """
    from lanit.data.manifest import read_table, read_truth

    check_domains([nfc(name) for name in domains])
    shares = None
    for split in sorted(read_table(manifest, ["split"])["split"].unique().to_pylist(), key=lambda s: s != "train"):
        if split == "pretrain":
            continue
        table = read_truth(manifest, split)
        known = [name for name in table.columns if name != "key"]
        unknown = [name for name in domains if nfc(name) not in known]
        if unknown:
            raise LanitError(
                f"the domain {unknown[0]!r} is no class of the dataset, so that no image can be labelled with it by "
                f"truth; there are {', '.join(known)}"
            )
        truth = table[list(map(nfc, domains))].to_numpy(bool)
        shares = truth.mean(axis=0) if shares is None else shares  # of split train, which comes first
        keys = tuple(table["key"])
        labels = choose_one(truth, keys, options.choose or "random", shares)
        if split == "train" and not labels.any(axis=0).all():
            lacking = domains[int(labels.any(axis=0).argmin())]
            raise LanitError(
                f"no training image is labelled with the domain {lacking!r}, so that no method could learn it; leave "
                "it out, or choose an image's domain in the other way (labeller.choose: random or rarest)"
            )
        base = np.full(len(keys), 0.5, np.float32)
        yield split, Labels(keys, tuple(domains), truth.astype(np.float32), base, labels, supervision="truth")


def choose_one(truth: np.ndarray, keys: Sequence[str], choose: str, shares: np.ndarray) -> np.ndarray:
    """Return labels (M, N) bool with one domain for each image that shows any.

    Args:
        truth: (M, N) bool.
        keys: of the M images.
        choose: `"random"`, any of an image's domains with equal probability, by a hash of its key; or `"rarest"`, the
            one with the smallest share (the first of equals).
        shares: (N,), of images that show a domain.
    """
    if choose == "random":
        draws = [hashlib.sha256(f"domain {key}".encode()).digest() for key in keys]
        place = np.array([int.from_bytes(draw[:8], "little") / 2**64 for draw in draws])
        # The image's floor(u · count)-th domain.
        wanted = np.minimum((place * truth.sum(axis=1)).astype(int), truth.sum(axis=1) - 1)
        chosen = (truth & (truth.cumsum(axis=1) - 1 == wanted[:, None])).argmax(axis=1)
    else:
        chosen = np.where(truth, shares[None], np.inf).argmin(axis=1)
    labels = np.zeros_like(truth)
    labels[np.arange(len(truth)), chosen] = truth.any(axis=1)
    return labels
