"""The Gaussian mechanism without sampling, in closed form.

Composition of Gaussian mechanisms is one of them, with mu^2 = sum of (sensitivity / sigma)^2, and

    delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)

Balle and Wang 2018 (1805.06530), Theorem 8.
"""

from __future__ import annotations

import math

_PRECISION = 1e-13
_LARGEST_EPSILON = 700.0  # e^epsilon is still a double


def gaussian_delta(epsilon: float, mu: float) -> float:
    """delta at ``epsilon`` >= 0 of Gaussian noise with sensitivity / sigma = ``mu``."""
    upper = _normal(mu / 2 - epsilon / mu)
    return max(0.0, upper - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon at ``delta`` in (0, 1), from above, to 13 digits; infinity beyond 700."""
    low, high = 0.0, 1.0
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    while gaussian_delta(high, mu) > delta:
        low, high = high, 2 * high
        if high > _LARGEST_EPSILON:
            return math.inf
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        if gaussian_delta(middle, mu) > delta:
            low = middle
        else:
            high = middle
        if middle in (low, high) and math.nextafter(low, high) == high:
            break
    return high


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
