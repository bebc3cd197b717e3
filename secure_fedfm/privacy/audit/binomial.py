"""Binomial tails and exact (Clopper-Pearson) bounds on a probability."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_STEPS = 60  # bisection to 2^-60


@lru_cache(maxsize=64)
def _log_choose(trials: int) -> npt.NDArray[np.float64]:
    """log C(trials, k) for k = 0..trials."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1, dtype=np.float64)))])
    chosen: npt.NDArray[np.float64] = logs[-1] - logs - logs[::-1]
    return chosen


def probabilities(trials: int, chance: float) -> npt.NDArray[np.float64]:
    """P[Binomial(trials, chance) = k] for k = 0..trials: float64 (trials + 1,)."""
    if not 0 < chance < 1:
        edge = np.zeros(trials + 1)
        edge[0 if chance <= 0 else trials] = 1.0
        return edge
    k = np.arange(trials + 1)
    logs = _log_choose(trials) + k * math.log(chance) + (trials - k) * math.log1p(-chance)
    result: npt.NDArray[np.float64] = np.exp(logs)
    return result


def lower_bound(successes: int, trials: int, error: float) -> float:
    """The largest p with P[Binomial(trials, p) >= successes] <= error: Clopper, Pearson 1934."""
    if successes == 0:
        return 0.0
    low, high = 0.0, successes / trials
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if float(probabilities(trials, middle)[successes:].sum()) <= error:
            low = middle
        else:
            high = middle
    return low


def upper_bound(successes: int, trials: int, error: float) -> float:
    """The smallest p with P[Binomial(trials, p) <= successes] <= error."""
    return 1.0 - lower_bound(trials - successes, trials, error)
