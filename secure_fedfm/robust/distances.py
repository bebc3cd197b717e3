"""Rules on distances that end in a weighted average: geometric median, least diameter, mixing.

The distance of u_i to a weighted average z = sum w_j u_j is a quadratic form in the Gram matrix:
|u_i - z|^2 = G_ii - 2 (G w)_i + w^T G w. So each of these works without the vectors and returns
weights; what they accept, where nothing can be weighed, is said at each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.errors import ConfigurationError, RobustnessError
from secure_fedfm.robust.krum import krum_scores
from secure_fedfm.robust.memory import Memory
from secure_fedfm.robust.rule import (
    Rule,
    Verdict,
    accepting,
    check_share,
    median,
    nearest_first,
)
from secure_fedfm.robust.score_matrix import ScoreMatrix

__all__ = [
    "GeometricMedian", "LeastDiameter", "NearestNeighbourMixing", "least_diameter",
    "mixing_matrix", "weiszfeld",
]  # fmt: skip

Floats = NDArray[np.float64]

MOST_SUBSETS = 50_000
"""Subsets that the least-diameter search looks at; it refuses more."""

_ITERATIONS = 200
_SETTLED = 1e-12


@dataclass(frozen=True, slots=True)
class GeometricMedian(Rule):
    """The point with the least sum of distances, by Weiszfeld's iteration.

    Accepts those whose distance to it is within ``multiple`` of the median distance.

    Args:
        multiple: of the median distance, 1 to 100.
    """

    name: ClassVar[str] = "geometric-median"
    source: ClassVar[str] = "Pillutla et al. 2019 (arXiv 1912.13445), algorithm 2; selection ours"
    breakdown: ClassVar[str] = "fewer than half are malicious"

    multiple: float = 2.0

    def __post_init__(self) -> None:
        check_share(self.name, "multiple", self.multiple, 1, 100)

    def tolerates(self, count: int) -> int:
        """Return the largest minority."""
        return (count - 1) // 2

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        smoothing = _smoothing(scores)
        weights = weiszfeld(scores.gram, smoothing, _ITERATIONS)
        lengths = _distances(scores.gram, weights)
        limit = self.multiple * median(lengths) + 1e-4 * median(scores.norms)
        reasons = [
            ""
            if length <= limit
            else f"distance: {length / max(median(lengths), smoothing):.1f} times the median "
            f"distance from the geometric median, allowed {self.multiple:g}"
            for length in lengths
        ]
        return accepting(scores, reasons, memory, weights)


@dataclass(frozen=True, slots=True)
class LeastDiameter(Rule):
    """Minimum-diameter averaging: the n - f clients whose largest distance is least; exact.

    Args:
        byzantine: f, clients that may be malicious.
    """

    name: ClassVar[str] = "minimum-diameter"
    source: ClassVar[str] = "El Mhamdi et al. 2018 (arXiv 1802.07927), section 4; Rousseeuw 1985"
    breakdown: ClassVar[str] = (
        "f malicious of n >= 2 f + 1, as long as n choose f is 50,000 or less"
    )

    byzantine: int = 1

    def __post_init__(self) -> None:
        check_share(self.name, "byzantine", self.byzantine, 0, 10_000)

    @property
    def fewest(self) -> int:
        """2 f + 1, at least 3."""
        return max(3, 2 * self.byzantine + 1)

    def tolerates(self, count: int) -> int:
        """Return f where there are enough clients."""
        return self.byzantine if count >= self.fewest else 0

    def accepts_at_most(self, count: int) -> int:
        """Return n - f."""
        return max(0, count - self.byzantine)

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        chosen, diameter = least_diameter(
            scores.squared_distances, scores.count - self.byzantine, scores.names
        )
        typical = math.sqrt(diameter)
        reasons = [""] * scores.count
        for place in set(range(scores.count)) - set(chosen):
            farthest = math.sqrt(max(float(scores.squared_distances[place, i]) for i in chosen))
            reasons[place] = (
                f"distance: outside the {len(chosen)} closest clients, up to {farthest:.3g} away "
                f"from them; they are within {typical:.3g} of each other"
            )
        return accepting(scores, reasons, memory)


@dataclass(frozen=True, slots=True)
class NearestNeighbourMixing(Rule):
    """Replaces each vector by the mean of its n - f nearest, then applies an inner rule.

    Accepts the n - f clients with the greatest weight in the result: weights of the inner rule,
    carried back through the mixing.

    Args:
        byzantine: f, clients that may be malicious.
        inner: ``average``, ``krum`` or ``geometric-median``.
    """

    name: ClassVar[str] = "nearest-neighbour-mixing"
    source: ClassVar[str] = "Allouah et al. 2023 (AISTATS), algorithm 2; selection ours"
    breakdown: ClassVar[str] = "f malicious of n >= 2 f + 1; with inner krum of n >= 2 f + 3"

    byzantine: int = 1
    inner: str = "geometric-median"

    def __post_init__(self) -> None:
        check_share(self.name, "byzantine", self.byzantine, 0, 10_000)
        if self.inner not in ("average", "krum", "geometric-median"):
            raise ConfigurationError(
                f"robust rule {self.name}: inner is {self.inner!r}, expected average, krum or "
                "geometric-median"
            )

    @property
    def fewest(self) -> int:
        """2 f + 1, with Krum 2 f + 3; at least 3."""
        return max(3, 2 * self.byzantine + (3 if self.inner == "krum" else 1))

    def tolerates(self, count: int) -> int:
        """Return f where there are enough clients."""
        return self.byzantine if count >= self.fewest else 0

    def accepts_at_most(self, count: int) -> int:
        """Return n - f."""
        return max(0, count - self.byzantine)

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        keep = scores.count - self.byzantine
        mixing = mixing_matrix(scores.squared_distances, keep, scores.names)
        mixed = ScoreMatrix(scores.names, _symmetrical(mixing @ scores.gram @ mixing.T))
        weights = mixing.T @ self._inner_weights(mixed)
        reasons = [""] * scores.count
        for rank, place in enumerate(nearest_first(-weights, scores.names), start=1):
            if rank > keep:
                reasons[place] = (
                    f"distance: weight {weights[place]:.3f} after mixing of nearest neighbours, "
                    f"{rank}. of {scores.count}, {keep} are kept"
                )
        return accepting(scores, reasons, memory, weights)

    def _inner_weights(self, mixed: ScoreMatrix) -> Floats:
        if self.inner == "average":
            return np.full(mixed.count, 1.0 / mixed.count)
        if self.inner == "krum":
            neighbours = mixed.count - self.byzantine - 2
            values = krum_scores(mixed.squared_distances, neighbours)
            weights = np.zeros(mixed.count)
            weights[nearest_first(values, mixed.names)[0]] = 1.0
            return weights
        return weiszfeld(mixed.gram, _smoothing(mixed), _ITERATIONS)


def weiszfeld(
    gram: Floats, smoothing: float, iterations: int, start: Floats | None = None
) -> Floats:
    """Return the weights of the smoothed geometric median, float64 [n], sum 1.

    w_i is proportional to 1 / max(smoothing, |u_i - z|), z = sum w_j u_j; from the mean.

    Args:
        gram: float64 [n, n].
        smoothing: least distance, positive.
        iterations: at most so many; it stops when weights have settled.
        start: weights to start from, which may sum to anything (zeros: the origin).
    """
    weights = np.full(len(gram), 1.0 / len(gram)) if start is None else start
    for _ in range(iterations):
        inverse = 1.0 / np.maximum(smoothing, _distances(gram, weights))
        before, weights = weights, inverse / inverse.sum()
        if float(np.abs(weights - before).max()) < _SETTLED:
            break
    return weights


def least_diameter(
    squared_distances: Floats, size: int, names: tuple[str, ...]
) -> tuple[tuple[int, ...], float]:
    """Return the subset of this size with the least diameter, and that diameter squared.

    Of equal ones the first in alphabetical order of its clients.

    Raises:
        RobustnessError: there are more than :data:`MOST_SUBSETS` subsets.
    """
    count = len(names)
    subsets = math.comb(count, size)
    if subsets > MOST_SUBSETS:
        raise RobustnessError(
            f"minimum-diameter averaging would look at {subsets} subsets of {count} clients, at "
            f"most {MOST_SUBSETS} are searched; use multi-krum or geometric-median"
        )
    order = sorted(range(count), key=lambda i: names[i])
    best: tuple[int, ...] = tuple(order[:size])
    least = math.inf
    for subset in combinations(order, size):
        diameter = float(squared_distances[np.ix_(subset, subset)].max())
        if diameter < least:
            best, least = subset, diameter
    return best, least


def mixing_matrix(squared_distances: Floats, size: int, names: tuple[str, ...]) -> Floats:
    """Return M: row i averages the ``size`` vectors nearest to u_i, itself included."""
    mixing = np.zeros_like(squared_distances)
    for place, row in enumerate(squared_distances):
        distances = row.copy()
        distances[place] = -1.0
        mixing[place, nearest_first(distances, names)[:size]] = 1.0 / size
    return mixing


def _smoothing(scores: ScoreMatrix) -> float:
    """Return a distance that is rounding beside ordinary norms (not beside an attacker's)."""
    return 1e-9 * median(scores.norms) or 1.0


def _distances(gram: Floats, weights: Floats) -> Floats:
    """Return |u_i - sum w_j u_j| for each i."""
    product = gram @ weights
    squares = np.diagonal(gram) - 2 * product + float(weights @ product)
    lengths: Floats = np.sqrt(np.maximum(squares, 0.0))
    return lengths


def _symmetrical(matrix: Floats) -> Floats:
    halves: Floats = (matrix + matrix.T) / 2
    return halves
