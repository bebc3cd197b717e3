"""How the validator opens encrypted scores: beta_t + (alpha s)_t, a fraction modulo 1.

Opening gives integers' inner products as ``sketch.inner_products`` estimates them: sums over slots,
divided by rows. What decides over clients is made from these numbers by the validator; the numbers
themselves are the Gram matrix and nothing else (``scores``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lattice.sketch_format import (
    PARAMETERS,
    SCALE,
    SCORE_BITS,
    SketchScale,
    read_score,
    score_positions,
)
from fedfm_crypto.lattice.sketch_keys import SketchSecretKey
from fedfm_crypto.sketch import SLOTS

__all__ = ["ScoreOpening", "symmetric"]

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

_ONES = np.uint64((1 << SCORE_BITS) - 1)


class ScoreOpening:
    """The validator's decryption of scores.

    Args:
        secret: its key.
        scale: as the clients used it.
    """

    __slots__ = ("_decode", "_groups", "_rows")

    def __init__(self, secret: SketchSecretKey, scale: SketchScale) -> None:
        groups = self._groups = scale.groups
        self._rows = _product_rows(secret.ternary(), score_positions(groups))
        modulus = 1
        for q in PARAMETERS.data_primes:
            modulus *= q
        # One unit of 2^-40 is Q / 2^40 of the plaintext product, whose scale is the square's.
        unit = modulus / float(1 << SCORE_BITS) / SCALE**2
        steps = unit * (SLOTS // groups) / scale.amplitude**2 / scale.rows
        self._decode = steps * _group_means(groups)

    def open(self, scores: Sequence[bytes | memoryview]) -> Floats:
        """Return the inner products in squared integer steps, float64 [len(scores), groups].

        Raises:
            CiphertextError: a score has another length.
        """
        opened = np.empty((len(scores), self._groups))
        for place, score in zip(opened, scores, strict=True):
            place[:] = self._decode @ self._phases(score)
        return opened

    def _phases(self, score: bytes | memoryview) -> Floats:
        """Return beta_t + (alpha s)_t in units of 2^-40, centred, float64 [groups]."""
        betas, alpha = read_score(score, self._groups)
        # Modulo 2^64 throughout, of which 2^40 is a divisor.
        phases = (betas + self._rows @ alpha) & _ONES
        signed = phases.astype(np.float64)
        centred: Floats = np.where(signed >= 2.0 ** (SCORE_BITS - 1), signed - 2.0**40, signed)
        return centred


def symmetric(
    pairs: Sequence[tuple[int, int]], values: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Return the matrices [groups, count, count] from values [pairs, groups].

    Raises:
        CryptoError: a pair is missing, repeated or out of range.
    """
    wanted = {(i, j) for i in range(count) for j in range(i, count)}
    if len(pairs) != len(wanted) or set(pairs) != wanted or len(values) != len(pairs):
        raise CryptoError(
            f"{len(values)} scores for {len(set(pairs))} pairs, expected each of the "
            f"{len(wanted)} pairs (row <= column) of {count} sketches once"
        )
    matrices = np.empty((values.shape[1], count, count))
    for (i, j), value in zip(pairs, values, strict=True):
        matrices[:, i, j] = matrices[:, j, i] = value
    return matrices


def _product_rows(secret: NDArray[np.int64], positions: Sequence[int]) -> Words:
    """Return for each t the vector w with (alpha s)_t = <w, alpha> modulo x^N + 1, [G, N]."""
    rows = []
    for t in positions:
        before, after = secret[t::-1], secret[:t:-1]
        rows.append(np.concatenate([before, -after]))
    return np.stack(rows).astype(np.uint64)


def _group_means(groups: int) -> Floats:
    """Return the matrix [G, G] from coefficients m'_j to the means of the groups' slots.

    Row r: m'(y) at y = exp(i pi 3^r / 2G), where m'_(2G-j) y^(2G-j) is the conjugate of m'_j y^j.
    """
    angles = [np.pi * pow(3, r, 4 * groups) / (2 * groups) for r in range(groups)]
    means = np.array([[2 * np.cos(angle * j) for j in range(groups)] for angle in angles])
    means[:, 0] = 1.0
    return means
