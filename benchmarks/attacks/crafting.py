"""What a malicious client makes of its update before it is committed, as arithmetic on vectors.

All vectors are float64 deltas of the whole payload. Attackers are given the honest clients' updates
of the round, which the protocol hides, and where they adapt the rule and its memory; they do not
know the directions of the sketch, which are drawn after all have committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Span = tuple[int, int]

LEAST_DEVIATION = 1.0
"""Standard deviations that an attacker of the ALIE kind takes where its paper allows it none."""
STRETCHES = (0.8, 1.0, 1.15, 1.29, 1.5, 1.9)
"""Lengths that an adaptive attacker tries, in honest medians."""
_HALVINGS = 12


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

    z is the largest at which enough honest clients lie further out than the attackers, and at
    least ``LEAST_DEVIATION``: with one attacker of five the paper's z is 0, which sends the mean.
    """
    needed = clients // 2 + 1 - malicious
    share = (clients - malicious - needed) / (clients - malicious)
    z = max(NormalDist().inv_cdf(min(max(share, 0.5), 0.999)), LEAST_DEVIATION)
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


def shaped_as(update: Vector, model: Vector, groups: Sequence[Sequence[Span]]) -> Vector:
    """The update with each group of values as long as in ``model``: work in the usual places."""
    shaped = update.copy()
    for spans in groups:
        ours, theirs = (
            float(np.linalg.norm(np.concatenate([v[start:stop] for start, stop in spans])))
            for v in (update, model)
        )
        for start, stop in spans:
            shaped[start:stop] *= theirs / ours if ours > 0 else 1.0
    return shaped


def stuffed(poison: Vector, honest: list[Vector], share: float, stretch: float) -> Vector:
    """The ballot that moves most poison where values move by votes: with the honest ballots in hand
    it sends, of each value, just as many votes as are missing, first where the poison is largest
    for the votes that it takes, until it is ``stretch`` times as long as an honest ballot.

    It takes no more votes than one vector may be long: nobody sees single values.
    """
    clients = len(honest) + 1
    sizes = np.median(np.abs(honest), axis=0)
    towards = np.sign(poison) * np.sum(honest, axis=0) / np.maximum(sizes, 1e-12)
    missing = np.maximum(np.ceil(share * clients) - 0.4 - towards, 0.0) * sizes
    # What is free is taken; a value that takes many votes must be worth their square.
    cost = np.square(missing)
    order = np.argsort(-np.abs(poison) / np.maximum(cost, 1e-12))
    length = stretch * float(np.median([np.linalg.norm(update) for update in honest]))
    affordable = np.cumsum(cost[order]) <= length**2
    sent = np.zeros_like(poison)
    sent[order[affordable]] = missing[order[affordable]]
    return np.sign(poison) * sent


def just_inside(
    poisoned: Vector,
    own: Vector,
    honest: list[Vector],
    passes: Callable[[Vector], bool] | None,
) -> Vector:
    """An attacker who knows the rule, what it remembers and how wide the sketch is: of the mixtures
    of poison and its ``own`` honest update, at several lengths, the one with most poison that
    ``passes``. Not of poison and the honest mean: what is nearer to everybody than they are to each
    other gives itself away.

    What passes is tried on exact inner products, since the sketch's directions are drawn after the
    attacker has committed; an attacker that nothing lets pass is honest. Without a rule
    it sends the poison.
    """
    if passes is None:
        return poisoned
    typical = float(np.median([np.linalg.norm(update) for update in honest]))
    best, most = own, 0.0
    for stretch in STRETCHES:
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            share = (low + high) / 2
            mixed = (1 - share) * stretched_to(own, typical)
            mixed = stretched_to(mixed + share * stretched_to(poisoned, typical), stretch * typical)
            if not passes(mixed):
                high = share
                continue
            low = share
            if stretch * share > most:
                best, most = mixed, stretch * share
    return best
