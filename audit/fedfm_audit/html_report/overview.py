"""What a bundle says, for readers: as much as can be read, whatever the verification found.

Nothing here judges.  Leaves whose signature does not verify are left out, figures are recomputed
from the events; what may be believed of the rest is what the verdict says.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedfm_audit.bundle import CHARTER
from fedfm_audit.charter_view import CharterView, open_charter
from fedfm_audit.entries import read_body
from fedfm_audit.errors import CharterViewError
from fedfm_audit.exclusions import Exclusion, exclusions_in
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.log_keys import log_keys_in
from fedfm_audit.messages import Cohort
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.privacy.reader import LedgerReader, open_readers
from fedfm_audit.privacy.terms import PrivacyTerms, read_terms
from fedfm_audit.statements import (
    EnrolmentPredicate,
    FederationPredicate,
    RoundPredicate,
    open_leaf,
    transcript_path,
)
from fedfm_audit.tiles import MAX_LEAVES, read_entries
from fedfm_audit.transcript import Transcript
from fedfm_crypto.canonical_json import canonical_decode
from fedfm_crypto.dsse import dsse_read_unverified
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.note import (
    Checkpoint,
    VerifierKey,
    open_note,
    parse_checkpoint,
    split_note,
)


@dataclass(frozen=True, slots=True)
class RoundView:
    """A round's statement, the leaf that holds it, and from its transcript who was accepted by the
    last cohort (None where there is no readable transcript), and who was left out, and why."""

    index: int
    predicate: RoundPredicate
    accepted: tuple[str, ...] | None
    removed: tuple[Exclusion, ...]


@dataclass(frozen=True, slots=True)
class LedgerView:
    """An institution's ledger: epsilon after each round that it has entries of (recomputed), in
    all, and how many charges nothing settled."""

    institution: str
    entries: int
    unsettled: int
    points: tuple[tuple[int, float], ...]
    epsilon: float


@dataclass(frozen=True, slots=True)
class Head:
    """The checkpoint; ``cosigned`` (key name to POSIX time) is None if a signature is bad."""

    checkpoint: Checkpoint
    cosigned: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Overview:
    """What a bundle says, as far as it could be read; ``document`` is the charter's JSON."""

    charter: CharterView
    document: Mapping[str, Any]
    terms: PrivacyTerms | None
    head: Head | None
    unread: tuple[int, ...] = ()
    enrolments: Mapping[str, EnrolmentPredicate] = field(default_factory=dict)
    federation: FederationPredicate | None = None
    rounds: tuple[RoundView, ...] = ()
    ledgers: tuple[LedgerView, ...] = ()


def read_overview(files: Mapping[str, bytes], *, full: bool = False) -> Overview | None:
    """Read a bundle for its report; None without a charter to go by.

    ``full`` takes privacy figures by PLD too, where they are smaller.
    """
    try:
        charter = open_charter(files.get(CHARTER, b""))
    except CharterViewError:
        return None
    document = canonical_decode(dsse_read_unverified(files[CHARTER]).payload)
    terms = read_terms(charter.privacy, charter.thresholds, charter.values, charter.scale)
    keys, _ = log_keys_in(files, charter)
    head = _read_head(files.get(CHECKPOINT, b""), charter, keys.last)
    found = Overview(charter, document if isinstance(document, dict) else {}, terms, head)
    if head is None or head.checkpoint.size > MAX_LEAVES:
        return found
    try:
        leaves = read_entries(files, head.checkpoint.size)
    except FedFMError:
        return found
    return _read_leaves(found, leaves, files, full=full)


def _read_head(note: bytes, charter: CharterView, log_key: VerifierKey) -> Head | None:
    try:
        opened = open_note(note, (log_key, *charter.witnesses), strict=False)
        return Head(opened.checkpoint, opened.cosignatures)
    except FedFMError:
        pass
    try:
        return Head(parse_checkpoint(split_note(note)[0]), None)
    except FedFMError:
        return None


def _read_leaves(
    found: Overview, leaves: Sequence[bytes], files: Mapping[str, bytes], *, full: bool
) -> Overview:
    charter, unread = found.charter, []
    keys, _ = log_keys_in(files, charter)
    signers = {**charter.keys, **keys.publics}
    enrolments: dict[str, EnrolmentPredicate] = {}
    federation: FederationPredicate | None = None
    rounds: list[RoundView] = []
    entries: dict[str, list[tuple[PrivacyPredicate, str]]] = defaultdict(list)
    for index, leaf in enumerate(leaves):
        try:
            predicate = open_leaf(leaf, signers).statement.predicate
        except FedFMError:
            unread.append(index)
            continue
        match predicate:
            case EnrolmentPredicate():
                enrolments.setdefault(predicate.name, predicate)
            case FederationPredicate():
                federation = federation or predicate
            case RoundPredicate():
                rounds.append(_read_round(index, predicate, files, charter))
            case PrivacyPredicate():
                digest = hashlib.sha256(leaf).hexdigest()
                entries[predicate.institution].append((predicate, digest))
    return Overview(
        charter,
        found.document,
        found.terms,
        found.head,
        tuple(unread),
        enrolments,
        federation,
        tuple(rounds),
        _read_ledgers(entries, found.terms, full=full),
    )


def _read_round(
    index: int, predicate: RoundPredicate, files: Mapping[str, bytes], charter: CharterView
) -> RoundView:
    try:
        transcript = Transcript.decode(files[transcript_path(predicate.round)])
        cohorts = [read_body(entry, Cohort) for entry in transcript.of("Cohort")]
        removed = exclusions_in(transcript, rule=charter.rule, encrypted=charter.encrypted)
    except (FedFMError, KeyError):
        return RoundView(index, predicate, None, ())
    accepted = cohorts[-1].accepted if cohorts else ()
    return RoundView(index, predicate, tuple(accepted), removed)


def _read_ledgers(
    ledgers: Mapping[str, Sequence[tuple[PrivacyPredicate, str]]],
    terms: PrivacyTerms | None,
    *,
    full: bool,
) -> tuple[LedgerView, ...]:
    if terms is None:  # entries where there is no budget: the verifier says so, no figure is drawn
        return ()
    events = {name: [entry for entry, _ in listed] for name, listed in ledgers.items()}
    readers = open_readers(events, terms.delta, pld=full)
    return tuple(_read_ledger(name, ledgers[name], readers[name]) for name in sorted(ledgers))


def _read_ledger(
    name: str, entries: Iterable[tuple[PrivacyPredicate, str]], reader: LedgerReader
) -> LedgerView:
    points: dict[int, float] = {}
    count = latest = 0
    for entry, digest in entries:
        reader.read(entry, digest)
        latest = max(latest, entry.round)  # what is charged outside rounds counts from here on
        points[latest] = reader.epsilon
        count += 1
    return LedgerView(name, count, len(reader.open_charges), tuple(points.items()), reader.epsilon)
