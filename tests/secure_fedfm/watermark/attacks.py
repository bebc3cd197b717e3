"""What somebody without the key may do to a marked adapter, and how much of T it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.mark_attacks import LOW_RANK, Factors, rounded
from fedfm_audit.watermark.suspect import DenseSuspect, LowRankSuspect, Suspect
from tests.audit.marks import Host

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Attack:
    """``keeps``: the part of T that must be left on a small host."""

    run: Callable[[Host], Suspect]
    keeps: float


def on_factors(change: Callable[[Factors], Factors]) -> Callable[[Host], Suspect]:
    """An attack of the benchmark that leaves factors, as one on a host."""
    return lambda host: LowRankSuspect(change(host))


def merged(
    width: int, bits: int, group: int | None = None, scale: float = 0.04
) -> Callable[[Host], Suspect]:
    """Added to a random base model, quantised, and the base taken off again by the verifier."""

    def run(host: Host) -> Suspect:
        found: dict[str, Matrix] = {}
        for number, (name, one) in enumerate(host.items()):
            generator = np.random.default_rng(100 + number)
            base = (generator.normal(size=(width, width)) * scale).astype(np.float32)
            found[name] = rounded(base + one.product() / np.float32(one.scale), bits, group) - base
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
        "gauge": Attack(on_factors(LOW_RANK["gauge change"]), 0.99),
        "SVD": Attack(on_factors(LOW_RANK["SVD refactor"]), 0.99),
        "rank 8 to 4": Attack(on_factors(LOW_RANK["SVD rank 8 to 4"]), 0.45),
        "int8": Attack(on_factors(LOW_RANK["int8"]), 0.98),
        "int4": Attack(on_factors(LOW_RANK["int4"]), 0.9),
        "50% pruned": Attack(on_factors(LOW_RANK["pruning 50 %"]), 0.8),
        "90% pruned": Attack(on_factors(LOW_RANK["pruning 90 %"]), 0.15),
        "merged, int8": Attack(merged(width, 8), 0.9),
        "merged, int4": Attack(merged(width, 4, 128), 0.2),
        "another adapter added": Attack(lambda host: with_another(host, 1.0), 0.5),
        "another one three times": Attack(lambda host: with_another(host, 3.0), 0.15),
    }
