"""Coordinate-wise rules: functions of the vectors, not of their inner products.

They need to see every update, so they work in suite ``clear`` only; they are here as baselines.

Source: Yin et al. 2018, "Byzantine-robust distributed learning: towards optimal statistical rates",
definitions 1 and 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.errors import RobustnessError

__all__ = ["coordinate_median", "trimmed_mean"]

Floats = NDArray[np.float64]


def coordinate_median(vectors: Floats) -> Floats:
    """Return the median of each column of float64 [n, d]; even n: the mean of the middle two.

    Raises:
        RobustnessError: NaN or infinite values, or no vectors.
    """
    _check(vectors, 1)
    result: Floats = np.median(vectors, axis=0)
    return result


def trimmed_mean(vectors: Floats, byzantine: int) -> Floats:
    """Return each column's mean without its ``byzantine`` largest and smallest values.

    Raises:
        RobustnessError: NaN or infinite values, or nothing would be left.
    """
    _check(vectors, 2 * byzantine + 1)
    inner = np.sort(vectors, axis=0)[byzantine : len(vectors) - byzantine]
    result: Floats = inner.mean(axis=0)
    return result


def _check(vectors: Floats, fewest: int) -> None:
    if vectors.ndim != 2 or len(vectors) < fewest:
        raise RobustnessError(f"vectors of shape {vectors.shape}, expected at least {fewest} rows")
    if not np.isfinite(vectors).all():
        raise RobustnessError("a vector has NaN or infinite values; refuse its client's update")
