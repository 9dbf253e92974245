"""Density and coverage: "Reliable Fidelity and Diversity Metrics for Generative Models" (Naeem et al., 2020).

Each real image has a ball that reaches to its k-th nearest other real image. Density is the mean number of balls around
a generated image, divided by k; coverage is the share of balls with a generated image inside. Inside means strictly
inside, so a generated image that is a copy of a real one has to be told from one just within the ball exactly:
distances are first found by matrix products, and those that decide are computed again from differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lanit.evaluation.checks import checked, same_width

# Entries of a distance matrix held at a time: 4 Mi float64 are 32 MiB.
CHUNK = 2**22
# Squared distances that differ by less than this share of the features' squared norms are compared exactly; a matrix
# product in float64 is off by about 1e-15 of them.
TIE = 1e-11


@dataclass(frozen=True)
class Balls:
    """Real features (n, D) and the squared radius (n,) of the ball around each, float64."""

    centres: NDArray[np.float64]
    squared_radii: NDArray[np.float64]
    k: int


def density_coverage(real: ArrayLike, fake: ArrayLike, k: int = 5) -> tuple[float, float]:
    """Return (density, coverage) of generated features (m, D) against real ones (n, D), n > k."""
    return density_coverage_score(density_coverage_statistics(real, k), fake)


def density_coverage_statistics(real: ArrayLike, k: int = 5) -> Balls:
    """Find the ball of each real image: it reaches to the k-th nearest other one.

    Raises:
        LanitError: k or fewer real images, or values that are not finite.
    """
    real = checked(real, "real", at_least=k + 1)
    squared_radii = np.empty(len(real))
    for rows in _chunks(len(real), len(real)):
        near = _squared_distances(real[rows], real)
        near[np.arange(len(near)), np.arange(len(real))[rows]] = np.inf  # itself
        kth = np.argpartition(near, k - 1, axis=1)[:, k - 1]
        squared_radii[rows] = ((real[rows] - real[kth]) ** 2).sum(axis=1)
    return Balls(real, squared_radii, k)


def density_coverage_score(balls: Balls, fake: ArrayLike) -> tuple[float, float]:
    """Return (density, coverage) of generated features (m, D); density may exceed 1, coverage lies in [0, 1].

    Raises:
        LanitError: no generated image, another width, or values that are not finite.
    """
    fake = checked(fake, "generated", at_least=1)
    same_width(balls.centres, fake)
    inside_any, pairs = 0, 0
    for rows in _chunks(len(balls.centres), len(fake)):
        inside = _inside(balls.centres[rows], balls.squared_radii[rows], fake)
        pairs += int(inside.sum())
        inside_any += int(inside.any(axis=1).sum())
    return pairs / (balls.k * len(fake)), inside_any / len(balls.centres)


def _inside(centres: NDArray, squared_radii: NDArray, points: NDArray) -> NDArray[np.bool_]:
    margin = _squared_distances(centres, points) - squared_radii[:, None]
    inside = margin < 0
    scale = (centres**2).sum(axis=1).max() + (points**2).sum(axis=1).max()
    for row in np.flatnonzero((np.abs(margin) <= TIE * scale).any(axis=1)):
        close = np.flatnonzero(np.abs(margin[row]) <= TIE * scale)
        inside[row, close] = ((centres[row] - points[close]) ** 2).sum(axis=1) < squared_radii[row]
    return inside


def _squared_distances(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    return (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)


def _chunks(rows: int, columns: int) -> list[slice]:
    step = max(1, CHUNK // columns)
    return [slice(start, start + step) for start in range(0, rows, step)]
