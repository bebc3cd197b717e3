"""Rules made of a rule: the same one on every group of values.

A backdoor that hides in the whole update can stand out in the head or in one kind of matrix. With
sketches by group the validator has a Gram matrix for each; a client must pass in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.errors import RobustnessError
from secure_fedfm.robust.memory import Memory
from secure_fedfm.robust.reasons import in_group
from secure_fedfm.robust.rule import Rule, Verdict, accepting, check_share
from secure_fedfm.robust.score_matrix import ScoreMatrix

__all__ = ["EveryGroup"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EveryGroup(Rule):
    """Accepts clients that the inner rule accepts on the whole and in each group by itself.

    And whose work is spread over the groups as the others' is: the norm in a group, divided by that
    in all the rest, at most ``profile`` times the median of these ratios. An attacker who takes
    care to look ordinary on the whole still works more where its poison sits; how much a client
    works in all cancels out.

    Its breakdown point and scaling are the inner rule's. With many groups benign clients are
    excluded more often: each is one more chance to stand out.

    Args:
        inner: the rule.
        profile: multiple of the median ratio, 1 to 100.
    """

    name: ClassVar[str] = "every-group"
    source: ClassVar[str] = "ours"
    breakdown: ClassVar[str] = "that of the inner rule, in each group"

    inner: Rule
    profile: float = 1.15

    def __post_init__(self) -> None:
        check_share(self.name, "profile", self.profile, 1, 100)

    @property
    def fewest(self) -> int:
        """As the inner rule."""
        return self.inner.fewest

    def tolerates(self, count: int) -> int:
        """As the inner rule."""
        return self.inner.tolerates(count)

    def accepts_at_most(self, count: int) -> int:
        """As the inner rule."""
        return self.inner.accepts_at_most(count)

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        if not scores.groups:
            raise RobustnessError(
                "rule every-group needs scores by group, and the sketches have one group only; "
                "name groups in the sketch layout"
            )
        whole = ScoreMatrix(scores.names, scores.gram, scores.root)
        verdict = self.inner.judge(whole, memory.part(""))
        memory = memory.with_part("", verdict.memory)
        reasons = list(verdict.reasons)
        for group in scores.groups:
            part = memory.part(group.name)
            found = self.inner.in_group().judge(scores.group(group.name), part)
            memory = memory.with_part(group.name, found.memory)
            for place, reason in enumerate(found.reasons):
                if reason and not reasons[place]:
                    reasons[place] = in_group(group.name, reason)
            for place, ratio in enumerate(_unusual_work(whole, scores.group(group.name))):
                if ratio > self.profile and not reasons[place]:
                    reasons[place] = (
                        f"norm: in {group.name}: {ratio:.2f} times the usual share of its length, "
                        f"allowed {self.profile:g}"
                    )
        kept = np.where([bool(reason) for reason in reasons], 0.0, verdict.weights)
        return accepting(scores, reasons, memory, kept)


def _unusual_work(whole: ScoreMatrix, group: ScoreMatrix) -> Floats:
    """Return norms in the group over norms in the rest, over the median of these; 1 where there is
    no rest, or no median, to divide by.

    Of an even number the median is the mean of the middle two, and not the lower of them: with four
    clients that one would make an ordinary client stand out, and with fewer than half malicious
    both lie among the honest ones'.
    """
    rest = np.sqrt(np.maximum(whole.norms**2 - group.norms**2, 0.0))
    ratios = np.divide(group.norms, rest, out=np.ones_like(rest), where=rest > 0)
    usual = float(np.median(ratios))
    found: Floats = ratios / usual if usual > 0 else np.ones_like(ratios)
    return found
