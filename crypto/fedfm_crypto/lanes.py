"""Lanes: signed integers as words modulo 2^24 or 2^32, in memory and on the wire.

In memory a word is a ``uint32`` below 2^lane_bits; on the wire it is 3 or 4 bytes, little-endian.
Signed values are two's complement in the lane, so that adding words modulo 2^lane_bits adds the
values as long as their sum fits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CodecError, CryptoError

__all__ = [
    "LANE_BITS",
    "add_lanes",
    "check_lane_bits",
    "check_words",
    "from_lanes",
    "pack_lanes",
    "to_lanes",
    "unpack_lanes",
]

LANE_BITS = (24, 32)
"""The lane widths that exist."""


def check_lane_bits(lane_bits: int) -> None:
    """Raise CapacityError unless ``lane_bits`` is one of :data:`LANE_BITS`."""
    if lane_bits not in LANE_BITS:
        raise CapacityError(f"lanes of {lane_bits} bits, expected one of {LANE_BITS}")


def check_words(words: NDArray[Any], what: str = "words") -> None:
    """Raise CryptoError unless ``words`` is a 1-D, C-contiguous uint32 array."""
    if words.dtype != np.uint32 or words.ndim != 1 or not words.flags.c_contiguous:
        raise CryptoError(
            f"{what}: found {words.ndim}-D {words.dtype}, expected a contiguous 1-D uint32 array"
        )


def to_lanes(values: NDArray[np.int64], lane_bits: int) -> NDArray[np.uint32]:
    """Return signed integers as lane words (uint32, same shape).

    Raises:
        CapacityError: a value is outside -2^(lane_bits-1) .. 2^(lane_bits-1) - 1.
    """
    check_lane_bits(lane_bits)
    limit = 1 << (lane_bits - 1)
    if values.size and (int(values.min()) < -limit or int(values.max()) >= limit):
        raise CapacityError(
            f"values {int(values.min())}..{int(values.max())} do not fit lanes of {lane_bits} "
            "bits; lower the scale or the clip"
        )
    return (values & ((1 << lane_bits) - 1)).astype(np.uint32)


def from_lanes(words: NDArray[np.uint32], lane_bits: int) -> NDArray[np.int64]:
    """Return the signed integers of lane words (int64, same shape)."""
    check_lane_bits(lane_bits)
    check_words(words)
    # Shifting the lane to the top of an int32 and back extends its sign.
    unused = 32 - lane_bits
    return ((words << np.uint32(unused)).view(np.int32) >> np.int32(unused)).astype(np.int64)


def pack_lanes(words: NDArray[np.uint32], lane_bits: int) -> bytes:
    """Return the wire form: lane_bits / 8 bytes a word, little-endian.

    Raises:
        CapacityError: a word is 2^lane_bits or more.
    """
    check_lane_bits(lane_bits)
    check_words(words)
    little = words.astype("<u4", copy=False)
    if lane_bits == 32:
        return little.tobytes()
    if words.size and int(words.max()) >> lane_bits:
        raise CapacityError(f"a word is 2^{lane_bits} or more and does not fit its lane")
    # Byte column by byte column: far faster in NumPy than copying byte triples.
    wide = little.view(np.uint8)
    packed = np.empty(3 * words.size, dtype=np.uint8)
    for position in range(3):
        packed[position::3] = wide[position::4]
    return packed.tobytes()


def unpack_lanes(data: bytes | memoryview, lane_bits: int) -> NDArray[np.uint32]:
    """Return the words of :func:`pack_lanes` (a new, writable array).

    Raises:
        CodecError: the length is no whole number of words.
    """
    check_lane_bits(lane_bits)
    size = lane_bits // 8
    if len(data) % size:
        raise CodecError(f"{len(data)} bytes of lanes, expected a multiple of {size}")
    if lane_bits == 32:
        return np.frombuffer(data, dtype="<u4").astype(np.uint32)
    packed = np.frombuffer(data, dtype=np.uint8)
    words = np.zeros(packed.size // size, dtype="<u4")
    wide = words.view(np.uint8)
    for position in range(size):
        wide[position::4] = packed[position::size]
    return words.astype(np.uint32, copy=False)


def add_lanes(acc: NDArray[np.uint32], words: NDArray[np.uint32], lane_bits: int) -> None:
    """Add ``words`` to ``acc`` in place, modulo 2^lane_bits.

    Raises:
        CryptoError: a dtype or layout is wrong, or the lengths differ.
    """
    check_lane_bits(lane_bits)
    check_words(acc, "acc")
    check_words(words)
    if acc.size != words.size:
        raise CryptoError(f"{words.size} words to add to {acc.size}, expected as many")
    np.add(acc, words, out=acc)
    if lane_bits < 32:
        np.bitwise_and(acc, np.uint32((1 << lane_bits) - 1), out=acc)
