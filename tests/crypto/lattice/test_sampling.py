"""Samplers: distributions by goodness of fit, ranges, determinism."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError, InvalidKeyError
from fedfm_crypto.lattice import bulk_format
from fedfm_crypto.lattice.bulk_keys import bulk_ring
from fedfm_crypto.lattice.collective import data_ring
from fedfm_crypto.lattice.primes import ntt_primes
from fedfm_crypto.lattice.sampling import BINOMIAL_VARIANCE, Sampler
from fedfm_crypto.mask import expand_mask
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret

COUNT = 200_000


def sampler(seed: int = 7) -> Sampler:
    return Sampler.fresh(SeededRandom(seed))


def chi_square(observed: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """(X - degrees) / sqrt(2 degrees): roughly standard normal where the fit is good."""
    expected = probabilities * observed.sum()
    kept = expected >= 5
    statistic = float((((observed - expected) ** 2)[kept] / expected[kept]).sum())
    degrees = int(kept.sum()) - 1
    return float((statistic - degrees) / (2 * degrees) ** 0.5)


def test_words_are_the_keystream() -> None:
    key = Secret(bytes(range(32)))
    expected = expand_mask(key, 2 * 20_001, 32).astype("<u4").tobytes()
    words = Sampler(key).words(20_001)
    assert words.astype("<u8").tobytes() == expected
    pieces = Sampler(key)
    assert np.concatenate([pieces.words(3), pieces.words(19_998)]).tolist() == words.tolist()


def test_sharing_a_buffer_changes_nothing() -> None:
    key, other = Secret(bytes(32)), Secret(bytes(range(32)))
    shared = Sampler(key, share=Sampler(other))
    assert (shared.words(100) == Sampler(key).words(100)).all()


def test_the_key_has_32_bytes() -> None:
    with pytest.raises(InvalidKeyError):
        Sampler(Secret(bytes(31)))


@pytest.mark.parametrize("prime", [97, 257, ntt_primes(16, 20, 1)[0]])
def test_uniform_residues_are_uniform(prime: int) -> None:
    values = sampler().uniform(COUNT, prime)
    assert int(values.max()) < prime
    cells = min(prime, 97)
    # Cells of equal width up to one residue.
    edges = np.array([cell * prime // cells for cell in range(cells + 1)])
    observed = np.histogram(values, bins=edges)[0]
    # np.histogram closes the last cell on both sides; nothing lies at ``prime`` itself.
    assert abs(chi_square(observed.astype(np.int64), np.diff(edges) / prime)) < 5


def test_rejection_reaches_the_largest_residue_and_no_further() -> None:
    # 2^20 / 524,309 keeps half of all candidates, so the slow path runs.
    values = sampler().uniform(4_000_000, 17)
    assert set(np.unique(values).tolist()) == set(range(17))


def test_ternary_is_uniform_on_three_values() -> None:
    values = sampler().ternary(COUNT)
    assert values.dtype == np.int64
    assert values.size == COUNT
    observed = np.array([np.count_nonzero(values == v) for v in (-1, 0, 1)])
    assert observed.sum() == COUNT
    assert abs(chi_square(observed, np.full(3, 1 / 3))) < 5


def test_the_centred_binomial_is_one() -> None:
    values = sampler().centred_binomial(COUNT)
    assert int(np.abs(values).max()) <= 21
    probabilities = np.array([comb(42, k) for k in range(43)]) / 2.0**42
    observed = np.bincount(values + 21, minlength=43)
    assert abs(chi_square(observed, probabilities)) < 5
    assert float(values.var()) == pytest.approx(BINOMIAL_VARIANCE, rel=0.02)
    assert abs(float(values.mean())) < 5 * (BINOMIAL_VARIANCE / COUNT) ** 0.5


def test_flooding_is_uniform_and_the_same_integer_modulo_every_prime() -> None:
    flood = sampler().flooding(8192, 90)
    integers = [
        int(high) * 2**62 + int(low) for high, low in zip(flood.high, flood.low, strict=True)
    ]
    assert min(integers) >= -(2**90)
    assert max(integers) < 2**90
    residues = flood.residues(data_ring())
    for k, prime in enumerate(data_ring().primes):
        assert residues[k].tolist() == [value % prime for value in integers]
    observed = np.bincount([(value + 2**90) >> 86 for value in integers], minlength=32)
    assert abs(chi_square(observed, np.full(32, 1 / 32))) < 5
    low = np.bincount((flood.low >> np.uint64(57)).astype(np.int64), minlength=32)
    assert abs(chi_square(low, np.full(32, 1 / 32))) < 5
    assert "array" not in repr(flood)


@pytest.mark.parametrize("bits", [62, 121])
def test_flooding_out_of_range_is_refused(bits: int) -> None:
    with pytest.raises(CryptoError, match="flooding"):
        sampler().flooding(1, bits)


def test_a_uniform_polynomial_has_independent_rows_below_their_primes() -> None:
    values = sampler().uniform_polynomial(bulk_ring())
    for row, prime in zip(values, bulk_format.PRIMES, strict=True):
        assert int(row.max()) < prime
    correlation = np.corrcoef(values[0].astype(np.float64), values[1].astype(np.float64))
    assert abs(float(correlation[0, 1])) < 0.08


@pytest.mark.parametrize("prime", [5, 97, bulk_format.PRIMES[0]])
def test_uniform_residues_are_those_of_a_plain_rejection(prime: int) -> None:
    """In order: the accepted words of a batch, then as many more as are missing."""
    expected: list[int] = []
    stream = sampler()
    while len(expected) < COUNT:
        batch = stream.words(COUNT - len(expected)) >> np.uint64(64 - prime.bit_length())
        expected += [int(word) for word in batch if word < prime]
    assert sampler().uniform(COUNT, prime).tolist() == expected


def test_a_uniform_polynomial_in_a_given_array_is_the_same() -> None:
    room = np.empty((3, 2, 4096), dtype=np.uint64)
    sampler().uniform_polynomial(bulk_ring(), out=room[1])
    assert (room[1] == sampler().uniform_polynomial(bulk_ring())).all()
