"""How sure a mark is: the statistic, its exact bound, and what it takes to decide.

With responses s_j (``response``) and secret bits b_j, T = sum_j b_j s_j / ||s||_2. Whatever the
suspect is, as long as it was fixed without knowledge of b, the b_j are independent fair signs, so T
is a Rademacher sum with weights of norm 1 and

    P(T >= t) <= exp(-t^2 / 2)          (Hoeffding 1963, theorem 2)

for every t > 0: no assumption about the suspect's weights, and none about the directions. The
second figure is the number of signs that agree: exactly Binomial(N, 1/2) where no s_j is 0.

Whoever tries several keys, suspects or alignments gets as many chances. A claim whose commitment
was logged before training is believed if -log2 p is at least 40 plus log2 of their number; one
that no log holds could have had its key searched for, and needs 2^-128 (T >= 13.33).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.errors import CaseError

LOGGED_BITS = 40.0
"""-log2 of the false-positive probability that one logged claim may have."""
UNLOGGED_STATISTIC = 13.33
"""T that a claim outside of any log needs: 2^-128."""

_LN2 = math.log(2.0)


@dataclass(frozen=True, slots=True)
class Trials:
    """How many chances there were for a match by accident.

    Attributes:
        commitments: mark commitments in the log before round 1; None: the claim is in no log.
        sub_keys: of the claim. suspects: how many were looked at. alignments: how many ways of
            laying each over the base model were tried.

    Raises:
        CaseError: a number below 1.
    """

    commitments: int | None
    sub_keys: int
    suspects: int = 1
    alignments: int = 1

    def __post_init__(self) -> None:
        counts = (self.commitments or 1, self.sub_keys, self.suspects, self.alignments)
        if min(counts) < 1 or self.commitments == 0:
            raise CaseError(f"numbers of trials {counts}; each must be at least 1")

    def check_sub_keys(self, count: int) -> None:
        """Refuse to count fewer sub-keys than a claim has: its owner may show the luckiest."""
        if self.sub_keys < count:
            raise CaseError(f"{self.sub_keys} sub-keys counted, the claim has {count}; count all")

    @property
    def logged(self) -> bool:
        """Whether the commitment is in a log."""
        return self.commitments is not None

    @property
    def threshold(self) -> float:
        """The smallest T that is believed."""
        tries = self.sub_keys * self.suspects * self.alignments
        if self.commitments is None:
            return math.sqrt(UNLOGGED_STATISTIC**2 + 2 * math.log(tries))
        return statistic_of(LOGGED_BITS + math.log2(tries * self.commitments))

    @property
    def bits(self) -> float:
        """The smallest -log2 p that is believed, whatever p is the bound of."""
        return self.threshold**2 / 2 / _LN2


def statistic_of(bits: float) -> float:
    """T whose bound exp(-T^2 / 2) is 2^-bits."""
    return math.sqrt(2 * _LN2 * bits)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What responses and bits say. ``matches`` is how many signs of b and s agree, of ``size``."""

    statistic: float
    matches: int
    size: int

    @classmethod
    def of(cls, responses: NDArray[np.float64], bits: NDArray[np.float64]) -> Evidence:
        """
        Args:
            responses: s, finite float64, shape (N,); all 0 gives T = 0.
            bits: b, +1 and -1, shape (N,).
        """
        size = len(bits)
        largest = float(np.abs(responses).max(initial=0.0))
        if largest == 0.0:
            return cls(0.0, 0, size)
        scaled = responses / largest  # no overflow in the squares
        statistic = float(bits @ scaled) / float(np.linalg.norm(scaled))
        return cls(statistic, int(np.count_nonzero(bits * scaled > 0)), size)

    @property
    def log2_p(self) -> float:
        """log2 of the bound exp(-T^2 / 2); 0 for T <= 0."""
        return -(max(self.statistic, 0.0) ** 2) / 2 / _LN2

    @property
    def log2_p_matches(self) -> float:
        """log2 of P(Binomial(N, 1/2) >= matches), exact up to the rounding of the logarithm."""
        return log2_binomial_tail(self.matches, self.size, classes=2)


def log2_binomial_tail(hits: int, size: int, *, classes: int) -> float:
    """log2 of P(Binomial(size, 1/classes) >= hits), summed in exact integers; -inf above size."""
    first = max(hits, 0)
    if first > size:
        return -math.inf
    others = classes - 1
    term = total = math.comb(size, first) * others ** (size - first)
    for k in range(first, size):
        term = term * (size - k) // ((k + 1) * others)
        total += term
    return log2_of(total) - size * math.log2(classes)


def log2_of(number: int) -> float:
    """log2 of a positive integer of any length."""
    shift = max(number.bit_length() - 64, 0)
    return math.log2(number >> shift) + shift
