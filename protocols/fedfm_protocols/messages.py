"""The bodies of all messages, in the order of the round; those of robust rounds are in
``robust_messages``.

Every body is a frozen dataclass with one canonical encoding (``fedfm_crypto.codec``) and travels
in one signed envelope, whose header names the type, the step, the context and the message it
answers (``refers_to``).  Numbers in the docstrings are the steps of protocols/README.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fedfm_crypto.codec import (
    U16,
    U32,
    Bytes32,
    MaxCount,
    MaxLength,
    Name,
    Pattern,
    decode,
    encode,
)
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_protocols.errors import MalformedMessage
from fedfm_protocols.key_messages import (
    KeyDealing,
    KeyDelivery,
    KeyOpening,
    KeyRequest,
    OpeningEnvelopes,
    WrappedKey,
)
from fedfm_protocols.mark_messages import MarkCheck
from fedfm_protocols.message_fields import (
    MAX_LOG_KEY_CHANGES,
    MAX_PARTICIPANTS,
    MAX_REASON_BYTES,
    MAX_SEALED_BYTES,
    MAX_STEPS,
    EncodedEnvelope,
    EncodedEnvelopes,
    Names,
    Note,
    Proof,
    ShareValue,
    Words,
)
from fedfm_protocols.robust_messages import (
    BeaconNonce,
    BeaconNonces,
    BindingRequest,
    BindingResult,
    ScoreRequest,
    Sketch,
    SketchEvaluationKeys,
    SketchKey,
    SumSketch,
    Verdict,
)

MAX_CHARGES = 24
MAX_CHARGE_BYTES = 5000

Charges = Annotated[
    tuple[Annotated[bytes, MaxLength(MAX_CHARGE_BYTES)], ...], MaxCount(MAX_CHARGES)
]
Kind = Annotated[str, MaxLength(16)]
Reason = Annotated[str, MaxLength(MAX_REASON_BYTES)]


@dataclass(frozen=True, slots=True)
class RoundOpen:
    """Step 0, coordinator to all: a round begins.

    ``checkpoint`` is the log's latest signed note and ``consistency`` its proof from the
    checkpoint that this federation last published to everyone (see ``witness``).
    """

    round: U32
    key_epoch: U32
    steps: U16
    kind: Kind
    invited: Names
    adapter_hash: Bytes32
    config_hash: Bytes32
    checkpoint: Note
    consistency: Proof


@dataclass(frozen=True, slots=True)
class StepOffer:
    """One step's public half of the mask key, and the commitment to its self-mask seed."""

    mask_key: Bytes32
    seed_commitment: Bytes32


@dataclass(frozen=True, slots=True)
class KeyOffer:
    """Step 1, client: ephemeral X25519 keys for this round.

    ``share_key`` seals shares between clients; ``steps`` holds one mask key and one seed
    commitment per step, never shared between steps; ``nonce_commitment`` fixes the client's part
    of the beacon before anybody's keys are known, ``graph_commitment`` its part of the masking
    graph's randomness (zeros on the complete graph, which needs none).  In a round of kind
    ``keys``, ``key_commitment`` fixes its part of the collective key (else zeros).
    """

    share_key: Bytes32
    steps: Annotated[tuple[StepOffer, ...], MaxCount(MAX_STEPS)]
    nonce_commitment: Bytes32
    graph_commitment: Bytes32
    key_commitment: Bytes32


@dataclass(frozen=True, slots=True)
class KeyRoster:
    """Step 2, coordinator to all invited: every signed KeyOffer, sorted by sender.  Whoever is
    not on it learns at once that the round goes on without it."""

    offers: EncodedEnvelopes


@dataclass(frozen=True, slots=True)
class GraphNonce:
    """Step 2, client, sparse graph only: opens its ``graph_commitment``; sent once the roster of
    keys is fixed."""

    nonce: Bytes32


@dataclass(frozen=True, slots=True)
class GraphNonces:
    """Step 2, coordinator to all, sparse graph only: every signed GraphNonce, sorted by sender.
    Their senders take part from here on, and the hash of all of them draws the ring."""

    nonces: EncodedEnvelopes


@dataclass(frozen=True, slots=True)
class ShareCommitments:
    """Salted hashes of one step's two shares, so that a false share can be pinned on someone."""

    seed: Bytes32
    key: Bytes32


@dataclass(frozen=True, slots=True)
class SealedShares:
    """All shares of one dealer for one recipient, sealed so that only the recipient can open.

    Source: protocols/README.md, section "Shares".
    """

    recipient: Name
    sealed: Annotated[bytes, MaxLength(MAX_SEALED_BYTES)]
    commitments: Annotated[tuple[ShareCommitments, ...], MaxCount(MAX_STEPS)]


