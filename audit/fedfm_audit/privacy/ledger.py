"""Reserve, run, commit: the ledger of one institution as a value that functions extend.

::

    reserve   the charge is signed and durable before training starts
    run       train, add noise, send
    settle    what came of it: a result, or none; either way the charge stands

A crash between any two of these leaves the charge: nothing is ever refunded, so no order of crashes
can spend more than the budget.  The functions below take a state and return the next entry; storage
is a :class:`LedgerStore` of the caller's, which must have an entry on disk before ``append``
returns.  :class:`InstitutionLedger` puts the two together.

A signature on an entry proves who claims it, not that noise was added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedfm_audit.errors import PrivacyLedgerError
from fedfm_audit.privacy.accountant import Spent, spent
from fedfm_audit.privacy.budget import Budget, check_budget, forecast
from fedfm_audit.privacy.entries import (
    ADJACENCY,
    NO_PREVIOUS,
    Adversary,
    BudgetLeft,
    Cumulative,
    Libraries,
    Participants,
    PrivacyPredicate,
    Provenance,
    figure,
)
from fedfm_audit.privacy.events import Charge, Event, Settlement
from fedfm_audit.privacy.reader import LedgerReader
from fedfm_audit.statements import open_leaf, privacy_statement, sign_statement
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey


@dataclass(frozen=True, slots=True)
class LedgerTerms:
    """What all entries of a ledger have in common; ``pld`` asks for the headline figure in each
    entry (about a second)."""

    federation: str
    charter: str
    institution: str
    key: str
    unit: str
    adversary: Adversary
    released: str
    participants: Participants
    hashes: Provenance
    generator: str
    budget: Budget
    pld: bool = True


@dataclass(frozen=True, slots=True)
class LedgerState:
    """A ledger as it stands: its entries, and the hex SHA-256 of its last leaf."""

    terms: LedgerTerms
    entries: tuple[PrivacyPredicate, ...] = ()
    head: str = NO_PREVIOUS

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything charged or settled so far."""
        return tuple(entry.event for entry in self.entries)

    @property
    def open_charges(self) -> tuple[PrivacyPredicate, ...]:
        """Charges that nothing has settled: rounds that run, or that a crash ended."""
        settled = {
            entry.event.charge for entry in self.entries if isinstance(entry.event, Settlement)
        }
        return tuple(
            entry
            for entry in self.entries
            if not isinstance(entry.event, Settlement) and entry.sequence not in settled
        )

    def spent(self, *, pld: bool = True) -> Spent:
        """What all events cost."""
        return spent(self.events, self.terms.budget.delta, pld=pld)

    def rounds_left(self, event: Charge) -> int:
        """How often ``event`` still fits."""
        return forecast(self.events, event, self.terms.budget)


def reserve(state: LedgerState, *, round: int, event: Charge) -> PrivacyPredicate:
    """The entry that charges ``event``; nothing may be computed for release before it is stored.

    Raises
    ------
    BudgetExceededError
        if it does not fit; the state stays as it is.
    PrivacyLedgerError
        if ``event`` is a settlement.
    """
    if isinstance(event, Settlement):
        raise PrivacyLedgerError(f"{event.type} settles a charge; use settle, not reserve")
    check_budget(state.events, event, state.terms.budget)
    return _entry(state, round, event)


def settle(state: LedgerState, event: Settlement) -> PrivacyPredicate:
    """The entry that says what came of a charge.

    Raises
    ------
    PrivacyLedgerError
        if that charge is not open.
    """
    for charge in state.open_charges:
        if charge.sequence == event.charge:
            return _entry(state, charge.round, event)
    raise PrivacyLedgerError(
        f"charge {event.charge} of {state.terms.institution} is not open; open are "
        f"{[charge.sequence for charge in state.open_charges]}"
    )


def extend(state: LedgerState, entry: PrivacyPredicate, leaf: bytes) -> LedgerState:
    """The state after ``entry``, whose signed form is ``leaf``."""
    if entry.sequence != len(state.entries) or entry.previous != state.head:
        raise PrivacyLedgerError(
            f"entry {entry.sequence} does not follow entry {len(state.entries) - 1}; reserve again "
            "from the stored state"
        )
    digest = hashlib.sha256(leaf).hexdigest()
    return replace(state, entries=(*state.entries, entry), head=digest)


