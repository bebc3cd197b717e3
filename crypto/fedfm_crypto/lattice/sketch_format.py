"""The wire forms of encrypted sketches and scores, and the numbers that all parties share.

Needs neither numba nor TenSEAL: whoever only checks, counts or forwards these messages loads this.

A **sketch**, and a sum of sketches, is the parameter id (32 bytes), the CKKS scale (8) and
residues of 8 bytes for primes of 60 bits and 5 for those of 40: 294,952 bytes where SEAL takes
393,329. There is one accepted form, read here before anything is computed.

A **score** is beta, one fraction modulo 1 for each group, and alpha, N of them, in units of 2^-40,
5 bytes little-endian each; 40,965 bytes for one group. Every byte string of that length is a score
of something, so length is all that there is to check.
"""

from __future__ import annotations

import hmac
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CiphertextError, CryptoError
from fedfm_crypto.lattice.residues import check_residues
from fedfm_crypto.lattice.seal_format import Scheme, SealParameters
from fedfm_crypto.sketch import GROUP_COUNTS, ROWS

__all__ = [
    "LARGEST_NORM", "NORM_BITS", "PARAMETERS", "SCALE", "SCORE_BITS", "SKETCH", "SKETCH_SUM",
    "PackedLayout", "SketchScale", "read_score", "score_positions", "score_size", "write_score",
]  # fmt: skip

Words = NDArray[np.uint64]

PARAMETERS = SealParameters(
    Scheme.CKKS,
    8192,
    (1152921504606748673, 1099510890497, 1099511480321, 1152921504606830593),
)
"""What SEAL chooses for [60, 40, 40, 60]; a test compares."""
SCALE = 2.0**40
"""CKKS scale of a fresh sketch."""
NORM_BITS = 35
"""A sketch of the largest measurable norm is enlarged to norm 2^35: products fill the modulus."""
LARGEST_NORM = 2.0**40
"""Steps: beyond, a sum of sketches would not decrypt to exact integers."""
SCORE_BITS = 40
"""Bits of a fraction on the wire."""

_SCALE_BYTES = struct.pack("<d", SCALE)
_WIDTH = SCORE_BITS // 8
_N = PARAMETERS.degree


