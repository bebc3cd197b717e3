"""What an attacker does with wrapped keys: ciphertext arithmetic, and reading what was opened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.lattice.bulk_keys import KeySum, PublicPolynomials
from fedfm_crypto.lattice.collective import PARAMETERS, data_ring
from fedfm_crypto.lattice.key_additive import decrypt
from fedfm_crypto.lattice.wide_words import LIMBS, from_wide, wide_size
from fedfm_crypto.lattice.wrapping import WRAP, check_wrap, decode_slots

Words = NDArray[np.uint64]

PRIMES = PARAMETERS.data_primes
Q = PRIMES[0] * PRIMES[1]
DELTA = Q // PARAMETERS.plain_modulus
DEGREE = PARAMETERS.degree
BULK = 4096


def as_integers(residues: Words) -> list[int]:
    """Residues [2, N] as integers modulo Q."""
    inverse = pow(PRIMES[0], -1, PRIMES[1])
    low, high = (part.tolist() for part in residues)
    return [a + PRIMES[0] * ((b - a) * inverse % PRIMES[1]) for a, b in zip(low, high, strict=True)]


def multiplied(wrap: bytes, factor: int) -> bytes:
    """A wrap of ``factor`` times the key in ``wrap``, which nobody needs to open for that."""
    return WRAP.write(_each(check_wrap(wrap), factor))


def added(wraps: Sequence[bytes]) -> bytes:
    """A wrap of the sum of the keys in ``wraps``."""
    total = check_wrap(wraps[0])
    for wrap in wraps[1:]:
        values = check_wrap(wrap)
        total = np.stack([data_ring().add(total[i], values[i]) for i in range(2)])
    return WRAP.write(total)


def _each(values: Words, factor: int) -> Words:
    moduli = np.array(PRIMES, dtype=object).reshape(1, 2, 1)
    product: Words = (values.astype(object) * factor % moduli).astype(np.uint64)
    return product


def shifted(wrap: bytes, amount: int) -> bytes:
    """``wrap`` with ``amount`` added to the constant term of its second polynomial: under the
    secret key s it opens to what it opened to before, plus ``amount`` times s."""
    values = check_wrap(wrap).copy()
    for place, prime in enumerate(PRIMES):
        values[1, place, 0] = (int(values[1, place, 0]) + amount) % prime
    return WRAP.write(values)


def secret_below_the_plaintext(opened: Words, amount: int) -> list[int]:
    """The coefficients of s from a polynomial that holds Q/t m + amount s + flooding.

    Every m is a multiple of Q/t, so what is left over is ``amount`` s, give or take the flooding.
    """
    found = []
    for value in as_integers(opened):
        plain = (value * PARAMETERS.plain_modulus + Q // 2) // Q
        left = value - (plain * Q + PARAMETERS.plain_modulus // 2) // PARAMETERS.plain_modulus
        found.append((left + amount // 2) // amount)
    return found


def opened_with(secret: Sequence[int], wrap: bytes) -> NDArray[np.int64]:
    """The bulk key in a wrap, for whoever holds the whole secret key."""
    ring = data_ring()
    values = check_wrap(wrap)
    transformed = ring.forward(ring.residues(np.array(secret, dtype=np.int64)))
    product = ring.inverse(ring.multiply(ring.forward(values[1]), transformed))
    return decode_slots(ring.add(values[0], product))[:BULK]


def opened_update(
    upload: bytes, key: NDArray[np.int64], seed: bytes, values: int, lane_bits: int = 32
) -> NDArray[np.uint32]:
    """The lane words in one client's upload, for whoever holds its bulk key."""
    limbs = decrypt(upload, KeySum(key, 1), PublicPolynomials(seed), 0)
    size = LIMBS * wide_size(values, lane_bits)
    return from_wide(limbs[:size].copy(), lane_bits, values)
