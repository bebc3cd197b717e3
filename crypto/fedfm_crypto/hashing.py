"""Domain-separated SHA-256 over byte strings and over named tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.labels import Label

__all__ = ["HASH_SIZE", "hash_parts", "hash_tensors", "length_prefixed"]

HASH_SIZE = 32
"""Bytes of a SHA-256 digest."""

# The kinds of dtype whose bytes mean the same on every machine once the byte order is fixed.
_PORTABLE_KINDS = "biuf"


def length_prefixed(label: Label, *parts: bytes) -> bytes:
    """Return U64(len) || bytes for the label and then for each part, concatenated.

    The encoding is injective: two different (label, parts) never give the same bytes, because
    each length says where the next one starts.
    """
    pieces: list[bytes] = []
    for piece in (label.value, *parts):
        pieces.append(len(piece).to_bytes(8, "big"))
        pieces.append(piece)
    return b"".join(pieces)


def hash_parts(label: Label, *parts: bytes) -> bytes:
    """Return SHA-256 of :func:`length_prefixed` (32 bytes)."""
    return hashlib.sha256(length_prefixed(label, *parts)).digest()


def hash_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the canonical hash of a set of named tensors (32 bytes).

    It equals ``hash_parts(Label.TENSORS, name, dtype, shape, data, name, ...)`` over the tensors
    sorted by name, where dtype is NumPy's type string with little-endian order (``<f4``), shape is
    one U64 (big-endian) a dimension, and data is the little-endian bytes in C order. Byte order
    and memory layout of the input do not matter; the sign of zero and the payload of a NaN do.

    Args:
        tensors: name -> array of booleans, integers or floats, of any shape.

    Raises:
        CryptoError: a dtype has no portable bytes (objects, strings, long double).
    """
    digest = hashlib.sha256(length_prefixed(Label.TENSORS))
    for name in sorted(tensors):
        for part in _tensor_parts(name, tensors[name]):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.digest()


def _tensor_parts(name: str, tensor: NDArray[Any]) -> Iterator[bytes | memoryview]:
    """Yield the four parts of one tensor; the data without a copy where its layout allows."""
    if tensor.dtype.kind not in _PORTABLE_KINDS or tensor.dtype.itemsize > 8:
        raise CryptoError(
            f"tensor {name!r} has dtype {tensor.dtype}, expected booleans, integers or floats of "
            "at most 64 bits; convert it first"
        )
    little = tensor.dtype.newbyteorder("<")
    # np.asarray, not ascontiguousarray: the latter turns a scalar's shape () into (1,).
    portable = np.asarray(tensor, dtype=little, order="C")
    yield name.encode()
    yield little.str.encode()
    yield b"".join(int(size).to_bytes(8, "big") for size in tensor.shape)
    yield portable.reshape(-1).view(np.uint8).data
