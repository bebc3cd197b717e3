"""The mask generator: NIST vectors, an independent counter mode, chunk borders, cancellation."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CryptoError, InvalidKeyError
from fedfm_crypto.lanes import pack_lanes
from fedfm_crypto.mask import Keystream, Sign, add_mask, add_masks, expand_mask
from fedfm_crypto.secret import Secret

KEY = Secret(bytes(range(32)))
CHUNK = 1 << 14
BORDERS = [0, 1, 2, 15, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7]


def independent_keystream(key: bytes, size: int) -> bytes:
    """AES-256 in electronic code book mode over counters 0, 1, 2, ... (SP 800-38A 6.5)."""
    blocks = b"".join(i.to_bytes(16, "big") for i in range(-(-size // 16)))
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)[:size]  # noqa: S305


@pytest.mark.parametrize("name", ["ECBVarKey256", "ECBKeySbox256"])
def test_the_first_block_is_aes_of_counter_zero(
    name: str, nist_vectors: Callable[[str], list[dict[str, str]]]
) -> None:
    """NIST's known answers for AES-256 of an all-zero block: the block of counter zero."""
    checked = 0
    for vector in nist_vectors(f"ciphers/AES/ECB/{name}.rsp"):
        if "KEY" not in vector or bytes.fromhex(vector["PLAINTEXT"]) != bytes(16):
            continue
        checked += 1
        mask = expand_mask(Secret(bytes.fromhex(vector["KEY"])), 4, 32)
        assert pack_lanes(mask, 32).hex() == vector["CIPHERTEXT"].lower()
    assert checked > 5


@pytest.mark.parametrize("lane_bits", [24, 32])
@pytest.mark.parametrize("count", BORDERS)
def test_a_mask_is_the_keystream_in_little_endian_lanes(count: int, lane_bits: int) -> None:
    width = lane_bits // 8
    stream = independent_keystream(KEY.reveal(), width * count)
    mask = expand_mask(KEY, count, lane_bits)
    assert mask.dtype == np.uint32
    assert pack_lanes(mask, lane_bits) == stream
    for position in {0, 1, CHUNK - 1, CHUNK, count - 1} & set(range(count)):
        word = int.from_bytes(stream[width * position : width * (position + 1)], "little")
        assert int(mask[position]) == word


@given(st.lists(st.integers(1, 100), max_size=5))
def test_a_keystream_does_not_depend_on_how_it_is_cut(sizes: list[int]) -> None:
    stream = Keystream(KEY, 100)
    pieces = []
    for size in sizes:
        stream.fill(size)
        pieces.append(stream.buffer[:size].tobytes())
    assert b"".join(pieces) == independent_keystream(KEY.reveal(), sum(sizes))


@pytest.mark.parametrize("lane_bits", [24, 32])
@pytest.mark.parametrize("count", BORDERS)
def test_adding_and_subtracting_are_inverse_and_modular(count: int, lane_bits: int) -> None:
    modulus = 1 << lane_bits
    words = np.random.default_rng(count).integers(0, modulus, count, dtype=np.uint32)
    mask = expand_mask(KEY, count, lane_bits).astype(np.int64)
    masked = words.copy()
    add_mask(masked, KEY, 1, lane_bits)
    np.testing.assert_array_equal(masked, (words.astype(np.int64) + mask) % modulus)
    lower = words.copy()
    add_mask(lower, KEY, -1, lane_bits)
    np.testing.assert_array_equal(lower, (words.astype(np.int64) - mask) % modulus)
    add_mask(masked, KEY, -1, lane_bits)
    np.testing.assert_array_equal(masked, words)


@pytest.mark.parametrize("lane_bits", [24, 32])
def test_pairwise_masks_cancel_in_the_sum_modulo_the_lane(lane_bits: int) -> None:
    clients, count = 5, 1000
    modulus = 1 << lane_bits
    generator = np.random.default_rng(1)
    plain = generator.integers(0, modulus, (clients, count), dtype=np.uint32)
    masked = plain.copy()
    for low in range(clients):
        for high in range(low + 1, clients):
            pair = Secret(bytes([low, high]) * 16)
            add_mask(masked[low], pair, 1, lane_bits)
            add_mask(masked[high], pair, -1, lane_bits)
    assert not (masked == plain).all(axis=1).any()
    sums = [array.astype(np.int64).sum(axis=0) % modulus for array in (plain, masked)]
    np.testing.assert_array_equal(*sums)


def test_masked_words_look_uniform_and_uncorrelated() -> None:
    """Chi-square over 256 bins of a masked constant; 5 sigma on 255 degrees of freedom."""
    count = 1 << 18
    for lane_bits in (24, 32):
        words = np.full(count, 7, dtype=np.uint32)
        add_mask(words, KEY, 1, lane_bits)
        for shift in (0, lane_bits - 8):
            observed = np.bincount(words >> np.uint32(shift) & np.uint32(255), minlength=256)
            chi_square = float(((observed - count / 256) ** 2).sum() / (count / 256))
            assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5
    other = expand_mask(Secret(bytes(32)), count, 32)
    assert abs(np.corrcoef(other, expand_mask(KEY, count, 32))[0, 1]) < 0.01


@pytest.mark.parametrize("lane_bits", [24, 32])
def test_memory_beyond_the_array_stays_below_one_mebibyte(lane_bits: int) -> None:
    words = np.zeros(1_000_000, dtype=np.uint32)
    tracemalloc.start()
    try:
        add_mask(words, KEY, 1, lane_bits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < peak < 1 << 20


def test_wrong_arguments_are_refused() -> None:
    words = np.zeros(8, dtype=np.uint32)
    with pytest.raises(InvalidKeyError, match="expected 32"):
        add_mask(words, Secret(bytes(16)), 1, 32)
    with pytest.raises(CapacityError, match="16 bits"):
        add_mask(words, KEY, 1, 16)
    with pytest.raises(CryptoError, match="sign 2"):
        add_mask(words, KEY, 2, 32)  # type: ignore[arg-type]
    with pytest.raises(CryptoError, match="-1 words"):
        expand_mask(KEY, -1, 32)
    wrong: list[NDArray[Any]] = [
        words.astype(np.int32),
        words.reshape(2, 4),
        words[::2],
        words.astype(np.uint64),
    ]
    for array in wrong:
        with pytest.raises(CryptoError, match="contiguous 1-D uint32"):
            add_mask(array, KEY, 1, 32)
    assert not words.any()


@pytest.mark.parametrize("lane_bits", [24, 32])
@pytest.mark.parametrize("count", [0, 1, 16383, 16384, 40001])
def test_several_masks_at_once_equal_the_same_masks_one_by_one(lane_bits: int, count: int) -> None:
    keys = [Secret(bytes([i]) * 32) for i in range(1, 5)]
    signs: list[Sign] = [1, -1, -1, 1]
    together = np.arange(count, dtype=np.uint32)
    expected = together.astype(np.int64)
    add_masks(together, list(zip(keys, signs, strict=True)), lane_bits)
    for key, sign in zip(keys, signs, strict=True):
        expected += sign * expand_mask(key, count, lane_bits).astype(np.int64)
    assert np.array_equal(together, expected % (1 << lane_bits))


def test_no_masks_leave_the_words_alone() -> None:
    words = np.arange(5, dtype=np.uint32)
    add_masks(words, [], 32)
    assert words.tolist() == [0, 1, 2, 3, 4]
