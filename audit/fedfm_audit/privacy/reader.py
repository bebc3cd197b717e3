"""Following one institution's entries: what does not follow, and what its events really cost.

The same reader serves the institution that opens its stored ledger and the auditor of a bundle.  It
trusts the events and recomputes everything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedfm_audit.privacy.accountant import pld_epsilon, rdp_epsilon
from fedfm_audit.privacy.entries import (
    ADJACENCY,
    NO_PREVIOUS,
    PrivacyPredicate,
    figure_value,
)
from fedfm_audit.privacy.events import Event, Settlement

RDP_TOLERANCE = 1e-6
PLD_TOLERANCE = 1e-3  # other library versions discretise a little differently
_CONSTANT = ("federation", "charter", "institution", "key", "unit", "adversary")


class LedgerReader:
    """Reads entries in their order and says what is wrong with each.

    ``pld`` asks for stored PLD figures to be recomputed too; the budget is judged by Renyi
    divergence, and by PLD where that exceeds it, in any case.
    """

    def __init__(self, *, pld: bool = False) -> None:
        self._pld = pld
        self._seen: dict[str, int] = {}
        self._first: PrivacyPredicate | None = None
        self._open: dict[int, int] = {}
        self._settled: set[int] = set()
        self._exceeded = False
        self.events: list[Event] = []
        self.next_sequence = 0
        self.head = NO_PREVIOUS
        self.epsilon = 0.0
        """What the events cost so far: the smaller of the bounds that were computed."""

    @property
    def open_charges(self) -> tuple[int, ...]:
        """Sequence numbers of charges that nothing has settled; they count as spent."""
        return tuple(self._open)

    def read(self, predicate: PrivacyPredicate, digest: str) -> Sequence[str]:
        """Take the entry whose leaf has the hex SHA-256 ``digest``; returns what is wrong."""
        if digest in self._seen:
            return (f"is entry {self._seen[digest]} a second time",)
        self._seen[digest] = predicate.sequence
        if predicate.sequence < self.next_sequence:
            return (
                f"has sequence {predicate.sequence} after {self.next_sequence - 1}: out of order, "
                "or a second entry of that number",
            )
        found = self._chain(predicate)
        self.next_sequence = predicate.sequence + 1
        self.head = digest
        found += self._constants(predicate)
        found += self._settlement(predicate)
        self.events.append(predicate.event)
        found += self._figures(predicate)
        return tuple(found)

    def _chain(self, predicate: PrivacyPredicate) -> list[str]:
        if predicate.sequence > self.next_sequence:
            last = predicate.sequence - 1
            gap = f"{self.next_sequence}" + (f" to {last}" if last > self.next_sequence else "")
            return [f"has sequence {predicate.sequence}; the log holds no entry {gap} before it"]
        if predicate.previous != self.head:
            return [
                f"follows a leaf with SHA-256 {predicate.previous}; the entry before it has "
                f"{self.head}: one of the two was altered"
            ]
        return []

    def _constants(self, predicate: PrivacyPredicate) -> list[str]:
        found = []
        if self._first is None:
            self._first = predicate
        for name in _CONSTANT:
            if getattr(predicate, name) != getattr(self._first, name):
                found.append(f"has another {name} than the ledger's first entry")
        given = (predicate.budget.epsilon, predicate.budget.delta)
        if given != (self._first.budget.epsilon, self._first.budget.delta):
            found.append("has another budget than the ledger's first entry")
        if predicate.adjacency != ADJACENCY:
            found.append(f"has adjacency {predicate.adjacency!r}, expected {ADJACENCY!r}")
        if predicate.cumulative.delta != predicate.budget.delta:
            found.append("states epsilon at another delta than its budget")
        return found

    def _settlement(self, predicate: PrivacyPredicate) -> list[str]:
        event = predicate.event
        if not isinstance(event, Settlement):
            self._open[predicate.sequence] = predicate.round
            return []
        if event.charge in self._settled:
            return [f"settles charge {event.charge}, which is settled already"]
        if event.charge not in self._open:
            return [f"settles charge {event.charge}, which this ledger does not hold"]
        self._settled.add(event.charge)
        charged = self._open.pop(event.charge)
        if charged != predicate.round:
            return [f"settles in round {predicate.round} a charge of round {charged}"]
        return []

    def _figures(self, predicate: PrivacyPredicate) -> list[str]:
        found = []
        budget, stated = predicate.budget, predicate.cumulative
        renyi = rdp_epsilon(self.events, budget.delta).epsilon
        exceeds = renyi > budget.epsilon
        exact = pld_epsilon(self.events, budget.delta) if self._pld or exceeds else None
        self.epsilon = renyi if exact is None else min(renyi, exact)
        found += _compare("RDP", figure_value(stated.epsilon_rdp), renyi, RDP_TOLERANCE)
        if stated.epsilon_pld is not None and self._pld:
            claimed = figure_value(stated.epsilon_pld)
            if exact is None:
                found.append("states epsilon by PLD for a mechanism that has none")
            else:
                found += _compare("PLD", claimed, exact, PLD_TOLERANCE)
        headline = min(
            figure_value(figure)
            for figure in (stated.epsilon_rdp, stated.epsilon_pld)
            if figure is not None
        )
        left = max(0.0, budget.epsilon - headline)
        if not math.isclose(budget.left, left, rel_tol=RDP_TOLERANCE, abs_tol=1e-9):
            found.append(f"says {budget.left:g} of the budget is left; its figures give {left:g}")
        if self.epsilon > budget.epsilon and not self._exceeded:
            self._exceeded = True
            found.append(
                f"exceeds the budget: epsilon {_shown(self.epsilon)} at delta {budget.delta:g}, "
                f"allowed is {budget.epsilon:g}"
            )
        return found


def _compare(name: str, stated: float, found: float, tolerance: float) -> list[str]:
    if stated == found or math.isclose(stated, found, rel_tol=tolerance, abs_tol=1e-9):
        return []
    verb = "understates" if stated < found else "overstates"
    return [f"{verb} epsilon by {name}: {_shown(stated)}, its events give {_shown(found)}"]


def _shown(epsilon: float) -> str:
    return "infinity" if math.isinf(epsilon) else f"{epsilon:.6g}"
