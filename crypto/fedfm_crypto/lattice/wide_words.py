"""Lanes inside 96-bit words: how signed integers become the messages of the bulk encryption.

A wide word holds three 32-bit or four 24-bit lanes as the one integer sum_l v_l 2^(l b) modulo
2^96, v_l signed. In memory it is three ``uint32`` limbs, lowest first; an array of M words has 3 M
limbs.

**Carries.** Encrypted words are added as integers modulo 2^96, so whatever a lane carries goes into
the lane above. Masks must therefore live in the same group: one uniform 96-bit word for each wide
word, added modulo 2^96. Masks by lane would not do: the sum of n masked lanes exceeds 2^b by a
number of carries that only somebody who saw every single masked word could know, and it would stay
in the lane above as an error of up to n steps. With masks modulo 2^96 the masks leave

    sum_i sum_l v_(i,l) 2^(l b) = sum_l V_l 2^(l b)  modulo 2^96,   V_l = sum_i v_(i,l),

and if every |V_l| < 2^(b-1) (the quantiser's capacity rule) the lanes come out from the lowest up:
the lowest b bits are V_0 in two's complement; a negative V_0 has borrowed one from the lane above,
which gets it back; that lane has borrowed in turn if it was negative before it got it back (a zero
that lent is -1); and so on. The result is exact, and the masked word is uniform whatever the
lanes hold. (PROTOCOL.md, "The bulk layer".)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CryptoError
from fedfm_crypto.lanes import check_lane_bits, check_words
from fedfm_crypto.lattice import word_kernels
from fedfm_crypto.mask import Keystream, Sign
from fedfm_crypto.secret import Secret

__all__ = [
    "LIMBS",
    "WORD_BITS",
    "add_wide",
    "add_wide_masks",
    "check_limbs",
    "from_wide",
    "to_wide",
    "wide_size",
]

WORD_BITS = 96
"""Bits of a wide word: log2 of T in the bulk encryption."""
LIMBS = 3
"""uint32 limbs of a wide word."""

Limbs = NDArray[np.uint32]

_LIMB_BYTES = 4
# Limbs per chunk, a multiple of 3: 48 KiB of words and as much keystream stay in cache.
_CHUNK = 3 << 12


def wide_size(count: int, lane_bits: int) -> int:
    """Return how many wide words hold ``count`` lanes."""
    check_lane_bits(lane_bits)
    return -(-count // (WORD_BITS // lane_bits))


def to_wide(lanes: NDArray[np.uint32], lane_bits: int) -> Limbs:
    """Return the wide words of lane words, 3 limbs each; the last one is filled up with zeros.

    Args:
        lanes: 1-D uint32, two's complement below 2^lane_bits (``Quantiser.quantise``).
        lane_bits: 24 or 32.

    Raises:
        CapacityError: a lane word is 2^lane_bits or more, or there is no such lane width.
    """
    check_words(lanes, "lanes")
    limbs = np.empty(LIMBS * wide_size(lanes.size, lane_bits), dtype=np.uint32)
    if lane_bits < 32 and lanes.size and int(lanes.max()) >> lane_bits:
        raise CapacityError(f"a lane is 2^{lane_bits} or more and does not fit {lane_bits} bits")
    word_kernels.join_lanes(lanes, lane_bits, limbs)
    return limbs


def from_wide(limbs: Limbs, lane_bits: int, count: int) -> NDArray[np.uint32]:
    """Return the first ``count`` lanes of wide words, two's complement below 2^lane_bits.

    Exact if the signed value in every lane, below ``count`` or not, is smaller than
    2^(lane_bits-1) in magnitude; beyond that, an overflow also disturbs the lane above.

    Raises:
        CryptoError: ``limbs`` holds fewer lanes, or is no array of wide words.
    """
    check_limbs(limbs)
    if not 0 <= count <= limbs.size // LIMBS * (WORD_BITS // lane_bits):
        raise CryptoError(f"{count} lanes of {limbs.size // LIMBS} wide words, which hold fewer")
    check_lane_bits(lane_bits)
    lanes = np.empty(count, dtype=np.uint32)
    word_kernels.split_lanes(limbs, lane_bits, lanes)
    return lanes


def add_wide_masks(limbs: Limbs, masks: Iterable[tuple[Secret, Sign]]) -> None:
    """Add (sign = 1) or subtract (sign = -1) the mask under each key, modulo 2^96, in place.

    A mask is the AES-256-CTR keystream of its key, 12 bytes a wide word, little-endian. Memory
    beyond ``limbs`` is one small buffer.

    Raises:
        InvalidKeyError: a key is not 32 bytes.
        CryptoError: the array is none of wide words, or a sign is not 1 or -1.
    """
    check_limbs(limbs)
    for key, sign in masks:
        if sign not in (1, -1):
            raise CryptoError(f"mask sign {sign}, expected 1 or -1")
        stream = Keystream(key, _LIMB_BYTES * _CHUNK)
        mask = stream.buffer[: _LIMB_BYTES * _CHUNK].view("<u4")
        for start in range(0, limbs.size, _CHUNK):
            chunk = limbs[start : start + _CHUNK]
            stream.fill(_LIMB_BYTES * chunk.size)
            word_kernels.add_wide(chunk, mask, sign == -1)


def add_wide(limbs: Limbs, other: Limbs) -> None:
    """Add wide words to as many others, modulo 2^96, in place.

    Raises:
        CryptoError: they are not equally many, or an array is none of wide words.
    """
    check_limbs(limbs)
    check_limbs(other)
    if limbs.size != other.size:
        raise CryptoError(f"{other.size} limbs added to {limbs.size}, expected equally many")
    word_kernels.add_wide(limbs, other, False)


def check_limbs(limbs: Limbs) -> None:
    """Raise CryptoError unless ``limbs`` is a contiguous 1-D uint32 array of whole wide words."""
    check_words(limbs, "wide words")
    if limbs.size % LIMBS:
        raise CryptoError(f"{limbs.size} limbs, expected a multiple of {LIMBS}")
