"""What somebody without the key may do to a marked adapter, and how much of T it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.suspect import DenseSuspect, LowRank, LowRankSuspect, Suspect
from tests.audit.marks import Host

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Attack:
    """``keeps``: the part of T that must be left on a small host."""

    run: Callable[[Host], Suspect]
    keeps: float


def quantised(matrix: Matrix, bits: int, group: int | None = None) -> Matrix:
    """Symmetric rounding to ``bits``, one scale a row or a group of values."""
    rows = matrix.reshape(-1, group) if group else matrix
    levels = 2 ** (bits - 1) - 1
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rounded: Matrix = np.round(rows / largest * levels) / levels * largest
    return rounded.reshape(matrix.shape).astype(np.float32)


def pruned(matrix: Matrix, share: float) -> Matrix:
    """The smallest ``share`` of values set to 0."""
    kept = np.abs(matrix) > np.quantile(np.abs(matrix), share)
    left: Matrix = matrix * kept.astype(np.float32)
    return left


def per_factor(change: Callable[[Matrix], Matrix]) -> Callable[[Host], Suspect]:
    """Change A and B of every module."""
    return lambda host: LowRankSuspect(
        {n: LowRank(change(one.b), change(one.a), one.scale) for n, one in host.items()}
    )


def regauged(host: Host) -> Suspect:
    """(B R, R^-1 A) with a random R, and another scale."""
    generator = np.random.default_rng(5)
    found = {}
    for name, one in host.items():
        mixing = generator.normal(size=(one.a.shape[0],) * 2)
        b, a = one.b @ mixing * one.scale, np.linalg.solve(mixing, one.a)
        found[name] = LowRank(b.astype(np.float32), a.astype(np.float32))
    return LowRankSuspect(found)


def refactored(rank: int) -> Callable[[Host], Suspect]:
    """Singular value decomposition, cut to ``rank``."""

    def run(host: Host) -> Suspect:
        found = {}
        for name, one in host.items():
            left, upper = np.linalg.qr(one.b * one.scale)
            right, lower = np.linalg.qr(one.a.T)
            u, s, v = np.linalg.svd(upper @ lower.T)
            b, a = left @ (u * s)[:, :rank], v[:rank] @ right.T
            found[name] = LowRank(b.astype(np.float32), a.astype(np.float32))
        return LowRankSuspect(found)

    return run


def merged(
    width: int, bits: int, group: int | None = None, scale: float = 0.04
) -> Callable[[Host], Suspect]:
    """Added to a random base model, quantised, and the base taken off again by the verifier."""

    def run(host: Host) -> Suspect:
        found: dict[str, Matrix] = {}
        for number, (name, one) in enumerate(host.items()):
            generator = np.random.default_rng(100 + number)
            base = (generator.normal(size=(width, width)) * scale).astype(np.float32)
            found[name] = (
                quantised(base + one.product() / np.float32(one.scale), bits, group) - base
            )
        return DenseSuspect(found)

    return run


def with_another(host: Host, factor: float) -> Suspect:
    """Merged with an adapter that was trained for something else."""
    generator = np.random.default_rng(77)
    found: dict[str, Matrix] = {}
    for name, one in host.items():
        rank = one.a.shape[0]
        decay = np.exp(-np.arange(rank) / 4) * 0.01
        b = generator.normal(size=one.b.shape) * decay
        a = generator.normal(size=one.a.shape) * 4 / np.sqrt(one.a.shape[1])
        found[name] = one.product() + np.float32(factor * one.scale) * (b @ a).astype(np.float32)
    return DenseSuspect(found)


def attacks(width: int) -> Mapping[str, Attack]:
    """By name; what is kept is from the design's table, less what a small host loses."""
    return {
        "gauge": Attack(regauged, 0.99),
        "SVD": Attack(refactored(8), 0.99),
        "rank 8 to 4": Attack(refactored(4), 0.45),
        "int8": Attack(per_factor(lambda matrix: quantised(matrix, 8)), 0.98),
        "int4": Attack(per_factor(lambda matrix: quantised(matrix, 4)), 0.9),
        "50% pruned": Attack(per_factor(lambda matrix: pruned(matrix, 0.5)), 0.8),
        "90% pruned": Attack(per_factor(lambda matrix: pruned(matrix, 0.9)), 0.15),
        "merged, int8": Attack(merged(width, 8), 0.9),
        "merged, int4": Attack(merged(width, 4, 128), 0.2),
        "another adapter added": Attack(lambda host: with_another(host, 1.0), 0.5),
        "another one three times": Attack(lambda host: with_another(host, 3.0), 0.15),
    }
