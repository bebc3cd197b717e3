"""Sensitivity on the grid: bounds against their formulas, neighbours, exact norms."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedfm_crypto.errors import CapacityError, CryptoError, NonFiniteError, SensitivityError
from fedfm_crypto.quantise import stochastic_round
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sensitivity import (
    check_norm,
    round_within,
    squared_norm,
    sum_sensitivity,
    vector_sensitivity,
)

CLIPS = st.floats(1e-3, 1e3)
SCALES = st.integers(1, 1 << 20)
DIMENSIONS = st.integers(1, 1 << 24)


def test_the_design_s_figures_for_a_sum() -> None:
    """PRIVACY.md, "Distributed noise": x1.042 at s = 2^12 and x1.003 at 2^16 for d = 3e4."""
    assert sum_sensitivity(1.0, 1 << 12, 30_000) / (1 << 12) == pytest.approx(1.042, abs=5e-4)
    assert sum_sensitivity(1.0, 1 << 16, 30_000) / (1 << 16) == pytest.approx(1.003, abs=5e-4)


@pytest.mark.parametrize(
    ("scale", "epsilon"),
    [(1 << 8, 6.855), (1 << 10, 5.479), (1 << 12, 5.385), (1 << 16, 5.3778)],
)
def test_the_design_s_epsilons_for_one_vector(scale: int, epsilon: float) -> None:
    """PRIVACY.md: d = 131072, z = 4, T = 20, delta = 1e-5, q = 1, with integer RDP orders.

    The whole noise is z C s, so what moves epsilon is the sensitivity alone; Renyi divergence of
    the discrete Gaussian alpha D^2 / (2 sigma^2) and the conversion of Canonne, Kamath and Steinke
    2004.00010 (proposition 12).
    """
    growth = vector_sensitivity(1.0, scale, 131_072) / scale
    rho = 20 * growth**2 / (2 * 4.0**2)
    found = min(
        order * rho + math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1)
        for order in range(2, 129)
    )
    digits = 4 if epsilon == 5.3778 else 3
    assert round(found, digits) == pytest.approx(epsilon, abs=1.1 * 10**-digits / 2)


@given(clip=CLIPS, scale=SCALES, dimension=DIMENSIONS, beta=st.floats(1e-12, 0.999))
def test_bounds_equal_their_formulas_and_are_rounded_upwards(
    clip: float, scale: int, dimension: int, beta: float
) -> None:
    whole = sum_sensitivity(clip, scale, dimension)
    exact = scale * Fraction(clip)
    assert whole == pytest.approx(scale * clip + math.sqrt(dimension), rel=1e-14)
    assert (Fraction(whole) - exact) ** 2 >= dimension
    assert (Fraction(math.nextafter(whole, 0)) - exact) ** 2 < dimension
    one = vector_sensitivity(clip, scale, dimension, beta)
    squares = (scale * clip) ** 2 + dimension / 4
    squares += math.sqrt(2 * math.log(1 / beta)) * (scale * clip + math.sqrt(dimension) / 2)
    assert one == pytest.approx(
        min(scale * clip + math.sqrt(dimension), math.sqrt(squares)), rel=1e-12
    )
    assert one <= whole


@given(
    values=arrays(np.float64, st.integers(1, 300), elements=st.floats(-1, 1)),
    shift=arrays(np.float64, 300, elements=st.floats(-1, 1)),
    clip=st.floats(0.01, 10),
    scale=st.integers(1, 1 << 16),
    seed=st.integers(0, 1000),
)
def test_neighbouring_sums_with_the_same_dither_stay_within_the_bound(
    values: np.ndarray, shift: np.ndarray, clip: float, scale: int, seed: int
) -> None:
    added = shift[: values.size]
    length = float(np.linalg.norm(added))
    if length > 0:
        # Half a unit of rounding is left for the float sum itself.
        added = added * (clip * (1 - 1e-12) / length)
    one = stochastic_round(values, scale, SeededRandom(seed))
    other = stochastic_round(values + added, scale, SeededRandom(seed))
    check_norm(other - one, sum_sensitivity(clip, scale, values.size))


def test_the_sum_bound_cannot_be_much_lower() -> None:
    """A neighbour that crosses a boundary everywhere: sC alone would be wrong."""
    dimension, clip = 10_000, 1.0
    values = np.zeros(dimension)
    other = values + clip / math.sqrt(dimension)
    rounded = stochastic_round(other, 1, SeededRandom(1))
    assert math.sqrt(squared_norm(rounded)) > 5 * clip
    with pytest.raises(SensitivityError):
        check_norm(rounded, clip)


@given(
    values=arrays(np.float64, st.integers(1, 400), elements=st.floats(-1, 1)),
    clip=st.floats(0.01, 10),
    scale=st.integers(1, 1 << 20),
    seed=st.integers(0, 1000),
)
def test_round_within_keeps_the_bound_and_each_value_within_a_step(
    values: np.ndarray, clip: float, scale: int, seed: int
) -> None:
    length = float(np.linalg.norm(values))
    clipped = values * min(1.0, clip / length) if length > 0 else values
    bound = vector_sensitivity(clip, scale, values.size)
    rounded = round_within(clipped, scale, bound, SeededRandom(seed))
    exact = sum(int(value) ** 2 for value in rounded)
    assert exact <= Fraction(bound) ** 2
    assert float(np.abs(rounded - clipped * scale).max()) < 1 + 1e-9


def test_rounding_is_repeated_about_as_often_as_beta_says() -> None:
    """The worst case, all coordinates at one half: beta bounds the chance of another attempt."""
    values = np.full(1000, 0.5)
    clip = float(np.linalg.norm(values))
    attempts = 0

    class Counting(SeededRandom):
        def __call__(self, count: int) -> bytes:
            nonlocal attempts
            attempts += 1
            return super().__call__(count)

    source = Counting(3)
    bound = vector_sensitivity(clip, 1, 1000)
    for _ in range(300):
        round_within(values, 1, bound, source)
    assert 300 <= attempts <= 300 / (1 - math.exp(-0.5))
    # Half of the vectors would be longer than their expected square.
    once = [squared_norm(stochastic_round(values, 1, source)) for _ in range(100)]
    assert max(once) > 500


def test_a_vector_beyond_its_clip_is_refused_without_naming_its_norm() -> None:
    values = np.full(100, 3.0)
    with pytest.raises(SensitivityError, match="clip it") as refusal:
        round_within(values, 1, 20.0, SeededRandom(1))
    assert "30" not in str(refusal.value)
    with pytest.raises(NonFiniteError):
        round_within(np.array([math.nan]), 1, 20.0, SeededRandom(1))
    with pytest.raises(CapacityError):
        round_within(np.array([2.0**60]), 1, 20.0, SeededRandom(1))


@given(values=arrays(np.int64, st.integers(0, 60), elements=st.integers(-(1 << 63), (1 << 63) - 1)))
def test_squared_norms_are_exact(values: np.ndarray) -> None:
    assert squared_norm(values) == sum(int(value) ** 2 for value in values)


@pytest.mark.parametrize("extreme", [(1 << 21) - 1, (1 << 42) - 1, (1 << 63) - 1, -(1 << 63)])
def test_no_partial_sum_overflows(extreme: int) -> None:
    values = np.full((1 << 18) + 5, extreme, dtype=np.int64)
    assert squared_norm(values) == values.size * extreme**2


def test_the_norm_check_is_exact_at_the_bound() -> None:
    values = np.array([3, 4], dtype=np.int64)
    check_norm(values, 5.0)
    with pytest.raises(SensitivityError, match="longer than"):
        check_norm(values, math.nextafter(5.0, 0))
    # 2^106 and 2^106 + 1: the same double, another integer.
    check_norm(np.array([1 << 53, 0], dtype=np.int64), 2.0**53)
    with pytest.raises(SensitivityError):
        check_norm(np.array([1 << 53, 1], dtype=np.int64), 2.0**53)


def test_bad_arguments_are_refused() -> None:
    for clip, scale, dimension in ((0.0, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1), (1.0, 0, 1)):
        with pytest.raises(SensitivityError):
            sum_sensitivity(clip, scale, dimension)
    with pytest.raises(SensitivityError):
        vector_sensitivity(1.0, 1, 0)
    for beta in (0.0, 1.0, math.nan):
        with pytest.raises(SensitivityError, match="beta"):
            vector_sensitivity(1.0, 1, 1, beta)
    for bound in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(SensitivityError, match="bound"):
            check_norm(np.zeros(1, dtype=np.int64), bound)
    wrongs: list[Any] = [np.zeros((2, 2), dtype=np.int64), np.zeros(2, dtype=np.int32)]
    for array in wrongs:
        with pytest.raises(CryptoError, match="1-D int64"):
            squared_norm(array)
