"""Norm bound: a client whose update is far longer than the median's is excluded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secure_fedfm.robust.memory import Memory
from secure_fedfm.robust.rule import Rule, Verdict, accepting, check_share, median
from secure_fedfm.robust.score_matrix import ScoreMatrix

__all__ = ["NormBound", "norm_reasons"]


@dataclass(frozen=True, slots=True)
class NormBound(Rule):
    """Excludes norms above a multiple of the median norm.

    Bounds how much one client moves the sum; alone it stops boosting, not stealth.

    Args:
        multiple: of the median norm, 1 to 100.
    """

    name: ClassVar[str] = "norm-bound"
    source: ClassVar[str] = "Sun et al. 2019 (arXiv 1911.07963), section 4 (norm thresholding)"
    breakdown: ClassVar[str] = "fewer than half of the clients have large norms"

    multiple: float = 2.0

    def __post_init__(self) -> None:
        check_share(self.name, "multiple", self.multiple, 1, 100)

    def tolerates(self, count: int) -> int:
        """Return the largest minority."""
        return (count - 1) // 2

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        return accepting(scores, norm_reasons(scores, self.multiple), memory)


def norm_reasons(scores: ScoreMatrix, multiple: float, middle: float | None = None) -> list[str]:
    """Return for each client why its norm is too large, or nothing.

    Args:
        scores: of the round.
        multiple: of the median that is allowed; where that is zero, nothing above it is.
        middle: the median, if not the lower of the middle two of an even number.
    """
    if middle is None:
        middle = median(scores.norms)
    reasons = []
    for norm in scores.norms:
        if norm <= multiple * middle:
            reasons.append("")
        elif middle == 0:
            reasons.append("norm: above zero, where the median norm is zero")
        else:
            reasons.append(f"norm: {norm / middle:.1f} times the median, allowed {multiple:g}")
    return reasons
