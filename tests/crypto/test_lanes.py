"""Lanes: two's complement, wire form, modular addition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto.errors import CapacityError, CodecError, CryptoError
from fedfm_crypto.lanes import (
    LANE_BITS,
    add_lanes,
    from_lanes,
    pack_lanes,
    to_lanes,
    unpack_lanes,
)

WIDTHS = pytest.mark.parametrize("lane_bits", LANE_BITS)


@given(bits=st.sampled_from(LANE_BITS), data=st.data())
def test_round_trips_against_python_integers(bits: int, data: st.DataObject) -> None:
    limit = 1 << (bits - 1)
    values = data.draw(st.lists(st.integers(-limit, limit - 1), max_size=20))
    words = to_lanes(np.array(values, dtype=np.int64), bits)
    assert words.dtype == np.uint32
    assert words.tolist() == [value % (1 << bits) for value in values]
    assert from_lanes(words, bits).tolist() == values
    packed = pack_lanes(words, bits)
    assert packed == b"".join((v % (1 << bits)).to_bytes(bits // 8, "little") for v in values)
    unpacked = unpack_lanes(packed, bits)
    np.testing.assert_array_equal(unpacked, words)
    assert unpacked.dtype == np.uint32
    assert unpacked.flags.writeable
    np.testing.assert_array_equal(unpack_lanes(memoryview(packed), bits), words)


@given(bits=st.sampled_from(LANE_BITS), data=st.data())
def test_addition_is_modular_and_in_place(bits: int, data: st.DataObject) -> None:
    word = st.integers(0, (1 << bits) - 1)
    pairs = data.draw(st.lists(st.tuples(word, word), max_size=20))
    acc = np.array([a for a, _ in pairs], dtype=np.uint32)
    add_lanes(acc, np.array([b for _, b in pairs], dtype=np.uint32), bits)
    assert acc.tolist() == [(a + b) % (1 << bits) for a, b in pairs]


@WIDTHS
def test_values_at_the_lane_limit_pass_and_one_beyond_is_refused(lane_bits: int) -> None:
    limit = 1 << (lane_bits - 1)
    edge = np.array([-limit, limit - 1], dtype=np.int64)
    assert from_lanes(to_lanes(edge, lane_bits), lane_bits).tolist() == edge.tolist()
    for beyond in (-limit - 1, limit):
        with pytest.raises(CapacityError, match=f"lanes of {lane_bits} bits"):
            to_lanes(np.array([0, beyond], dtype=np.int64), lane_bits)


def test_a_word_above_its_lane_is_not_packed() -> None:
    with pytest.raises(CapacityError, match="does not fit"):
        pack_lanes(np.array([1 << 24], dtype=np.uint32), 24)


@WIDTHS
def test_a_cut_word_is_refused(lane_bits: int) -> None:
    with pytest.raises(CodecError, match="multiple"):
        unpack_lanes(bytes(lane_bits // 8 + 1), lane_bits)
    assert unpack_lanes(b"", lane_bits).size == 0


def test_wrong_shapes_lengths_and_widths_are_refused() -> None:
    words = np.zeros(4, dtype=np.uint32)
    with pytest.raises(CryptoError, match="3 words to add to 4"):
        add_lanes(words, words[:3], 32)
    with pytest.raises(CryptoError, match="acc"):
        add_lanes(words.astype(np.int64), words, 32)
    for bits in (0, 8, 16, 31, 64):
        with pytest.raises(CapacityError, match="expected one of"):
            pack_lanes(words, bits)
