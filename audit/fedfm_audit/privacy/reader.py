"""Following one institution's entries: what does not follow, and what its events really cost.

The same reader serves the institution that opens its stored ledger and the auditor of a bundle.  It
trusts the events and recomputes everything else.

Renyi divergence is recomputed for every entry.  A privacy loss distribution takes a second for each
distinct list of events, so an auditor who has not asked for all of them gets two things from fewer.
*The budget*: what a ledger costs never falls as entries are added, so one figure, of all entries
together, bounds that of every entry, and others are computed only if it is above the budget.  *The
headline*: where institutions state figures by PLD, that of the last entry is recomputed for the
ledger that spent most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfm_audit.privacy.accountant import Tally
from fedfm_audit.privacy.entries import (
    ADJACENCY,
    NO_PREVIOUS,
    BudgetLeft,
    PrivacyPredicate,
    figure_value,
)
from fedfm_audit.privacy.events import Settlement

RDP_TOLERANCE = 1e-6
PLD_TOLERANCE = 1e-3  # other library versions discretise a little differently
_CONSTANT = ("federation", "charter", "institution", "key", "unit", "adversary")


@dataclass(frozen=True, slots=True)
class Foreseen:
    """All that a reader will be given, known beforehand: the events, and whether PLD figures stated
    of all of them together are to be recomputed."""

    tally: Tally
    headline: bool


class LedgerReader:
    """Reads entries in their order and says what is wrong with each.

    ``pld`` asks for stored PLD figures to be recomputed too; the budget is judged by Renyi
    divergence, and by PLD where that exceeds it, in any case.  ``foreseen`` spares most of the
    latter.
    """

    def __init__(self, *, pld: bool = False, foreseen: Foreseen | None = None) -> None:
        self._pld = pld
        self._foreseen = foreseen
        self._tally = Tally()
        self._seen: dict[str, int] = {}
        self._first: PrivacyPredicate | None = None
        self._open: dict[int, int] = {}
        self._settled: set[int] = set()
        self._exceeded = False
        self.next_sequence = 0
        self.head = NO_PREVIOUS
        self.epsilon = 0.0
        """What the events cost so far: the smallest of the bounds that were computed."""
        self.recomputed = 0
        """How many of the stated PLD figures were recomputed."""

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
        self._tally.add(predicate.event)
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
        renyi = self._tally.rdp(budget.delta).epsilon
        exact = self._exact(budget.delta, stated.epsilon_pld is not None)
        bound = exact
        if bound is None and renyi > budget.epsilon:
            bound = self._bound(budget)
        self.epsilon = renyi if bound is None else min(renyi, bound)
        found += _compare("RDP", figure_value(stated.epsilon_rdp), renyi, RDP_TOLERANCE)
        if stated.epsilon_pld is not None and self._asked(stated=True):
            self.recomputed += 1
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

    def _asked(self, *, stated: bool) -> bool:
        """Whether PLD figures of this entry are to be recomputed."""
        foreseen = self._foreseen
        last = foreseen is not None and self._tally.groups == foreseen.tally.groups
        return self._pld or (stated and last and foreseen is not None and foreseen.headline)

    def _exact(self, delta: float, stated: bool) -> float | None:
        return self._tally.pld(delta) if self._asked(stated=stated) else None

    def _bound(self, budget: BudgetLeft) -> float | None:
        """Epsilon by PLD of these events, or of more than these if that is within the budget."""
        if self._foreseen is not None:
            whole = self._foreseen.tally.pld(budget.delta)
            if whole is not None and whole <= budget.epsilon:
                return whole
        return self._tally.pld(budget.delta)


def open_readers(
    ledgers: Mapping[str, Sequence[PrivacyPredicate]], delta: float, *, pld: bool
) -> dict[str, LedgerReader]:
    """A reader for each institution's entries, all of which are at hand."""
    tallies = {name: Tally() for name in ledgers}
    for name, entries in ledgers.items():
        for entry in entries:
            tallies[name].add(entry.event)
    cost = {name: tally.rdp(delta).epsilon for name, tally in tallies.items()}
    most = max(cost.values(), default=0.0)
    return {
        name: LedgerReader(pld=pld, foreseen=Foreseen(tallies[name], cost[name] == most))
        for name in ledgers
    }


def _compare(name: str, stated: float, found: float, tolerance: float) -> list[str]:
    if stated == found or math.isclose(stated, found, rel_tol=tolerance, abs_tol=1e-9):
        return []
    verb = "understates" if stated < found else "overstates"
    return [f"{verb} epsilon by {name}: {_shown(stated)}, its events give {_shown(found)}"]


def _shown(epsilon: float) -> str:
    return "infinity" if math.isinf(epsilon) else f"{epsilon:.6g}"
