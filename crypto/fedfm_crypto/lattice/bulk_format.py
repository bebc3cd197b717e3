"""Wire form of bulk ciphertexts: whole polynomials, 54 bits a residue, every residue checked.

A polynomial is its N residues modulo the first prime and then those modulo the second, each as a
dense little-endian stream of 54-bit numbers: 2 * 4096 * 54 / 8 = 55,296 bytes with no bit left
over. A ciphertext is its polynomials one after the other and nothing else, so any run of whole
polynomials can be checked, added or opened by itself: that is what keeps memory bounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError
from fedfm_crypto.lattice import word_kernels
from fedfm_crypto.lattice.parameters import (
    BULK_DEGREE,
    BULK_PRIMES,
    POLYNOMIAL_BYTES,
    RESIDUE_BITS,
)

__all__ = [
    "DEGREE",
    "POLYNOMIAL_BYTES",
    "PRIMES",
    "RESIDUE_BITS",
    "add_polynomials",
    "check_polynomials",
    "read_polynomials",
    "write_polynomials",
]

DEGREE = BULK_DEGREE
"""N, coefficients of a polynomial."""
PRIMES = BULK_PRIMES
"""The two largest primes of 54 bits that are 1 modulo 2N."""

Words = NDArray[np.uint64]

_MODULI = np.array(PRIMES, dtype=np.uint64)
_WORDS = DEGREE * RESIDUE_BITS // 64
# Polynomials unpacked at a time where only their residues' size is of interest.
_BATCH = 8


def write_polynomials(values: Words) -> bytes:
    """Return the wire form of residues [M, 2, N], each below its prime.

    Raises:
        CiphertextError: another shape, or a residue that is not below its prime.
    """
    if values.dtype != np.uint64 or values.shape[1:] != (len(PRIMES), DEGREE):
        raise CiphertextError(
            f"found {values.dtype} {values.shape}, expected uint64 (M, {len(PRIMES)}, {DEGREE})"
        )
    if bool((values >= _MODULI.reshape(-1, 1)).any()):
        raise CiphertextError("a residue is not below its prime; reduce it before writing")
    packed = np.empty((values.shape[0], len(PRIMES), _WORDS), dtype=np.uint64)
    word_kernels.pack(np.ascontiguousarray(values), packed)
    return packed.astype("<u8", copy=False).tobytes()


def check_polynomials(data: bytes | bytearray | memoryview) -> int:
    """Return how many polynomials a chunk holds, having looked at every residue.

    For uploads as they arrive: memory for eight polynomials, whatever the chunk's size.

    Raises:
        CiphertextError: not a whole, positive number of polynomials, or a residue that is not
            below its prime.
    """
    packed = _packed(data)
    scratch = np.empty((min(_BATCH, len(packed)), len(PRIMES), DEGREE), dtype=np.uint64)
    for start in range(0, len(packed), _BATCH):
        part = packed[start : start + _BATCH]
        if not word_kernels.unpack(part, _MODULI, scratch[: len(part)]):
            raise _residue_error(start, scratch[: len(part)])
    return len(packed)


def add_polynomials(data: bytes | bytearray | memoryview, sums: Words, first: int) -> None:
    """Add a chunk to sums [M, 2, N] from polynomial ``first`` on: all of it, or nothing.

    Raises:
        CiphertextError: as :func:`check_polynomials`, or the chunk reaches past the end.
    """
    packed = _packed(data)
    if first < 0 or first + len(packed) > len(sums):
        raise CiphertextError(
            f"polynomials {first}..{first + len(packed) - 1} of a ciphertext of {len(sums)}"
        )
    target = sums[first : first + len(packed)]
    if not word_kernels.add_packed(packed, _MODULI, target):
        values = np.empty(target.shape, dtype=np.uint64)
        word_kernels.unpack(packed, _MODULI, values)
        word_kernels.remove_packed(values, _MODULI, target)
        raise _residue_error(0, values)


def read_polynomials(data: bytes | bytearray | memoryview) -> Words:
    """Return the residues [M, 2, N] of a chunk; raises as :func:`check_polynomials`."""
    packed = _packed(data)
    values = np.empty((len(packed), len(PRIMES), DEGREE), dtype=np.uint64)
    if not word_kernels.unpack(packed, _MODULI, values):
        raise _residue_error(0, values)
    return values


def _packed(data: bytes | bytearray | memoryview) -> Words:
    size = len(data) if not isinstance(data, memoryview) else data.nbytes
    if not size or size % POLYNOMIAL_BYTES:
        raise CiphertextError(
            f"bulk ciphertext of {size} bytes, expected a positive multiple of {POLYNOMIAL_BYTES}"
        )
    words = np.frombuffer(data, dtype="<u8").astype(np.uint64, copy=False)
    if not words.flags.aligned:
        words = words.copy()
    # One kind of array for the compiled code, whether it was handed bytes or a bytearray.
    words.flags.writeable = False
    return words.reshape(-1, len(PRIMES), _WORDS)


def _residue_error(start: int, values: Words) -> CiphertextError:
    at = np.argwhere(values >= _MODULI.reshape(-1, 1))[0]
    return CiphertextError(
        f"bulk ciphertext: residue {at[2]} of polynomial {start + int(at[0])} is not below the "
        f"prime {PRIMES[int(at[1])]}; refuse the upload"
    )
