"""The mask generator: AES-256-CTR keystream as lane words, added in place.

A mask key is used for one mask only (it is derived per client pair, round and step), so the counter
starts at zero. A mask of n words is the first n * lane_bits / 8 keystream bytes, each word
little-endian. Work goes through one small buffer, so the cost is close to that of AES itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError, InvalidKeyError
from fedfm_crypto.lanes import check_lane_bits, check_words
from fedfm_crypto.secret import Secret

__all__ = ["MASK_KEY_SIZE", "Keystream", "Sign", "add_mask", "add_masks", "expand_mask"]

MASK_KEY_SIZE = 32

Sign = Literal[1, -1]

# Words per chunk: a chunk and its keystream, 64 KiB each, stay in the cache of one core while all
# masks are added.
_CHUNK_WORDS = 1 << 14
# Masks added in one pass over the words: each has a cipher alive meanwhile, of some kilobytes.
_MASKS_PER_PASS = 128
_BLOCK = 16


class Keystream:
    """The AES-256-CTR keystream under a single-use key, counter from zero, piece by piece.

    Args:
        key: 32 bytes, used for nothing else.
        largest: the largest piece that :meth:`fill` will be asked for, in bytes.
        share: a stream made for the same ``largest`` whose buffer this one overwrites in turn.

    Raises:
        InvalidKeyError: the key is not 32 bytes.
    """

    __slots__ = ("_encryptor", "_zeros", "buffer")

    _zeros: memoryview
    buffer: NDArray[np.uint8]
    """Holds the latest piece; a few bytes longer than ``largest``, content undefined past it."""

    def __init__(self, key: Secret, largest: int, share: Keystream | None = None) -> None:
        if len(key) != MASK_KEY_SIZE:
            raise InvalidKeyError(f"mask key of {len(key)} bytes, expected {MASK_KEY_SIZE}")
        cipher = Cipher(algorithms.AES(key.reveal()), modes.CTR(bytes(_BLOCK)))
        self._encryptor = cipher.encryptor()
        if share is not None:
            self._zeros, self.buffer = share._zeros, share.buffer
            return
        self._zeros = memoryview(bytes(largest))
        # update_into asks for a block less one byte of slack, and reading 3-byte words as 4-byte
        # ones needs one byte of it.
        self.buffer = np.zeros(largest + _BLOCK - 1, dtype=np.uint8)

    def fill(self, size: int) -> None:
        """Overwrite the start of :attr:`buffer` with the next ``size`` bytes of the stream."""
        self._encryptor.update_into(self._zeros[:size], self.buffer.data)


def expand_mask(key: Secret, count: int, lane_bits: int) -> NDArray[np.uint32]:
    """Return the mask of ``count`` words under ``key`` (uint32, each below 2^lane_bits).

    Raises:
        InvalidKeyError: the key is not 32 bytes.
        CapacityError: ``lane_bits`` is not 24 or 32.
        CryptoError: ``count`` is negative.
    """
    if count < 0:
        raise CryptoError(f"mask of {count} words, expected 0 or more")
    words = np.zeros(count, dtype=np.uint32)
    add_mask(words, key, lane_bits=lane_bits)
    return words


def add_mask(words: NDArray[np.uint32], key: Secret, sign: Sign = 1, lane_bits: int = 32) -> None:
    """Add (sign = 1) or subtract (sign = -1) one mask, in place; see :func:`add_masks`."""
    add_masks(words, [(key, sign)], lane_bits)


def add_masks(
    words: NDArray[np.uint32], masks: Iterable[tuple[Secret, Sign]], lane_bits: int = 32
) -> None:
    """Add (sign = 1) or subtract (sign = -1) the mask under each key, in place.

    Arithmetic is modulo 2^lane_bits. Memory beyond ``words`` stays below 1 MiB, however many masks
    there are.

    Args:
        words: contiguous 1-D uint32, each word below 2^lane_bits.
        masks: (key, sign) of each mask; keys of 32 bytes, used for this mask only.
        lane_bits: 24 or 32.

    Raises:
        InvalidKeyError: a key is not 32 bytes.
        CapacityError: ``lane_bits`` is not 24 or 32.
        CryptoError: the array's dtype or layout is wrong, or a sign is not 1 or -1.
    """
    check_lane_bits(lane_bits)
    check_words(words)
    remaining = iter(masks)
    while batch := list(islice(remaining, _MASKS_PER_PASS)):
        _add_pass(words, batch, lane_bits)


def _add_pass(
    words: NDArray[np.uint32], masks: Sequence[tuple[Secret, Sign]], lane_bits: int
) -> None:
    """Add a few masks, all of them to one chunk of words after the other."""
    width = lane_bits // 8
    largest = width * min(_CHUNK_WORDS, words.size)
    streams: list[tuple[Keystream, np.ufunc]] = []
    for key, sign in masks:
        if sign not in (1, -1):
            raise CryptoError(f"mask sign {sign}, expected 1 or -1")
        stream = Keystream(key, largest, streams[0][0] if streams else None)
        streams.append((stream, np.add if sign == 1 else np.subtract))
    buffer = streams[0][0].buffer.data
    lane = np.uint32((1 << lane_bits) - 1)
    for start in range(0, words.size, _CHUNK_WORDS):
        chunk = words[start : start + _CHUNK_WORDS]
        # A 24-bit word is read as 4 bytes at a stride of 3; its top byte belongs to the next word
        # and goes away with the reduction modulo 2^24. NumPy reads unaligned words correctly, and
        # this is ten times faster than copying byte triples.
        mask = np.ndarray((chunk.size,), dtype="<u4", buffer=buffer, strides=(width,))
        for stream, combine in streams:
            stream.fill(width * chunk.size)
            combine(chunk, mask, out=chunk)
        if lane_bits < 32:
            # Once at the end: 2^24 divides 2^32, so wrapping in between loses nothing.
            np.bitwise_and(chunk, lane, out=chunk)
