"""Many keys on one real adapter: keys that nobody used, and copies that recipients averaged.

Both go through the auditor's own responses and statistic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.mark_attacks import Factors
from benchmarks.results import Row
from fedfm_audit.watermark.capacity import (
    LARGEST_CHANGE,
    choose_size,
    choose_strength,
)
from fedfm_audit.watermark.claim import Claim, TargetModule
from fedfm_audit.watermark.commitment import MarkKey
from fedfm_audit.watermark.directions import Directions
from fedfm_audit.watermark.response import respond
from fedfm_audit.watermark.statistic import Evidence, Trials
from fedfm_audit.watermark.suspect import LowRankSuspect
from fedfm_audit.watermark.trace import DEFAULT_ALPHA, accusation_threshold
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from secure_fedfm.watermark.embedding import Caps, embed, marked

KEYS, SIZE, LAYERS = 10_000, 128, 2
LEVELS = (1.0, 2.0, 2.5, 3.0, 3.5, 4.0)
RECIPIENTS, COPIES = 40, 8


def tail(found: NDArray[np.float64], levels: Sequence[float] = LEVELS) -> list[Row]:
    """The share of T at each level or above, beside the bound exp(-T^2 / 2)."""
    return [
        {"level": t, "share": float((found >= t).mean()), "bound": float(np.exp(-(t**2) / 2))}
        for t in levels
    ]


def random_statistics(factors: Factors, keys: int, seed: int) -> NDArray[np.float64]:
    """T of ``keys`` keys that nobody wrote, over the first LAYERS layers of an adapter."""
    names = sorted(factors)[:LAYERS]
    claim = _claim(factors, names, SIZE, 0.6, 1, "ownership", seed)
    suspect, random = LowRankSuspect(factors), SeededRandom(f"nobody's keys {seed}".encode())
    found = []
    for _ in range(keys):
        directions = Directions(claim, Secret(random(32)))
        responses = respond(directions, suspect).values
        found.append(Evidence.of(responses, directions.bits()).statistic)
    return np.array(found)


def false_positives(factors: Factors, seed: int, keys: int = KEYS) -> Row:
    """How often keys that nobody wrote reach which T, and how many would be believed."""
    found = random_statistics(factors, keys, seed)
    return {
        "keys": keys,
        "mean": float(found.mean()),
        "deviation": float(found.std()),
        "largest": float(found.max()),
        "believed": int((found >= Trials(1, 1).threshold).sum()),
        "tail": tail(found),
    }


def colluding(factors: Factors, numbers: Sequence[int], seed: int) -> Row:
    """Every set of so many of the first COPIES of RECIPIENTS recipients averages its copies.

    Copies share A, and responses are linear in B: those of an average are the average of these.
    """
    names = sorted(factors)
    modules = _modules(factors, names)
    size = choose_size(modules, None, 1, LARGEST_CHANGE)
    strength = choose_strength(modules, size, LARGEST_CHANGE)
    claim = _claim(factors, names, size, strength, RECIPIENTS, "fingerprint", seed)
    key = MarkKey.generate(SeededRandom(f"fingerprints {seed}".encode()))
    keys = [key.sub_key(claim, number) for number in range(RECIPIENTS)]
    caps = Caps(LARGEST_CHANGE)
    copies = [
        LowRankSuspect(marked(factors, embed(factors, claim, [one], caps))) for one in keys[:COPIES]
    ]
    directions = [Directions(claim, one) for one in keys]
    bits = [one.bits() for one in directions]
    crossed = np.array([[respond(one, copy).values for one in directions] for copy in copies])
    bar, found = accusation_threshold(RECIPIENTS, DEFAULT_ALPHA), []
    for number in numbers:
        sets = list(itertools.combinations(range(COPIES), number))
        traced = [_statistics(crossed[list(guilty)].mean(axis=0), bits) for guilty in sets]
        found.append(
            {
                "colluders": number,
                "sets": len(sets),
                "named": sum(
                    bool((t[list(g)] >= bar).any()) for g, t in zip(sets, traced, strict=True)
                ),
                "innocent": sum(
                    int((np.delete(t, g) >= bar).sum()) for g, t in zip(sets, traced, strict=True)
                ),
                "weakest": min(float(t[list(g)].max()) for g, t in zip(sets, traced, strict=True)),
            }
        )
    return {"size": size, "recipients": RECIPIENTS, "needed": bar, "sets": found}


def _statistics(
    responses: NDArray[np.float64], bits: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    return np.array([Evidence.of(s, b).statistic for s, b in zip(responses, bits, strict=True)])


def _claim(
    factors: Factors, names: Sequence[str], size: int, strength: float, keys: int, purpose: str,
    seed: int,
) -> Claim:  # fmt: skip
    identity = IdentityKey.generate(SeededRandom(f"statistics {seed}".encode())).public
    return Claim(
        "fingerprint" if purpose == "fingerprint" else "ownership", "marks-benchmark", identity,
        "00" * 32, _modules(factors, names), size, strength, keys,
    )  # fmt: skip


def _modules(factors: Factors, names: Sequence[str]) -> tuple[TargetModule, ...]:
    shapes = [(name, factors[name].b.shape, factors[name].a.shape) for name in names]
    return tuple(TargetModule(name, b[0], a[1], b[1]) for name, b, a in shapes)
