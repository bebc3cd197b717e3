"""Discrete Gaussian and Skellam noise from a CSPRNG, within a computed distance of the ideal law.

Nothing is drawn as a float and put on a grid: samples are integers from the start, and the
parameter given (a double) is taken as the exact number that it is.
:mod:`fedfm_crypto.block_sampler` says how a sample is made and proves its distance: at most 2^-112
a sample for every parameter allowed, computed by :func:`gaussian_distance` and
:func:`skellam_distance`. The stream is AES-256-CTR under a key drawn from the source given, so
"random bits" there means bits of that stream: a computational assumption, like all else that rests
on AES.

**Charging it to delta.** If the ideal mechanism is (epsilon, delta)-DP and what runs is within
eta of it on every input, then what runs is (epsilon, delta + (1 + e^epsilon) eta)-DP
(:func:`delta_charge`). Distances add up: over the coordinates of a vector, the clients whose noise
is counted, and the releases of a training run.

Time depends on the samples (rejections, searches), so this is not constant-time; it leaks about
the noise what somebody learns who can time one call on the machine that draws it.

Sources: Canonne, Kamath and Steinke 2004.00010 (discrete Gaussian for differential privacy);
Agarwal, Kairouz and Liu 2110.04995 (Skellam).
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.block_sampler import BlockTable, WordStream, build_table
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.noise_laws import GaussianLaw, PoissonLaw
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = [
    "LARGEST_SIGMA",
    "LEAST_SIGMA",
    "Mechanism",
    "delta_charge",
    "discrete_gaussian",
    "gaussian_distance",
    "skellam",
    "skellam_distance",
]

Mechanism = Literal["discrete-gaussian", "skellam"]
"""What a charter may name as distributed noise."""

LEAST_SIGMA = 2.0**-10
"""Below, every sample is zero: surely a mistake in the units."""
LARGEST_SIGMA = 2.0**40
"""Up to here, samples and their differences fit 64 bits with room for sums."""

# Samples of the second Poisson variable at a time, so that a difference needs no second vector.
_PIECE = 1 << 15


def discrete_gaussian(sigma: float, size: int, random: RandomSource) -> NDArray[np.int64]:
    """Return samples of N_Z(0, sigma^2): P(x) proportional to exp(-x^2 / (2 sigma^2)).

    Args:
        sigma: the parameter, in integer steps, within :data:`LEAST_SIGMA` to
            :data:`LARGEST_SIGMA`. The standard deviation is below it, by less than 2e-7 of it
            from sigma = 1 on.
        size: number of samples.
        random: source of the 32-byte stream key.

    Returns:
        int64[size], independent, at most 14.5 sigma (or 14.5, if sigma is below 1) in magnitude.

    Raises:
        CryptoError: a parameter is out of range or no finite number.
    """
    _check_size(size)
    return _gaussian_table(_square(sigma)).sample(size, _stream(random))


def skellam(variance: float, size: int, random: RandomSource) -> NDArray[np.int64]:
    """Return samples of the symmetric Skellam law: the difference of two Poisson variables.

    Args:
        variance: of the difference; each Poisson variable has half of it as its mean. Within the
            squares of :data:`LEAST_SIGMA` and :data:`LARGEST_SIGMA`.
        size: number of samples.
        random: source of the 32-byte stream key.

    Returns:
        int64[size], independent. The sum of samples with variances v and w is Skellam with
        variance v + w, exactly.

    Raises:
        CryptoError: a parameter is out of range or no finite number.
    """
    _check_size(size)
    table = _poisson_table(_half(variance))
    stream = _stream(random)
    samples = np.empty(size, dtype=np.int64)
    for start in range(0, size, _PIECE):
        piece = samples[start : start + _PIECE]
        # Both are offsets from the same mode, which the difference cancels.
        np.subtract(table.sample(piece.size, stream), table.sample(piece.size, stream), out=piece)
    return samples


def gaussian_distance(sigma: float, size: int = 1) -> float:
    """Return an upper bound on the statistical distance of :func:`discrete_gaussian` to its law.

    Args:
        sigma, size: as there; ``size`` samples are at most ``size`` times as far as one.
    """
    _check_size(size)
    return size * _gaussian_table(_square(sigma)).distance


def skellam_distance(variance: float, size: int = 1) -> float:
    """Return an upper bound on the statistical distance of :func:`skellam` to its law.

    Twice that of one Poisson variable, for each sample.
    """
    _check_size(size)
    return 2 * size * _poisson_table(_half(variance)).distance


def delta_charge(distance: float, epsilon: float) -> float:
    """Return (1 + e^epsilon) distance: what to add to delta for noise that is not the ideal.

    Args:
        distance: total over all samples of all releases that epsilon covers.
        epsilon: of the ideal mechanism.

    Raises:
        CryptoError: an argument is negative or no finite number.
    """
    if not (math.isfinite(distance) and math.isfinite(epsilon) and min(distance, epsilon) >= 0):
        raise CryptoError(
            f"distance {distance}, epsilon {epsilon}: expected finite numbers of 0 or more"
        )
    return (1 + math.exp(epsilon)) * distance


@lru_cache(maxsize=16)
def _gaussian_table(variance: Fraction) -> BlockTable:
    return build_table(GaussianLaw(variance))


@lru_cache(maxsize=16)
def _poisson_table(mean: Fraction) -> BlockTable:
    return build_table(PoissonLaw(mean))


def _stream(random: RandomSource) -> WordStream:
    return WordStream(derive_key(Label.NOISE, Secret(draw(random, 32))))


def _square(sigma: float) -> Fraction:
    if not LEAST_SIGMA <= sigma <= LARGEST_SIGMA:  # also refuses NaN
        raise CryptoError(
            f"sigma {sigma}, expected {LEAST_SIGMA} to {LARGEST_SIGMA:.0f} integer steps; change "
            "the quantisation scale"
        )
    return Fraction(sigma) ** 2


def _half(variance: float) -> Fraction:
    if not LEAST_SIGMA**2 <= variance <= LARGEST_SIGMA**2:
        raise CryptoError(
            f"variance {variance}, expected {LEAST_SIGMA**2} to {LARGEST_SIGMA**2:.0f} squared "
            "integer steps; change the quantisation scale"
        )
    return Fraction(variance) / 2


def _check_size(size: int) -> None:
    if size < 0:
        raise CryptoError(f"{size} noise samples, expected 0 or more")
