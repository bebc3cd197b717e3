"""The bodies of robust rounds that an auditor reads, and what is computed from them.

Written from ``protocols/README.md`` ("Robust rounds", "Contexts") and ``audit/README.md``, like
``messages``.  Sketches, scores and reports of sums are encrypted or boxed for the validator, and
evidence by their signed headers only; so is the sketch key, which is large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fedfm_audit.messages import MAX_ENVELOPE_BYTES, MAX_PARTICIPANTS, Names
from fedfm_crypto.codec import Bytes32, MaxCount, MaxLength, Name, Pattern, encode
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label

_Names = Annotated[tuple[Name, ...], MaxCount(MAX_PARTICIPANTS)]
_Hashes = Annotated[tuple[Bytes32, ...], MaxCount(MAX_PARTICIPANTS)]
_Envelope = Annotated[bytes, MaxLength(MAX_ENVELOPE_BYTES)]


@dataclass(frozen=True, slots=True)
class BeaconNonce:
    """Client: opens the ``nonce_commitment`` of its KeyOffer, once the uploads are fixed."""

    nonce: Bytes32


@dataclass(frozen=True, slots=True)
class BeaconNonces:
    """Coordinator: the signed BeaconNonces of all who have uploaded, sorted by sender; rebuilt,
    never stored."""

    nonces: Annotated[tuple[_Envelope, ...], MaxCount(MAX_PARTICIPANTS)]


@dataclass(frozen=True, slots=True)
class RemovedClient:
    """Whom a verdict removes, and the rule's code for the reason."""

    name: Name
    reason: Annotated[str, Pattern(r"[a-z][a-z0-9-]*"), MaxLength(32)]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Validator: whom it accepts and whom not (both sorted); of all of them together, in the order
    of their names, the body hashes of their sketches and salted hashes of their scores."""

    accepted: _Names
    removed: Annotated[tuple[RemovedClient, ...], MaxCount(MAX_PARTICIPANTS)]
    sketches: _Hashes
    commitments: _Hashes

    @property
    def reasons(self) -> Mapping[str, str]:
        """The code for everybody whom it removes, by name."""
        return {client.name: client.reason for client in self.removed}

    @property
    def judged(self) -> tuple[str, ...]:
        """Everybody it speaks of, sorted."""
        return tuple(sorted((*self.accepted, *self.reasons)))


@dataclass(frozen=True, slots=True)
class BindingResult:
    """Validator: whether the opened sum is the sum of the accepted sketches, else why not; and who
    reported another sum than the quorum did."""

    passed: bool
    reason: Annotated[str, MaxLength(512)]
    deviators: _Names


def link_context(charter_hash: bytes) -> bytes:
    """Context of what belongs to no round (32 bytes): here, of SketchKey."""
    return hash_parts(Label.CONTEXT_LINK, charter_hash)


def judged_keys_hash(key_hash: bytes, sketch_key_hash: bytes) -> bytes:
    """What takes the place of the key hash in the context of a round that a validator judges:
    the collective key (zeros for none) and the SHA-256 of the SketchKey body."""
    return hash_parts(Label.JUDGED_KEYS, key_hash, sketch_key_hash)


def beacon_commitment(context0: bytes, name: str, nonce: bytes) -> bytes:
    """What a KeyOffer says about the nonce that its sender will open for the beacon."""
    return hash_parts(Label.NONCE_COMMITMENT, context0, name.encode(), nonce)


def beacon(context1: bytes, step: int, upload_set: bytes, nonces: Mapping[str, bytes]) -> bytes:
    """32 bytes that fix the sketches of a step: of the uploads committed to, and of the nonces
    (name -> 32 bytes) of those who have uploaded."""
    names = tuple(sorted(nonces))
    return hash_parts(
        Label.BEACON,
        context1,
        step.to_bytes(2, "big"),
        upload_set,
        encode(Names(names)),
        *(nonces[name] for name in names),
    )
