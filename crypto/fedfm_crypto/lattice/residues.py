"""Wire form of key material: residues as 64-bit little-endian words, each below its prime.

For the messages of key generation and threshold decryption: polynomials [..., K, N] one after the
other, prime by prime, and nothing else. The reader knows the shape, so it knows the length before
it looks at a byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError

__all__ = ["check_residues", "read_residues", "residues_size", "write_residues"]

Words = NDArray[np.uint64]

_WORD = 8


def residues_size(degree: int, primes: Sequence[int], polynomials: int = 1) -> int:
    """Return the length of the wire form in bytes."""
    return _WORD * polynomials * len(primes) * degree


def check_residues(values: Words, primes: Sequence[int], what: str) -> None:
    """Raise CiphertextError unless values [..., K, N] are below the K primes, row by row."""
    moduli = np.array(primes, dtype=np.uint64).reshape(-1, 1)
    outside = values >= moduli
    if bool(outside.any()):
        at = tuple(int(i) for i in np.argwhere(outside)[0])
        raise CiphertextError(
            f"{what}: residue {at} is not below its prime {primes[at[-2]]}; refuse the message"
        )


def write_residues(values: Words, primes: Sequence[int], what: str) -> bytes:
    """Return the wire form of values [..., K, N]; raises as :func:`check_residues`."""
    check_residues(values, primes, what)
    return np.ascontiguousarray(values).astype("<u8", copy=False).tobytes()


def read_residues(
    data: bytes | bytearray | memoryview, shape: Sequence[int], primes: Sequence[int], what: str
) -> Words:
    """Return the residues of shape [..., K, N] that ``data`` consists of (a new array).

    Raises:
        CiphertextError: another length, or a residue that is not below its prime.
    """
    size = memoryview(data).nbytes
    if size != _WORD * math.prod(shape):
        raise CiphertextError(
            f"{what}: {size} bytes, expected exactly {_WORD * math.prod(shape)}; refuse the message"
        )
    values = np.frombuffer(data, dtype="<u8").astype(np.uint64).reshape(tuple(shape))
    check_residues(values, primes, what)
    return values
