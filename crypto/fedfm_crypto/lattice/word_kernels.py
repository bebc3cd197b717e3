"""Compiled inner loops on words: 54-bit packing, and lanes inside 96-bit words.

A 96-bit word is three ``uint32`` limbs, lowest first. See ``bulk_format`` and ``wide_words`` for
what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "add_packed",
    "add_wide",
    "join_lanes",
    "pack",
    "remove_packed",
    "split_lanes",
    "unpack",
]

Words = NDArray[np.uint64]
Limbs = NDArray[np.uint32]
_F = TypeVar("_F", bound=Callable[..., Any])
_U = np.uint64


def _compiled(function: _F) -> _F:
    return cast(_F, njit(cache=True, nogil=True)(function))


@_compiled
def pack(values: Words, packed: Words) -> None:
    """Write values [M, K, N] below 2^54 as a dense stream of bits, [M, K, N * 54 / 64]."""
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            word = _U(0)
            filled = 0
            at = 0
            for j in range(values.shape[2]):
                x = values[poly, k, j]
                word |= x << _U(filled)
                filled += 54
                if filled >= 64:
                    packed[poly, k, at] = word
                    at += 1
                    filled -= 64
                    # 54 - filled bits of x are written; filled < 54 here, so the shift is valid.
                    word = x >> _U(54 - filled)


@_compiled
def unpack(packed: Words, primes: Words, values: Words) -> bool:
    """Read what :func:`pack` wrote; return whether every residue is below its prime."""
    low = (_U(1) << _U(54)) - _U(1)
    good = True
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            bit = 0
            for j in range(values.shape[2]):
                at = bit >> 6
                offset = bit & 63
                x = packed[poly, k, at] >> _U(offset)
                if offset > 10:
                    x |= packed[poly, k, at + 1] << _U(64 - offset)
                x &= low
                good &= x < primes[k]
                values[poly, k, j] = x
                bit += 54
    return good


@_compiled
def add_packed(packed: Words, primes: Words, sums: Words) -> bool:
    """Add the residues of :func:`pack` to sums [M, K, N], modulo each prime, in place.

    Returns whether every residue was below its prime; if not, :func:`remove_packed` takes all of
    them back. One pass over memory, where checking first would take two.
    """
    low = (_U(1) << _U(54)) - _U(1)
    good = True
    for poly in range(sums.shape[0]):
        for k in range(sums.shape[1]):
            q = primes[k]
            bit = 0
            for j in range(sums.shape[2]):
                at = bit >> 6
                offset = bit & 63
                x = packed[poly, k, at] >> _U(offset)
                if offset > 10:
                    x |= packed[poly, k, at + 1] << _U(64 - offset)
                x &= low
                good &= x < q
                total = sums[poly, k, j] + x
                sums[poly, k, j] = total - q if total >= q else total
                bit += 54
    return good


@_compiled
def remove_packed(values: Words, primes: Words, sums: Words) -> None:
    """Undo :func:`add_packed`, given the unpacked residues, below their primes or not."""
    for poly in range(sums.shape[0]):
        for k in range(sums.shape[1]):
            q = primes[k]
            for j in range(sums.shape[2]):
                x = values[poly, k, j]
                total = sums[poly, k, j]
                # A residue of q or more was always reduced by q; another one if the sum shows it.
                borrowed = x >= q or total < x
                sums[poly, k, j] = total + q - x if borrowed else total - x


@_compiled
def join_lanes(lanes: Limbs, bits: int, limbs: Limbs) -> None:
    """Write sum_l v_l 2^(l bits) modulo 2^96 of signed lanes (two's complement below 2^bits)."""
    count = 96 // bits
    mask = (np.int64(1) << bits) - np.int64(1)
    top = np.int64(1) << (bits - 1)
    for i in range(limbs.size // 3):
        low = _U(0)
        high = _U(0)
        borrow = np.int64(0)
        for lane in range(count):
            at = count * i + lane
            digit = np.int64(lanes[at]) if at < lanes.size else np.int64(0)
            signed = (digit - (mask + 1) if digit >= top else digit) + borrow
            borrow = np.int64(-1) if signed < 0 else np.int64(0)
            word = _U(signed & mask)
            shift = lane * bits
            if shift >= 64:
                high |= word << _U(shift - 64)
            else:
                low |= word << _U(shift)
                if shift + bits > 64:
                    high |= word >> _U(64 - shift)
        limbs[3 * i] = low & _U(0xFFFFFFFF)
        limbs[3 * i + 1] = low >> _U(32)
        limbs[3 * i + 2] = high & _U(0xFFFFFFFF)


@_compiled
def split_lanes(limbs: Limbs, bits: int, lanes: Limbs) -> None:
    """Undo :func:`join_lanes`, from the lowest lane up, handing its borrow to the next."""
    count = 96 // bits
    mask = (np.int64(1) << bits) - np.int64(1)
    top = np.int64(1) << (bits - 1)
    for i in range(limbs.size // 3):
        low = _U(limbs[3 * i]) | (_U(limbs[3 * i + 1]) << _U(32))
        high = _U(limbs[3 * i + 2])
        borrow = np.int64(0)
        for lane in range(count):
            shift = lane * bits
            if shift >= 64:
                word = high >> _U(shift - 64)
            else:
                word = low >> _U(shift)
                if shift + bits > 64:
                    word |= high << _U(64 - shift)
            digit = np.int64(word & _U(mask))
            at = count * i + lane
            if at < lanes.size:
                lanes[at] = (digit + borrow) & mask
            # Negative with what it lent to the lane below: so it borrowed from the lane above.
            borrow = np.int64(1) if digit >= top else np.int64(0)


@_compiled
def add_wide(limbs: Limbs, other: Limbs, negative: bool) -> None:
    """Add (or subtract) 96-bit words to ``limbs``, modulo 2^96, in place."""
    for i in range(limbs.size // 3):
        at = 3 * i
        low = _U(limbs[at]) | (_U(limbs[at + 1]) << _U(32))
        other_low = _U(other[at]) | (_U(other[at + 1]) << _U(32))
        if negative:
            total = low - other_low
            high = _U(limbs[at + 2]) - _U(other[at + 2]) - (_U(1) if total > low else _U(0))
        else:
            total = low + other_low
            high = _U(limbs[at + 2]) + _U(other[at + 2]) + (_U(1) if total < low else _U(0))
        limbs[at] = total & _U(0xFFFFFFFF)
        limbs[at + 1] = total >> _U(32)
        limbs[at + 2] = high & _U(0xFFFFFFFF)
