"""The messages of a transcript: one signed header each, and the bodies that are public.

What is secret or large (shares, uploads, wrapped keys, sketches, scores, unmasking, key openings,
the aggregate) appears as its signed header only; what the coordinator merely collected (KeyRoster,
GraphNonces, UploadSet, BeaconNonces, CohortProof) is rebuilt from the collected envelopes and
compared by hash.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedfm_audit.errors import TranscriptError
from fedfm_audit.messages import CohortProof, GraphNonces, KeyRoster, UploadSet
from fedfm_audit.robust_messages import BeaconNonces
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Header, SignedHeader
from fedfm_crypto.errors import CodecError
from fedfm_crypto.identity import SIGNATURE_SIZE, IdentityPublicKey

MESSAGE_ORDER = (
    "RoundOpen",
    "SketchKey",
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
    "BeaconNonce",
    "BeaconNonces",
    "Sketch",
    "ScoreRequest",
    "Verdict",
    "Cohort",
    "CohortVote",
    "CohortProof",
    "Unmask",
    "KeyRequest",
    "KeyOpening",
    "Aggregate",
    "SumSketch",
    "BindingRequest",
    "BindingResult",
    "RoundAck",
    "RoundClose",
)
"""Types of the messages of a round, of any kind and suite, in their order."""
SETUP_MESSAGES = MESSAGE_ORDER[: MESSAGE_ORDER.index("UploadHash")]
"""The key setup, once a round."""
STEP_MESSAGES = MESSAGE_ORDER[MESSAGE_ORDER.index("UploadHash") : -1]
"""What every step of a round has.  Of a round of kind ``keys``, only acknowledgements."""
CLOSE_MESSAGES = MESSAGE_ORDER[-1:]
"""The end of a round."""
PHASE = {name: rank for rank, name in enumerate(MESSAGE_ORDER)}
PUBLIC_BODIES = frozenset(
    {
        "RoundOpen",
        "KeyOffer",
        "GraphNonce",
        "UploadHash",
        "BeaconNonce",
        "Verdict",
        "Cohort",
        "CohortVote",
        "BindingResult",
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
        "BeaconNonces",
        "ScoreRequest",
        "Cohort",
        "CohortProof",
        "KeyRequest",
        "Aggregate",
        "BindingRequest",
        "RoundClose",
    }
)
VALIDATOR_MESSAGES = frozenset({"SketchKey", "Verdict", "BindingResult"})
ROBUST_MESSAGES = VALIDATOR_MESSAGES | {
    "BeaconNonce",
    "BeaconNonces",
    "Sketch",
    "ScoreRequest",
    "SumSketch",
    "BindingRequest",
}
"""Messages of rounds that a validator judges, and of no others."""

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
    _encoded: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def encoded(self) -> bytes:
        """The codec's form of header and signature (64 bytes at the end)."""
        return encode(self.signed) if self._encoded is None else self._encoded

    @property
    def header(self) -> Header:
        """The header that the sender signed."""
        return self.signed.header

    def verify(self, public: IdentityPublicKey) -> None:
        """Check the signature over the header; raise SignatureError if it fails."""
        self.signed.verify(public, encoded=self.encoded[:-SIGNATURE_SIZE])

    @property
    def order(self) -> tuple[int, str, int]:
        """Position within its part of the transcript: phase, sender, sequence."""
        header = self.header
        return (PHASE[header.type], header.sender, header.sequence)

    def envelope(self) -> bytes:
        """The encoded envelope, as collecting messages embed it.

        Raises
        ------
        TranscriptError
            if the body is not public.
        """
        if self.body is None:
            raise TranscriptError(f"{self.header.type} has no public body")
        # What Envelope.encode gives: header, signature, and the body behind its length.
        return self.encoded + len(self.body).to_bytes(4, "big") + self.body

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


def read_entry(item: object, place: str) -> Entry:
    """Parse the JSON object of one message; ``place`` is how errors name it.

    Raises
    ------
    TranscriptError
        if a field is missing, unknown or out of bounds.
    """
    has_body = isinstance(item, dict) and "body" in item
    names = _ENTRY_FIELDS | {"body"} if has_body else _ENTRY_FIELDS
    fields = exact_fields(item, names, place)
    checkpoint = exact_fields(fields["checkpoint"], frozenset({"size", "root"}), place)
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
        # The codec's bounds on every field, before anything else looks at them.
        encoded = encode(signed)
        body = _base64(fields["body"]) if has_body else None
    except (CodecError, TypeError, ValueError) as error:
        raise TranscriptError(f"{place}: {error}") from error
    return Entry(signed, body, encoded)


def rebuild_roster(offers: Sequence[Entry]) -> bytes:
    """The KeyRoster body that these KeyOffers make (entries are already sorted by sender)."""
    return encode(KeyRoster(tuple(entry.envelope() for entry in offers)))


def rebuild_nonces(nonces: Sequence[Entry]) -> bytes:
    """The GraphNonces body that these GraphNonces make."""
    return encode(GraphNonces(tuple(entry.envelope() for entry in nonces)))


def rebuild_upload_set(hashes: Sequence[Entry]) -> bytes:
    """The UploadSet body that these UploadHashes make."""
    return encode(UploadSet(tuple(entry.envelope() for entry in hashes)))


def rebuild_beacon_nonces(nonces: Sequence[Entry]) -> bytes:
    """The BeaconNonces body that these BeaconNonces make."""
    return encode(BeaconNonces(tuple(entry.envelope() for entry in nonces)))


def rebuild_cohort_proof(votes: Sequence[Entry]) -> bytes:
    """The CohortProof body that these CohortVotes make."""
    return encode(CohortProof(tuple(entry.envelope() for entry in votes)))


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


def exact_fields(value: object, names: frozenset[str], place: str) -> Mapping[str, Any]:
    """``value`` as a JSON object of exactly these fields.

    Raises
    ------
    TranscriptError
        naming the ``place`` where there is anything else.
    """
    if not isinstance(value, dict) or value.keys() != names:
        found = sorted(value)[:16] if isinstance(value, dict) else type(value).__name__
        raise TranscriptError(f"{place}: found {found}, expected the fields {sorted(names)}")
    return value


def _hex(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"found {type(text).__name__}, expected hex text")
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise ValueError(f"hex text {text[:80]!r} is not written in lowercase without spaces")
    return data


def _base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"found {type(text).__name__}, expected base64 text")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 that does not re-encode to the same text")
    return data
