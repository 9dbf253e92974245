"""What every metric asks of the features it is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lanit.config import LanitError


def checked(features: ArrayLike, what: str, at_least: int) -> NDArray[np.float64]:
    """Return the features (n, D) as float64.

    Raises:
        LanitError: they are not a table, hold fewer than `at_least` rows, or a value is NaN or infinite.
    """
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2:
        raise LanitError(f"the {what} features have the shape {array.shape}; give one row of features an image")
    if len(array) < at_least:
        raise LanitError(f"there are {len(array)} {what} images where the metric needs {at_least}; give it more images")
    if not np.isfinite(array).all():
        rows = int((~np.isfinite(array)).any(axis=1).sum())
        raise LanitError(f"the features of {rows} {what} images are NaN or infinite; extract them anew")
    return array


def same_width(real: NDArray, fake: NDArray) -> None:
    """Raise LanitError where real and generated features (or their statistics) differ in width."""
    if real.shape[-1] != fake.shape[-1]:
        raise LanitError(
            f"real features have {real.shape[-1]} dimensions and generated ones {fake.shape[-1]}; "
            "extract both with the same extractor"
        )
