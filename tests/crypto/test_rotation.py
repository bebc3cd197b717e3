"""The randomised Hadamard transform against scipy's matrix, and what it promises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import hadamard

from fedfm_crypto.errors import CapacityError, CryptoError, NonFiniteError
from fedfm_crypto.rotation import flat_bound, padded_size, rotate, unrotate

SEED = b"a public seed"
# Below 1e-100 rotated values and their squares leave the range in which doubles are exact.
VECTORS = arrays(
    np.float64,
    st.integers(1, 700),
    elements=st.floats(-1e6, 1e6).map(lambda value: value if abs(value) > 1e-100 else 0.0),
)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 64, 512])
def test_it_is_the_hadamard_matrix_after_signs(size: int) -> None:
    columns = np.array([rotate(row, SEED) for row in np.eye(size)]).T
    signs = columns[0] * math.sqrt(size)  # the first row of H is all ones
    np.testing.assert_allclose(np.abs(signs), 1.0, rtol=1e-12)
    np.testing.assert_allclose(columns, hadamard(size) * signs / math.sqrt(size), atol=1e-14)
    if size >= 64:
        assert abs(float(signs.sum())) < 5 * math.sqrt(size)


@given(values=VECTORS, seed=st.binary(max_size=40))
def test_it_keeps_the_norm_and_is_undone(values: np.ndarray, seed: bytes) -> None:
    rotated = rotate(values, seed)
    assert rotated.shape == (padded_size(values.size),)
    untouched = rotated.copy()
    back = unrotate(rotated, seed, values.size)
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    before, after = (np.linalg.norm(found / largest) for found in (values, rotated))
    assert float(after) == pytest.approx(float(before), rel=1e-13, abs=1e-300)
    rounding = 1e-13 * math.sqrt(rotated.size)
    np.testing.assert_allclose(back / largest, values / largest, atol=rounding)
    np.testing.assert_array_equal(rotated, untouched)


@given(values=VECTORS)
def test_it_is_linear(values: np.ndarray) -> None:
    """The sum of rotated vectors is unrotated once."""
    other = np.roll(values, 1)
    total = rotate(values, SEED) + rotate(other, SEED)
    found = unrotate(total, SEED, values.size)
    np.testing.assert_allclose(
        found, values + other, atol=1e-12 * (1 + float(np.linalg.norm(values)))
    )


def test_a_spike_is_spread_and_the_flat_bound_holds() -> None:
    values = np.zeros(10_000, dtype=np.float32)
    values[[3, 4, 5]] = 1.0
    bound = flat_bound(math.sqrt(3), 1 << 14, 1e-6)
    assert bound < 0.1
    largest = [float(np.abs(rotate(values, bytes([seed]))).max()) for seed in range(50)]
    assert max(largest) < bound
    # Hoeffding is not vacuous: the coordinates do reach a good part of it.
    dense = np.random.default_rng(1).normal(size=1 << 14)
    dense /= np.linalg.norm(dense)
    assert float(np.abs(rotate(dense, SEED)).max()) > flat_bound(1.0, 1 << 14, 1e-6) / 2
    assert flat_bound(2.0, 4, 1e-9) == 2.0


def test_seeds_differ_and_equal_seeds_agree_bit_by_bit() -> None:
    values = np.random.default_rng(2).normal(size=3000)
    np.testing.assert_array_equal(rotate(values, b"a"), rotate(values, b"a"))
    assert not np.allclose(rotate(values, b"a"), rotate(values, b"b"))
    assert not np.allclose(unrotate(rotate(values, b"a"), b"b", 3000), values)
    np.testing.assert_array_equal(
        rotate(values.astype(np.float32), b"a"),
        rotate(values.astype(np.float32).astype(np.float64), b"a"),
    )


def test_bad_arguments_are_refused() -> None:
    for array in (np.zeros((2, 2)), np.zeros(2, dtype=np.int64)):
        with pytest.raises(CryptoError, match="1-D float32 or float64"):
            rotate(array, SEED)
    with pytest.raises(CryptoError, match="at least 1"):
        rotate(np.zeros(0), SEED)
    with pytest.raises(NonFiniteError, match="value 2"):
        rotate(np.array([0.0, 0.0, math.inf]), SEED)
    with pytest.raises(NonFiniteError, match="value 1"):
        unrotate(np.array([0.0, math.nan]), SEED, 2)
    wrongs: list[tuple[Any, int]] = [(np.zeros(4), 5), (np.zeros(4, dtype=np.float32), 4)]
    for rotated, size in wrongs:
        with pytest.raises(CryptoError, match="expected float64 of shape"):
            unrotate(rotated, SEED, size)
    for clip, padded, failure in ((0.0, 4, 0.1), (1.0, 0, 0.1), (1.0, 4, 0.0), (math.nan, 4, 0.1)):
        with pytest.raises(CapacityError):
            flat_bound(clip, padded, failure)
