"""The coordinator's desk for privacy ledgers: entries are checked before they may reach the log.

A false entry in the log would spoil the evidence of all; an upload hash that carries one is
dropped, and its sender counts as silent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from fedfm_audit.privacy.accountant import pld_epsilon, rdp_epsilon
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.privacy.events import Event, Settlement
from fedfm_audit.privacy.reader import LedgerReader
from fedfm_audit.privacy.terms import PrivacyTerms
from fedfm_audit.statements import open_leaf
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_protocols.errors import MalformedMessage
from fedfm_protocols.federation import Federation


class ChargeDesk:
    """Follows every institution's ledger as the log holds it.

    ``leaves`` is the whole log, ``log_keys`` what changes of its key are signed with; in a
    federation without privacy terms no entry is taken.
    """

    def __init__(
        self,
        federation: Federation,
        terms: PrivacyTerms | None,
        leaves: Iterable[bytes],
        log_keys: Mapping[str, IdentityPublicKey] = MappingProxyType({}),
    ) -> None:
        self._federation = federation
        self._terms = terms
        self._keys = {key.hex: key for key in federation.identities.values()}
        self._known: dict[str, list[bytes]] = {name: [] for name in federation.clients}
        for leaf in leaves:
            predicate = open_leaf(leaf, {**self._keys, **log_keys}).statement.predicate
            if isinstance(predicate, PrivacyPredicate):
                self._known[predicate.institution].append(leaf)

    @property
    def keeps(self) -> bool:
        """Whether there are ledgers to follow at all."""
        return self._terms is not None

    def foresee(self) -> None:
        """Work out now what :meth:`check` will ask about the next round's charge: the accountant
        remembers it, and finding it takes seconds."""
        if self._terms is None or self._terms.shared_noise is None:
            return
        event = self._terms.planned_event()
        for leaves in self._known.values():
            events = [self._event(leaf) for leaf in leaves]
            epsilon = rdp_epsilon((*events, event), self._terms.delta).epsilon
            if epsilon > self._terms.epsilon:
                pld_epsilon((*events, event), self._terms.delta)

    def check(
        self,
        name: str,
        number: int,
        charges: Sequence[bytes],
        *,
        step: int = 0,
        marks: bool = False,
    ) -> None:
        """Whether these entries may go into the log; asked before an upload hash is taken.

        Once is enough: what the log holds of a client changes only when a round is recorded, and
        nothing is recorded of a hash that was not taken. Later would be too late: the round's sum
        exists by then, and without the entries it would be one that nobody has charged.

        The hash of step 0 brings the charge of the whole session. Only those whose hash was taken
        then are in a later step, whose hashes bring nothing. A round of ``marks`` charges nothing;
        what it brings settles the rounds before.

        Raises
        ------
        MalformedMessage
            if one is not this client's, not in order, not to the charter's terms, or none of them
            charges round ``number``.
        """
        if self._terms is None:
            if charges:
                raise MalformedMessage(f"{name} sends ledger entries; the charter has no budget")
            return
        if step:
            if charges:
                raise MalformedMessage(
                    f"{name} sends ledger entries at step {step}; those of a session come with "
                    "its first upload hash"
                )
            return
        reader, charged = LedgerReader(), False
        for leaf in (*self._known[name], *self.lacking(name, charges)):
            entry = self._open(name, leaf)
            digest = hashlib.sha256(leaf).hexdigest()
            problems = [*reader.read(entry, digest), *self._terms.problems(entry)]
            if problems:
                raise MalformedMessage(f"ledger entry {entry.sequence} of {name} {problems[0]}")
            settles = isinstance(entry.event, Settlement)
            charged = charged or (entry.round == number and not settles)
        if not charged and not marks:
            raise MalformedMessage(f"{name} commits to an update that it has not charged")

    def lacking(self, name: str, charges: Sequence[bytes]) -> tuple[bytes, ...]:
        """The entries among ``charges`` that the log lacks, in order; :meth:`check` goes first."""
        known = set(self._known[name])
        return tuple(leaf for leaf in charges if leaf not in known)

    def enter(self, name: str, leaves: Iterable[bytes]) -> None:
        """Note that these entries are in the log now."""
        self._known[name].extend(leaves)

    def _event(self, leaf: bytes) -> Event:
        predicate = open_leaf(leaf, self._keys).statement.predicate
        assert isinstance(predicate, PrivacyPredicate)  # noqa: S101 - no other is kept
        return predicate.event

    def _open(self, name: str, leaf: bytes) -> PrivacyPredicate:
        own = self._federation.identities[name].hex
        try:
            signed = open_leaf(leaf, {own: self._keys[own]})
        except FedFMError as error:
            raise MalformedMessage(f"a ledger entry of {name}: {error}") from error
        predicate = signed.statement.predicate
        if not isinstance(predicate, PrivacyPredicate) or predicate.institution != name:
            raise MalformedMessage(f"{name} sends something else than entries of its own ledger")
        charter = self._federation.charter
        if (predicate.federation, predicate.charter) != (
            charter.federation,
            self._federation.charter_hash.hex(),
        ):
            raise MalformedMessage(f"a ledger entry of {name} is of another federation")
        return predicate
