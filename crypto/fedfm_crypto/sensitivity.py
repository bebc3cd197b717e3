"""L2 sensitivity on the integer grid: bounds after rounding, and exact checks of integers.

Two cases, with scale s (steps per unit), clip C and d coordinates (padded, if rotated):

- **A sum of clipped examples**, rounded once with dither that does not depend on the data
  (``stochastic_round`` under a fresh key). With the same dither on neighbouring data sets, each
  coordinate of the difference is within one step of s times the real difference, so its norm is
  below s C + sqrt(d): :func:`sum_sensitivity`. What C bounds is the difference of the doubles that
  are rounded: sum in integers or count the rounding of a float sum, and take a power of two for s,
  which makes the product exact.
- **One clipped vector**, present or absent: its rounded norm is what counts, and
  :func:`round_within` rounds again until it is within :func:`vector_sensitivity`, checked in
  integers. Whatever floating point did before (clipping, rotation), the bound then holds exactly.
  The number of attempts, hence the time, depends on the data.

All bounds are rounded upwards, so a bound is never below its formula.

Sources: Kairouz, Liu and Steinke 2102.06387, theorem 1 (conditional randomised rounding);
Agarwal, Kairouz and Liu 2110.04995.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError, SensitivityError
from fedfm_crypto.quantise import stochastic_round
from fedfm_crypto.random_source import RandomSource

__all__ = [
    "BETA",
    "check_norm",
    "round_within",
    "squared_norm",
    "sum_sensitivity",
    "vector_sensitivity",
]

BETA = math.exp(-0.5)
"""Default chance that one rounding of a vector within its clip must be repeated, at most."""

_ATTEMPTS = 200
_LIMB_BITS = 21
# Products of two limbs are below 2^44 (the top limb may be 2^21 + 1 wide): sums stay below 2^63.
_LIMB_CHUNK = 1 << 18
_ROOT_BITS = 128


def sum_sensitivity(clip: float, scale: int, dimension: int) -> float:
    """Return s C + sqrt(d), in steps: for a sum rounded with data-independent dither.

    Args:
        clip: C, L2 bound of one example's contribution; positive and finite.
        scale: s, steps per unit, at least 1.
        dimension: d, coordinates that are rounded, at least 1.

    Raises:
        SensitivityError: an argument is out of range.
    """
    _check(clip, scale, dimension)
    return _upwards(scale * Fraction(clip) + _root(Fraction(dimension)))


def vector_sensitivity(clip: float, scale: int, dimension: int, beta: float = BETA) -> float:
    """Return the bound, in steps, that one rounded vector within its clip keeps, as a rule.

    min(s C + sqrt d, sqrt(s^2 C^2 + d/4 + sqrt(2 ln(1/beta)) (s C + sqrt(d)/2))). The first is
    always kept, the second by one rounding with probability of at least 1 - beta.

    Args:
        clip, scale, dimension: as in :func:`sum_sensitivity`, C of the whole vector.
        beta: at most this chance of having to round again, between 0 and 1.

    Raises:
        SensitivityError: an argument is out of range.
    """
    _check(clip, scale, dimension)
    if not 0 < beta < 1:
        raise SensitivityError(f"beta {beta}, expected a probability between 0 and 1")
    scaled, root = scale * Fraction(clip), _root(Fraction(dimension))
    # The logarithm is the one inexact step; its last place is counted upwards. It changes how
    # often rounding repeats, never whether the bound holds.
    spread = _root(2 * Fraction(math.nextafter(-math.log(beta), math.inf)))
    likely = _root(scaled**2 + Fraction(dimension, 4) + spread * (scaled + root / 2))
    return _upwards(min(scaled + root, likely))


def round_within(
    values: NDArray[Any], scale: int, bound: float, random: RandomSource
) -> NDArray[np.int64]:
    """Return values * scale, rounded stochastically, again and again until the norm is in bounds.

    Conditioning on the norm biases the result slightly towards zero; privacy rests on the bound
    alone, which is checked in exact arithmetic.

    Args:
        values: 1-D float32 or float64, within the clip that ``bound`` was computed for.
        scale: steps per unit.
        bound: largest L2 norm of the result, in steps: :func:`vector_sensitivity`.
        random: source of a 32-byte rounding key for each attempt.

    Returns:
        int64, the same length.

    Raises:
        SensitivityError: 200 attempts were too long; a vector within its clip gets there with
            probability of at least 1 - beta^200 (1 - 2^-144 for the default).
        NonFiniteError, CapacityError, CryptoError: as ``stochastic_round``.
    """
    limit = _limit(bound)
    for _ in range(_ATTEMPTS):
        rounded = stochastic_round(values, scale, random)
        if squared_norm(rounded) <= limit:
            return rounded
    # No norm in the message: it is the client's data.
    raise SensitivityError(
        f"the rounded vector stays above {bound} steps; clip it to the norm that the bound is for"
    )


def check_norm(values: NDArray[np.int64], bound: float, what: str = "vector") -> None:
    """Raise SensitivityError unless the L2 norm of ``values`` is at most ``bound``, exactly."""
    if squared_norm(values) > _limit(bound):
        raise SensitivityError(
            f"the {what} is longer than {bound} steps, the sensitivity that its noise is made "
            "for; clip before rounding"
        )


def squared_norm(values: NDArray[np.int64]) -> int:
    """Return the sum of squares of ``values`` (1-D int64), exactly.

    Values are cut into limbs of 21 bits, so that every partial sum fits 63 bits.

    Raises:
        CryptoError: the array has another dtype or shape.
    """
    if values.ndim != 1 or values.dtype != np.int64:
        raise CryptoError(f"found {values.ndim}-D {values.dtype}, expected a 1-D int64 array")
    total = 0
    for start in range(0, values.size, _LIMB_CHUNK):
        # |-2^63| wraps to itself, which as uint64 is 2^63: right again.
        magnitudes = np.abs(values[start : start + _LIMB_CHUNK]).view(np.uint64)
        limbs: list[NDArray[np.int64]] = []
        widest = int(magnitudes.max())
        while widest >> (_LIMB_BITS * len(limbs)):
            limb = magnitudes >> np.uint64(_LIMB_BITS * len(limbs))
            if len(limbs) < 2:
                limb &= np.uint64((1 << _LIMB_BITS) - 1)
                limbs.append(limb.astype(np.int64))
            else:
                limbs.append(limb.astype(np.int64))
                break
        for i, one in enumerate(limbs):
            for j, other in enumerate(limbs):
                total += int(np.dot(one, other)) << (_LIMB_BITS * (i + j))
    return total


def _check(clip: float, scale: int, dimension: int) -> None:
    if not (math.isfinite(clip) and clip > 0):
        raise SensitivityError(f"clip {clip}, expected a positive finite number")
    if scale < 1 or dimension < 1:
        raise SensitivityError(
            f"scale {scale} and dimension {dimension}, expected integers of at least 1"
        )


def _limit(bound: float) -> int:
    """Return the largest integer whose root is at most ``bound``."""
    if not (math.isfinite(bound) and bound > 0):
        raise SensitivityError(f"bound {bound}, expected a positive finite number")
    return math.floor(Fraction(bound) ** 2)


def _root(value: Fraction) -> Fraction:
    """Return a rational at or above the square root, by less than 2^-127 for values from 1."""
    scaled = math.ceil(value * (1 << (2 * _ROOT_BITS)))
    root = math.isqrt(scaled)
    return Fraction(root + (root * root < scaled), 1 << _ROOT_BITS)


def _upwards(value: Fraction) -> float:
    """Return the smallest double at or above ``value``."""
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)
