"""Rules made of a rule: the same one on every group of values.

A backdoor that hides in the whole update can stand out in the head or in one kind of matrix. With
sketches by group the validator has a Gram matrix for each; a client must pass in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from secure_fedfm.errors import RobustnessError
from secure_fedfm.robust.memory import Memory
from secure_fedfm.robust.reasons import in_group
from secure_fedfm.robust.rule import Rule, Verdict, accepting
from secure_fedfm.robust.score_matrix import ScoreMatrix

__all__ = ["EveryGroup"]


@dataclass(frozen=True, slots=True)
class EveryGroup(Rule):
    """Accepts clients that the inner rule accepts on the whole and in each group by itself.

    Its breakdown point and scaling are the inner rule's. With many groups benign clients are
    excluded more often: each is one more chance to stand out.

    Args:
        inner: the rule.
    """

    name: ClassVar[str] = "every-group"
    source: ClassVar[str] = "ours"
    breakdown: ClassVar[str] = "that of the inner rule, in each group"

    inner: Rule

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
            found = self.inner.judge(scores.group(group.name), memory.part(group.name))
            memory = memory.with_part(group.name, found.memory)
            for place, reason in enumerate(found.reasons):
                if reason and not reasons[place]:
                    reasons[place] = in_group(group.name, reason)
        kept = np.where([bool(reason) for reason in reasons], 0.0, verdict.weights)
        return accepting(scores, reasons, memory, kept)
