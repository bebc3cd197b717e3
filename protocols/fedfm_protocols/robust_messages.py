"""Bodies of the messages of robust rounds (steps 4c to 8 and 13), and of the validator's keys.

Source: protocols/README.md, section "Robust rounds".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fedfm_crypto.codec import U32, Bytes32, MaxCount, MaxLength, Name, Pattern
from fedfm_crypto.envelope import SignedHeader
from fedfm_protocols.message_fields import (
    MAX_EVALUATION_BYTES,
    MAX_PARTICIPANTS,
    MAX_PUBLIC_KEY_BYTES,
    MAX_REASON_BYTES,
    MAX_SCORES_BYTES,
    MAX_SKETCH_BYTES,
    MAX_SUM_SKETCH_BYTES,
    EncodedEnvelope,
    EncodedEnvelopes,
    Names,
)

ReasonCode = Annotated[str, Pattern(r"[a-z][a-z0-9-]*"), MaxLength(32)]
Hashes = Annotated[tuple[Bytes32, ...], MaxCount(MAX_PARTICIPANTS)]


@dataclass(frozen=True, slots=True)
class SketchKey:
    """Validator to all, through the coordinator, once per epoch: what sketches are encrypted with,
    and an X25519 key that sketches of sums are boxed to.

    ``evaluation_hash`` is the SHA-256 of the keys in :class:`SketchEvaluationKeys`.

    Source: protocols/README.md, section "Sketch keys".
    """

    epoch: U32
    public_key: Annotated[bytes, MaxLength(MAX_PUBLIC_KEY_BYTES)] = field(repr=False)
    box_key: Bytes32
    evaluation_hash: Bytes32


@dataclass(frozen=True, slots=True)
class SketchEvaluationKeys:
    """Validator to coordinator, once per epoch: what sketches are multiplied with; public.

    Source: protocols/README.md, section "Sketch keys".
    """

    epoch: U32
    keys: Annotated[bytes, MaxLength(MAX_EVALUATION_BYTES)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BeaconNonce:
    """Step 4c, client: opens the ``nonce_commitment`` of its key offer; refers to the
    UploadSet."""

    nonce: Bytes32


@dataclass(frozen=True, slots=True)
class BeaconNonces:
    """Step 5, coordinator to all dealers: every signed BeaconNonce of a client whose upload is
    there, sorted by sender; refers to the UploadSet.  Its senders are the candidates."""

    nonces: EncodedEnvelopes


@dataclass(frozen=True, slots=True)
class Sketch:
    """Step 6, candidate: the sketch of the integers that it uploaded, under the validator's key;
    refers to the BeaconNonces."""

    ciphertext: Annotated[bytes, MaxLength(MAX_SKETCH_BYTES)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Step 7, coordinator to validator: encrypted inner products of the sketches whose signed
    headers it shows (sorted by sender), and what proves which round they are of."""

    opened: EncodedEnvelope
    roster_hash: Bytes32
    key_hash: Bytes32
    upload_set: Bytes32
    nonces: BeaconNonces
    sketches: Annotated[tuple[SignedHeader, ...], MaxCount(MAX_PARTICIPANTS)]
    scores: Annotated[bytes, MaxLength(MAX_SCORES_BYTES)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RemovedClient:
    """Whom a verdict removes, and why: a code, since the verdict is public and scores are not.

    Source: protocols/README.md, step 7.
    """

    name: Name
    reason: ReasonCode


@dataclass(frozen=True, slots=True)
class Verdict:
    """Step 7, validator to all, through the coordinator: who may be in the sum.

    ``sketches`` are the body hashes of the sketches judged and ``commitments`` salted hashes of
    each one's scores, in the order of the names accepted and removed together.  Refers to the
    ScoreRequest.
    """

    accepted: Names
    removed: Annotated[tuple[RemovedClient, ...], MaxCount(MAX_PARTICIPANTS)]
    sketches: Hashes
    commitments: Hashes

    @property
    def removed_names(self) -> tuple[str, ...]:
        """Whom it removes."""
        return tuple(client.name for client in self.removed)

    @property
    def judged(self) -> tuple[str, ...]:
        """Everybody it speaks of, sorted."""
        return tuple(sorted((*self.accepted, *self.removed_names)))


@dataclass(frozen=True, slots=True)
class SumSketch:
    """Step 13, client: the sketch of the sum that it opened, boxed to the validator; refers to
    the Aggregate."""

    sealed: Annotated[bytes, MaxLength(MAX_SUM_SKETCH_BYTES)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BindingRequest:
    """Step 13, coordinator to validator: what clients report of the opened sum, and the encrypted
    sum of the accepted sketches; refers to the Verdict."""

    aggregate_hash: Bytes32
    accepted: Names
    reports: EncodedEnvelopes
    total: Annotated[bytes, MaxLength(MAX_SKETCH_BYTES)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BindingResult:
    """Step 13, validator to all, through the coordinator: whether the opened sum is the sum of
    what was judged; ``deviators`` reported something else than the quorum.  Refers to the
    Aggregate."""

    passed: bool
    reason: Annotated[str, MaxLength(MAX_REASON_BYTES)]
    deviators: Names
