"""How good pseudo labels are: the only place where labels meet truth, for the report and for nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from lanit.data.names import nfc
from lanit.language.pseudo_labels import Labels


def describe(labels: Labels) -> dict[str, Any]:
    """Return what can be said without truth: images, mean labels an image, shares without any domain and with all."""
    counts = labels.labels.sum(axis=1)
    return {
        "images": len(labels.keys),
        "mean_labels": float(counts.mean()),
        "share_without": float((counts == 0).mean()),
        "share_all": float((counts == len(labels.domains)).mean()),
    }


def compare(labels: Labels, truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return `f1_macro` and `per_domain`: precision, recall, F1 and shares, for the domains that are classes.

    A domain that is no class has its predicted share alone. A quotient with nothing below its line is 0. `f1_macro` is
    the plain mean over the domains that are classes, and None where none is.

    Args:
        labels: of M images.
        truth: bool (M,) per class, whose names are in NFC, in the same order of images.
    """
    per_domain: dict[str, dict[str, float]] = {}
    for n, domain in enumerate(labels.domains):
        predicted = labels.labels[:, n]
        per_domain[domain] = {"share_predicted": float(predicted.mean())}
        if (name := nfc(domain)) in truth:
            per_domain[domain] = _scores(predicted, truth[name].astype(bool)) | per_domain[domain]
            per_domain[domain]["share_true"] = float(truth[name].mean())
    scores = [values["f1"] for values in per_domain.values() if "f1" in values]
    return {"f1_macro": float(np.mean(scores)) if scores else None, "per_domain": per_domain}


def _scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    hits = int((predicted & true).sum())
    return {
        "precision": _quotient(hits, int(predicted.sum())),
        "recall": _quotient(hits, int(true.sum())),
        "f1": _quotient(2 * hits, int(predicted.sum()) + int(true.sum())),
    }


def _quotient(above: int, below: int) -> float:
    return above / below if below else 0.0
