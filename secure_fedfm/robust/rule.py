"""The one interface of robust rules: inner products and memory in, a verdict and memory out.

A rule is a frozen dataclass whose fields are its parameters, a pure function of what it is given.
Each states what it tolerates (:meth:`Rule.tolerates`: its breakdown point), how it behaves when
vectors are scaled, and where it comes from; ``tests/secure_fedfm/robust`` holds all of them to it.

Where updates are hidden a sum can only be taken over whole clients: a verdict's accept bits are
what the protocol uses, its weights are for suite ``clear``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.errors import ConfigurationError, RobustnessError
from secure_fedfm.robust.memory import NOTHING, Memory
from secure_fedfm.robust.score_matrix import ScoreMatrix, impossible

__all__ = [
    "Rule", "Scaling", "Verdict", "accepting", "check_share", "median", "nearest_first",
]  # fmt: skip

Floats = NDArray[np.float64]


class Scaling(Enum):
    """Which rescaling of the clients' vectors leaves a rule's accept bits as they are."""

    COMMON = "one positive factor for all vectors"
    EACH = "a positive factor of its own for each vector"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule's decision on one round.

    Args:
        names: of the clients, as in the scores.
        accepted: for each client.
        weights: float64 [n], not negative, sum 1: the rule's own average; in suites that cannot
            weigh, the plain average of the accepted takes its place.
        reasons: for each client, empty if it is accepted, else why not: a code of ``reasons`` and
            a sentence for people, ``code: sentence``.
        memory: to give to the next round.
    """

    names: tuple[str, ...]
    accepted: tuple[bool, ...]
    weights: Floats = field(repr=False)
    reasons: tuple[str, ...]
    memory: Memory = NOTHING

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.accepted), len(self.weights), len(self.reasons)}
        if len(lengths) != 1:
            raise RobustnessError("a verdict's parts are of different lengths")
        if any(
            bool(reason) == bit for bit, reason in zip(self.accepted, self.reasons, strict=True)
        ):
            raise RobustnessError("a verdict needs a reason for exactly those it excludes")

    @property
    def accepted_names(self) -> tuple[str, ...]:
        """Names of the accepted clients."""
        return tuple(n for n, bit in zip(self.names, self.accepted, strict=True) if bit)


class Rule(ABC):
    """A robust rule; subclasses are frozen dataclasses registered in ``registry``."""

    __slots__ = ()

    name: ClassVar[str]
    """In the charter."""
    source: ClassVar[str]
    """Paper and section."""
    breakdown: ClassVar[str]
    """The condition under which it keeps its promise, in words."""
    scaling: ClassVar[Scaling] = Scaling.COMMON
    selects_one: ClassVar[bool] = False
    """Accepts a single client: its 'sum' would be that client's update."""
    needs_root: ClassVar[bool] = False
    """Compares with a root direction."""

    @abstractmethod
    def tolerates(self, count: int) -> int:
        """Return how many of ``count`` clients far from all others are surely excluded."""

    def accepts_at_most(self, count: int) -> int:
        """Return how many of ``count`` clients it can accept."""
        return count

    def judge(self, scores: ScoreMatrix, memory: Memory = NOTHING) -> Verdict:
        """Return the verdict on a round; clients with impossible scores are excluded first.

        Raises:
            RobustnessError: there are too few clients for the rule's parameters, or a root
                direction is needed and missing.
        """
        refused = impossible(scores)
        kept = [i for i, name in enumerate(scores.names) if name not in refused]
        if len(kept) < self.fewest:
            raise RobustnessError(
                f"rule {self.name} with these parameters needs {self.fewest} clients, found "
                f"{len(kept)} with possible scores; the round cannot be judged"
            )
        verdict = self._judge(scores.ordered(kept) if refused else scores, memory)
        return _widened(verdict, scores.names, refused) if refused else verdict

    def in_group(self) -> Rule:
        """Return the rule as it judges one group of values by itself."""
        return self

    @property
    def fewest(self) -> int:
        """Clients that it needs."""
        return 3

    @abstractmethod
    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict: ...


def _widened(verdict: Verdict, names: tuple[str, ...], refused: Mapping[str, str]) -> Verdict:
    """Return a verdict on some of the clients as one on all, the others excluded."""
    places = {name: place for place, name in enumerate(verdict.names)}
    reasons, weights = [], []
    for name in names:
        place = places.get(name)
        reasons.append(refused[name] if place is None else verdict.reasons[place])
        weights.append(0.0 if place is None else float(verdict.weights[place]))
    accepted = tuple(not reason for reason in reasons)
    return Verdict(names, accepted, np.array(weights), tuple(reasons), verdict.memory)


def accepting(
    scores: ScoreMatrix,
    reasons: Sequence[str],
    memory: Memory,
    weights: Floats | None = None,
) -> Verdict:
    """Return the verdict that excludes those with a reason.

    Args:
        scores: that were judged.
        reasons: empty for the accepted.
        memory: the next one.
        weights: not negative, not all zero; normalised. Equal ones for the accepted if not given.
    """
    accepted = tuple(not reason for reason in reasons)
    if weights is None:
        weights = np.array(accepted, dtype=np.float64)
    total = float(weights.sum())
    if total > 0:
        weights = weights / total
    return Verdict(scores.names, accepted, weights, tuple(reasons), memory)


def nearest_first(values: Floats, names: Sequence[str]) -> list[int]:
    """Return places by ascending value; equal ones by name, so that order of rows plays no part."""
    return sorted(range(len(values)), key=lambda i: (float(values[i]), names[i]))


def median(values: Floats) -> float:
    """Return the median: of an even number, the lower of the middle two.

    The upper one could be an attacker's with just under half of the clients.
    """
    return float(np.sort(values)[(len(values) - 1) // 2])


def check_share(rule: str, parameter: str, value: float, low: float, high: float) -> None:
    """Raise ConfigurationError unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigurationError(
            f"robust rule {rule}: {parameter} is {value}, expected {low:g} to {high:g}"
        )
