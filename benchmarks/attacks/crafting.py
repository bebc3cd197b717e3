"""What a malicious client makes of its update before it is committed, as arithmetic on vectors.

All vectors are float64 deltas of the whole payload. An attacker knows its own rows, the adapter in
force and its history, and, where it adapts, the rule; it does not know the others' updates (they
are hidden, and sketched along directions that are drawn after all have committed).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def scaled(update: Vector, factor: float) -> Vector:
    """Model replacement (Bagdasaryan et al. 2020): boosted, so that averaging leaves it whole."""
    return factor * update


def stretched_to(update: Vector, length: float) -> Vector:
    """The same direction, of L2 norm ``length``."""
    norm = float(np.linalg.norm(update))
    return update if norm == 0 else update * (length / norm)


def off_the_beaten_track(update: Vector, last: Vector, share: float = 0.05) -> Vector:
    """Neurotoxin (Zhang et al. 2022): nothing in the coordinates that the last aggregate moved
    most, since honest clients would write over them; they are a ``share`` of all."""
    if not last.any():
        return update
    count = max(1, round(share * update.size))
    kept = update.copy()
    kept[np.argpartition(np.abs(last), -count)[-count:]] = 0.0
    return kept


def a_little_is_enough(
    update: Vector, honest: list[Vector], clients: int, malicious: int
) -> tuple[Vector, float]:
    """ALIE (Baruch et al. 2019): the update, held within z standard deviations of what honest
    clients are thought to send; (vector, z).

    z is the largest at which enough honest clients lie further out than the attackers.
    """
    needed = clients // 2 + 1 - malicious
    share = (clients - malicious - needed) / (clients - malicious)
    z = NormalDist().inv_cdf(min(max(share, 0.5), 0.999))
    mean, spread = np.mean(honest, axis=0), np.std(honest, axis=0)
    return np.clip(update, mean - z * spread, mean + z * spread), z


def against_the_mean(honest: list[Vector], factor: float) -> Vector:
    """Inner-product manipulation (Xie et al. 2020): the honest direction, reversed."""
    mean: Vector = np.mean(honest, axis=0)
    return -factor * mean


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of the angle between two vectors; 0 where one is zero."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 0.0 if lengths == 0 else float(a @ b) / lengths


def just_inside(
    poisoned: Vector, honest: list[Vector], room: float = 1.0, stretch: float = 1.9
) -> Vector:
    """An attacker who knows the rule (cosines to the majority, norms to their median) and how
    wide the sketch is: as much of the poison as leaves it no further from its own honest updates
    than they are from each other, times ``room``, at just under twice their norm.
    """
    mean = np.mean(honest, axis=0)
    pairs = [cosine(a, b) for i, a in enumerate(honest) for b in honest[:i]]
    floor = 1.0 - room * (1.0 - float(np.mean(pairs))) if pairs else 0.5
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        mixed = (1 - middle) * mean + middle * poisoned
        low, high = (middle, high) if cosine(mixed, mean) >= floor else (low, middle)
    mixed = (1 - low) * mean + low * poisoned
    return stretched_to(mixed, stretch * float(np.median([np.linalg.norm(u) for u in honest])))