@dataclass(frozen=True, slots=True)
class ShareBundle:
    """Step 3, client: sealed shares of its mask secrets, one entry per client of the roster
    (itself included), sorted by recipient."""

    shares: Annotated[tuple[SealedShares, ...], MaxCount(MAX_PARTICIPANTS)]


@dataclass(frozen=True, slots=True)
class StepShares:
    """What a SealedShares entry holds in clear, per step: two shares and their salts."""

    seed: ShareValue = field(repr=False)
    seed_salt: Bytes32 = field(repr=False)
    key: ShareValue = field(repr=False)
    key_salt: Bytes32 = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShareContents:
    """The plaintext inside one sealed entry; never travels in clear.

    Source: protocols/README.md, section "Shares".
    """

    steps: Annotated[tuple[StepShares, ...], MaxCount(MAX_STEPS)]


@dataclass(frozen=True, slots=True)
class DeliveredShares:
    """One dealer's sealed entry for the receiving client, with the commitments that the dealer
    signed: whoever holds shares that do not open them would be blamed for revealing them.

    Source: protocols/README.md, section "Shares".
    """

    dealer: Name
    sealed: Annotated[bytes, MaxLength(MAX_SEALED_BYTES)]
    commitments: Annotated[tuple[ShareCommitments, ...], MaxCount(MAX_STEPS)]


@dataclass(frozen=True, slots=True)
class ShareDelivery:
    """Step 3, coordinator to one client: who dealt, and what they sealed for it.  The dealers are
    the clients whose pairwise masks every upload of the round must carry."""

    dealers: Names
    shares: Annotated[tuple[DeliveredShares, ...], MaxCount(MAX_PARTICIPANTS)]


@dataclass(frozen=True, slots=True)
class UploadHash:
    """Step 4a, client: SHA-256 of the Upload body it will send, and of the WrappedKey body (zeros
    without encryption); refers to the dealers' hash.  ``charges`` are the signed entries of its
    privacy ledger that are not in the log yet, this round's among them."""

    upload_hash: Bytes32
    wrap_hash: Bytes32
    charges: Charges = ()


@dataclass(frozen=True, slots=True)
class UploadSet:
    """Step 4b, coordinator to all: every signed UploadHash, sorted by sender; fixed from here."""

    hashes: EncodedEnvelopes


@dataclass(frozen=True, slots=True)
class Upload:
    """Step 4c, client: the protected update, as packed lanes or as a ciphertext; refers to the
    UploadSet."""

    words: Words = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cohort:
    """Step 8, coordinator to all: whose uploads are summed, whose are not (both sorted), and the
    hash of the UploadSet that they were committed in, so that a vote binds it too."""

    upload_set: Bytes32
    accepted: Names
    removed: Names


@dataclass(frozen=True, slots=True)
class CohortVote:
    """Step 9, client: its one vote of this step; refers to the cohort."""

    cohort_hash: Bytes32


@dataclass(frozen=True, slots=True)
class CohortProof:
    """Step 10, coordinator to all: at least ``vote_quorum`` signed votes on one cohort."""

    votes: EncodedEnvelopes


