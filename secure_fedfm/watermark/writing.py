"""The round of marks at one site: what it adds, what of the sum it applies, and what it finds.

Every client applies the opened sum of all marks by one rule, so that all arrive at the same
adapter: nothing outside of B is changed, and if the sum is longer than honest marks can be, or
changes the adapter by more than they may together, nothing is changed at all. That is the rollback;
it is decided by public numbers alone, costs no privacy and cannot be told apart between sites.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.mark_predicates import MarkCheckPredicate
from fedfm_audit.statements import mark_statement, sign_statement
from fedfm_audit.watermark.statistic import Trials
from fedfm_audit.watermark.triggers import TriggerSet, trigger_set
from fedfm_crypto.identity import IdentityKey
from fedfm_protocols.marks import Watermark
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.watermark.carrier import Carrier, add
from secure_fedfm.watermark.embedding import Caps, embed, frobenius, measure
from secure_fedfm.watermark.owned import OwnedMark

LOG = logging.getLogger("secure_fedfm.watermark")


@dataclass(frozen=True, slots=True)
class MarkSum:
    """How an opened sum of marks becomes an adapter, the same at every client."""

    carrier: Carrier
    terms: Watermark

    def apply(self, adapter: Adapter, total: NDArray[np.float64], accepted: int) -> Adapter:
        """The marked adapter; ``adapter`` itself where the sum is not one of honest marks.

        Args:
            total: float64 (layout.size,), the sum of ``accepted`` clients' marks.
        """
        kept = self.carrier.only_carriers(total)
        norm, most = float(np.linalg.norm(kept)), self._most(accepted, kept.size)
        if norm > most:
            LOG.error(
                "the marks are rolled back: their sum has norm %.4g, honest ones have at most %.4g",
                norm,
                most,
            )
            return adapter
        marked = add(adapter, self.carrier.layout, kept)
        change, allowed = self.change(adapter, marked), self._largest_change()
        if change > allowed:
            LOG.error(
                "the marks are rolled back: together they change the adapter by %.3f of its norm, "
                "at most %.3f is agreed",
                change,
                allowed,
            )
            return adapter
        return marked

    def change(self, before: Adapter, after: Adapter) -> float:
        """Frobenius norm of what changed in all B A, relative to B A before."""
        old, new = self.carrier.factors(before), self.carrier.factors(after)
        moved = {
            name: type(one)(new[name].b - one.b, one.a, one.scale) for name, one in old.items()
        }
        size = frobenius(old)
        return frobenius(moved) / size if size else math.inf

    def _most(self, accepted: int, values: int) -> float:
        """Rounding moves each value of each addend by less than one step."""
        return self.terms.largest_norm(accepted) + accepted * math.sqrt(values) / self.terms.scale

    def _largest_change(self) -> float:
        """Marks of different keys are nearly orthogonal, so their squares add; a quarter more."""
        return 1.25 * self.terms.largest_change * math.sqrt(len(self.terms.owners))


@dataclass(frozen=True, slots=True)
class FoundMark:
    """What an owner finds of its mark: the smallest T of its sub-keys, and what it takes."""

    mark: OwnedMark
    statistic: float
    threshold: float

    @property
    def present(self) -> bool:
        """Whether it is there."""
        return self.statistic >= self.threshold


@dataclass(frozen=True, slots=True)
class TriggerWriter:
    """How the keeper of the consortium's mark makes it show in predictions too.

    Attributes:
        labels: of the task, as the charter lists them.
        change: given an adapter and trigger sets, what to add for them (``TriggerTraining``).
        answers: given an adapter and a set, text -> label.
    """

    labels: tuple[str, ...]
    change: Callable[[Adapter, Sequence[TriggerSet]], NDArray[np.float64]]
    answers: Callable[[Adapter, TriggerSet], dict[str, str]]

    def sets(self, mark: OwnedMark) -> tuple[TriggerSet, ...]:
        """The trigger sets of a mark, one a sub-key."""
        claim = mark.committed.claim
        keys = (mark.key.sub_key(claim, index) for index in range(claim.keys))
        return tuple(trigger_set(claim, key, self.labels) for key in keys)

    def hits(self, adapter: Adapter, mark: OwnedMark) -> tuple[int, ...]:
        """How many triggers of each set get their targets."""
        return tuple(one.hits(self.answers(adapter, one)) for one in self.sets(mark))


@dataclass(frozen=True, slots=True)
class MarkWriter:
    """One site's marks in the round that writes them; ``triggers`` is None where the consortium's
    mark shall show in the weights alone, or another client keeps it."""

    carrier: Carrier
    terms: Watermark
    marks: tuple[OwnedMark, ...]
    triggers: TriggerWriter | None = None

    def update(self, adapter: Adapter) -> NDArray[np.float64]:
        """What this site adds, float64 (layout.size,): all its marks, computed from the adapter in
        force and their keys; zeros where it owns none.

        Raises:
            ModelError: the adapter cannot carry them.
        """
        total = np.zeros(self.carrier.layout.size, np.float64)
        for mark in self.marks:
            total += self._one(adapter, mark)
        return total

    def _one(self, adapter: Adapter, mark: OwnedMark) -> NDArray[np.float64]:
        claim = mark.committed.claim
        keys = [mark.key.sub_key(claim, index) for index in range(claim.keys)]
        caps = Caps(self.terms.largest_change, self.terms.norm_bound)
        written = embed(self.carrier.factors(adapter), claim, keys, caps)
        total = np.zeros(self.carrier.layout.size, np.float64)
        for one in written:
            total += self.carrier.flat(one.changes)
        if self.triggers is not None and mark.said.mark == "consortium":
            total += self._for_triggers(self.triggers, adapter, mark, total)
        norm = float(np.linalg.norm(total))
        if norm > self.terms.norm_bound:
            LOG.warning("the %s mark is scaled down to the charter's norm bound", mark.said.mark)
            total *= self.terms.norm_bound / norm
        return total

    def _for_triggers(
        self,
        triggers: TriggerWriter,
        adapter: Adapter,
        mark: OwnedMark,
        written: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """What makes the mark's triggers hit, so much of it that the mark as a whole, ``written``
        and this, changes the adapter by ``largest_change`` at most (the two are unrelated, so their
        squares add)."""
        kept = self.carrier.only_carriers(triggers.change(adapter, triggers.sets(mark)))
        rule, layout = MarkSum(self.carrier, self.terms), self.carrier.layout
        marked, change = (
            rule.change(adapter, add(adapter, layout, part)) for part in (written, kept)
        )
        room = math.sqrt(max(0.0, self.terms.largest_change**2 - marked**2))
        if change > room:
            LOG.info("the triggers' change, %.3f of the adapter, is cut to %.3f", change, room)
            kept *= room / change
        return kept

    def find(self, adapter: Adapter) -> tuple[FoundMark, ...]:
        """Every mark of this site, measured in the result."""
        factors = self.carrier.factors(adapter)
        found = []
        for mark in self.marks:
            claim = mark.committed.claim
            values = [
                measure(factors, claim, mark.key.sub_key(claim, index)).statistic
                for index in range(claim.keys)
            ]
            threshold = Trials(len(self.terms.owners), claim.keys).threshold
            found.append(FoundMark(mark, min(values), threshold))
        return tuple(found)


def words(
    found: Sequence[FoundMark], charter: bytes, number: int, adapter: bytes, key: IdentityKey
) -> tuple[bytes, ...]:
    """The leaves in which an owner says what it found in the result of round ``number``."""
    return tuple(
        sign_statement(
            mark_statement(
                MarkCheckPredicate(
                    charter.hex(),
                    one.mark.said.client,
                    one.mark.said.mark,
                    one.mark.said.claim,
                    number,
                    adapter.hex(),
                    one.present,
                    one.statistic,
                    one.threshold,
                )
            ),
            key,
        )
        for one in found
    )
