"""Scores of one run's translations: numpy alone, so that scoring starts at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanit.config import LanitError
from lanit.data.names import nfc
from lanit.evaluation.density_coverage import density_coverage
from lanit.evaluation.fid import fid
from lanit.evaluation.kid import kid

# Scores by their names in scores.json → what gives them, in this order, of the features of a class's real images
# (n, D), those of the translations into it (m, D), and k.
METRICS: dict[tuple[str, ...], Callable[[NDArray, NDArray, int], tuple[float, ...]]] = {
    ("fid",): lambda real, fake, k: (fid(real, fake),),
    ("kid",): lambda real, fake, k: (kid(real, fake),),
    ("density", "coverage"): density_coverage,
}
MEANS = {"fid": "mfid", "kid": "mkid"}  # what their means over classes are called; others' keep the name


@dataclass(frozen=True)
class Translations:
    """What `lanit translate` made of M pairs."""

    features: NDArray[np.float32]  # (M, D)
    source: NDArray[np.int64]  # (M,) row in the protocol's split
    reference: NDArray[np.int64]  # (M,) row in the protocol's split
    target: NDArray[np.int64]  # (M,) index into `classes`
    classes: list[str]  # the evaluation classes
    logits: NDArray[np.float32] | None = None  # (M, K), from a judge
    unlabelled: NDArray[np.bool_] | None = None  # (M,) had the reference no pseudo label? None where none are read


@dataclass(frozen=True)
class Real:
    """The real images of the split that is scored."""

    features: NDArray[np.float32]  # (n, D)
    truth: NDArray[np.bool_]  # (n, C)
    known: list[str]  # names of the columns of `truth`
    logits: NDArray[np.float32] | None = None  # (n, K), from a judge
    judged: list[str] | None = None  # names of the columns of all logits
    exclusive: bool = False  # does the judge take classes to be exclusive?


def decide(logits: NDArray, exclusive: bool) -> NDArray[np.bool_]:
    """Return what logits (n, K) say an image shows: the largest where classes are exclusive, else each above ½."""
    if exclusive:
        return logits.argmax(axis=1)[:, None] == np.arange(logits.shape[1])
    return logits > 0


def score(translations: Translations, real: Real, domains: list[str], k: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score translations into each evaluation class against the real images of it.

    Args:
        translations: of one run.
        real: the split that is scored.
        domains: the method's N candidate domains; a class among them is a `candidate`.
        k: nearest neighbours of density and coverage.

    Returns:
        `per_class` and `mean` of scores.json. Per class: those of METRICS; `hit_rate`, the share of translations in
        which the judge sees the class; `source_rate`, the same of their sources before translating; `kept_rate`, over
        the judge's other classes on which source and reference agree, the share of them as the judge sees them in the
        translation (None where classes are exclusive); `references_without_label`, the share of references whose
        style is that of the nearest domain for want of a label (None for a method without labels);
        `candidate`, `n_real`, `n_fake`. What only a judge can tell is None with other features.

    Raises:
        LanitError: too few images of a class, features that are not finite, or classes that the judge does not know.
    """
    if translations.logits is not None and (real.logits is None or real.judged is None):
        raise LanitError("only the translations were judged, not the real images; extract both with the same features")
    per_class = {}
    for t, name in enumerate(translations.classes):
        rows = translations.target == t
        true = real.truth[:, real.known.index(name)]
        try:
            features = real.features[true], translations.features[rows]
            scores: dict[str, float] = {}
            for names, metric in METRICS.items():
                scores |= zip(names, metric(*features, k), strict=True)
        except LanitError as error:
            raise LanitError(f"class {name!r} cannot be scored: {error}") from None
        unlabelled = translations.unlabelled
        per_class[name] = (
            scores
            | _judge_rates(translations, real, rows, name)
            | {
                "references_without_label": None if unlabelled is None else float(unlabelled[rows].mean()),
                "candidate": name in map(nfc, domains),
                "n_real": int(true.sum()),
                "n_fake": int(rows.sum()),
            }
        )
    return per_class, _means(per_class)


def _judge_rates(translations: Translations, real: Real, rows: NDArray[np.bool_], name: str) -> dict[str, float | None]:
    if translations.logits is None:
        return {"hit_rate": None, "source_rate": None, "kept_rate": None}
    assert real.logits is not None and real.judged is not None, "both were judged"
    if name not in real.judged:
        raise LanitError(f"the judge does not know the class {name!r} but only {', '.join(real.judged)}; train it anew")
    column = real.judged.index(name)
    seen = decide(translations.logits[rows], real.exclusive)
    before = decide(real.logits[translations.source[rows]], real.exclusive)
    return {
        "hit_rate": float(seen[:, column].mean()),
        "source_rate": float(before[:, column].mean()),
        "kept_rate": None if real.exclusive else _kept(seen, translations, real, real.judged, rows, column),
    }


def _kept(
    seen: NDArray, translations: Translations, real: Real, judged: list[str], rows: NDArray, column: int
) -> float | None:
    # A judge of another dataset may know classes that this truth does not.
    others = [j for j, name in enumerate(judged) if j != column and name in real.known]
    truth = real.truth[:, [real.known.index(judged[j]) for j in others]]
    source, reference = truth[translations.source[rows]], truth[translations.reference[rows]]
    seen, agreed = seen[:, others], source == reference
    return float((seen == source)[agreed].mean()) if agreed.any() else None


def _means(per_class: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    everything = list(per_class.values())
    candidates = [scores for scores in everything if scores["candidate"]]
    wanted = {MEANS.get(name, name): (name, everything) for names in METRICS for name in names} | {
        "hit_rate": ("hit_rate", everything),
        "hit_rate_candidates": ("hit_rate", candidates),
        "source_rate_candidates": ("source_rate", candidates),
        "kept_rate": ("kept_rate", everything),
        "references_without_label": ("references_without_label", everything),
    }
    means = {}
    for mean, (name, group) in wanted.items():
        values = [scores[name] for scores in group if scores[name] is not None]
        means[mean] = float(np.mean(values)) if values else None
    return means
