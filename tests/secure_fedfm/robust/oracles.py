"""Every rule once more, from the vectors themselves, with loops: what the Gram forms must equal.

Nothing here uses an inner product of two clients except where the rule's own definition is a
cosine; distances are norms of differences, averages are averages of vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
Accepts = list[bool]


def distance(one: Vectors, other: Vectors) -> float:
    return float(np.sqrt(((one - other) ** 2).sum()))


def cosine(one: Vectors, other: Vectors) -> float:
    unit, others = one / np.sqrt((one**2).sum()), other / np.sqrt((other**2).sum())
    return float((unit * others).sum())


def lower_median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def within_norm(vectors: Vectors, multiple: float = 2.0) -> Accepts:
    norms = [distance(v, 0 * v) for v in vectors]
    return [norm <= multiple * lower_median(norms) for norm in norms]


def norm_bound(vectors: Vectors, root: Vectors) -> Accepts:
    return within_norm(vectors)


def krum_order(vectors: Vectors, neighbours: int) -> list[int]:
    totals = []
    for i, one in enumerate(vectors):
        far = sorted(distance(one, v) ** 2 for j, v in enumerate(vectors) if j != i)
        totals.append(sum(far[:neighbours]))
    return sorted(range(len(vectors)), key=lambda i: totals[i])


def multi_krum(vectors: Vectors, root: Vectors, f: int = 1) -> Accepts:
    n = len(vectors)
    kept = krum_order(vectors, n - f - 2)[: n - f]
    return [i in kept for i in range(n)]


def krum(vectors: Vectors, root: Vectors, f: int = 1) -> Accepts:
    best = krum_order(vectors, len(vectors) - f - 2)[0]
    return [i == best for i in range(len(vectors))]


def fltrust(vectors: Vectors, root: Vectors) -> Accepts:
    fits = within_norm(vectors)
    return [cosine(v, root) > 0 and fit for v, fit in zip(vectors, fits, strict=True)]


def flame(vectors: Vectors, root: Vectors) -> Accepts:
    """Grow single-linkage components by brute force until one has a majority."""
    n = len(vectors)
    far = [[1 - cosine(a, b) for b in vectors] for a in vectors]
    for reach in sorted({far[i][j] for i, j in combinations(range(n), 2)}):
        for start in range(n):
            component = {start}
            while True:
                grown = {j for j in range(n) if any(far[i][j] <= reach for i in component)}
                if grown <= component:
                    break
                component |= grown
            if len(component) > n // 2:
                fits = within_norm(vectors)
                return [i in component and fits[i] for i in range(n)]
    raise AssertionError("no majority")


def foolsgold(vectors: Vectors, root: Vectors) -> Accepts:
    """The paper's algorithm 1, loop by loop."""
    n = len(vectors)
    cs = [[0.0 if i == j else cosine(a, b) for j, b in enumerate(vectors)] for i, a in
          enumerate(vectors)]  # fmt: skip
    v = [max(row) for row in cs]
    for i in range(n):
        for j in range(n):
            if v[j] > v[i]:
                cs[i][j] *= v[i] / v[j]
    alpha = [min(1.0, max(0.0, 1 - max(row))) for row in cs]
    top = max(alpha)
    alpha = [min(a / top, 0.99) for a in alpha]
    weights = [np.log(a / (1 - a)) + 0.5 if a > 0 else 0.0 for a in alpha]
    return [weight >= 0.5 for weight in weights]


def geometric_median_point(vectors: Vectors) -> Vectors:
    z: Vectors = vectors.mean(axis=0)
    for _ in range(200):
        weights = np.array([1 / max(distance(v, z), 1e-12) for v in vectors])
        z = np.asarray((weights[:, None] * vectors).sum(axis=0) / weights.sum(), dtype=np.float64)
    return z


def geometric_median(vectors: Vectors, root: Vectors) -> Accepts:
    z = geometric_median_point(vectors)
    far = [distance(v, z) for v in vectors]
    return [d <= 2 * lower_median(far) for d in far]


def minimum_diameter(vectors: Vectors, root: Vectors, f: int = 1) -> Accepts:
    n = len(vectors)
    best = min(
        combinations(range(n), n - f),
        key=lambda s: max(distance(vectors[i], vectors[j]) for i, j in combinations(s, 2)),
    )
    return [i in best for i in range(n)]


def nearest_neighbour_mixing(vectors: Vectors, root: Vectors, f: int = 1) -> Accepts:
    n = len(vectors)
    nearest = [
        sorted(range(n), key=lambda j: (distance(one, vectors[j]), j != i))[: n - f]
        for i, one in enumerate(vectors)
    ]
    mixed = np.array([vectors[chosen].mean(axis=0) for chosen in nearest])
    z = geometric_median_point(mixed)
    inner = np.array([1 / max(distance(v, z), 1e-12) for v in mixed])
    weights = np.zeros(n)
    for weight, chosen in zip(inner / inner.sum(), nearest, strict=True):
        weights[chosen] += weight / (n - f)
    kept = sorted(range(n), key=lambda i: -weights[i])[: n - f]
    return [i in kept for i in range(n)]


def cosine_memory(vectors: Vectors, root: Vectors) -> Accepts:
    """Its first round; later rounds are tested by themselves."""
    n = len(vectors)
    far = [[1 - cosine(a, b) for b in vectors] for a in vectors]
    norms = [distance(v, 0 * v) for v in vectors]
    fits = [norm <= 1.4 * float(np.median(norms)) for norm in norms]
    good = [i for i in range(n) if fits[i]]
    if len(good) > 2:
        to_others = {i: float(np.mean([far[i][j] for j in good if j != i])) for i in good}
        usual = lower_median(list(to_others.values()))
        fits = [fits[i] and to_others[i] >= 0.85 * usual for i in range(n)]
    good = [i for i in range(n) if fits[i]]
    size = min(n // 2 + 1, len(good))
    order = {i: sorted(good, key=lambda j: (j != i, far[i][j]))[:size] for i in good}
    centre = min(good, key=lambda i: max(far[i][j] for j in order[i]))
    majority = set(order[centre])
    means = [float(np.mean([far[i][j] for j in majority if j != i])) for i in range(n)]
    typical = float(np.mean([means[i] for i in majority]))
    return [fits[i] and means[i] <= 1.25 * typical for i in range(n)]


ORACLES: dict[str, Callable[[Vectors, Vectors], Accepts]] = {
    "norm-bound": norm_bound,
    "krum": krum,
    "multi-krum": multi_krum,
    "fltrust": fltrust,
    "flame": flame,
    "foolsgold": foolsgold,
    "geometric-median": geometric_median,
    "minimum-diameter": minimum_diameter,
    "nearest-neighbour-mixing": nearest_neighbour_mixing,
    "cosine-memory": cosine_memory,
}
