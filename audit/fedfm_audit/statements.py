"""The eight statements of the log: in-toto Statement v1, one frozen dataclass per predicate.

A leaf is a DSSE envelope around the canonical JSON of a statement, signed by one party: an
enrolment by the identity key that it names, a privacy ledger's entry by its institution, what is
said of a mark by its owner, a change of the log's key by the key before it, everything else by the
coordinator.  The subject
follows from the predicate (only a round's transcript digest is information of its own), so a
statement cannot say two things about one subject.  Schemas: ``fedfm_audit/schemas``.
Source: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from fedfm_audit.errors import StatementError
from fedfm_audit.mark_predicates import (
    MarkCheckPredicate,
    MarkPredicate,
    read_check_predicate,
    read_mark_predicate,
)
from fedfm_audit.privacy.entries import PrivacyPredicate, read_privacy_predicate
from fedfm_audit.round_predicate import (
    CheckpointReference,
    KeyReference,
    RoundCounts,
    RoundPredicate,
    SessionSteps,
    read_round_predicate,
    write_round_predicate,
)
from fedfm_audit.schema import check_schema
from fedfm_audit.tiles import MAX_LEAF_BYTES
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.dsse import dsse_open, dsse_sign
from fedfm_crypto.errors import NoteError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_crypto.note import parse_vkey

__all__ = [
    "PAYLOAD_TYPE",
    "STATEMENT_TYPE",
    "CheckpointReference",
    "ConclusionPredicate",
    "Distribution",
    "EnrolmentPredicate",
    "FederationPredicate",
    "KeyReference",
    "LogKeyPredicate",
    "MarkCheckPredicate",
    "MarkPredicate",
    "Predicate",
    "RoundCounts",
    "RoundPredicate",
    "SessionSteps",
    "SignedStatement",
    "Statement",
    "conclusion_statement",
    "enrolment_statement",
    "federation_statement",
    "log_key_statement",
    "mark_statement",
    "open_leaf",
    "privacy_statement",
    "round_statement",
    "sign_statement",
    "transcript_path",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True, slots=True)
class EnrolmentPredicate:
    """A party and its public keys (hex); ``not_after`` is an ISO day, ``role`` is ``client`` or
    ``coordinator``."""

    TYPE: ClassVar[str] = "urn:secure-fedfm:enrolment:v1"
    name: str
    role: str
    identity: str
    transport: str
    not_after: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed package: its name as PEP 503 normalises it, and its version."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class FederationPredicate:
    """The coordinator starts the federation of ``charter`` (hex SHA-256 of its payload) with
    this package version, Python version and base model (hex SHA-256 of its weights).

    ``config`` is the charter's config_hash (hex), ``code`` the hash of the program's own files
    (hex; audit/README.md, "Program and dependencies"), ``distributions`` are the installed packages
    that it stands on, sorted by name.
    """

    TYPE: ClassVar[str] = "urn:secure-fedfm:federation:v1"
    charter: str
    package: str
    version: str
    python: str
    base_model: str
    config: str
    code: str
    distributions: tuple[Distribution, ...]


@dataclass(frozen=True, slots=True)
class ConclusionPredicate:
    """The final adapter (hex of its tensor hash), and how many rounds of kind ``train`` ended in
    which way."""

    TYPE: ClassVar[str] = "urn:secure-fedfm:conclusion:v1"
    charter: str
    adapter: str
    completed: int
    void: int
    aborted: int


@dataclass(frozen=True, slots=True)
class LogKeyPredicate:
    """The log's checkpoints are signed by ``key`` (a C2SP vkey) from this leaf on, no longer by
    ``previous``, which signs this; ``sequence`` counts the changes, from 1."""

    TYPE: ClassVar[str] = "urn:secure-fedfm:log-key:v1"
    charter: str
    sequence: int
    previous: str
    key: str


Predicate = (
    EnrolmentPredicate
    | FederationPredicate
    | LogKeyPredicate
    | MarkPredicate
    | MarkCheckPredicate
    | PrivacyPredicate
    | RoundPredicate
    | ConclusionPredicate
)

_SCHEMAS = {
    EnrolmentPredicate.TYPE: "enrolment-v1",
    FederationPredicate.TYPE: "federation-v1",
    LogKeyPredicate.TYPE: "log-key-v1",
    MarkPredicate.TYPE: "mark-v1",
    MarkCheckPredicate.TYPE: "mark-check-v1",
    PrivacyPredicate.TYPE: "privacy-v1",
    RoundPredicate.TYPE: "round-v1",
    ConclusionPredicate.TYPE: "conclusion-v1",
}


def transcript_path(round_number: int) -> str:
    """Where a round's transcript lies in the bundle: ``transcripts/000001.json``."""
    return f"transcripts/{round_number:06d}.json"


