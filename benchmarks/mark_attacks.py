"""What somebody without the key may do to a marked adapter, on LoRA factors in memory.

An attack takes factors (module name -> LowRank) and gives the suspect that a judge then sees:
other factors, or changes of merged weights. Whoever erases knows the scheme, but not the key; it
has four ways that need no data, each at any strength: noise, pruning, fewer ranks, marks under its
own keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.suspect import LowRank
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from secure_fedfm.watermark.embedding import Caps, embed, frobenius, marked

Matrix = NDArray[np.float32]
Factors = Mapping[str, LowRank]
GROUP = 64
"""Values that share a scale when merged weights are rounded to 4 bits."""


def rounded(matrix: Matrix, bits: int, group: int | None = None) -> Matrix:
    """Symmetric rounding to ``bits``, one scale for a row or for ``group`` values."""
    rows = matrix.reshape(-1, group) if group else matrix
    levels = 2 ** (bits - 1) - 1
    largest = np.abs(rows).max(axis=1, keepdims=True)
    step = np.where(largest > 0, largest, 1) / levels
    found: Matrix = (np.round(rows / step) * step).reshape(matrix.shape).astype(np.float32)
    return found


def as_bfloat16(matrix: Matrix) -> Matrix:
    """The nearest bfloat16 values (ties to even), as float32."""
    bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32).astype(np.uint64)
    bits += 0x7FFF + ((bits >> 16) & 1)
    return ((bits >> 16) << 16).astype(np.uint32).view(np.float32)


def pruned(matrix: Matrix, share: float) -> Matrix:
    """The smallest ``share`` of values set to 0."""
    kept = np.abs(matrix) > np.quantile(np.abs(matrix), share)
    found: Matrix = (matrix * kept).astype(np.float32)
    return found


def each(change: Callable[[Matrix], Matrix]) -> Callable[[Factors], Factors]:
    """The same done to A and B of every module."""
    return lambda factors: {
        name: LowRank(change(one.b), change(one.a), one.scale) for name, one in factors.items()
    }


def regauged(factors: Factors) -> Factors:
    """(B R, R^-1 A) with a random R, and the scale moved into B."""
    generator, found = np.random.default_rng(5), {}
    for name, one in factors.items():
        mixing = generator.normal(size=(one.a.shape[0],) * 2)
        b, a = one.b @ mixing * one.scale, np.linalg.solve(mixing, one.a)
        found[name] = LowRank(b.astype(np.float32), a.astype(np.float32))
    return found


def refactored(rank: int) -> Callable[[Factors], Factors]:
    """Singular value decomposition of every B A, cut to ``rank``."""

    def run(factors: Factors) -> Factors:
        found = {}
        for name, one in factors.items():
            left, upper = np.linalg.qr(one.b * one.scale)
            right, lower = np.linalg.qr(one.a.T)
            u, s, v = np.linalg.svd(upper @ lower.T)
            b, a = left @ (u * s)[:, :rank], v[:rank] @ right.T
            found[name] = LowRank(b.astype(np.float32), a.astype(np.float32))
        return found

    return run


LOW_RANK: Mapping[str, Callable[[Factors], Factors]] = {
    "nothing": lambda factors: factors,
    "gauge change": regauged,
    "SVD refactor": refactored(8),
    "SVD rank 8 to 4": refactored(4),
    "pruning 25 %": each(lambda matrix: pruned(matrix, 0.25)),
    "pruning 50 %": each(lambda matrix: pruned(matrix, 0.5)),
    "pruning 75 %": each(lambda matrix: pruned(matrix, 0.75)),
    "pruning 90 %": each(lambda matrix: pruned(matrix, 0.9)),
    "int8": each(lambda matrix: rounded(matrix, 8)),
    "int4": each(lambda matrix: rounded(matrix, 4)),
}
"""Attacks that leave LoRA factors, by name."""

MERGED: Mapping[str, Callable[[Matrix], Matrix]] = {
    "merge, fp32": lambda matrix: matrix,
    "merge, bf16": as_bfloat16,
    "merge, int8": lambda matrix: rounded(matrix, 8),
    "merge, int4": lambda matrix: rounded(matrix, 4, GROUP),
}
"""What is done to merged weights, by name; int4 has a scale for every GROUP values."""


def merged(
    factors: Factors, base: Mapping[str, Matrix], change: Callable[[Matrix], Matrix]
) -> dict[str, Matrix]:
    """Added to the base model's weights (outputs, inputs), changed, the base taken off again."""
    return {name: change(base[name] + one.product()) - base[name] for name, one in factors.items()}


@dataclass(frozen=True, slots=True)
class Overwriting:
    """Somebody else's marks on top, under random keys.

    Attributes:
        claim: the attacker's mark; what it changes is multiplied by the attack's strength.
        seed: of its keys.
    """

    claim: Claim
    seed: int

    def run(self, factors: Factors, times: float, marks: int = 1) -> Factors:
        """``marks`` marks, each ``times`` as large as an honest owner would write it."""
        random = SeededRandom(f"overwriting {self.seed}".encode())
        keys = [Secret(random(32)) for _ in range(marks)]
        written = marked(factors, embed(factors, self.claim, keys, Caps(relative=100.0)))
        size = np.float32(times)
        return {n: replace(f, b=f.b + size * (written[n].b - f.b)) for n, f in factors.items()}

    def stretched(self, factors: Factors, relative: float) -> Factors:
        """Four marks, stretched until B A moves by ``relative``."""
        written = self.run(factors, 1.0, marks=4)
        change = {n: replace(one, b=written[n].b - one.b) for n, one in factors.items()}
        return _moved(factors, change, relative)


def _moved(factors: Factors, change: Factors, relative: float) -> Factors:
    """B moved along ``change`` until B A has moved by ``relative`` of its norm."""
    size = np.float32(relative * frobenius(factors) / frobenius(change))
    return {name: replace(one, b=one.b + size * change[name].b) for name, one in factors.items()}


def noised(factors: Factors, relative: float, seed: int = 1) -> Factors:
    """Gaussian noise in every B, so that B A moves by ``relative`` of its norm: that a mark lies in
    B is all that an attacker knows of its place."""
    generator = np.random.default_rng(seed)
    noise = {
        name: replace(one, b=generator.normal(size=one.b.shape).astype(np.float32))
        for name, one in factors.items()
    }
    return _moved(factors, noise, relative)


def fewer_values(factors: Factors, share: float) -> Factors:
    """The smallest ``share`` of each B set to 0."""
    return {name: replace(one, b=pruned(one.b, share)) for name, one in factors.items()}


ERASING_STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "noise": (1.0, 2.0, 3.0, 5.0, 8.0),
    "pruning": (0.75, 0.9, 0.95, 0.98),
    "fewer ranks": (4, 6, 7),
    "two ranks and noise": (1.0, 2.0, 3.0, 5.0),
    "overwriting": (1.0, 2.0, 3.0, 5.0, 8.0),
}
"""How strongly an erasing attacker tries: relative change of B A by noise or by marks of its own,
share of B that is pruned, ranks of 8 that are cut."""


def erased(method: str, factors: Factors, strength: float, overwriting: Overwriting) -> Factors:
    """The factors after one of the ways to erase, some of them together."""
    if method == "noise":
        return noised(factors, strength)
    if method == "pruning":
        return fewer_values(factors, strength)
    if method == "fewer ranks":
        return refactored(8 - int(strength))(factors)
    if method == "two ranks and noise":
        return noised(refactored(2)(factors), strength)
    return overwriting.stretched(factors, strength)
