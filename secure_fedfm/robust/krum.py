"""Krum and Multi-Krum: the clients whose nearest neighbours are nearest.

score(i) = sum of the squared distances to the n - f - 2 nearest others. Krum takes the client with
the lowest score, Multi-Krum the m lowest. (byzfl's implementations sum over n - f - 1.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.robust.memory import Memory
from secure_fedfm.robust.rule import Rule, Verdict, accepting, check_share, nearest_first
from secure_fedfm.robust.score_matrix import ScoreMatrix

__all__ = ["Krum", "MultiKrum", "krum_scores"]


def krum_scores(squared_distances: NDArray[np.float64], neighbours: int) -> NDArray[np.float64]:
    """Return each row's sum over its nearest others, [n]."""
    others = np.sort(squared_distances, axis=1)[:, 1 : neighbours + 1]
    sums: NDArray[np.float64] = others.sum(axis=1)
    return sums


@dataclass(frozen=True, slots=True)
class MultiKrum(Rule):
    """Accepts the ``keep`` clients of lowest score.

    Args:
        byzantine: f, clients that may be malicious.
        keep: m; 0 for n - f.
    """

    name: ClassVar[str] = "multi-krum"
    source: ClassVar[str] = "Blanchard et al. 2017, section 4 and definition of Multi-Krum"
    breakdown: ClassVar[str] = "f malicious of n >= 2 f + 3, and keep <= n - f"

    byzantine: int = 1
    keep: int = 0

    def __post_init__(self) -> None:
        check_share(self.name, "byzantine", self.byzantine, 0, 10_000)
        check_share(self.name, "keep", self.keep, 0, 100_000)

    @property
    def fewest(self) -> int:
        """2 f + 3, and enough to keep."""
        return max(2 * self.byzantine + 3, self.keep + self.byzantine)

    def tolerates(self, count: int) -> int:
        """Return f where there are enough clients."""
        return self.byzantine if count >= self.fewest else 0

    def accepts_at_most(self, count: int) -> int:
        """Return ``keep``, or n - f."""
        return min(count, self.keep) if self.keep else max(0, count - self.byzantine)

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        count = scores.count
        values = krum_scores(scores.squared_distances, count - self.byzantine - 2)
        keep = self.keep or count - self.byzantine
        reasons = [""] * count
        for rank, place in enumerate(nearest_first(values, scores.names), start=1):
            if rank > keep:
                reasons[place] = (
                    f"distance: far from its nearest {count - self.byzantine - 2} others: {rank}. "
                    f"of {count} by distance, {keep} are kept"
                )
        return accepting(scores, reasons, memory)


@dataclass(frozen=True, slots=True)
class Krum(Rule):
    """Accepts the one client of lowest score.

    Args:
        byzantine: f, clients that may be malicious.
    """

    name: ClassVar[str] = "krum"
    source: ClassVar[str] = "Blanchard et al. 2017, section 4"
    breakdown: ClassVar[str] = "f malicious of n >= 2 f + 3"
    selects_one: ClassVar[bool] = True

    byzantine: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.byzantine, int):
            raise ConfigurationError(f"robust rule {self.name}: byzantine is no integer")
        check_share(self.name, "byzantine", self.byzantine, 0, 10_000)

    @property
    def fewest(self) -> int:
        """2 f + 3."""
        return 2 * self.byzantine + 3

    def tolerates(self, count: int) -> int:
        """Return f where there are enough clients."""
        return self.byzantine if count >= self.fewest else 0

    def accepts_at_most(self, count: int) -> int:
        """Return 1."""
        return min(count, 1)

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        return MultiKrum(self.byzantine, keep=1)._judge(scores, memory)
