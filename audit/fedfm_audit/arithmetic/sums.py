"""One sum repeated and compared, piece by piece: memory for one piece, however long updates are
and however many.

The piece of a sum is the pieces of the accepted uploads added up, less the masks; it must be the
same bits as in the Aggregate that the coordinator signed and the clients acknowledged.
Source: protocols/README.md, message 12, sections "Masks" and "The bulk layer".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.arithmetic.bodies import StreamedWords
from fedfm_audit.arithmetic.masks import Mask, MaskStreams
from fedfm_crypto.errors import CiphertextError
from fedfm_crypto.lanes import unpack_lanes
from fedfm_crypto.lattice.parameters import BULK_DEGREE, BULK_PRIMES, POLYNOMIAL_BYTES
from fedfm_crypto.lattice.portable_sums import (
    WORD_BYTES,
    add_residues,
    read_bulk,
    subtract_words,
)

_WORD_BITS = 96
# Some hundred kilobytes of a body at a time.
_POLYNOMIALS = 8
_LANES = 1 << 17

Values = NDArray[Any]


class Arithmetic(Protocol):
    """How updates of a suite are added: as lanes, or as ciphertexts."""

    @property
    def size(self) -> int:
        """Bytes of the words of an upload."""

    def pieces(self) -> Iterator[int]:
        """Bytes of each piece, in order."""

    def read(self, piece: bytes) -> Values:
        """The numbers in a piece."""

    def add(self, total: Values, values: Values) -> Values:
        """Their sum (``total`` may be overwritten)."""

    def negative(self, values: Values) -> Values:
        """What takes ``values`` off when it is added."""

    def peel(self, total: Values) -> Values:
        """The sum of the next piece without its masks (``total`` may be overwritten)."""


class LaneSums:
    """Suites without encryption: lanes modulo 2^lane_bits, whose masks are lanes too."""

    def __init__(self, lanes: int, lane_bits: int, masks: Sequence[Mask]) -> None:
        self._lanes, self._bits = lanes, lane_bits
        self._masks = MaskStreams(masks, _LANES * lane_bits // 8)
        self._lowest = np.uint32((1 << lane_bits) - 1)

    @property
    def size(self) -> int:
        return self._lanes * self._bits // 8

    def pieces(self) -> Iterator[int]:
        for first in range(0, self._lanes, _LANES):
            yield min(_LANES, self._lanes - first) * self._bits // 8

    def read(self, piece: bytes) -> Values:
        return unpack_lanes(piece, self._bits)

    def add(self, total: Values, values: Values) -> Values:
        return (total + values) & self._lowest

    def negative(self, values: Values) -> Values:
        return (np.uint32(0) - values) & self._lowest

    def peel(self, total: Values) -> Values:
        return self.add(total, self._masks.lanes(total.size, self._bits))


class CiphertextSums:
    """Suites with encryption: bulk ciphertexts, from which masks come off as plaintext words."""

    def __init__(self, lanes: int, lane_bits: int, masks: Sequence[Mask]) -> None:
        self._words = -(-lanes // (_WORD_BITS // lane_bits))
        self._polynomials = -(-self._words // BULK_DEGREE)
        # What is subtracted from a ciphertext is the negative of what would be added.
        negated: list[Mask] = [(key, 1 if sign == -1 else -1) for key, sign in masks]
        self._masks = MaskStreams(negated, _POLYNOMIALS * BULK_DEGREE * WORD_BYTES)
        self._moduli = np.array(BULK_PRIMES, dtype=np.uint64).reshape(-1, 1)

    @property
    def size(self) -> int:
        return self._polynomials * POLYNOMIAL_BYTES

    def pieces(self) -> Iterator[int]:
        for first in range(0, self._polynomials, _POLYNOMIALS):
            yield min(_POLYNOMIALS, self._polynomials - first) * POLYNOMIAL_BYTES

    def read(self, piece: bytes) -> Values:
        return read_bulk(piece)

    def add(self, total: Values, values: Values) -> Values:
        add_residues(total, values)
        return total

    def negative(self, values: Values) -> Values:
        return np.where(values == 0, values, self._moduli - values)

    def peel(self, total: Values) -> Values:
        count = min(len(total) * BULK_DEGREE, self._words)
        self._words -= count
        if self._masks.masks:
            subtract_words(total, self._masks.wide(count))
        return total


def first_difference(
    arithmetic: Arithmetic, uploads: Sequence[StreamedWords], claimed: StreamedWords
) -> str:
    """Why ``claimed`` is not the sum of ``uploads`` without masks; empty if it is, bit for bit.

    Reads every piece of all of them up to the first difference.  Whether they are what was signed
    is known after ``finish`` of each.

    Raises
    ------
    CiphertextError
        if a ciphertext has a residue out of range.
    ArchiveError
        if a file ends too early.
    """
    for number, size in enumerate(arithmetic.pieces()):
        at = [upload.at for upload in uploads]
        total: Values | None = None
        for upload in uploads:
            values = _read(arithmetic, upload.piece(size), upload.sender)
            total = values if total is None else arithmetic.add(total, values)
        if total is None:
            return "it is a sum of nothing"
        expected = arithmetic.peel(total)
        found = _read(arithmetic, claimed.piece(size), "the Aggregate")
        if not np.array_equal(found, expected):
            places = np.argwhere((found != expected).reshape(-1))
            surplus = arithmetic.add(found, arithmetic.negative(expected))
            again = [(u, u.again(start, size)) for u, start in zip(uploads, at, strict=True)]
            return (
                f"it differs from the sum of {len(uploads)} uploads first at number "
                f"{int(places[0][0])} of piece {number}, in {len(places)} of {found.size} "
                f"numbers there{_culprit(arithmetic, surplus, again)}"
            )
    return ""


def _culprit(
    arithmetic: Arithmetic, surplus: Values, pieces: Sequence[tuple[StreamedWords, bytes]]
) -> str:
    """Whose upload, left out or added twice, makes all of the difference."""
    for upload, piece in pieces:
        values = arithmetic.read(piece)
        if np.array_equal(surplus, values):
            return f": as if the upload of {upload.sender} were counted twice"
        if np.array_equal(surplus, arithmetic.negative(values)):
            return f": as if the upload of {upload.sender} were left out"
    return ""


def _read(arithmetic: Arithmetic, piece: bytes, whose: str) -> Values:
    try:
        return arithmetic.read(piece)
    except CiphertextError as error:
        raise CiphertextError(f"{whose}: {error}") from error
