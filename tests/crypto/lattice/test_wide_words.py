"""Lanes in 96-bit words: Python integers as oracle, borrows, masks modulo 2^96."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CryptoError, InvalidKeyError
from fedfm_crypto.lanes import add_lanes, from_lanes, to_lanes
from fedfm_crypto.lattice.wide_words import add_wide_masks, from_wide, to_wide, wide_size
from fedfm_crypto.mask import add_mask, expand_mask
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret

WIDTHS = [24, 32]


def integers(limbs: NDArray[np.uint32]) -> list[int]:
    """Wide words as Python integers below 2^96."""
    octets = limbs.astype("<u4").tobytes()
    return [int.from_bytes(octets[i : i + 12], "little") for i in range(0, len(octets), 12)]


def limbs_of(words: list[int]) -> NDArray[np.uint32]:
    octets = b"".join((word % 2**96).to_bytes(12, "little") for word in words)
    return np.frombuffer(octets, dtype="<u4").astype(np.uint32)


def lanes_of(bits: int) -> st.SearchStrategy[list[int]]:
    top = 1 << (bits - 1)
    edges = st.sampled_from([-top + 1, -1, 0, 1, top - 1])
    return st.lists(edges | st.integers(-top + 1, top - 1), max_size=13)


@pytest.mark.parametrize("bits", WIDTHS)
@given(data=st.data())
def test_a_wide_word_is_the_signed_sum_of_its_lanes(bits: int, data: st.DataObject) -> None:
    values = data.draw(lanes_of(bits))
    limbs = to_wide(to_lanes(np.array(values, dtype=np.int64), bits), bits)
    per_word = 96 // bits
    assert limbs.size == 3 * wide_size(len(values), bits)
    expected = [
        sum(v << (bits * lane) for lane, v in enumerate(values[i : i + per_word])) % 2**96
        for i in range(0, len(values), per_word)
    ]
    assert integers(limbs) == expected
    assert from_lanes(from_wide(limbs, bits, len(values)), bits).tolist() == values


@pytest.mark.parametrize("bits", WIDTHS)
def test_sums_modulo_2_96_give_exact_lane_sums_at_the_capacity_bound(bits: int) -> None:
    clients, count = 50, 41
    most = ((1 << (bits - 1)) - 1) // clients
    generator = np.random.default_rng(1)
    values = generator.integers(-most, most + 1, (clients, count))
    values[:, 0], values[:, 1], values[:, 2] = -most, most, -most
    words = [integers(to_wide(to_lanes(row, bits), bits)) for row in values]
    total = limbs_of([sum(column) for column in zip(*words, strict=True)])
    assert (from_lanes(from_wide(total, bits, count), bits) == values.sum(axis=0)).all()


def test_masks_by_lane_would_leave_their_carries_behind() -> None:
    """The reason for masks modulo 2^96: the tempting alternative is wrong."""
    clients, count = 4, 3
    keys = [Secret(bytes([i]) * 32) for i in range(clients)]
    total, masks = [0], np.zeros(count, dtype=np.uint32)
    for key in keys:
        lanes = np.zeros(count, dtype=np.uint32)
        add_mask(lanes, key)
        total = [total[0] + int.from_bytes(lanes.astype("<u4").tobytes(), "little")]
        add_lanes(masks, expand_mask(key, count, 32), 32)
    left = limbs_of([total[0] - int.from_bytes(masks.astype("<u4").tobytes(), "little")])
    assert from_lanes(from_wide(left, 32, count), 32).tolist() != [0, 0, 0]


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("words", [1, 4095, 4096, 4097, 10_000])
def test_a_mask_is_the_keystream_added_as_one_96_bit_integer(bits: int, words: int) -> None:
    key = Secret(bytes(range(32)))
    lanes = np.random.default_rng(2).integers(0, 1 << bits, 96 // bits * words, dtype=np.uint32)
    limbs = to_wide(lanes, bits)
    plain, stream = integers(limbs), integers(expand_mask(key, 3 * words, 32))
    add_wide_masks(limbs, [(key, 1)])
    assert integers(limbs) == [(a + b) % 2**96 for a, b in zip(plain, stream, strict=True)]
    add_wide_masks(limbs, [(key, -1), (key, -1)])
    assert integers(limbs) == [(a - b) % 2**96 for a, b in zip(plain, stream, strict=True)]
    add_wide_masks(limbs, [(key, 1)])
    assert (from_wide(limbs, bits, lanes.size) == lanes).all()


def test_masked_words_look_uniform() -> None:
    limbs = to_wide(np.zeros(300_000, dtype=np.uint32), 32)
    add_wide_masks(limbs, [(Secret(SeededRandom(3)(32)), 1)])
    for limb in range(3):
        counts = np.bincount(limbs[limb::3] >> np.uint32(24), minlength=256)
        expected = limbs.size / 3 / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 5 * 510**0.5


def test_wrong_arrays_widths_and_signs_are_refused() -> None:
    limbs = np.zeros(6, dtype=np.uint32)
    key = Secret(bytes(32))
    with pytest.raises(CapacityError, match="does not fit"):
        to_wide(np.array([1 << 24], dtype=np.uint32), 24)
    with pytest.raises(CapacityError, match="16 bits"):
        to_wide(limbs, 16)
    with pytest.raises(CapacityError, match="16 bits"):
        from_wide(limbs, 16, 1)
    with pytest.raises(CryptoError, match="multiple of 3"):
        from_wide(limbs[:4], 32, 1)
    with pytest.raises(CryptoError, match="hold fewer"):
        from_wide(limbs, 32, 7)
    with pytest.raises(CryptoError, match="multiple of 3"):
        add_wide_masks(limbs[:4], [(key, 1)])
    with pytest.raises(CryptoError, match="sign"):
        add_wide_masks(limbs, [(key, 2)])  # type: ignore[list-item]
    with pytest.raises(InvalidKeyError):
        add_wide_masks(limbs, [(Secret(bytes(16)), 1)])
