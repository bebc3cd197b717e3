"""The randomised Hadamard transform: spreads a vector's norm evenly over its coordinates.

rotate(x) = H D x / sqrt(m): x is padded with zeros to m = 2^k coordinates, D flips signs by a
public seed, H is the Hadamard matrix in natural order. It is an isometry, linear, and its own
inverse but for the signs. After it a coordinate of a vector of norm C is above t in magnitude with
probability of at most 2 exp(-m t^2 / (2 C^2)) over the seed (Hoeffding), so that lanes need far
fewer bits than the clip itself; :func:`flat_bound` gives t. The seed must be chosen after, or
independently of, the vectors; it protects no secret.

Only additions, subtractions and one product by a double each: every machine computes the same
bits, which a BLAS product would not promise, and clients must agree on the adapter bit by bit.
Rounding makes the norm off by a relative (log2(m) + 1) 2^-53 at most; the integers rounded from the
result are what ``sensitivity`` checks, so privacy does not rest on it.

Sources: Kairouz, Liu and Steinke 2102.06387; Ailon and Chazelle 2006.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CryptoError, NonFiniteError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label

__all__ = ["flat_bound", "padded_size", "rotate", "unrotate"]

Floats = NDArray[np.float64]


def padded_size(size: int) -> int:
    """Return the smallest power of two that is at least ``size`` (itself at least 1).

    Raises:
        CryptoError: ``size`` is below 1.
    """
    if size < 1:
        raise CryptoError(f"{size} coordinates to rotate, expected at least 1")
    return 1 << (size - 1).bit_length()


def rotate(values: NDArray[Any], seed: bytes) -> Floats:
    """Return the rotated vector, float64[padded_size(len(values))].

    Args:
        values: 1-D float32 or float64, at least one value.
        seed: public, any length; all clients of a sum use the same.

    Raises:
        NonFiniteError: a value is NaN or infinite.
        CryptoError: the array has another dtype or shape.
    """
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise CryptoError(
            f"found {values.ndim}-D {values.dtype}, expected a 1-D float32 or float64 array"
        )
    padded = np.zeros(padded_size(values.size), dtype=np.float64)
    padded[: values.size] = values
    _check_finite(padded)
    padded *= _signs(seed, padded.size)
    return _transform(padded)


def unrotate(rotated: Floats, seed: bytes, size: int) -> Floats:
    """Return the first ``size`` coordinates of what :func:`rotate` was given (float64[size]).

    Args:
        rotated: float64[padded_size(size)]; not changed.
        seed: as in :func:`rotate`.
        size: coordinates before padding.

    Raises:
        NonFiniteError: a value is NaN or infinite.
        CryptoError: the array has another dtype or length.
    """
    expected = padded_size(size)
    if rotated.shape != (expected,) or rotated.dtype != np.float64:
        raise CryptoError(
            f"found {rotated.dtype} of shape {rotated.shape}, expected float64 of shape "
            f"({expected},)"
        )
    _check_finite(rotated)
    values = _transform(rotated.copy())
    values *= _signs(seed, expected)
    return values[:size].copy()


def flat_bound(clip: float, padded: int, failure: float) -> float:
    """Return t: all coordinates of a rotated vector are within +-t but for a chance ``failure``.

    t = C sqrt(2 ln(2 m / failure) / m), and never more than C.

    Args:
        clip: C, the vector's L2 norm, positive and finite.
        padded: m.
        failure: over the choice of the seed, between 0 and 1.

    Raises:
        CapacityError: an argument is out of range.
    """
    if not (math.isfinite(clip) and clip > 0 and padded >= 1 and 0 < failure < 1):
        raise CapacityError(
            f"clip {clip}, {padded} coordinates, failure {failure}: expected positive finite "
            "numbers and a probability"
        )
    return clip * min(1.0, math.sqrt(2 * math.log(2 * padded / failure) / padded))


def _check_finite(values: Floats) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        raise NonFiniteError(
            f"value {int(np.argmin(finite))} is NaN or infinite; check what produced it"
        )


def _signs(seed: bytes, count: int) -> Floats:
    """Return ``count`` signs: bit i, from the lowest bit of each AES-256-CTR byte, 1 for -1."""
    cipher = Cipher(algorithms.AES(hash_parts(Label.ROTATION, seed)), modes.CTR(bytes(16)))
    stream = cipher.encryptor().update(bytes(-(-count // 8)))
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=count, bitorder="little")
    signs: Floats = np.where(bits, -1.0, 1.0)
    return signs


def _transform(values: Floats) -> Floats:
    """Return H values / sqrt(m); ``values`` is overwritten. m is a power of two.

    H of 2^(a+b) is the product of H of 2^a over the rows and H of 2^b over the columns of a matrix.
    Butterflies always go across rows, which keeps memory access in long runs.
    """
    columns = 1 << (values.size.bit_length() - 1) // 2
    matrix = values.reshape(-1, columns)
    _butterflies(matrix)
    turned = np.ascontiguousarray(matrix.T)
    _butterflies(turned)
    result = np.ascontiguousarray(turned.T).reshape(-1)
    result *= 1.0 / math.sqrt(values.size)
    return result


def _butterflies(matrix: Floats) -> None:
    """Replace each column by its unnormalised Hadamard transform; rows are a power of two."""
    half = 1
    while half < matrix.shape[0]:
        pairs = matrix.reshape(-1, 2, half, matrix.shape[1])
        lower, upper = pairs[:, 0], pairs[:, 1]
        difference = lower - upper
        lower += upper
        upper[...] = difference
        half *= 2
