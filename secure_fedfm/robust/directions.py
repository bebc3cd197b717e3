"""Rules on cosines: to a root direction (FLTrust), and between clients (FoolsGold)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.robust.memory import Memory
from secure_fedfm.robust.norms import norm_reasons
from secure_fedfm.robust.rule import Rule, Scaling, Verdict, accepting, check_share
from secure_fedfm.robust.score_matrix import ScoreMatrix

__all__ = ["FLTrust", "FoolsGold", "foolsgold_weights"]

Floats = NDArray[np.float64]

_SURE = 0.99
_CLONES = 0.01


@dataclass(frozen=True, slots=True)
class FLTrust(Rule):
    """Accepts clients whose update points the root direction's way, at ordinary length.

    The paper weighs by max(cos, 0) and scales every update to the root's norm; the selection form
    keeps those with a cosine above ``least_cosine`` and a norm within a multiple of the median.
    The weights of suite clear are the paper's, for the unscaled vectors: max(cos, 0) |r| / |u_i|.

    Args:
        least_cosine: a client's must be above it, -1 to 1.
        multiple: of the median norm, 1 to 100.
    """

    name: ClassVar[str] = "fltrust"
    source: ClassVar[str] = "Cao et al. 2021 (NDSS), section 4; selection form ours"
    breakdown: ClassVar[str] = (
        "any number of clients against the root direction, if the root data is clean; fewer than "
        "half with large norms"
    )
    needs_root: ClassVar[bool] = True

    least_cosine: float = 0.0
    multiple: float = 2.0

    def __post_init__(self) -> None:
        check_share(self.name, "least_cosine", self.least_cosine, -1, 1)
        check_share(self.name, "multiple", self.multiple, 1, 100)

    def tolerates(self, count: int) -> int:
        """Return the largest minority: in any direction, by norm."""
        return (count - 1) // 2

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        cosines = scores.root_cosines
        reasons = norm_reasons(scores, self.multiple)
        for place, cosine in enumerate(cosines):
            if cosine <= self.least_cosine:
                reasons[place] = (
                    f"root: cosine {cosine:.2f} to the root client's update, expected above "
                    f"{self.least_cosine:g}"
                )
        trust = np.maximum(cosines, 0.0)
        weights = np.divide(trust, scores.norms, out=np.zeros_like(trust), where=scores.norms > 0)
        weights[[bool(reason) for reason in reasons]] = 0.0
        return accepting(scores, reasons, memory, weights)


@dataclass(frozen=True, slots=True)
class FoolsGold(Rule):
    """Lowers the weight of clients that resemble each other: Sybils pushing one direction.

    The paper compares sums of a client's updates over all rounds; from one Gram matrix a round
    these are not to be had, so cosines are averaged over rounds instead. Benign clients with like
    data resemble each other too; this rule is for non-IID federations.

    Args:
        least_weight: below it a client is excluded, 0 to 1.
        newest: weight of the newest round in the average of cosines, above 0 to 1.
    """

    name: ClassVar[str] = "foolsgold"
    source: ClassVar[str] = (
        "Fung et al. 2018 (arXiv 1808.04866), algorithm 1; memory of cosines ours"
    )
    breakdown: ClassVar[str] = (
        "any number of Sybils with a common direction, one of them at least; none that differ from "
        "each other"
    )
    scaling: ClassVar[Scaling] = Scaling.EACH

    least_weight: float = 0.5
    newest: float = 0.2

    def __post_init__(self) -> None:
        check_share(self.name, "least_weight", self.least_weight, 0, 1)
        check_share(self.name, "newest", self.newest, 1e-3, 1)

    def tolerates(self, count: int) -> int:
        """Return 0: a single client far away resembles nobody and is welcome."""
        return 0

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        cosines = memory.averaged("cosine", scores.names, scores.cosines, self.newest)
        weights = foolsgold_weights(cosines)
        highest = np.where(np.eye(scores.count, dtype=bool), -1.0, cosines).max(axis=1)
        reasons = [
            ""
            if weight >= self.least_weight
            else f"clone: resembles another client (cosine {most:.2f}): weight {weight:.2f}, "
            f"expected {self.least_weight:g} or more"
            for weight, most in zip(weights, highest, strict=True)
        ]
        kept = np.where([bool(reason) for reason in reasons], 0.0, weights)
        memory = memory.remembering("cosine", scores.names, cosines)
        return accepting(scores, reasons, memory, kept)


def foolsgold_weights(cosines: Floats) -> Floats:
    """Return FoolsGold's learning rates in [0, 1] from pairwise cosines: algorithm 1 of the paper.

    Pardoning, rescaling by the largest, logit with kappa = 1, cut to [0, 1]. Where all clients are
    clones all rates are zero.
    """
    similar = cosines - np.eye(len(cosines))
    most = similar.max(axis=1)
    # Pardon: towards j, which has a closer resemblance elsewhere, i's counts for less.
    less = most[:, None] < most[None, :]
    ratio = np.divide(most[:, None], most[None, :], out=np.ones_like(similar), where=less)
    rates = np.clip(1.0 - (similar * ratio).max(axis=1), 0.0, 1.0)
    if rates.max() <= _CLONES:
        return np.zeros_like(rates)
    rates = np.minimum(rates / rates.max(), _SURE)
    with np.errstate(divide="ignore"):
        logits: Floats = np.clip(np.log(rates / (1 - rates)) + 0.5, 0.0, 1.0)
    return logits
