"""Responses of a suspect: s_j = sum_m u_jm^T dW_m v_jm, in blocks and bounded memory.

For factors dW = scale B A this is scale (u^T B)(A v), two thin products of signs with the factors;
it depends on the product alone, so (B R, R^-1 A) or an SVD gives the same. For merged weights
u^T D v is taken strip by strip. Products are float32, sums over modules float64. Every matrix is
divided by a power of two first, so that no finite suspect overflows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.claim import TargetModule
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.suspect import DenseRows, FloatArray, LowRank, Suspect

Responses = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Response:
    """s, float64 of shape (N,), and how many of the claim's modules the suspect has."""

    values: Responses
    modules: int


def respond(directions: Directions, suspect: Suspect) -> Response:
    """The responses of a suspect to one sub-key.

    Raises:
        SuspectError: the suspect cannot be read, or has none of the claim's modules.
    """
    claim = directions.claim
    values = np.zeros(claim.size)
    names = suspect.locate(claim.modules)
    for module in claim.modules:
        if module.name not in names:
            continue
        for piece in suspect.pieces(module, names[module.name]):
            if isinstance(piece, LowRank):
                _add_low_rank(values, directions, module, piece)
            else:
                _add_dense(values, directions, module, piece)
    return Response(values, len(names))


def _add_low_rank(
    values: Responses, directions: Directions, module: TargetModule, factors: LowRank
) -> None:
    b, b_exponent = _normalised(factors.b)
    a, a_exponent = _normalised(factors.a)
    scale = math.ldexp(factors.scale, b_exponent + a_exponent)
    if scale == 0.0:
        return
    inputs = np.ascontiguousarray(a.T)
    for where, u, v in directions.blocks(module):
        left = (u.signs() @ b).astype(np.float64)
        values[where] += scale * np.einsum("jr,jr->j", left, v.signs() @ inputs)


def _add_dense(
    values: Responses, directions: Directions, module: TargetModule, rows: DenseRows
) -> None:
    change, exponent = _normalised(rows.values)
    scale = math.ldexp(1.0, exponent)
    stop = rows.start + len(change)
    across = np.ascontiguousarray(change.T)
    for where, u, v in directions.blocks(module):
        along, over = (v, u) if rows.transposed else (u, v)
        projected = (over.signs() @ across).astype(np.float64)
        values[where] += scale * np.einsum("jk,jk->j", projected, along.part(rows.start, stop))


def _normalised(matrix: FloatArray) -> tuple[FloatArray, int]:
    """The matrix divided by 2^e so that its largest magnitude is in [1/2, 1), and e."""
    if matrix.size == 0:
        return matrix, 0
    largest = max(float(matrix.max()), -float(matrix.min()))
    exponent = math.frexp(largest)[1]
    return np.ldexp(matrix, -exponent), exponent
