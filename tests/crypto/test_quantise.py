"""The quantiser: exact against rational arithmetic, unbiased, exact sums at the capacity bound."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CryptoError, NonFiniteError
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.lanes import add_lanes, from_lanes
from fedfm_crypto.quantise import Quantiser, stochastic_round
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret

CHUNK = 1 << 15


def uniform_draws(seed: int, count: int) -> list[Fraction]:
    """The u = 1 - (k + 1/2) / 2^32 that a call with SeededRandom(seed) uses, computed apart."""
    key = derive_key(Label.ROUNDING, Secret(SeededRandom(seed)(32))).reveal()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * count))
    return [
        1 - Fraction(2 * int.from_bytes(stream[4 * i : 4 * i + 4], "little") + 1, 2**33)
        for i in range(count)
    ]


@given(
    values=st.lists(st.floats(-1000, 1000), min_size=1, max_size=50),
    scale_bits=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
def test_rounding_is_floor_of_scaled_value_plus_u_exactly(
    values: list[float], scale_bits: int, seed: int
) -> None:
    """With a power of two as scale the product is exact, so rational arithmetic must agree."""
    scale = 1 << scale_bits
    rounded = stochastic_round(np.array(values), scale, SeededRandom(seed))
    for value, u, result in zip(values, uniform_draws(seed, len(values)), rounded, strict=True):
        scaled = Fraction(value) * scale
        fraction = Fraction(float(scaled - math.floor(scaled)))  # one rounding, for tiny negatives
        assert int(result) == math.floor(scaled) + (fraction + u >= 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_right_across_chunk_borders(dtype: type) -> None:
    count = 2 * CHUNK + 5
    values: NDArray[Any] = np.random.default_rng(3).normal(0, 1, count).astype(dtype)
    rounded = stochastic_round(values, 1 << 10, SeededRandom(5))
    draws = np.array([float(u) for u in uniform_draws(5, count)])
    np.testing.assert_array_equal(rounded, np.floor(values.astype(np.float64) * 1024 + draws))


@pytest.mark.parametrize("fraction", [0.0, 2.0**-20, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("whole", [-3.0, 0.0, 2.0])
def test_rounding_is_unbiased(fraction: float, whole: float) -> None:
    count = 200_000
    rounded = stochastic_round(np.full(count, whole + fraction), 1, SeededRandom(11))
    assert set(rounded.tolist()) <= {int(whole), int(whole) + 1}
    deviation = float(rounded.mean()) - (whole + fraction)
    sigma = math.sqrt(fraction * (1 - fraction) / count)
    assert abs(deviation) <= 5 * sigma + 2.0**-33


class FixedBits:
    """Stands in for the keystream: every draw k is the same."""

    k = 0

    def __init__(self, key: Secret, largest: int) -> None:
        self.buffer = np.frombuffer(self.k.to_bytes(4, "little") * (largest // 4), np.uint8)

    def fill(self, size: int) -> None:
        assert size <= self.buffer.size


@pytest.mark.parametrize(
    ("k", "fraction", "goes_up"),
    [
        (0, 0.0, False),  # an integer never moves
        (0, 2.0**-34, False),
        (0, 2.0**-33, True),  # the first midpoint: 1 - u = 2^-33
        (2**31, 0.5, False),
        (2**31 - 1, 0.5, True),
        (2**32 - 1, 1 - 2.0**-32, False),
        (2**32 - 1, 1 - 2.0**-33, True),
    ],
)
def test_the_draws_are_the_midpoints_of_a_grid(
    k: int, fraction: float, goes_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Midpoints keep the bias within 2^-33 of a step on both sides."""
    monkeypatch.setattr(FixedBits, "k", k)
    monkeypatch.setattr("fedfm_crypto.quantise.Keystream", FixedBits)
    rounded = stochastic_round(np.array([3 + fraction, fraction - 4]), 1, SeededRandom(1))
    assert rounded.tolist() == [3 + goes_up, -4 + goes_up]


