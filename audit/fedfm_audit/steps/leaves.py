"""Step 3, first half: every leaf is a known statement, signed by the party that may make it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fedfm_audit.charter_view import CharterView, Party
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.statements import (
    EnrolmentPredicate,
    LogKeyPredicate,
    MarkCheckPredicate,
    MarkPredicate,
    RoundPredicate,
    SignedStatement,
    Statement,
    open_leaf,
)
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.head import Head
from fedfm_audit.steps.roots import Roots
from fedfm_audit.steps.tree import Tree
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.note import parse_vkey

_LAST_DAY = 253402300799  # 9999-12-31T23:59:59Z, the last second that a date can express


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf whose signature verified, and the hex SHA-256 of its bytes."""

    index: int
    statement: Statement
    digest: str

    @property
    def place(self) -> str:
        """How reports name it."""
        return f"leaf {self.index}"


def check_leaves(roots: Roots, head: Head, tree: Tree, findings: Findings) -> tuple[Leaf, ...]:
    """Open every leaf; those that fail are left out of the result."""
    charter, changes = roots.charter, {one.above for one in roots.log_keys.keys}
    leaves: list[Leaf] = []
    signers = roots.signers
    enrolled: dict[str, EnrolmentPredicate] = {}
    for index, data in enumerate(tree.leaves):
        place = f"leaf {index}"
        try:
            signed = open_leaf(data, signers)
        except FedFMError as error:
            findings.fail(place, error)
            continue
        predicate = signed.statement.predicate
        leaves.append(Leaf(index, signed.statement, hashlib.sha256(data).hexdigest()))
        check_author(charter, signed, data, place, findings)
        if isinstance(predicate, EnrolmentPredicate):
            if enrolled.setdefault(predicate.name, predicate) is not predicate:
                findings.fail(place, f"{predicate.name} is enrolled a second time")
        elif isinstance(predicate, RoundPredicate):
            _check_previous(predicate, index, tree, findings)
        elif isinstance(predicate, LogKeyPredicate) and index not in changes:
            findings.fail(place, "is no change of the log's key that follows the one before it")
    for name in sorted(charter.parties.keys() - enrolled.keys()):
        findings.fail("the log", f"{name} is in the charter, but no leaf enrols it")
    _check_expiry(charter, head, list(enrolled.values()), findings)
    return tuple(leaves)


def check_author(
    charter: CharterView, signed: SignedStatement, leaf: bytes, place: str, findings: Findings
) -> None:
    """Who signed a statement is who may make it: an enrolment, a ledger entry and what is said of a
    mark the party that they name, with the charter's keys, a change of the log's key the key before
    it (which that is the chain of changes shows), everything else the coordinator."""
    predicate = signed.statement.predicate
    if isinstance(predicate, EnrolmentPredicate):
        _check_enrolment(charter, predicate, signed.signer, leaf, place, findings)
    elif isinstance(predicate, PrivacyPredicate):
        _check_institution(charter, predicate, signed.signer, place, findings)
    elif isinstance(predicate, MarkPredicate | MarkCheckPredicate):
        _check_owner(charter, predicate, signed.signer, place, findings)
    elif isinstance(predicate, LogKeyPredicate):
        if signed.signer != parse_vkey(predicate.previous).public.hex:
            findings.fail(place, "a change of the log's key by another key than the one before it")
    elif signed.signer != charter.coordinator.identity.hex:
        findings.fail(place, "a statement that only the coordinator makes, by another key")


def _check_enrolment(
    charter: CharterView,
    predicate: EnrolmentPredicate,
    signer: str,
    leaf: bytes,
    place: str,
    findings: Findings,
) -> None:
    party: Party | None = charter.parties.get(predicate.name)
    if party is None:
        findings.fail(place, f"enrols {predicate.name!r}, who is not in the charter")
        return
    role = charter.role_of(party.name)
    said = (signer, predicate.role, predicate.identity, predicate.transport)
    if said != (party.identity.hex, role, party.identity.hex, party.transport):
        findings.fail(place, f"enrols {party.name} with another role or key than the charter")
    if party.enrolment is not None and hashlib.sha256(leaf).hexdigest() != party.enrolment:
        findings.fail(place, f"is not the enrolment of {party.name} that the charter names")


def _check_institution(
    charter: CharterView, predicate: PrivacyPredicate, signer: str, place: str, findings: Findings
) -> None:
    """A ledger entry is signed by the client it names: nobody can spend another's budget."""
    if predicate.institution not in charter.clients:
        findings.fail(place, f"is a ledger entry of {predicate.institution!r}, who is no client")
        return
    key = charter.parties[predicate.institution].identity.hex
    if (signer, predicate.key) != (key, key):
        findings.fail(place, f"is a ledger entry of {predicate.institution} under another key")


def _check_owner(
    charter: CharterView,
    predicate: MarkPredicate | MarkCheckPredicate,
    signer: str,
    place: str,
    findings: Findings,
) -> None:
    """What is said of a mark is signed by the client that owns it."""
    if predicate.client not in charter.clients:
        findings.fail(place, f"is about a mark of {predicate.client!r}, who is no client")
    elif signer != charter.parties[predicate.client].identity.hex:
        findings.fail(place, f"is about a mark of {predicate.client}, by another key")


def _check_previous(predicate: RoundPredicate, index: int, tree: Tree, findings: Findings) -> None:
    previous = predicate.previous
    if previous.size > index:
        findings.fail(
            f"leaf {index}", f"claims to follow a head of size {previous.size}, beyond itself"
        )
    elif tree.root(previous.size).hex() != previous.root:
        findings.fail(f"leaf {index}", f"follows a head of size {previous.size} of another history")


def _check_expiry(
    charter: CharterView,
    head: Head,
    enrolled: Sequence[EnrolmentPredicate],
    findings: Findings,
) -> None:
    """A witness's cosignature is worth nothing after the day its keys expire."""
    last_days = {f"{charter.federation}/{entry.name}": entry.not_after for entry in enrolled}
    for name, moment in head.cosigned.items():
        day = datetime.fromtimestamp(min(moment, _LAST_DAY), UTC).date().isoformat()
        if name in last_days and day > last_days[name]:
            findings.fail(
                CHECKPOINT, f"cosigned by {name} on {day}, whose keys expired {last_days[name]}"
            )