@dataclass(frozen=True, slots=True)
class Statement:
    """A predicate and the hex digest of its subject.

    Raises
    ------
    StatementError
        if a field breaks the schema, or the digest contradicts the predicate.
    """

    predicate: Predicate
    digest: str

    def __post_init__(self) -> None:
        expected = _implied_digest(self.predicate)
        if expected is not None and self.digest != expected:
            raise StatementError(
                f"{self.predicate.TYPE}: subject digest {self.digest}, but the predicate "
                f"implies {expected}"
            )

    @property
    def subject(self) -> dict[str, Any]:
        """The in-toto ResourceDescriptor (name and digest set) of the one subject."""
        name, algorithm = _subject_name(self.predicate)
        return {"name": name, "digest": {algorithm: self.digest}}

    def to_json(self) -> dict[str, Any]:
        """The statement as JSON objects."""
        return {
            "_type": STATEMENT_TYPE,
            "subject": [self.subject],
            "predicateType": self.predicate.TYPE,
            "predicate": _write_predicate(self.predicate),
        }

    def encode(self) -> bytes:
        """Canonical JSON, validated against the published schema."""
        document = self.to_json()
        check_schema(_SCHEMAS[self.predicate.TYPE], document)
        return canonical_encode(document)

    @classmethod
    def decode(cls, payload: bytes) -> Statement:
        """Parse a canonical statement of one of the eight types.

        Raises
        ------
        StatementError
            for an unknown predicate type or a subject that contradicts the predicate.
        SchemaError, CanonicalJSONError
            for anything else that is wrong with the bytes.
        """
        document = canonical_decode(payload)
        if not isinstance(document, dict):
            raise StatementError("a statement must be a JSON object")
        predicate_type = document.get("predicateType")
        if not isinstance(predicate_type, str) or predicate_type not in _SCHEMAS:
            raise StatementError(
                f"unknown predicate type {str(predicate_type)[:80]!r}; "
                f"this version knows {', '.join(_SCHEMAS)}"
            )
        check_schema(_SCHEMAS[predicate_type], document)
        if predicate_type == PrivacyPredicate.TYPE:
            written = _predicate_bytes(payload, document)
            predicate: Predicate = read_privacy_predicate(document["predicate"], written)
        else:
            predicate = _read_predicate(predicate_type, document["predicate"])
        (digest,) = document["subject"][0]["digest"].values()
        statement = cls(predicate, digest)
        # The schema leaves nothing else that the predicate does not say.
        if [statement.subject] != document["subject"]:
            raise StatementError(
                f"{predicate_type}: subject {document['subject'][0]['name']!r} is not "
                f"{statement.subject['name']!r}, which the predicate implies"
            )
        return statement


def enrolment_statement(predicate: EnrolmentPredicate) -> Statement:
    """Statement about a party's keys; subject is SHA-256(identity || transport)."""
    return Statement(predicate, _keys_digest(predicate))


def federation_statement(predicate: FederationPredicate) -> Statement:
    """Statement about the charter."""
    return Statement(predicate, predicate.charter)


def round_statement(predicate: RoundPredicate, transcript: bytes) -> Statement:
    """Statement about a round's transcript file, given by its bytes."""
    return Statement(predicate, hashlib.sha256(transcript).hexdigest())


def conclusion_statement(predicate: ConclusionPredicate) -> Statement:
    """Statement about the final adapter."""
    return Statement(predicate, predicate.adapter)


def log_key_statement(predicate: LogKeyPredicate) -> Statement:
    """Statement about the key that signs the log from here on; subject is SHA-256 of its 32
    bytes."""
    return Statement(predicate, _log_key_digest(predicate))


def privacy_statement(predicate: PrivacyPredicate) -> Statement:
    """Statement about an entry of a privacy ledger; subject is the entry itself."""
    return Statement(predicate, predicate.digest)


def mark_statement(predicate: MarkPredicate | MarkCheckPredicate) -> Statement:
    """Statement of an owner about its mark; subject is what it says."""
    return Statement(predicate, predicate.digest)


