"""The message bodies that an auditor reads, as the specification lays them out.

Deliberately a second implementation: only ``protocols/README.md`` ("Messages", "Contexts") and
``audit/README.md`` were used to write it, so a mistake in the federation's own code does not
verify itself.  Bodies that carry shares, uploads or the aggregate are never part of the evidence
and have no layout here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fedfm_crypto.codec import U16, U32, Bytes32, MaxCount, MaxLength, Name, encode
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label

MAX_PARTICIPANTS = 4096
MAX_ENVELOPE_BYTES = 131_072
MAX_CHARGES = 24
MAX_STEPS = 1024
MAX_CHARGE_BYTES = 5000
NO_HASH = bytes(32)
TRAIN, KEYS, WATERMARK = "train", "keys", "watermark"
"""Kinds of round: one sums updates, one makes a collective key."""

_Names = Annotated[tuple[Name, ...], MaxCount(MAX_PARTICIPANTS)]
_Charges = Annotated[
    tuple[Annotated[bytes, MaxLength(MAX_CHARGE_BYTES)], ...], MaxCount(MAX_CHARGES)
]
_Envelope = Annotated[bytes, MaxLength(MAX_ENVELOPE_BYTES)]
_Envelopes = Annotated[tuple[_Envelope, ...], MaxCount(MAX_PARTICIPANTS)]


@dataclass(frozen=True, slots=True)
class Names:
    """Participant names in the order in which they are hashed."""

    names: _Names


@dataclass(frozen=True, slots=True)
class RoundOpen:
    """Coordinator: round, key epoch, steps, kind, who is invited, adapter and configuration in
    force, the latest checkpoint (signed note, empty before the first)."""

    round: U32
    key_epoch: U32
    steps: U16
    kind: Annotated[str, MaxLength(16)]
    invited: _Names
    adapter_hash: Bytes32
    config_hash: Bytes32
    checkpoint: Annotated[bytes, MaxLength(65536)]
    consistency: Annotated[tuple[Bytes32, ...], MaxCount(64)]


@dataclass(frozen=True, slots=True)
class StepKeys:
    """A client's mask key and seed commitment for one step; an auditor can only count them."""

    mask_key: Bytes32
    seed_commitment: Bytes32


@dataclass(frozen=True, slots=True)
class KeyOffer:
    """Client: ephemeral keys, and commitments.  ``graph_commitment`` is opened on sparse graphs,
    ``key_commitment`` fixes the client's part of a collective key (kind ``keys``, else zeros)."""

    share_key: Bytes32
    steps: Annotated[tuple[StepKeys, ...], MaxCount(MAX_STEPS)]
    nonce_commitment: Bytes32
    graph_commitment: Bytes32
    key_commitment: Bytes32


@dataclass(frozen=True, slots=True)
class KeyRoster:
    """Coordinator: every signed KeyOffer envelope, sorted by sender; rebuilt, never stored."""

    offers: _Envelopes


@dataclass(frozen=True, slots=True)
class GraphNonce:
    """Client, sparse graphs only: opens the ``graph_commitment`` of its KeyOffer."""

    nonce: Bytes32


@dataclass(frozen=True, slots=True)
class GraphNonces:
    """Coordinator, sparse graphs only: every signed GraphNonce envelope, sorted by sender;
    rebuilt, never stored."""

    nonces: _Envelopes


@dataclass(frozen=True, slots=True)
class UploadHash:
    """Client: SHA-256 of the Upload body that it will send, and of the WrappedKey body (zeros in
    suites without encryption); and leaves of its privacy ledger for the log."""

    upload_hash: Bytes32
    wrap_hash: Bytes32
    charges: _Charges = ()


@dataclass(frozen=True, slots=True)
class UploadSet:
    """Coordinator: every signed UploadHash envelope, sorted by sender; rebuilt, never stored."""

    hashes: _Envelopes


@dataclass(frozen=True, slots=True)
class Cohort:
    """Coordinator: SHA-256 of the UploadSet body, whose uploads are summed and whose are not, both
    sorted."""

    upload_set: Bytes32
    accepted: _Names
    removed: _Names


@dataclass(frozen=True, slots=True)
class CohortVote:
    """Client: SHA-256 of the Cohort body that it votes for."""

    cohort_hash: Bytes32


@dataclass(frozen=True, slots=True)
class CohortProof:
    """Coordinator: the signed votes, sorted by sender; rebuilt, never stored."""

    votes: _Envelopes


@dataclass(frozen=True, slots=True)
class RoundAck:
    """Client: hash of the adapter that it holds after the step.  What it acknowledges is what it
    refers to: an aggregate, or in a round of kind ``keys`` the hash of the key it has stored."""

    adapter_hash: Bytes32


@dataclass(frozen=True, slots=True)
class RoundClose:
    """Coordinator: outcome, reason, adapter in force afterwards, the signed RoundAcks of the last
    good step (of the first, if none is good)."""

    outcome: Annotated[str, MaxLength(16)]
    reason: Annotated[str, MaxLength(512)]
    adapter_hash: Bytes32
    acks: _Envelopes


def context0(charter_hash: bytes, opened: RoundOpen) -> bytes:
    """Context of RoundOpen and KeyOffer (32 bytes)."""
    return hash_parts(
        Label.CONTEXT_ROUND,
        charter_hash,
        opened.key_epoch.to_bytes(4, "big"),
        opened.round.to_bytes(4, "big"),
        opened.steps.to_bytes(2, "big"),
        opened.kind.encode(),
        encode(Names(opened.invited)),
        opened.adapter_hash,
        opened.config_hash,
    )


def context1(context: bytes, roster_hash: bytes, key_hash: bytes) -> bytes:
    """Context of everything after the key offers (32 bytes).

    ``roster_hash`` is the SHA-256 of the KeyRoster body, ``key_hash`` names the collective key that
    the round encrypts under: :data:`NO_HASH` without encryption, and in the round that makes one.
    """
    return hash_parts(Label.CONTEXT_KEYS, context, roster_hash, key_hash)


def dealers_hash(context: bytes, dealers: tuple[str, ...], graph_seed: bytes | None) -> bytes:
    """What every UploadHash of the first step refers to: the set of dealers whose masks the upload
    may carry, and on sparse graphs the seed of the graph."""
    graph = () if graph_seed is None else (graph_seed,)
    return hash_parts(Label.DEALERS, context, encode(Names(dealers)), *graph)


def step_hash(
    context: bytes,
    step: int,
    dealers: tuple[str, ...],
    aggregate_hash: bytes,
    adapter_hash: bytes,
    graph_seed: bytes | None,
) -> bytes:
    """What every UploadHash of a later step refers to: the clients whose masks the upload may carry
    (those that the step before accepted), and that step's aggregate and adapter."""
    graph = () if graph_seed is None else (graph_seed,)
    return hash_parts(
        Label.STEP,
        context,
        step.to_bytes(2, "big"),
        encode(Names(dealers)),
        aggregate_hash,
        adapter_hash,
        *graph,
    )


def active_hash(context: bytes, cohort_hash: bytes, step: int, active: tuple[str, ...]) -> bytes:
    """What a KeyRequest and its KeyOpenings refer to: the holders (sorted) that are to open the
    key sum of one cohort in one step."""
    return hash_parts(
        Label.ACTIVE_SET, context, cohort_hash, step.to_bytes(2, "big"), encode(Names(active))
    )
