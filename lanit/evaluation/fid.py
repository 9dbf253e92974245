"""Fréchet Inception Distance: "GANs Trained by a Two Time-Scale Update Rule" (Heusel et al., 2017).

The arithmetic is clean-fid's (Parmar et al., 2022): mean, covariance with n - 1, and the squared Fréchet distance of
the two Gaussians. Only the trace of the matrix square root is had in another way, with the same value: see `fid_score`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lanit.evaluation.checks import checked, same_width


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def fid(real: ArrayLike, fake: ArrayLike) -> float:
    """Return the FID of generated features (m, D) against real ones (n, D); at least two rows each."""
    return fid_score(fid_statistics(real, "real"), fid_statistics(fake, "generated"))


def fid_statistics(features: ArrayLike, what: str = "given") -> Gaussian:
    """Fit a Gaussian to features (n, D), n ≥ 2; `what` names them in an error.

    Raises:
        LanitError: fewer than two rows, or values that are not finite.
    """
    features = checked(features, what, at_least=2)
    return Gaussian(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False, ddof=1)))


def fid_score(real: Gaussian, fake: Gaussian) -> float:
    """Return |μ₁ - μ₂|² + Tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), the squared Fréchet distance of two Gaussians.

    Σ₁ Σ₂ has the eigenvalues of the symmetric Σ₁^½ Σ₂ Σ₁^½, so that two symmetric eigenvalue problems give the trace,
    where a Schur decomposition of the product (scipy.linalg.sqrtm) is slower, and breaks on the singular covariances of
    fewer images than dimensions.
    """
    same_width(real.mean, fake.mean)
    values, vectors = np.linalg.eigh(real.covariance)
    root = (vectors * np.sqrt(_positive(values))) @ vectors.T
    trace = np.sqrt(_positive(np.linalg.eigvalsh(root @ fake.covariance @ root))).sum()
    difference = real.mean - fake.mean
    return float(difference @ difference + np.trace(real.covariance) + np.trace(fake.covariance) - 2 * trace)


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # Rounding leaves noise where a singular matrix has zeros; its square roots would add up over many dimensions.
    noise = np.finfo(np.float64).eps * len(values) * np.abs(values).max()
    return np.where(values > noise, values, 0.0)