@dataclass(frozen=True, slots=True)
class SketchScale:
    """How integers become CKKS values; public and equal for all parties of a round.

    Args:
        norm_bound: B, the largest L2 norm of a vector (in integer steps) whose scores are
            measured. Scores of a larger vector wrap around and mean nothing.
        groups: of the sketch layout: 1, 2, 4 or 8.

    Raises:
        CapacityError: B is not between 1 and 2^40.
        CryptoError: another number of groups.
    """

    norm_bound: float
    groups: int = 1

    def __post_init__(self) -> None:
        bound = self.norm_bound
        if not (math.isfinite(bound) and 1 <= bound <= LARGEST_NORM):
            raise CapacityError(
                f"largest measured norm {bound} steps, expected between 1 and 2^40; change the "
                "quantisation scale"
            )
        if self.groups not in GROUP_COUNTS:
            raise CryptoError(f"{self.groups} sketch groups, expected one of {GROUP_COUNTS}")

    @property
    def rows(self) -> int:
        """Rows of a group; a sketch's norm is about sqrt(rows) times its vector's."""
        return ROWS // self.groups

    @property
    def amplitude(self) -> float:
        """What a sketch is multiplied with before encryption: 2^35 / (sqrt(rows) B)."""
        return float(2.0**NORM_BITS / (math.sqrt(self.rows) * self.norm_bound))


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """The one accepted form of a ciphertext of sketches.

    Args:
        what: the object's name in error messages.
        primes: of its level, a prefix of the chain.
    """

    what: str
    primes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(2, K, N)."""
        return (2, len(self.primes), PARAMETERS.degree)

    @property
    def _head(self) -> bytes:
        return PARAMETERS.identifier(self.primes) + _SCALE_BYTES

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(-(-q.bit_length() // 8) for q in self.primes)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._head) + 2 * PARAMETERS.degree * sum(self._widths)

    def write(self, values: Words) -> bytes:
        """Return the wire form of residues [2, K, N].

        Raises:
            CiphertextError: another shape, or a residue that is not below its prime.
        """
        if values.shape != self.shape or values.dtype != np.uint64:
            raise CiphertextError(
                f"{self.what}: found {values.dtype} {values.shape}, expected uint64 {self.shape}"
            )
        check_residues(values, self.primes, self.what)
        octets = values.astype("<u8", order="C", copy=False).view(np.uint8)
        octets = octets.reshape(*self.shape, 8)
        parts = [self._head]
        for polynomial in octets:
            for row, width in zip(polynomial, self._widths, strict=True):
                parts.append(row[:, :width].tobytes())
        return b"".join(parts)

    def read(self, data: bytes | bytearray | memoryview) -> Words:
        """Return the residues [2, K, N] of a received ciphertext (a new array).

        Raises:
            CiphertextError: another length, parameter id or scale, a residue that is not below its
                prime, or a second polynomial of zero, which would be no encryption at all.
        """
        view = memoryview(data).cast("B")
        if view.nbytes != self.size:
            raise CiphertextError(
                f"{self.what}: {view.nbytes} bytes, expected exactly {self.size}; refuse it"
            )
        head = self._head
        if not hmac.compare_digest(view[:32], head[:32]):
            raise CiphertextError(
                f"{self.what}: parameter id {view[:32].hex()}, expected {head[:32].hex()}; it was "
                "made for other parameters or another level"
            )
        if view[32:40] != head[32:]:
            (found,) = struct.unpack("<d", view[32:40])
            raise CiphertextError(f"{self.what}: scale {found}, expected {SCALE}; refuse it")
        octets = np.zeros((*self.shape, 8), dtype=np.uint8)
        at = len(head)
        for polynomial in octets:
            for row, width in zip(polynomial, self._widths, strict=True):
                size = PARAMETERS.degree * width
                packed = np.frombuffer(view[at : at + size], dtype=np.uint8)
                row[:, :width] = packed.reshape(PARAMETERS.degree, width)
                at += size
        values = octets.reshape(2, len(self.primes), -1).view("<u8").astype(np.uint64)
        check_residues(values, self.primes, self.what)
        if not values[1].any():
            raise CiphertextError(f"{self.what}: the second polynomial is zero: not encrypted")
        return values


SKETCH = PackedLayout("encrypted sketch", PARAMETERS.data_primes)
"""One client's sketch."""
SKETCH_SUM = PackedLayout("sum of encrypted sketches", PARAMETERS.data_primes[:2])
"""A sum of sketches, for the check."""


def score_positions(groups: int) -> tuple[int, ...]:
    """Return the coefficients of a product that hold the sums of ``groups`` groups.

    Raises:
        CryptoError: ``groups`` is not 1, 2, 4 or 8.
    """
    if groups not in GROUP_COUNTS:
        raise CryptoError(f"{groups} sketch groups, expected one of {GROUP_COUNTS}")
    return tuple(j * _N // (2 * groups) for j in range(groups))


def score_size(groups: int) -> int:
    """Return the length of a score in bytes; raises as :func:`score_positions`."""
    return _WIDTH * (_N + len(score_positions(groups)))


def write_score(betas: Sequence[int], alpha: Words) -> bytes:
    """Return the wire form of fractions in units of 2^-40, reduced modulo 1."""
    values = np.concatenate([np.array([b % (1 << SCORE_BITS) for b in betas], np.uint64), alpha])
    return values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :_WIDTH].tobytes()


def read_score(score: bytes | memoryview, groups: int) -> tuple[Words, Words]:
    """Return beta [groups] and alpha [N] of a received score, in units of 2^-40.

    Raises:
        CiphertextError: another length.
        CryptoError: ``groups`` is not 1, 2, 4 or 8.
    """
    view, size = memoryview(score).cast("B"), score_size(groups)
    if view.nbytes != size:
        raise CiphertextError(
            f"encrypted score of {view.nbytes} bytes, expected exactly {size}; refuse it"
        )
    octets = np.zeros((size // _WIDTH, 8), dtype=np.uint8)
    octets[:, :_WIDTH] = np.frombuffer(view, dtype=np.uint8).reshape(-1, _WIDTH)
    values = octets.reshape(-1).view("<u8").astype(np.uint64)
    return values[:groups], values[groups:]