@dataclass(frozen=True, slots=True)
class RevealedShare:
    """One share given out for unmasking, with the salt that opens the dealer's commitment.

    Source: protocols/README.md, section "Shares".
    """

    dealer: Name
    value: ShareValue = field(repr=False)
    salt: Bytes32 = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unmask:
    """Step 11, client: for each dealer exactly one share.

    ``seed_shares`` for the accepted, ``key_shares`` for the removed; refers to the cohort.
    """

    seed_shares: Annotated[tuple[RevealedShare, ...], MaxCount(MAX_PARTICIPANTS)]
    key_shares: Annotated[tuple[RevealedShare, ...], MaxCount(MAX_PARTICIPANTS)]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Step 12, coordinator to all: the sum without its masks, as packed lanes; with encryption
    still a ciphertext, and ``openings`` are the signed KeyOpenings of one active set.

    The salt keeps the body's hash, which is signed and logged, from confirming a guess at the
    sum.  ``accepted`` is the number of updates in it.
    """

    salt: Bytes32 = field(repr=False)
    accepted: U32
    words: Words = field(repr=False)
    openings: OpeningEnvelopes


@dataclass(frozen=True, slots=True)
class RoundAck:
    """Step 14, client: hash of the adapter after this step; refers to the Aggregate body."""

    adapter_hash: Bytes32


Outcome = Annotated[str, Pattern(r"completed|void|aborted"), MaxLength(16)]


@dataclass(frozen=True, slots=True)
class RoundClose:
    """Step 14, coordinator to all: how the round ended.

    ``acks`` are the signed acknowledgements of the last good step, whose number the header names
    (a quorum on ``adapter_hash`` when completed); otherwise ``adapter_hash`` is the one from
    before the round.
    """

    outcome: Outcome
    reason: Reason
    adapter_hash: Bytes32
    acks: EncodedEnvelopes


@dataclass(frozen=True, slots=True)
class LogKeyChange:
    """Step 15: the leaf by which the log's key changed, with the proof that it is in the
    checkpoint offered with it.

    Source: protocols/README.md, section "Witness".
    """

    leaf_index: U32
    leaf: Annotated[bytes, MaxLength(65535)]
    inclusion: Proof


@dataclass(frozen=True, slots=True)
class CheckpointOffer:
    """Step 15, coordinator to one client: the log has grown by this round's statement.

    ``consistency`` leads from the size the client named last to the offered checkpoint,
    ``inclusion`` proves that ``leaf`` is in it at ``leaf_index``; ``changes`` are those of the
    log's key since that size.
    """

    checkpoint: Note
    consistency: Proof
    leaf_index: U32
    leaf: Annotated[bytes, MaxLength(65535)]
    inclusion: Proof
    changes: Annotated[tuple[LogKeyChange, ...], MaxCount(MAX_LOG_KEY_CHANGES)] = ()


@dataclass(frozen=True, slots=True)
class Cosignature:
    """Step 15, client: its cosignature/v1 line over the offered checkpoint."""

    line: Annotated[bytes, MaxLength(1024)]


@dataclass(frozen=True, slots=True)
class Hello:
    """Client after every (re)connection: where it stands, so that the coordinator can resend.

    ``last_round`` is the last round whose outcome it has applied; ``round`` and ``received`` say
    how many coordinator envelopes of which round it holds; ``key_epoch`` and ``key_hash`` name the
    collective key that it holds (zeros for none).  ``note`` is the log's signed note of the head
    that the header echoes, empty before the first: with it one client alone can show a coordinator
    that its log is an old copy.

    Source: protocols/README.md, section "Catching up".
    """

    last_round: U32
    adapter_hash: Bytes32
    round: U32
    received: U32
    log_size: U32
    key_epoch: U32
    key_hash: Bytes32
    note: Note = b""


@dataclass(frozen=True, slots=True)
class CatchUpRound:
    """One completed round that a client missed, with everything needed to check and repeat it.

    ``opened`` is the signed RoundOpen, ``roster_hash`` the SHA-256 of its KeyRoster body,
    ``key_hash`` that of its epoch (zeros without encryption), ``aggregates`` are the Aggregate
    bodies of its good steps and ``acks`` a quorum's acknowledgements of the last of them.

    Source: protocols/README.md, section "Catching up".
    """

    opened: EncodedEnvelope
    roster_hash: Bytes32
    key_hash: Bytes32
    aggregates: Annotated[tuple[Words, ...], MaxCount(MAX_STEPS)]
    acks: EncodedEnvelopes


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Coordinator to one client: the completed rounds after the client's ``last_round``.

    Source: protocols/README.md, section "Catching up".
    """

    rounds: Annotated[tuple[CatchUpRound, ...], MaxCount(4096)]


Body = (
    RoundOpen
    | KeyOffer
    | KeyRoster
    | GraphNonce
    | GraphNonces
    | ShareBundle
    | ShareDelivery
    | KeyDealing
    | KeyDelivery
    | UploadHash
    | UploadSet
    | Upload
    | WrappedKey
    | Cohort
    | CohortVote
    | CohortProof
    | Unmask
    | KeyRequest
    | KeyOpening
    | Aggregate
    | RoundAck
    | RoundClose
    | CheckpointOffer
    | Cosignature
    | Hello
    | CatchUp
    | SketchKey
    | SketchEvaluationKeys
    | BeaconNonce
    | BeaconNonces
    | Sketch
    | ScoreRequest
    | Verdict
    | SumSketch
    | BindingRequest
    | BindingResult
    | MarkCheck
)

B = TypeVar("B")


def type_name(body_class: type[object]) -> str:
    """The name under which an envelope header announces this body."""
    return body_class.__name__


def body_hash(body: Body) -> bytes:
    """SHA-256 of a body's canonical encoding, as envelope headers carry it."""
    return hashlib.sha256(encode(body)).digest()


def read_body(envelope: Envelope, expected: type[B]) -> B:
    """Decode an envelope's body as ``expected``.

    Raises
    ------
    MalformedMessage
        if the header announces another type or the body breaks the encoding or a bound.
    """
    announced = envelope.header.type
    if announced != type_name(expected):
        raise MalformedMessage(
            f"expected a {type_name(expected)} from {envelope.header.sender}, found {announced}"
        )
    try:
        return decode(expected, envelope.body)
    except CodecError as error:
        raise MalformedMessage(
            f"{announced} from {envelope.header.sender} does not decode: {error}"
        ) from error
