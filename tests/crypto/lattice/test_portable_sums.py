"""Sums in NumPy alone: the same bits as the compiled loops and TenSEAL give."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.key_epoch import make_key_epoch
from fedfm_crypto.errors import CiphertextError, CryptoError
from fedfm_crypto.lattice.bulk_format import DEGREE, PRIMES, write_polynomials
from fedfm_crypto.lattice.bulk_keys import BulkKey
from fedfm_crypto.lattice.key_additive import RunningSum
from fedfm_crypto.lattice.parameters import POLYNOMIAL_BYTES, WRAP
from fedfm_crypto.lattice.portable_sums import (
    add_residues,
    add_wraps,
    carried,
    read_bulk,
    subtract_words,
)
from fedfm_crypto.lattice.primes import ntt_primes
from fedfm_crypto.lattice.wrapping import KeyWrapping
from fedfm_crypto.random_source import SeededRandom

Words = NDArray[np.uint64]


def residues(polynomials: int, seed: int) -> Words:
    """Uniform residues, the largest ones among them."""
    random = np.random.default_rng(seed)
    rows = [random.integers(0, q, (polynomials, DEGREE), dtype=np.uint64) for q in PRIMES]
    values = np.stack(rows, axis=1)
    values[:, :, 0] = np.array(PRIMES, dtype=np.uint64) - np.uint64(1)
    values[:, :, 1] = 0
    return values


def limbs(words: int, seed: int) -> NDArray[np.uint32]:
    found = np.random.default_rng(seed).integers(0, 1 << 32, (words, 3), dtype=np.uint32)
    found[0], found[1] = 0, 0xFFFFFFFF
    return found


def test_the_parameters_are_the_largest_primes_of_their_size() -> None:
    assert ntt_primes(DEGREE, 54, 2) == PRIMES
    assert WRAP.primes == ntt_primes(8192, 60, 3)[:2]


def test_residues_are_read_as_the_compiled_reader_reads_them() -> None:
    values = residues(3, 1)
    np.testing.assert_array_equal(read_bulk(write_polynomials(values)), values)


def test_sums_without_masks_are_those_of_the_coordinator() -> None:
    parts = [write_polynomials(residues(3, seed)) for seed in range(4)]
    running, total = RunningSum(3), np.zeros((3, len(PRIMES), DEGREE), dtype=np.uint64)
    for part in parts:
        running.add(part)
        add_residues(total, read_bulk(part))
    words = limbs(2 * DEGREE + 5, 9)
    running.subtract_words(words.reshape(-1))
    subtract_words(total, words.astype(np.int64))
    assert write_polynomials(total) == b"".join(running.chunks())


@pytest.mark.parametrize("size", [0, 1, POLYNOMIAL_BYTES - 1, POLYNOMIAL_BYTES + 27 * 8])
def test_parts_of_polynomials_are_refused(size: int) -> None:
    with pytest.raises(CiphertextError, match="expected a positive multiple"):
        read_bulk(bytes(size))


def test_a_residue_that_is_not_below_its_prime_is_named() -> None:
    data = bytearray(2 * POLYNOMIAL_BYTES)
    data[POLYNOMIAL_BYTES + POLYNOMIAL_BYTES // 2 :] = b"\xff" * (POLYNOMIAL_BYTES // 2)
    with pytest.raises(CiphertextError, match="residue 0 of polynomial 1 is not below"):
        read_bulk(bytes(data))


def test_more_words_than_coefficients_are_refused() -> None:
    total = np.zeros((1, len(PRIMES), DEGREE), dtype=np.uint64)
    with pytest.raises(CryptoError, match="4097 words, the ciphertext has 4096"):
        subtract_words(total, np.zeros((DEGREE + 1, 3), dtype=np.int64))


@given(st.lists(st.tuples(*[st.integers(-(1 << 45), 1 << 45)] * 3), min_size=1, max_size=8))
def test_carries_are_those_of_whole_numbers(words: list[tuple[int, int, int]]) -> None:
    for found, (low, middle, high) in zip(carried(np.array(words)), words, strict=True):
        number = (low + (middle << 32) + (high << 64)) % (1 << 96)
        assert [int(limb) for limb in found] == [number >> 32 * i & 0xFFFFFFFF for i in range(3)]


def test_wrapped_keys_add_up_as_in_tenseal() -> None:
    random = SeededRandom(b"portable")
    wrapping = KeyWrapping(make_key_epoch(2, 2, range(1, 3), random).public_key)
    wraps = [wrapping.wrap(BulkKey.generate(random)) for _ in range(3)]
    theirs, ours = wrapping.new_sum(), None
    for wrap in wraps:
        theirs.add(wrap)
        ours = add_wraps(ours, wrap)
    assert ours is not None
    np.testing.assert_array_equal(ours, theirs.ciphertext())


def test_a_wrap_without_encryption_is_refused() -> None:
    with pytest.raises(CiphertextError, match="second polynomial is zero"):
        add_wraps(None, WRAP.write(np.zeros(WRAP.shape, dtype=np.uint64)))


def test_an_auditor_loads_neither_numba_nor_tenseal() -> None:
    code = (
        "import sys, fedfm_audit.verify; "
        "sys.exit(sorted({'numba', 'tenseal', 'torch', 'zmq'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
