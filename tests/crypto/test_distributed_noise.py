"""Noise in shares: what a sum carries, who counts, when a lane may overflow."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedfm_crypto.discrete_noise import Mechanism, gaussian_distance, skellam_distance
from fedfm_crypto.distributed_noise import OVERFLOW_BITS, NoiseShares, convolution_gap
from fedfm_crypto.errors import CapacityError, CryptoError
from fedfm_crypto.lanes import add_lanes, from_lanes
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sensitivity import sum_sensitivity
from tests.crypto.noise_oracles import CAUGHT_P, LEAST_P, discrete_gaussian_cells, fit

BOTH = pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
COUNT = 150_000


def shares(mechanism: Mechanism, scale: int = 1 << 10, min_honest: int = 7) -> NoiseShares:
    return NoiseShares(mechanism, 1.25, 0.5, scale, min_honest)


def opened(noise: NoiseShares, clients: int, lane_bits: int = 32) -> np.ndarray:
    """Noise on the opened sum, through lanes, of values that are all zero."""
    total = np.zeros(COUNT, dtype=np.uint32)
    for client in range(clients):
        words = noise.add(np.zeros(COUNT, dtype=np.int64), SeededRandom(client), lane_bits)
        add_lanes(total, words, lane_bits)
    return from_lanes(total, lane_bits)


@BOTH
@pytest.mark.parametrize(("accepted", "colluding"), [(8, 1), (10, 3), (12, 0)])
def test_the_opened_sum_carries_the_claimed_noise(
    mechanism: Mechanism, accepted: int, colluding: int
) -> None:
    """Full attendance and dropouts: honest shares within 2 % of what is recorded."""
    noise = shares(mechanism)
    honest = noise.honest(accepted, colluding)
    found = opened(noise, honest)
    claimed = noise.carried(honest)
    assert found.var() == pytest.approx(claimed**2, rel=0.02)
    assert fit(found, claimed, discrete_gaussian_cells) > LEAST_P
    # Never less than z C s, and exactly that for the least number.
    assert claimed >= 1.25 * 0.5 * (1 << 10)
    assert noise.carried(7) == pytest.approx(640.0, rel=1e-15)


@BOTH
def test_planted_faults_are_caught(mechanism: Mechanism) -> None:
    noise = shares(mechanism)
    claimed = noise.carried(7)
    for fault in (opened(noise, 6), np.where(np.arange(COUNT) % 10, opened(noise, 7), 0)):
        assert fault.var() != pytest.approx(claimed**2, rel=0.02)
        assert fit(fault, claimed, discrete_gaussian_cells) < CAUGHT_P
    # Counting all accepted clients, not only the honest: what the ledger must not do.
    assert opened(noise, 7).var() != pytest.approx(noise.carried(8) ** 2, rel=0.02)


def test_the_design_s_epsilons_with_survivors() -> None:
    """PRIVACY.md: calibrated for 10 at z = 4, T = 20; 6.66 with 7 survivors, 8.09 with 5."""
    for survivors, epsilon in ((10, 5.378), (7, 6.66), (5, 8.09)):
        ratio = 4.0 * math.sqrt(survivors / 10)
        rho = 20 / (2 * ratio**2)
        found = min(
            order * rho + math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1)
            for order in range(2, 129)
        )
        assert found == pytest.approx(epsilon, abs=0.005)
        noise = NoiseShares("discrete-gaussian", 4.0, 1.0, 1 << 16, 10)
        assert noise.multiplier(survivors, float(1 << 16)) == pytest.approx(ratio, rel=1e-12)


@given(
    multiplier=st.floats(0.01, 100),
    clip=st.floats(1e-3, 100),
    scale=st.integers(1, 1 << 20),
    min_honest=st.integers(1, 1000),
)
def test_shares_of_the_least_number_never_carry_less(
    multiplier: float, clip: float, scale: int, min_honest: int
) -> None:
    whole = (Fraction(multiplier) * Fraction(clip) * scale) ** 2
    for mechanism in ("discrete-gaussian", "skellam"):
        noise = NoiseShares(mechanism, multiplier, clip, scale, min_honest)
        parameter = Fraction(noise.parameter)
        share = parameter if mechanism == "skellam" else parameter**2
        assert whole <= min_honest * share < whole * (1 + Fraction(1, 10**14))
        assert noise.carried(min_honest) == pytest.approx(multiplier * clip * scale, rel=1e-12)
    sensitivity = sum_sensitivity(clip, scale, 1000)
    assert noise.multiplier(min_honest, sensitivity) < multiplier * (1 + 1e-12)


def test_only_honest_shares_count() -> None:
    noise = shares("skellam", min_honest=4)
    assert noise.honest(5, 1) == 4
    assert noise.honest(9, 2) == 7
    for accepted, colluding in ((4, 1), (5, 2), (0, 0), (5, -1)):
        with pytest.raises(CryptoError, match="do not open this sum"):
            noise.honest(accepted, colluding)


@BOTH
def test_noise_wraps_in_its_lane_and_is_never_refused(mechanism: Mechanism) -> None:
    """A refusal or a clip after noise would depend on it."""
    noise = NoiseShares(mechanism, 100.0, 10.0, 1 << 14, 1)
    edge = np.full(2000, (1 << 23) - 1, dtype=np.int64)
    words = noise.add(edge, SeededRandom(1), 24)
    assert int(words.max()) < 1 << 24
    exact = edge + noise.draw(2000, SeededRandom(1))
    np.testing.assert_array_equal(words, (exact % (1 << 24)).astype(np.uint32))
    assert (np.abs(exact) >= 1 << 23).any()
    wrongs: list[Any] = [np.zeros(3, dtype=np.int32), np.zeros((2, 2), dtype=np.int64)]
    for wrong in wrongs:
        with pytest.raises(CryptoError, match="1-D int64"):
            noise.add(wrong, SeededRandom(1), 24)
    with pytest.raises(CapacityError, match="16 bits"):
        noise.add(edge, SeededRandom(1), 16)


@BOTH
@pytest.mark.parametrize("ratio", [2.0, 4.0, 6.0, 9.0])
def test_the_overflow_bound_holds_and_is_not_far_off(mechanism: Mechanism, ratio: float) -> None:
    """Against the normal tail at ``ratio`` deviations, which both laws have at this width."""
    scale = round((1 << 23) / (ratio * 1.25 * 0.5 * math.sqrt(10 / 7)))
    noise = shares(mechanism, scale=scale)
    bits = noise.overflow_bits(10, 0, 1000, 24)
    deviations = (1 << 23) / noise.carried(10)
    truth = -math.log2(2 * 1000 * stats.norm.sf(deviations))
    assert deviations == pytest.approx(ratio, rel=1e-3)
    assert bits <= max(truth, 0.0) + 0.01
    assert bits >= truth - 6


def test_the_skellam_bound_is_right_where_its_tail_is_not_normal() -> None:
    """Variance 1, room 2^23: the Poisson-like tail is far heavier than a normal one."""
    noise = NoiseShares("skellam", 1.0, 1.0, 1, 1)
    room = 1 << 23
    # P(X >= a) is at least P(first Poisson = a, second = 0), mean 1/2 each.
    heavier = -(room * math.log2(0.5) - math.lgamma(room + 1) / math.log(2) - 1 / math.log(2))
    assert noise.overflow_bits(1, 0, 1, 24) < heavier
    assert noise.overflow_bits(1, 0, 1, 24) == pytest.approx(heavier, rel=1e-4)


@BOTH
def test_capacity_counts_values_and_noise(mechanism: Mechanism) -> None:
    noise = shares(mechanism, scale=1 << 20)
    magnitude = 1 << 19
    noise.check_capacity(10, magnitude, 1 << 20, 32)
    with pytest.raises(CapacityError, match="wider lanes"):
        noise.check_capacity(10, magnitude, 1 << 20, 24)
    wide = noise.overflow_bits(10, magnitude, 1 << 20, 32)
    assert wide > OVERFLOW_BITS
    assert noise.overflow_bits(11, magnitude, 1 << 20, 32) < wide
    assert noise.overflow_bits(10, magnitude, 1 << 21, 32) == pytest.approx(wide - 1)
    assert noise.overflow_bits(10, 1 << 28, 1, 32) == 0.0
    for clients, size, dimension in ((0, 1, 1), (1, -1, 1), (1, 1, 0)):
        with pytest.raises(CapacityError, match="expected at least"):
            noise.overflow_bits(clients, size, dimension, 32)
    with pytest.raises(CapacityError, match="lanes of 16 bits"):
        noise.overflow_bits(1, 1, 1, 16)


def test_the_gap_of_a_sum_of_discrete_gaussians() -> None:
    assert convolution_gap(0.7, 1) == 0.0
    first = 10 * math.exp(-(math.pi**2) * 0.7**2)
    assert convolution_gap(0.7, 2) == pytest.approx(first)
    assert convolution_gap(3.0, 1000) < 2.0**-120
    # The gap it bounds, for two shares, by convolution: largest difference of log-probabilities
    # from the discrete Gaussian of twice the variance.
    for sigma in (0.5, 0.7, 1.0):
        points = np.arange(-40, 41)
        one = np.exp(-(points**2) / (2 * sigma**2))
        both = np.convolve(one / one.sum(), one / one.sum())[30:131]
        around = np.arange(-50, 51)
        single = np.exp(-(around**2) / (4 * sigma**2))
        single /= single.sum()
        near = np.abs(around) <= 6 * sigma
        gap = float(np.abs(np.log(both[near] / single[near])).max())
        assert 0 < gap < convolution_gap(sigma, 2)
    for sigma, count in ((0.4, 2), (math.nan, 2), (1.0, 0)):
        with pytest.raises(CryptoError, match="raise the scale or use skellam"):
            convolution_gap(sigma, count)


def test_distances_are_those_of_the_samplers() -> None:
    gaussian, skellam = shares("discrete-gaussian"), shares("skellam")
    assert gaussian.statistical_distance(7, 99) == 7 * gaussian_distance(gaussian.parameter, 99)
    assert skellam.statistical_distance(7, 99) == 7 * skellam_distance(skellam.parameter, 99)
    assert skellam.statistical_distance(1000, 1 << 30) < 2.0**-70


@pytest.mark.parametrize(
    "arguments",
    [
        ("laplace", 1.0, 1.0, 1, 1),
        ("skellam", 0.0, 1.0, 1, 1),
        ("skellam", math.inf, 1.0, 1, 1),
        ("skellam", 1.0, -1.0, 1, 1),
        ("skellam", 1.0, math.nan, 1, 1),
        ("skellam", 1.0, 1.0, 0, 1),
        ("skellam", 1.0, 1.0, 1, 0),
    ],
)
def test_bad_parameters_are_refused(arguments: tuple[Mechanism, float, float, int, int]) -> None:
    with pytest.raises(CryptoError, match="expected"):
        NoiseShares(*arguments)