def sign_statement(statement: Statement, key: IdentityKey) -> bytes:
    """The leaf: a DSSE envelope with one signature (deterministic, at most 65535 bytes).

    Raises
    ------
    StatementError
        if the leaf does not fit the log.
    """
    leaf = dsse_sign(statement.encode(), PAYLOAD_TYPE, [(key.public.hex, key)])
    if len(leaf) > MAX_LEAF_BYTES:
        raise StatementError(f"leaf of {len(leaf)} bytes; the log takes {MAX_LEAF_BYTES}")
    return leaf


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement, and the hex identity key that signed it."""

    statement: Statement
    signer: str


def open_leaf(leaf: bytes, keys: Mapping[str, IdentityPublicKey]) -> SignedStatement:
    """Verify a leaf against the known identity keys (by hex) and parse it.

    Raises
    ------
    DSSEError, StatementError, SchemaError, CanonicalJSONError
        naming what is wrong with the leaf.
    """
    opened = dsse_open(leaf, payload_type=PAYLOAD_TYPE, keys=keys, threshold=1)
    if len(opened.signers) != 1:
        raise StatementError(f"leaf with {len(opened.signers)} signatures, expected exactly one")
    return SignedStatement(Statement.decode(opened.payload), opened.signers[0])


def _keys_digest(predicate: EnrolmentPredicate) -> str:
    keys = bytes.fromhex(predicate.identity) + bytes.fromhex(predicate.transport)
    return hashlib.sha256(keys).hexdigest()


def _log_key_digest(predicate: LogKeyPredicate) -> str:
    try:
        return hashlib.sha256(parse_vkey(predicate.key).public.raw).hexdigest()
    except NoteError as error:
        raise StatementError(f"{predicate.TYPE}: {error}") from error


def _implied_digest(predicate: Predicate) -> str | None:
    match predicate:
        case EnrolmentPredicate():
            return _keys_digest(predicate)
        case FederationPredicate():
            return predicate.charter
        case LogKeyPredicate():
            return _log_key_digest(predicate)
        case ConclusionPredicate():
            return predicate.adapter
        case PrivacyPredicate() | MarkPredicate() | MarkCheckPredicate():
            return predicate.digest
        case RoundPredicate():
            return None  # the transcript's digest: the one thing the predicate does not say


def _subject_name(predicate: Predicate) -> tuple[str, str]:
    """Name of the subject and the algorithm of its digest."""
    match predicate:
        case EnrolmentPredicate():
            return f"keys/{predicate.name}", "sha256"
        case FederationPredicate():
            return "charter.json", "sha256"
        case LogKeyPredicate():
            return f"log-keys/{predicate.sequence:06d}", "sha256"
        case RoundPredicate():
            return transcript_path(predicate.round), "sha256"
        case PrivacyPredicate() | MarkPredicate() | MarkCheckPredicate():
            return predicate.subject, "sha256"
        case ConclusionPredicate():
            # Not the SHA-256 of a file: the hash over named tensors (audit/README.md).
            return "adapter", "fedfmTensors"


def _write_predicate(predicate: Predicate) -> dict[str, Any]:
    if isinstance(predicate, RoundPredicate):
        return write_round_predicate(predicate)
    if isinstance(predicate, PrivacyPredicate | MarkPredicate | MarkCheckPredicate):
        return predicate.to_json()
    fields = asdict(predicate)
    if isinstance(predicate, FederationPredicate):
        fields["distributions"] = list(fields["distributions"])
    return fields


def _predicate_bytes(payload: bytes, document: Mapping[str, Any]) -> bytes:
    """The canonical JSON of the predicate, as it stands in a canonical statement: a ledger's
    subject is its hash, and a long log has thousands, which need not be written once more."""
    before, after = '{"_type":' + f'"{STATEMENT_TYPE}","predicate":', dict(document)
    del after["_type"], after["predicate"]  # what is left is last in the order of names
    return payload[len(before) : len(payload) - len(canonical_encode(after))]


def _read_predicate(predicate_type: str, fields: dict[str, Any]) -> Predicate:
    """Build the dataclass of a predicate that its schema has already accepted."""
    if predicate_type == RoundPredicate.TYPE:
        return read_round_predicate(fields)
    if predicate_type == MarkPredicate.TYPE:
        return read_mark_predicate(fields)
    if predicate_type == MarkCheckPredicate.TYPE:
        return read_check_predicate(fields)
    classes: tuple[
        type[EnrolmentPredicate | FederationPredicate | LogKeyPredicate | ConclusionPredicate], ...
    ] = (
        EnrolmentPredicate,
        FederationPredicate,
        LogKeyPredicate,
        ConclusionPredicate,
    )
    if predicate_type == FederationPredicate.TYPE:
        listed = tuple(Distribution(**one) for one in fields["distributions"])
        fields = {**fields, "distributions": listed}
    (found,) = (cls for cls in classes if predicate_type == cls.TYPE)
    return found(**fields)
