"""Adding ciphertexts and taking masks off them in NumPy alone, for whoever repeats a sum.

The same numbers as ``bulk_format``, ``wide_words`` and ``wrapping`` compute with compiled loops and
TenSEAL, by other code: an auditor needs neither, and a mistake in one does not repeat itself in the
other.  Nothing here holds or needs a key, and none of it opens a ciphertext.

Residues are uint64 arrays: bulk polynomials [M, 2, 4096], a wrapped key [2, 2, 8192].
Source: protocols/README.md, sections "Masks" and "The bulk layer".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError, CryptoError
from fedfm_crypto.lattice.parameters import (
    BULK_DEGREE,
    BULK_PRIMES,
    POLYNOMIAL_BYTES,
    RESIDUE_BITS,
    WRAP,
)

__all__ = [
    "LIMB_BITS", "WORD_BYTES", "add_residues", "add_wraps", "carried", "read_bulk",
    "subtract_words",
]  # fmt: skip

Words = NDArray[np.uint64]

WORD_BYTES = 12
"""Bytes of a wide word: 96 bits."""
LIMB_BITS = 32

_LIMBS = 3
# 32 residues of 54 bits fill 27 words of 64 bits: the pattern of shifts repeats from there.
_RESIDUES, _PACKED = 32, 27
_LOW = np.uint64((1 << RESIDUE_BITS) - 1)
_MODULI = np.array(BULK_PRIMES, dtype=np.uint64).reshape(-1, 1)


def read_bulk(data: bytes | memoryview) -> Words:
    """Return the residues [M, 2, N] of whole polynomials of a bulk ciphertext.

    Raises:
        CiphertextError: not a whole, positive number of polynomials, or a residue that is not
            below its prime.
    """
    size = len(data)
    if not size or size % POLYNOMIAL_BYTES:
        raise CiphertextError(
            f"bulk ciphertext of {size} bytes, expected a positive multiple of {POLYNOMIAL_BYTES}"
        )
    packed = np.frombuffer(data, dtype="<u8").astype(np.uint64, copy=False)
    columns = np.ascontiguousarray(packed.reshape(-1, _PACKED).T)
    values = np.empty((_RESIDUES, columns.shape[1]), dtype=np.uint64)
    for number in range(_RESIDUES):
        at, offset = divmod(RESIDUE_BITS * number, 64)
        value = columns[at] >> np.uint64(offset)
        if offset + RESIDUE_BITS > 64:
            value |= columns[at + 1] << np.uint64(64 - offset)
        np.bitwise_and(value, _LOW, out=values[number])
    residues = np.ascontiguousarray(values.T).reshape(-1, len(BULK_PRIMES), BULK_DEGREE)
    outside = residues >= _MODULI
    if bool(outside.any()):
        poly, prime, at = (int(i) for i in np.argwhere(outside)[0])
        raise CiphertextError(
            f"bulk ciphertext: residue {at} of polynomial {poly} is not below the prime "
            f"{BULK_PRIMES[prime]}"
        )
    return residues


def add_residues(total: Words, values: Words, primes: Sequence[int] = BULK_PRIMES) -> None:
    """Add residues [..., K, N] to ``total``, modulo each prime, in place; both below their primes.

    Raises:
        CryptoError: the shapes differ.
    """
    if total.shape != values.shape:
        raise CryptoError(f"residues {values.shape} to add to {total.shape}, expected as many")
    moduli = np.array(primes, dtype=np.uint64).reshape(-1, 1)
    # Two residues of 60 bits at most: no overflow.
    total += values
    np.subtract(total, moduli, out=total, where=total >= moduli)


def carried(limbs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return words [M, 3] modulo 2^96, limbs of 32 bits, lowest first, from sums of signed limbs.

    Args:
        limbs: int64 [M, 3]; each below 2^62 in magnitude.
    """
    result = limbs.copy()
    lowest = np.int64((1 << LIMB_BITS) - 1)
    for limb in range(_LIMBS - 1):
        # The shift rounds down, so a negative limb borrows from the next one.
        result[:, limb + 1] += result[:, limb] >> LIMB_BITS
    result &= lowest
    return result


def subtract_words(total: Words, limbs: NDArray[np.int64]) -> None:
    """Subtract 96-bit words from a ciphertext sum [M, 2, N], from its first coefficient on, in
    place: the ciphertext of the difference, which stays closed.

    Args:
        limbs: int64 [W, 3], each 0 .. 2^32 - 1, lowest first (:func:`carried`), W <= M N.

    Raises:
        CryptoError: there are more words than coefficients.
    """
    room = total.shape[0] * BULK_DEGREE
    if len(limbs) > room:
        raise CryptoError(f"{len(limbs)} words, the ciphertext has {room} coefficients")
    padded = np.zeros((room, _LIMBS), dtype=np.uint64)
    padded[: len(limbs)] = limbs.astype(np.uint64)
    low = padded[:, 0] | padded[:, 1] << np.uint64(LIMB_BITS)
    for place, prime in enumerate(BULK_PRIMES):
        # 2^64 modulo a prime just below 2^54 has 28 bits, so the product stays below 2^60.
        high = padded[:, 2] * np.uint64((1 << 64) % prime) % np.uint64(prime)
        words = (low % np.uint64(prime) + high) % np.uint64(prime)
        row = total[:, place, :]
        row += np.uint64(prime) - words.reshape(row.shape)
        np.subtract(row, np.uint64(prime), out=row, where=row >= np.uint64(prime))


def add_wraps(total: Words | None, wrap: bytes | memoryview) -> Words:
    """Return ``total`` plus a wrapped key as SEAL serialises it, [2, 2, N] (a new array).

    Raises:
        CiphertextError: any byte outside the format, a residue not below its prime, or a second
            polynomial of zero: no encryption at all.
    """
    values = WRAP.read(wrap)
    if not values[1].any():
        raise CiphertextError("the wrapped key's second polynomial is zero: it is not encrypted")
    if total is None:
        return values
    result = total.copy()
    add_residues(result, values, WRAP.primes)
    return result
