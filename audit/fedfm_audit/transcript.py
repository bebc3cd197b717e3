"""A round's transcript: every signed header of the round, and the bodies that are public.

One canonical JSON file per round.  What is secret or large (shares, uploads, wrapped keys,
unmasking, key openings, the aggregate) appears as its signed header only; what the coordinator
merely collected (KeyRoster, GraphNonces, UploadSet, CohortProof) is rebuilt from the collected
envelopes and compared by hash.  The order is fixed by the protocol (step, phase, sender,
sequence), so one set of messages has one file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fedfm_audit.errors import TranscriptError
from fedfm_audit.messages import (
    Cohort,
    CohortProof,
    GraphNonces,
    KeyRoster,
    RoundOpen,
    UploadSet,
)
from fedfm_audit.statements import RoundCounts
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope, Header, SignedHeader
from fedfm_crypto.errors import CodecError

TRANSCRIPT_VERSION = 1
MAX_ENTRIES = 65536

MESSAGE_ORDER = (
    "RoundOpen",
    "KeyOffer",
    "KeyRoster",
    "GraphNonce",
    "GraphNonces",
    "ShareBundle",
    "ShareDelivery",
    "KeyDealing",
    "KeyDelivery",
    "UploadHash",
    "UploadSet",
    "WrappedKey",
    "Upload",
    "Cohort",
    "CohortVote",
    "CohortProof",
    "Unmask",
    "KeyRequest",
    "KeyOpening",
    "Aggregate",
    "RoundAck",
    "RoundClose",
)
"""Types of the messages of a round, of any kind and suite, in their order."""
PHASE = {name: rank for rank, name in enumerate(MESSAGE_ORDER)}
PUBLIC_BODIES = frozenset(
    {
        "RoundOpen",
        "KeyOffer",
        "GraphNonce",
        "UploadHash",
        "Cohort",
        "CohortVote",
        "RoundAck",
        "RoundClose",
    }
)
COORDINATOR_MESSAGES = frozenset(
    {
        "RoundOpen",
        "KeyRoster",
        "GraphNonces",
        "ShareDelivery",
        "KeyDelivery",
        "UploadSet",
        "Cohort",
        "CohortProof",
        "KeyRequest",
        "Aggregate",
        "RoundClose",
    }
)

_ENTRY_FIELDS = frozenset(
    {
        "version",
        "context",
        "type",
        "sender",
        "step",
        "sequence",
        "refers_to",
        "body_hash",
        "checkpoint",
        "signature",
    }
)
_BodyT = TypeVar("_BodyT")


@dataclass(frozen=True, slots=True)
class Entry:
    """One message: its signed header, and its body where that is public."""

    signed: SignedHeader
    body: bytes | None

    @property
    def header(self) -> Header:
        """The header that the sender signed."""
        return self.signed.header

    @property
    def order(self) -> tuple[int, int, str, int]:
        """Position in the transcript: step, phase, sender, sequence."""
        header = self.header
        return (header.step, PHASE[header.type], header.sender, header.sequence)

    def envelope(self) -> bytes:
        """The encoded envelope, as collecting messages embed it.

        Raises
        ------
        TranscriptError
            if the body is not public.
        """
        if self.body is None:
            raise TranscriptError(f"{self.header.type} has no public body")
        return Envelope(self.header, self.signed.signature, self.body).encode()

    def to_json(self) -> dict[str, Any]:
        """JSON object of this message (hashes in hex, signature and body in base64)."""
        header = self.header
        entry: dict[str, Any] = {
            "version": header.version,
            "context": header.context.hex(),
            "type": header.type,
            "sender": header.sender,
            "step": header.step,
            "sequence": header.sequence,
            "refers_to": header.refers_to.hex(),
            "body_hash": header.body_hash.hex(),
            "checkpoint": {
                "size": header.checkpoint_size,
                "root": header.checkpoint_root.hex(),
            },
            "signature": base64.b64encode(self.signed.signature).decode(),
        }
        if self.body is not None:
            entry["body"] = base64.b64encode(self.body).decode()
        return entry


@dataclass(frozen=True, slots=True)
class Transcript:
    """All messages of one round, in order.

    Raises
    ------
    TranscriptError
        if an entry is out of order or repeated, has an unknown type, or has a body where none
        belongs (or none where one does).
    """

    round: int
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.round <= 999_999:
            raise TranscriptError(f"round {self.round}, expected 1 to 999999")
        if len(self.entries) > MAX_ENTRIES:
            raise TranscriptError(f"{len(self.entries)} messages, at most {MAX_ENTRIES} allowed")
        previous: tuple[int, int, str, int] | None = None
        for position, entry in enumerate(self.entries):
            kind = entry.header.type
            if kind not in PHASE:
                raise TranscriptError(f"message {position}: unknown type {kind!r}")
            if (entry.body is not None) != (kind in PUBLIC_BODIES):
                wanted = "a" if kind in PUBLIC_BODIES else "no"
                raise TranscriptError(f"message {position}: {kind} must have {wanted} body here")
            if previous is not None and entry.order <= previous:
                raise TranscriptError(
                    f"message {position}: {kind} of {entry.header.sender} is out of order or "
                    "repeated"
                )
            previous = entry.order

    def of(self, kind: str) -> tuple[Entry, ...]:
        """The messages of one type, in order."""
        return tuple(entry for entry in self.entries if entry.header.type == kind)

    def encode(self) -> bytes:
        """Canonical JSON of the file."""
        return canonical_encode(
            {
                "version": TRANSCRIPT_VERSION,
                "round": self.round,
                "envelopes": [entry.to_json() for entry in self.entries],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Transcript:
        """Parse a transcript file; only the bytes that :meth:`encode` writes are accepted.

        Raises
        ------
        TranscriptError, CanonicalJSONError
            naming the message that is wrong.
        """
        document = canonical_decode(data)
        fields = _fields(document, frozenset({"version", "round", "envelopes"}), "transcript")
        if fields["version"] != TRANSCRIPT_VERSION:
            raise TranscriptError(f"version {fields['version']!r}, expected {TRANSCRIPT_VERSION}")
        number, listed = fields["round"], fields["envelopes"]
        if type(number) is not int or not isinstance(listed, list) or len(listed) > MAX_ENTRIES:
            raise TranscriptError("round must be a number and envelopes a list of bounded length")
        entries = tuple(_read_entry(item, position) for position, item in enumerate(listed))
        transcript = cls(number, entries)
        if transcript.encode() != data:
            raise TranscriptError("the file does not re-encode to the same bytes")
        return transcript


def make_transcript(
    round_number: int, messages: Iterable[tuple[SignedHeader, bytes | None]]
) -> Transcript:
    """The transcript of a round from its messages, in any order.

    A message is a signed header with its body; bodies that must not become evidence are left out
    here, whatever the caller passes.  An identical resend counts once.

    Raises
    ------
    TranscriptError
        if a type is not part of a round, a public body is missing or is not the one that was
        signed, or the same sender and sequence said two things.
    """
    entries: dict[tuple[int, int, str, int], Entry] = {}
    for signed, body in messages:
        header = signed.header
        if header.type not in PHASE:
            raise TranscriptError(f"{header.type} is not a message of a round")
        entry = Entry(signed, body if header.type in PUBLIC_BODIES else None)
        if entry.body is not None and hashlib.sha256(entry.body).digest() != header.body_hash:
            raise TranscriptError(f"{header.type} of {header.sender}: not the body that was signed")
        if entries.setdefault(entry.order, entry) != entry:
            raise TranscriptError(
                f"two different {header.type} number {header.sequence} from {header.sender}"
            )
    return Transcript(round_number, tuple(entries[order] for order in sorted(entries)))


def rebuild_roster(offers: Sequence[Entry]) -> bytes:
    """The KeyRoster body that these KeyOffers make (entries are already sorted by sender)."""
    return encode(KeyRoster(tuple(entry.envelope() for entry in offers)))


def rebuild_nonces(nonces: Sequence[Entry]) -> bytes:
    """The GraphNonces body that these GraphNonces make."""
    return encode(GraphNonces(tuple(entry.envelope() for entry in nonces)))


def rebuild_upload_set(hashes: Sequence[Entry]) -> bytes:
    """The UploadSet body that these UploadHashes make."""
    return encode(UploadSet(tuple(entry.envelope() for entry in hashes)))


def rebuild_cohort_proof(votes: Sequence[Entry]) -> bytes:
    """The CohortProof body that these CohortVotes make."""
    return encode(CohortProof(tuple(entry.envelope() for entry in votes)))


def count_round(transcript: Transcript) -> RoundCounts:
    """What a round statement says about participation, counted from the transcript.

    Nothing here depends on suite or kind: a message that a round does not have counts zero, and
    no round has both kinds of dealer.

    Raises
    ------
    TranscriptError
        if RoundOpen or Cohort does not decode.
    """
    opens = [read_body(entry, RoundOpen) for entry in transcript.of("RoundOpen")]
    cohorts = [read_body(entry, Cohort) for entry in transcript.of("Cohort")]
    return RoundCounts(
        invited=len(opens[0].invited) if opens else 0,
        offers=len(transcript.of("KeyOffer")),
        dealers=len(transcript.of("ShareBundle")) + len(transcript.of("KeyDealing")),
        uploads=len(transcript.of("Upload")),
        accepted=len(cohorts[0].accepted) if cohorts else 0,
        removed=len(cohorts[0].removed) if cohorts else 0,
        votes=len(transcript.of("CohortVote")),
        unmasked=len(transcript.of("Unmask")),
        openings=len(transcript.of("KeyOpening")),
        acks=len(transcript.of("RoundAck")),
    )


def read_body(entry: Entry, layout: type[_BodyT]) -> _BodyT:
    """Decode the public body of an entry.

    Raises
    ------
    TranscriptError
        if there is none, or it breaks the layout.
    """
    if entry.body is None:
        raise TranscriptError(f"{entry.header.type} has no public body")
    try:
        return decode(layout, entry.body)
    except CodecError as error:
        raise TranscriptError(
            f"{entry.header.type} of {entry.header.sender} does not decode: {error}"
        ) from error


def _fields(value: object, names: frozenset[str], place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() != names:
        found = sorted(value)[:16] if isinstance(value, dict) else type(value).__name__
        raise TranscriptError(f"{place}: found {found}, expected the fields {sorted(names)}")
    return value


def _read_entry(item: object, position: int) -> Entry:
    place = f"message {position}"
    has_body = isinstance(item, dict) and "body" in item
    names = _ENTRY_FIELDS | {"body"} if has_body else _ENTRY_FIELDS
    fields = _fields(item, names, place)
    checkpoint = _fields(fields["checkpoint"], frozenset({"size", "root"}), place)
    try:
        header = Header(
            version=fields["version"],
            context=_hex(fields["context"]),
            type=fields["type"],
            sender=fields["sender"],
            step=fields["step"],
            sequence=fields["sequence"],
            refers_to=_hex(fields["refers_to"]),
            body_hash=_hex(fields["body_hash"]),
            checkpoint_size=checkpoint["size"],
            checkpoint_root=_hex(checkpoint["root"]),
        )
        signed = SignedHeader(header, _base64(fields["signature"]))
        encode(signed)  # the codec's bounds on every field, before anything else looks at them
        body = _base64(fields["body"]) if has_body else None
    except (CodecError, TypeError, ValueError) as error:
        raise TranscriptError(f"{place}: {error}") from error
    return Entry(signed, body)


def _hex(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"found {type(text).__name__}, expected hex text")
    return bytes.fromhex(text)


def _base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"found {type(text).__name__}, expected base64 text")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
