"""The secret directions and bits of one sub-key, generated block by block.

Direction j of module m is a pair of sign vectors, u_jm over its outputs and v_jm over its inputs;
bit b_j is a sign. With side 0 for u and 1 for v:

    K = H(MARK_DIRECTIONS, k, H(claim), name of m, U8 side)
    block q = the first 64 * ceil(d / 8) bytes of SHAKE-256(K || U32 q)

Direction 64 q + p is the bytes from p * ceil(d / 8) on; coordinate c is bit c mod 8 (the lowest is
0) of byte c div 8; a bit of 0 is +1, of 1 is -1. The bits are, in the same way, the first
ceil(N / 8) bytes of SHAKE-256(H(MARK_BITS, k, H(claim))).

A mark of N = 2048 over a 100 MB adapter of rank 8 has 6 * 10^9 signs. They exist as floats for one
block at a time: a table turns each byte into eight signs, in the cache of one core.
Source: FIPS 202 (SHAKE-256 as an extendable-output function of a secret key).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_crypto.secret import Secret

BLOCK = 64
"""Directions that are generated together."""

Signs = NDArray[np.float32]

_SIGNS_OF_BYTE: Signs = 1 - 2 * np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
).astype(np.float32)


class Side(Enum):
    """Which end of a module: outputs (u) or inputs (v)."""

    OUTPUT = 0
    INPUT = 1


def expand_signs(packed: NDArray[np.uint8]) -> Signs:
    """Bytes, shape (n, s), as float32 signs, shape (n, 8 s); lowest bit first, 0 is +1."""
    count, stride = packed.shape
    return _SIGNS_OF_BYTE.take(packed, axis=0, mode="clip").reshape(count, 8 * stride)


@dataclass(frozen=True, slots=True)
class Directions:
    """Directions and bits of one sub-key of a claim."""

    claim: Claim
    key: Secret

    def bits(self) -> NDArray[np.float64]:
        """b, float64 of +1 and -1, shape (N,)."""
        size = self.claim.size
        seed = hash_parts(Label.MARK_BITS, self.key.reveal(), self.claim.digest())
        drawn = hashlib.shake_256(seed).digest(-(-size // 8))
        packed = np.frombuffer(drawn, dtype=np.uint8)[None]
        return expand_signs(packed)[0, :size].astype(np.float64)

    def blocks(self, module: TargetModule) -> Iterator[tuple[slice, SignBlock, SignBlock]]:
        """Which directions, and their u and v for one module, 64 directions (the last block: the
        rest) at a time."""
        outputs = self._seed(module, Side.OUTPUT)
        inputs = self._seed(module, Side.INPUT)
        for number, start in enumerate(range(0, self.claim.size, BLOCK)):
            stop = min(start + BLOCK, self.claim.size)
            count = stop - start
            yield (
                slice(start, stop),
                SignBlock.draw(outputs, number, count, module.rows),
                SignBlock.draw(inputs, number, count, module.columns),
            )

    def _seed(self, module: TargetModule, side: Side) -> bytes:
        parts = (self.key.reveal(), self.claim.digest(), module.name.encode(), bytes([side.value]))
        return hash_parts(Label.MARK_DIRECTIONS, *parts)


@dataclass(frozen=True, slots=True)
class SignBlock:
    """Sign vectors of a few directions, one bit a sign: uint8, shape (count, ceil(width / 8))."""

    packed: NDArray[np.uint8]
    width: int

    @classmethod
    def draw(cls, seed: bytes, number: int, count: int, width: int) -> SignBlock:
        """The first ``count`` directions of a block."""
        stride = -(-width // 8)
        stream = hashlib.shake_256(seed + number.to_bytes(4, "big")).digest(BLOCK * stride)
        packed = np.frombuffer(stream, dtype=np.uint8).reshape(BLOCK, stride)
        return cls(packed[:count], width)

    def signs(self) -> Signs:
        """All of them, float32, shape (count, width)."""
        return expand_signs(self.packed)[:, : self.width]

    def part(self, start: int, stop: int) -> Signs:
        """Coordinates ``start`` to ``stop``; ``start`` a multiple of 8."""
        wanted = expand_signs(self.packed[:, start // 8 : -(-stop // 8)])
        return wanted[:, : stop - start]
