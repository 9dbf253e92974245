"""Kernel Inception Distance: "Demystifying MMD GANs" (Bińkowski et al., 2018).

The kernel is the paper's and clean-fid's, k(x, y) = (x·y / D + 1)³. Both average the unbiased estimate over random
subsets; here it is computed once over all images, which is what those averages tend to, and the same at every call.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike, NDArray

from lanit.evaluation.checks import checked, same_width


@dataclass(frozen=True)
class KernelMeans:
    """Mean of the kernel over pairs of two different real images, two different generated ones, and one of each."""

    real: float
    fake: float
    between: float


def kid(real: ArrayLike, fake: ArrayLike) -> float:
    """Return the KID (not multiplied by 1,000) of generated features (m, D) against real ones (n, D)."""
    return kid_score(kid_statistics(real, fake))


def kid_statistics(real: ArrayLike, fake: ArrayLike, rows: int = 1024) -> KernelMeans:
    """Average the kernel over real features (n, D) and generated ones (m, D), `rows` rows of a kernel matrix at a time.

    Raises:
        LanitError: fewer than two rows, different widths, or values that are not finite.
    """
    real, fake = checked(real, "real", at_least=2), checked(fake, "generated", at_least=2)
    same_width(real, fake)
    n, m = len(real), len(fake)
    return KernelMeans(
        real=(_sum(real, real, rows) - _diagonal(real)) / (n * (n - 1)),
        fake=(_sum(fake, fake, rows) - _diagonal(fake)) / (m * (m - 1)),
        between=_sum(real, fake, rows) / (n * m),
    )


def kid_score(means: KernelMeans) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy; it may be negative."""
    return means.real + means.fake - 2 * means.between


def _sum(a: NDArray, b: NDArray, rows: int) -> float:
    width = a.shape[1]
    return float(sum(((a[i : i + rows] @ b.T / width + 1) ** 3).sum() for i in range(0, len(a), rows)))


def _diagonal(a: NDArray) -> float:
    return float((((a * a).sum(axis=1) / a.shape[1] + 1) ** 3).sum())
