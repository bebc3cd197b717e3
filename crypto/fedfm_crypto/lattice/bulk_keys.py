"""Keys and limits of the key-additive encryption: one-round keys, their sum, the public ``a``.

``key_additive`` says what they are for and where the bounds come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, DecryptionError, InvalidKeyError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_crypto.lattice.bulk_format import DEGREE, PRIMES
from fedfm_crypto.lattice.ntt import Ring, ring
from fedfm_crypto.lattice.sampling import BINOMIAL_BOUND, BINOMIAL_VARIANCE, Sampler
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret

__all__ = [
    "CERTAIN_CLIENTS", "MOST_CLIENTS", "BulkKey", "KeySum", "PublicPolynomials", "bulk_ring",
    "check_clients", "failure_exponent", "noise_bound",
]  # fmt: skip

Words = NDArray[np.uint64]

CERTAIN_CLIENTS = 93
"""Up to here the sum is exact with certainty: the largest n with 22 n < 2048."""
MOST_CLIENTS = 1000
"""Design limit: beyond, the chance of a wrong coefficient is no longer negligible."""

_SEED_SIZE = 32


def bulk_ring() -> Ring:
    """Return the ring of the bulk encryption."""
    return ring(DEGREE, PRIMES)


def check_clients(clients: int) -> None:
    """Raise CapacityError unless sums of so many ciphertexts can be opened (1..1000)."""
    if not 1 <= clients <= MOST_CLIENTS:
        raise CapacityError(
            f"a bulk sum of {clients} clients, expected 1..{MOST_CLIENTS}; split the federation or "
            "use larger parameters"
        )


def failure_exponent(clients: int) -> float:
    """Return log2 of a bound on the chance that one coefficient of a sum comes out wrong.

    Minus infinity up to :data:`CERTAIN_CLIENTS`.
    """
    check_clients(clients)
    if clients <= CERTAIN_CLIENTS:
        return -math.inf
    margin = 2047 - clients
    return -2 * margin**2 / (2 * BINOMIAL_BOUND * clients) / math.log(2)


def noise_bound(clients: int) -> int:
    """Return a bound on |sum e_i| that honest clients pass with a chance of at most 2^-140.

    The certain bound 21 n, or 14 standard deviations where that is less: Hoeffding gives
    2 exp(-2 * 14^2 * 10.5 n / (42 n)) = 2 exp(-98).
    """
    check_clients(clients)
    tail = math.ceil(14 * math.sqrt(BINOMIAL_VARIANCE * clients))
    return min(BINOMIAL_BOUND * clients, tail)


class PublicPolynomials:
    """The public polynomials ``a`` of one round or step, in transformed form.

    Polynomial j has a generator of its own, keyed by SHA-256 of (label, seed, j), so that any run
    of them can be made when it is needed.

    Args:
        seed: 32 public bytes, fresh for each round and step, fixed before any key is drawn.
    """

    __slots__ = ("_seed",)

    def __init__(self, seed: bytes) -> None:
        if len(seed) != _SEED_SIZE:
            raise InvalidKeyError(f"public seed of {len(seed)} bytes, expected {_SEED_SIZE}")
        self._seed = seed

    def expand(self, first: int, count: int) -> Words:
        """Return polynomials first .. first + count - 1, uniform residues [count, 2, N]."""
        values = np.empty((count, len(PRIMES), DEGREE), dtype=np.uint64)
        sampler: Sampler | None = None
        for i in range(count):
            index = (first + i).to_bytes(4, "big")
            key = Secret(hash_parts(Label.BULK_PUBLIC, self._seed, index))
            sampler = Sampler(key, share=sampler)
            sampler.uniform_polynomial(bulk_ring(), out=values[i])
        return values


class BulkKey:
    """One client's key for one message: 4096 centred binomial integers.

    Attributes:
        coefficients: int64 [N]; secret, and shown by no repr.
    """

    __slots__ = ("_spent", "coefficients")

    def __init__(self, coefficients: NDArray[np.int64]) -> None:
        if coefficients.shape != (DEGREE,) or coefficients.dtype != np.int64:
            raise InvalidKeyError(
                f"bulk key {coefficients.dtype} {coefficients.shape}, expected int64 ({DEGREE},)"
            )
        if int(np.abs(coefficients).max()) > BINOMIAL_BOUND:
            raise InvalidKeyError(f"a bulk key coefficient lies outside +-{BINOMIAL_BOUND}")
        self.coefficients = coefficients
        self._spent = False

    @classmethod
    def generate(cls, random: RandomSource) -> BulkKey:
        """Return a fresh key."""
        return cls(Sampler.fresh(random).centred_binomial(DEGREE))

    def __repr__(self) -> str:
        return "<BulkKey, redacted>"

    def spend(self) -> Words:
        """Return the transformed key, once.

        Raises:
            InvalidKeyError: the key has encrypted a message already.
        """
        if self._spent:
            raise InvalidKeyError(
                "this bulk key has encrypted a message already; a second one would reveal their "
                "difference, generate a new key"
            )
        self._spent = True
        return bulk_ring().forward(bulk_ring().residues(self.coefficients))


@dataclass(frozen=True, slots=True)
class KeySum:
    """The sum of the keys of ``clients`` clients, which opens the sum of their ciphertexts.

    Raises:
        DecryptionError: a coefficient is larger than any sum of so many honest keys.
        CapacityError: more clients than :data:`MOST_CLIENTS`.
    """

    coefficients: NDArray[np.int64] = field(repr=False)
    clients: int

    def __post_init__(self) -> None:
        check_clients(self.clients)
        if self.coefficients.shape != (DEGREE,) or self.coefficients.dtype != np.int64:
            raise InvalidKeyError(
                f"key sum {self.coefficients.dtype} {self.coefficients.shape}, expected int64 "
                f"({DEGREE},)"
            )
        if int(np.abs(self.coefficients).max()) > BINOMIAL_BOUND * self.clients:
            raise DecryptionError(
                f"the key sum exceeds {self.clients} keys of at most {BINOMIAL_BOUND}; a wrapped "
                "key, a decryption share or the set of shares is wrong"
            )
