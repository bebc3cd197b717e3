"""Writing a mark into an adapter: closed form, no data, no training.

For each module with A = R Q (Q orthonormal rows) the change dW = c B A is moved by
E_m Q_m, E_m = sum_j a_j u_jm y_jm^T W_m, y_jm = W_m Q_m v_jm. The responses then move by G a with

    G = sum_m (U_m U_m^T) o (Y_m Y_m^T)
    t_j = b_j max(0, kappa ||dW||_F - b_j s_j),   a = (G + lambda I)^-1 t,   dB_m = E_m R_m^-1 / c_m

W_m^2 weights the right singular directions of B_m R_m by their singular values, so that whoever
cuts a stolen adapter to its first ranks leaves of the mark what it leaves of the adapter. With
W = I a mark would lie evenly in all ranks, and one rank of eight would keep an eighth of it; the
weights cost about a tenth more change at the same kappa.

so every response that does not agree strongly enough with its bit is moved to where it does, and
the others are left alone. Only B moves: A is the federation's, whether frozen or trained, and
all owners start from the same released adapter, so that their changes simply add; each owner's mark
is noise to the others. No step looks at data or at what anybody trained: the released adapter and
the owner's key are all that goes in, which is why embedding costs no epsilon.
Source: design of this project (ridge regression on the responses; Tikhonov's lambda keeps nearly
equal directions from large coefficients).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.response import respond
from fedfm_audit.watermark.statistic import Evidence
from fedfm_audit.watermark.suspect import FloatArray, LowRank, LowRankSuspect, fitting
from fedfm_crypto.secret import Secret
from secure_fedfm.errors import ModelError

Matrix = NDArray[np.float64]

RIDGE = 1e-3
"""lambda, relative to the mean of G's diagonal."""
_LEAST = 0.25
"""Least weight of a direction, relative to the strongest one's: at rank 8 the weights make a change
larger by a quarter at most, whatever the spectrum."""
_FLAT = 1e-6
"""Singular values of A below this part of the largest are taken for 0: R is not inverted there."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """A mark, ready to be added.

    Attributes:
        changes: module name -> what to add to B, float32 of B's shape.
        norm: L2 norm of all changes together, as a payload is clipped.
        relative: Frobenius norm of the change of dW relative to dW.
        scaled: 1, or what the mark was multiplied with to stay under the caps.
        before, after: the evidence in the adapter without and with this mark.
    """

    changes: Mapping[str, FloatArray]
    norm: float
    relative: float
    scaled: float
    before: Evidence
    after: Evidence


@dataclass(frozen=True, slots=True)
class Caps:
    """What a mark may not exceed: ``relative`` as in :class:`Embedding`; ``norm``, None: any."""

    relative: float = 0.25
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class _Basis:
    """A module prepared: B A = c B R Q.

    Attributes:
        q: W Q, float32 (rank, columns). root: W, (rank, rank). inverse: the pseudo-inverse of R.
    """

    module: TargetModule
    scale: float
    q: FloatArray
    root: Matrix
    inverse: Matrix


def embed(
    adapter: Mapping[str, LowRank], claim: Claim, keys: Sequence[Secret], caps: Caps | None = None
) -> tuple[Embedding, ...]:
    """The changes of one owner, one embedding a sub-key; their sum is what the owner adds.

    Args:
        adapter: the released adapter, by the claim's module names; all of them, with B not zero.
        claim: the owner's. keys: k_i to embed: all of them for ``ownership``, the recipient's for
            ``fingerprint``.
        caps: each embedding is scaled down as a whole to stay under them.

    Raises:
        ModelError: a module is missing or of another shape or rank than the claim says, or the
            adapter is zero, so that nothing says how strong a mark should be.
        SuspectError: factors that do not fit together.
    """
    caps = Caps() if caps is None else caps
    bases = [_basis(module, adapter) for module in claim.modules]
    strength = frobenius({basis.module.name: adapter[basis.module.name] for basis in bases})
    if strength == 0.0:
        raise ModelError("the adapter changes nothing yet (B A is 0); mark it after training")
    return tuple(_embed_one(adapter, Directions(claim, key), bases, strength, caps) for key in keys)


def marked(adapter: Mapping[str, LowRank], changes: Sequence[Embedding]) -> dict[str, LowRank]:
    """The adapter with these changes added, of one owner or of several."""
    total = dict(adapter)
    for embedding in changes:
        for name, change in embedding.changes.items():
            total[name] = replace(total[name], b=total[name].b + change)
    return total


def measure(adapter: Mapping[str, LowRank], claim: Claim, key: Secret) -> Evidence:
    """What an adapter in memory says about one sub-key: each owner's check of the released result.

    Raises:
        SuspectError: the adapter has none of the claim's modules, or one of another shape.
    """
    directions = Directions(claim, key)
    response = respond(directions, LowRankSuspect(adapter))
    return Evidence.of(response.values, directions.bits())


def _embed_one(
    adapter: Mapping[str, LowRank],
    directions: Directions,
    bases: Sequence[_Basis],
    strength: float,
    caps: Caps,
) -> Embedding:
    bits = directions.bits()
    responses = respond(directions, LowRankSuspect(adapter)).values
    wanted = bits * np.maximum(0.0, directions.claim.strength * strength - bits * responses)
    coefficients = _solve(_gram(directions, bases), wanted)
    moved = [_change(directions, basis, coefficients) @ basis.root for basis in bases]
    relative = math.sqrt(sum(float(np.sum(e**2)) for e in moved)) / strength
    deltas = [e @ basis.inverse / basis.scale for e, basis in zip(moved, bases, strict=True)]
    norm = math.sqrt(sum(float(np.sum(delta**2)) for delta in deltas))
    scaled = min(1.0, caps.relative / relative) if relative else 1.0
    if caps.norm is not None and norm * scaled > caps.norm:
        scaled = caps.norm / norm
    changes = {
        basis.module.name: (delta * scaled).astype(np.float32)
        for basis, delta in zip(bases, deltas, strict=True)
    }
    found = Embedding(
        changes, norm * scaled, relative * scaled, scaled, Evidence.of(responses, bits),
        Evidence.of(responses, bits),
    )  # fmt: skip
    after = measure(marked(adapter, [found]), directions.claim, directions.key)
    return replace(found, after=after)


def _basis(module: TargetModule, adapter: Mapping[str, LowRank]) -> _Basis:
    if module.name not in adapter:
        raise ModelError(f"the adapter lacks module {module.name} of the claim; use its own one")
    factors = fitting(module, adapter[module.name])
    if factors.b.shape[1] != module.rank or factors.scale == 0.0:
        raise ModelError(
            f"module {module.name} has rank {factors.b.shape[1]} and scale {factors.scale}; "
            f"expected rank {module.rank} and a scale that is not 0"
        )
    a = factors.a.astype(np.float64)
    q_transposed, r_transposed = np.linalg.qr(a.T)  # A^T = Q^T R^T, hence A = R Q
    inverse = np.linalg.pinv(r_transposed.T, rcond=_FLAT)
    root = _weights(factors.b.astype(np.float64) @ r_transposed.T)
    q = (root @ q_transposed.T).astype(np.float32)
    return _Basis(module, factors.scale, q, root, inverse)


def _weights(change: Matrix) -> Matrix:
    """W, symmetric (rank, rank): right singular directions of ``change`` (rows, rank) are weighted
    by the root of their singular value, relative to the largest, and at least by _LEAST."""
    squares, right = np.linalg.eigh(change.T @ change)
    values = np.sqrt(np.maximum(squares, 0.0))
    if values[-1] == 0.0:
        return np.eye(len(right))
    weights = np.sqrt(np.maximum(values / values[-1], _LEAST))
    return np.asarray((right * weights) @ right.T, np.float64)


def frobenius(adapter: Mapping[str, LowRank]) -> float:
    """||dW||_F over all modules without forming a dW: ||B A||^2 = <B^T B, A A^T>."""
    total = 0.0
    for factors in adapter.values():
        b, a = factors.b.astype(np.float64), factors.a.astype(np.float64)
        total += factors.scale**2 * float(np.sum((b.T @ b) * (a @ a.T)))
    return math.sqrt(max(total, 0.0))


def _gram(directions: Directions, bases: Sequence[_Basis]) -> Matrix:
    """G, float64 (N, N)."""
    size = directions.claim.size
    total = np.zeros((size, size))
    for basis in bases:
        u = np.empty((size, basis.module.rows), dtype=np.float32)
        y = np.empty((size, len(basis.q)), dtype=np.float32)
        across = np.ascontiguousarray(basis.q.T)
        for where, outputs, inputs in directions.blocks(basis.module):
            u[where] = outputs.signs()
            y[where] = inputs.signs() @ across
        total += (u @ u.T) * (y @ y.T)
    return total


def _solve(gram: Matrix, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    ridge = RIDGE * float(np.trace(gram)) / len(gram)
    gram[np.diag_indices_from(gram)] += ridge
    return np.linalg.solve(gram, wanted).astype(np.float64, copy=False)


def _change(directions: Directions, basis: _Basis, coefficients: NDArray[np.float64]) -> Matrix:
    """E_m = sum_j a_j u_jm y_jm^T, float64 (rows, rank)."""
    across = np.ascontiguousarray(basis.q.T)
    total = np.zeros((basis.module.rows, len(basis.q)))
    for where, outputs, inputs in directions.blocks(basis.module):
        weighted = (inputs.signs() @ across) * coefficients[where, None].astype(np.float32)
        total += outputs.signs().T @ weighted
    return total