def restore(terms: LedgerTerms, leaves: Sequence[bytes], key: IdentityPublicKey) -> LedgerState:
    """The state that stored leaves make; every signature, link and figure is checked.

    Raises
    ------
    PrivacyLedgerError
        naming the first entry that is altered, missing, or of another ledger.
    """
    state = LedgerState(terms)
    reader = LedgerReader()
    for position, leaf in enumerate(leaves):
        try:
            entry = open_leaf(leaf, {key.hex: key}).statement.predicate
        except FedFMError as error:
            raise PrivacyLedgerError(f"ledger entry {position}: {error}") from error
        if not isinstance(entry, PrivacyPredicate):
            raise PrivacyLedgerError(f"ledger entry {position} is a {entry.TYPE}")
        own = (terms.federation, terms.charter, terms.institution, terms.key)
        if (entry.federation, entry.charter, entry.institution, entry.key) != own:
            raise PrivacyLedgerError(
                f"ledger entry {position} is of {entry.institution} in {entry.federation}, this "
                f"ledger of {terms.institution} in {terms.federation}"
            )
        wrong = reader.read(entry, hashlib.sha256(leaf).hexdigest())
        if wrong:
            raise PrivacyLedgerError(f"ledger entry {position} {wrong[0]}")
        state = extend(state, entry, leaf)
    return state


def _entry(state: LedgerState, round: int, event: Event) -> PrivacyPredicate:
    terms, budget = state.terms, state.terms.budget
    cost = spent((*state.events, event), budget.delta, pld=terms.pld)
    return PrivacyPredicate(
        federation=terms.federation,
        charter=terms.charter,
        institution=terms.institution,
        key=terms.key,
        sequence=len(state.entries),
        previous=state.head,
        round=round,
        unit=terms.unit,
        adjacency=ADJACENCY,
        adversary=terms.adversary,
        released=terms.released,
        event=event,
        participants=terms.participants,
        hashes=terms.hashes,
        generator=terms.generator,
        cumulative=Cumulative(
            budget.delta,
            figure(cost.rdp.epsilon),
            cost.rdp.order,
            None if cost.pld is None else figure(cost.pld),
        ),
        budget=BudgetLeft(budget.epsilon, budget.delta, max(0.0, budget.epsilon - cost.epsilon)),
        libraries=Libraries.installed(),
    )


class LedgerStore(Protocol):
    """Where an institution keeps the signed leaves of its ledger.

    ``append`` must be durable when it returns and must refuse a sequence number that is taken, so
    that two processes, or one that was restored from a copy in memory, cannot both use it.
    """

    def leaves(self) -> tuple[bytes, ...]:
        """All leaves, by sequence number."""
        ...

    def append(self, sequence: int, leaf: bytes) -> None:
        """Store the next leaf; all or nothing."""
        ...


@dataclass
class MemoryStore:
    """A store for tests and simulations: durable as long as the object lives."""

    kept: list[bytes] = field(default_factory=list)

    def leaves(self) -> tuple[bytes, ...]:
        """All leaves, by sequence number."""
        return tuple(self.kept)

    def append(self, sequence: int, leaf: bytes) -> None:
        """Store the next leaf."""
        if sequence != len(self.kept):
            raise PrivacyLedgerError(f"sequence {sequence}, expected {len(self.kept)}")
        self.kept.append(leaf)


class InstitutionLedger:
    """The ledger of one institution over a store; opening it checks everything stored."""

    def __init__(self, terms: LedgerTerms, key: IdentityKey, store: LedgerStore) -> None:
        if key.public.hex != terms.key:
            raise PrivacyLedgerError("the identity key is not the one that the ledger names")
        self._key = key
        self._store = store
        self.state = restore(terms, store.leaves(), key.public)

    def reserve(self, round: int, event: Charge) -> bytes:
        """Charge ``event``; returns its leaf, which is on disk by then.  See :func:`reserve`."""
        return self.append(reserve(self.state, round=round, event=event))

    def settle(self, event: Settlement) -> bytes:
        """Settle a charge; returns its leaf.  See :func:`settle`."""
        return self.append(settle(self.state, event))

    def append(self, entry: PrivacyPredicate) -> bytes:
        """Sign and store the entry that :func:`reserve` or :func:`settle` made from ``state``;
        returns its leaf, which is on disk by then."""
        leaf = sign_statement(privacy_statement(entry), self._key)
        self._store.append(entry.sequence, leaf)
        self.state = extend(self.state, entry, leaf)
        return leaf