def test_integers_stay_exact_and_equal_seeds_repeat() -> None:
    values = np.arange(-1000, 1000, dtype=np.float64)
    np.testing.assert_array_equal(stochastic_round(values, 1, SeededRandom(1)), values)
    noisy = values + 0.3
    one, same, other = (stochastic_round(noisy, 1, SeededRandom(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@given(
    values=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40),
    clip=st.floats(0.01, 2),
    scale=st.integers(1, 1 << 20),
    lane_bits=st.sampled_from([24, 32]),
)
def test_quantise_clips_and_stays_within_the_bound(
    values: list[float], clip: float, scale: int, lane_bits: int
) -> None:
    quantiser = Quantiser(clip, scale, lane_bits)
    array = np.array(values, dtype=np.float32)
    signed = from_lanes(quantiser.quantise(array, SeededRandom(9)), lane_bits)
    assert quantiser.count_clipped(array) == sum(abs(value) > clip for value in values)
    for value, result in zip(values, signed.tolist(), strict=True):
        clipped = Fraction(min(max(value, -clip), clip)) * scale
        assert abs(result) <= math.ceil(Fraction(clip) * scale)
        # One step for rounding, and a double's precision for the product with the scale.
        assert abs(result - clipped) < 1 + Fraction(1, 2**20)
    step = 1 / scale
    words = quantiser.quantise(array, SeededRandom(9))
    error = quantiser.dequantise(words) - np.clip(array.astype(np.float64), -clip, clip)
    assert float(np.abs(error).max()) < step * (1 + 2.0**-20)


# (clip, scale, lane_bits, largest cohort): n (s c + 1) < 2^(lane_bits - 1).
BOUNDS = [
    (1.0, 2**20 - 1, 32, 2047),  # n * 2^20 < 2^31: equality at 2048, which is refused
    (1.0, 2**21 - 1, 24, 3),  # equality at 4
    (0.5, 2**20, 32, 4095),  # 4096 * (2^19 + 1) is just above 2^31
    (1.0, 2**31 - 3, 32, 1),  # 2 * (2^31 - 2) is far above, 1 * (2^31 - 2) just below
    (2.0**-8, 2**8, 24, 2**22 - 1),  # s c = 1: equality at 2^22
    (0.1, 2**16, 24, 1279),  # a clip that is no dyadic rational on paper, but is one as a double
]


@pytest.mark.parametrize(("clip", "scale", "lane_bits", "largest"), BOUNDS)
def test_the_capacity_rule_is_exact_at_its_boundary(
    clip: float, scale: int, lane_bits: int, largest: int
) -> None:
    quantiser = Quantiser(clip, scale, lane_bits)
    per_client = Fraction(clip) * scale + 1
    assert largest * per_client < 2 ** (lane_bits - 1) <= (largest + 1) * per_client
    assert quantiser.largest_cohort() == largest
    quantiser.check_capacity(largest)
    with pytest.raises(CapacityError, match=f"which take {largest};"):
        quantiser.check_capacity(largest + 1)


@pytest.mark.parametrize(("clip", "scale", "lane_bits", "largest"), BOUNDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_are_exact_with_every_client_at_the_clip_bound(
    clip: float, scale: int, lane_bits: int, largest: int, sign: int
) -> None:
    """The largest cohort allowed, each client far beyond the clip: the lane sum is the true sum."""
    quantiser = Quantiser(clip, scale, lane_bits)
    words = quantiser.quantise(np.full(64, sign * 1e30), SeededRandom(4))
    signed = from_lanes(words, lane_bits)
    accumulated = np.zeros(64, dtype=np.uint32)
    for bit in range(largest.bit_length() - 1, -1, -1):  # largest additions, by doubling
        add_lanes(accumulated, accumulated.copy(), lane_bits)
        if largest >> bit & 1:
            add_lanes(accumulated, words, lane_bits)
    np.testing.assert_array_equal(from_lanes(accumulated, lane_bits), largest * signed)
    np.testing.assert_array_equal(
        quantiser.dequantise(accumulated), largest * signed / np.float64(scale)
    )
    assert int(np.abs(signed).max()) <= math.ceil(Fraction(clip) * scale)


def test_a_refused_cohort_really_would_overflow() -> None:
    quantiser = Quantiser(1.0, 2**20 - 1, 32)
    words = quantiser.quantise(np.full(1, 5.0), SeededRandom(4))
    assert int(words[0]) == 2**20 - 1
    clients = 2050  # 2049 would only just fit: the rule keeps one step a client in reserve
    with pytest.raises(CapacityError):
        quantiser.check_capacity(clients)
    total = np.zeros(1, dtype=np.uint32)
    for _ in range(clients):
        add_lanes(total, words, 32)
    assert int(from_lanes(total, 32)[0]) != clients * (2**20 - 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_non_finite_values_are_refused_by_position(bad: float, dtype: type) -> None:
    values: NDArray[Any] = np.zeros(CHUNK + 10, dtype=dtype)
    values[CHUNK + 3] = bad
    quantiser = Quantiser(1.0, 1 << 16, 32)
    for call in (
        lambda: quantiser.quantise(values, SeededRandom(1)),
        lambda: quantiser.count_clipped(values),
        lambda: stochastic_round(values, 4, SeededRandom(1)),
    ):
        with pytest.raises(NonFiniteError, match=f"value {CHUNK + 3} "):
            call()


def test_wrong_arrays_and_parameters_are_refused() -> None:
    quantiser = Quantiser(1.0, 1 << 16, 32)
    for array in (np.zeros((2, 2)), np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.float16)):
        with pytest.raises(CryptoError, match="1-D float32 or float64"):
            quantiser.quantise(array, SeededRandom(1))
    for clip, scale, lane_bits in (
        (0.0, 1, 32),
        (-1.0, 1, 32),
        (math.nan, 1, 32),
        (math.inf, 1, 32),
        (1.0, 0, 32),
        (1.0, 1.5, 32),
        (1.0, True, 32),
        (1.0, 1, 16),
        (1.0, 2**31, 32),
    ):
        with pytest.raises(CapacityError):
            Quantiser(clip, scale, lane_bits)  # type: ignore[arg-type]
    with pytest.raises(CapacityError, match="0 clients"):
        quantiser.check_capacity(0)
    with pytest.raises(CapacityError, match="2\\^52"):
        stochastic_round(np.array([0.0, 2.0**52]), 1, SeededRandom(1))
    assert quantiser.quantise(np.zeros(0), SeededRandom(1)).size == 0


def test_memory_beyond_input_and_output_stays_small() -> None:
    values = np.zeros(1_000_000, dtype=np.float32)
    tracemalloc.start()
    try:
        Quantiser(1.0, 1 << 16, 32).quantise(values, SeededRandom(1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000 + (3 << 20)
