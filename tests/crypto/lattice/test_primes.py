"""Primes and roots: definitions checked directly, and SEAL's own choice."""

from __future__ import annotations

import pytest

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lattice import bulk_format
from fedfm_crypto.lattice.collective import PARAMETERS
from fedfm_crypto.lattice.primes import is_prime, minimal_root, ntt_primes


def test_is_prime_agrees_with_trial_division() -> None:
    def slow(n: int) -> bool:
        return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))

    assert [n for n in range(3000) if is_prime(n)] == [n for n in range(3000) if slow(n)]


@pytest.mark.parametrize("composite", [561, 3215031751, 3825123056546413051, 2**59 - 1])
def test_strong_pseudoprimes_are_composite(composite: int) -> None:
    assert not is_prime(composite)


def test_the_parameters_are_the_largest_primes_that_seal_would_choose() -> None:
    assert ntt_primes(4096, 54, 2) == bulk_format.PRIMES
    assert ntt_primes(8192, 60, 3) == PARAMETERS.primes
    assert ntt_primes(8192, 20, 1) == (PARAMETERS.plain_modulus,)


def test_seal_chooses_the_same_primes() -> None:
    sealapi = pytest.importorskip("tenseal.sealapi")
    chosen = [m.value() for m in sealapi.CoeffModulus.Create(8192, [60, 60, 60])]
    assert sorted(chosen) == sorted(PARAMETERS.primes)


def test_primes_in_use_are_skipped() -> None:
    first, second = ntt_primes(64, 20, 2)
    assert ntt_primes(64, 20, 1, skip=[first]) == (second,)


@pytest.mark.parametrize(("degree", "prime"), [(16, 97), (64, 257), (4096, bulk_format.PRIMES[0])])
def test_the_minimal_root_is_primitive(degree: int, prime: int) -> None:
    root = minimal_root(degree, prime)
    assert pow(root, degree, prime) == prime - 1
    if prime < 1000:
        assert not [r for r in range(2, root) if pow(r, degree, prime) == prime - 1]


@pytest.mark.parametrize(
    ("degree", "bits", "count"), [(12, 30, 1), (4096, 61, 1), (4096, 13, 1), (4096, 16, 9)]
)
def test_impossible_requests_are_refused(degree: int, bits: int, count: int) -> None:
    with pytest.raises(CryptoError):
        ntt_primes(degree, bits, count)


def test_a_root_needs_a_fitting_prime() -> None:
    with pytest.raises(CryptoError, match="no prime"):
        minimal_root(4096, bulk_format.PRIMES[0] + 2)
