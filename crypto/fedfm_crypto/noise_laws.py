"""The laws behind discrete noise: exact weights, and fast exponents with a known error.

A law is unimodal and log-concave on the integers. Positions are offsets from its mode, so that a
Poisson law of mean 2^79 needs no integer beyond 64 bits. Weights are relative to the mode and come
from ``decimal``, whose ln and exp are correctly rounded, with 90 digits; whoever calls has set the
context (:data:`DIGITS`).

Sources: Canonne, Kamath and Steinke 2004.00010 for the discrete Gaussian; Stirling's series with
the enveloping property (the error is below the first omitted term) for factorials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIGITS", "GaussianLaw", "Law", "PoissonLaw", "as_decimal"]

DIGITS = Context(prec=90)
"""Context of all weights. Logarithms reach 10^26, so 64 digits are left behind the point: the
relative error of any weight is below 2^-190."""

Cells = NDArray[np.intp]
Floats = NDArray[np.float64]
Exponent = Callable[[Cells, Floats], Floats]

# B_2j / (2j (2j-1)), j = 1..8. The first omitted term at the smallest n used, 3000, is below
# 10^-60.
_STIRLING = tuple(
    Fraction(*pair)
    for pair in (
        (1, 12),
        (-1, 360),
        (1, 1260),
        (-1, 1680),
        (1, 1188),
        (-691, 360360),
        (1, 156),
        (-3617, 122400),
    )
)


def as_decimal(value: Fraction) -> Decimal:
    """Return ``value`` in the current context."""
    return Decimal(value.numerator) / Decimal(value.denominator)


class Law(Protocol):
    """What :mod:`fedfm_crypto.block_sampler` needs of a distribution."""

    @property
    def variance(self) -> Fraction:
        """The parameter that sets the width: sigma^2 or the mean."""

    def weights(self, start: int, stride: int) -> Iterator[Decimal]:
        """Yield the weights at start, start + stride, ..., going away from the mode."""

    def ratio(self, start: int, position: int) -> Decimal:
        """Return weight(position) / weight(start); needed for variances of at least 4096."""

    def exponent(self, starts: Sequence[int]) -> Exponent:
        """Return (cells, delta) -> -ln ratio(starts[cells], starts[cells] + delta), as doubles.

        For blocks of at most 1/32 of the standard deviation, which itself is at least 64, and
        positions within 14.5 standard deviations: the error is below 2^-42 (absolute).
        """


@dataclass(frozen=True, slots=True)
class GaussianLaw:
    """The discrete Gaussian N_Z(0, sigma^2): weight exp(-x^2 / (2 sigma^2)) on the integers."""

    variance: Fraction

    def weights(self, start: int, stride: int) -> Iterator[Decimal]:
        """See :class:`Law`."""
        scale = -as_decimal(1 / (2 * self.variance))
        position = start
        while True:
            yield (scale * (position * position)).exp()
            position += stride

    def ratio(self, start: int, position: int) -> Decimal:
        """See :class:`Law`."""
        squares = start * start - position * position
        return as_decimal(Fraction(squares) / (2 * self.variance)).exp()

    def exponent(self, starts: Sequence[int]) -> Exponent:
        """See :class:`Law`: delta (2 y + delta) / (2 sigma^2), at most 0.5.

        Four rounded operations on terms of one sign, hence an error below 2^-50.
        """
        slopes = np.array([float(start / self.variance) for start in starts])
        curvature = float(1 / (2 * self.variance))

        def evaluate(cells: Cells, delta: Floats) -> Floats:
            exponents: Floats = delta * curvature
            exponents += slopes[cells]
            exponents *= delta
            return exponents

        return evaluate


@dataclass(frozen=True, slots=True)
class PoissonLaw:
    """The Poisson law; position 0 is n = floor(mean)."""

    variance: Fraction

    @property
    def mode(self) -> int:
        """floor(mean): no other n has a larger weight."""
        return self.variance.numerator // self.variance.denominator

    def weights(self, start: int, stride: int) -> Iterator[Decimal]:
        """See :class:`Law`. Single steps by recurrence, longer ones (large means) by Stirling."""
        if abs(stride) > 1:
            position = start
            while True:
                yield self.ratio(0, position)
                position += stride
        mean = as_decimal(self.variance)
        weight, n = Decimal(1), self.mode
        if stride > 0:
            while True:
                yield weight
                n += 1
                weight = weight * mean / n
        while True:  # from start = -1; becomes zero below n = 0 and stays so
            weight = weight * n / mean
            n -= 1
            yield weight

    def ratio(self, start: int, position: int) -> Decimal:
        """See :class:`Law`: mean^(x - y) y! / x!."""
        x, y = self.mode + position, self.mode + start
        powers = as_decimal(self.variance).ln() * (position - start)
        return (powers + _ln_factorial(y) - _ln_factorial(x)).exp()

    def exponent(self, starts: Sequence[int]) -> Exponent:
        """See :class:`Law`.

        With w = delta / y, -ln ratio = delta ln(y / mean) + y h(w) + ln(1 + w) / 2 + s(x) - s(y),
        where h(w) = (1 + w) ln(1 + w) - w and s(n) = 1 / (12 n) - ... (Stirling). A block is at
        most 1/32 of the standard deviation and y at least 0.77 of the mean, so |w| < 2^-10.6 and
        delta w < 2^-9.6; what the series below leave out is less than 2^-44 in all, rounding less
        than 2^-50.
        """
        mean = as_decimal(self.variance)
        tops = [self.mode + start for start in starts]
        slopes = np.array([float((n / mean).ln()) if n else 0.0 for n in map(Decimal, tops)])
        inverses = np.array([1.0 / n if n else 0.0 for n in tops])

        def evaluate(cells: Cells, delta: Floats) -> Floats:
            inverse = inverses[cells]
            w = delta * inverse
            divergence = w * (0.5 - w * (1.0 / 6.0 - w * (1.0 / 12.0)))
            exponents: Floats = delta * (slopes[cells] + divergence)
            exponents += w * (0.5 - w * (0.25 - w * (1.0 / 6.0)))
            exponents -= w * inverse / (12.0 * (1.0 + w))
            return exponents

        return evaluate


def _ln_factorial(n: int) -> Decimal:
    """Return ln n! - ln(2 pi) / 2 for n of at least 3000."""
    x = Decimal(n)
    inverse = 1 / x
    square = inverse * inverse
    series, power = Decimal(0), inverse
    for coefficient in _STIRLING:
        series += as_decimal(coefficient) * power
        power *= square
    return (x + Decimal("0.5")) * x.ln() - x + series
