"""The phases of a round as the coordinator sees it.

::

    Offering [-> Drawing] -> Sharing -> Committing -> Uploading
        -> Voting -> Unmasking -> Acking -> Finished

Every phase also ends in Finished when the round is aborted.  A phase is over when everyone who is
still there has answered, or when its deadline passes and enough have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from fedfm_crypto.envelope import CheckpointSeen, Envelope, SignedHeader
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import RandomSource
from fedfm_protocols.context import RoundIdentity
from fedfm_protocols.federation import Federation
from fedfm_protocols.masking import Words
from fedfm_protocols.messages import Cohort, KeyOffer, ShareBundle, Unmask
from fedfm_protocols.neighbourhood import Neighbourhoods
from fedfm_protocols.summing import Opening


@dataclass(frozen=True, slots=True)
class CoordinatorSite:
    """The coordinator's identity key and the charter it serves.

    Source: protocols/README.md, section "A round".
    """

    key: IdentityKey = field(repr=False)
    federation: Federation = field(repr=False)

    @property
    def name(self) -> str:
        """The coordinator's name."""
        return self.federation.coordinator


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One signed message as evidence: its header, its signature, and the body where public.

    Source: protocols/README.md, section "Transcript".
    """

    signed: SignedHeader
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Round:
    """What every phase carries.

    ``taken`` maps (sender, type) to the body hash already taken; ``gone`` are participants whose
    connection is lost; ``sent`` counts own messages under ``context``.

    Source: protocols/README.md, section "A round".
    """

    identity: RoundIdentity
    context0: bytes
    context: bytes
    step: int
    sent: int
    checkpoint: CheckpointSeen
    opened: Envelope
    taken: Mapping[tuple[str, str], bytes]
    gone: frozenset[str]
    transcript: tuple[TranscriptEntry, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Offering:
    """Step 1: collecting key offers; ``owners`` says whose each public key is."""

    round: Round
    offers: Mapping[str, Envelope]
    owners: Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Step 2 on a sparse graph: collecting opened nonces."""

    round: Round
    roster_hash: bytes
    offers: Mapping[str, KeyOffer]
    nonces: Mapping[str, Envelope]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Step 3: collecting share bundles from everyone who takes part.  From here on ``offers``
    are the participants'."""

    round: Round
    roster_hash: bytes
    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods
    bundles: Mapping[str, ShareBundle]


@dataclass(frozen=True, slots=True)
class Committing:
    """Step 4a: the dealers train; collecting the hashes of their uploads, each of which must
    refer to ``dealers_hash``."""

    round: Round
    roster_hash: bytes
    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods
    bundles: Mapping[str, ShareBundle]
    dealers_hash: bytes
    hashes: Mapping[str, Envelope]


@dataclass(frozen=True, slots=True)
class Uploading:
    """Step 4c: adding up uploads as they come; ``total`` is the masked sum so far."""

    round: Round
    roster_hash: bytes
    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods
    bundles: Mapping[str, ShareBundle]
    upload_set: bytes
    hashes: Mapping[str, bytes]
    uploaded: frozenset[str]
    total: Words | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Voting:
    """Step 9: collecting votes on the one cohort."""

    round: Round
    roster_hash: bytes
    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods
    bundles: Mapping[str, ShareBundle]
    cohort: Cohort
    cohort_hash: bytes
    votes: Mapping[str, Envelope]
    total: Words = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unmasking:
    """Step 11: collecting shares until every needed secret can be rebuilt.

    ``usable`` counts the shares taken so far by the dealer whose secret they rebuild.
    """

    round: Round
    roster_hash: bytes
    dealers: tuple[str, ...]
    cohort: Cohort
    cohort_hash: bytes
    opening: Opening = field(repr=False)
    reveals: Mapping[str, Unmask] = field(repr=False)
    usable: Mapping[str, int] = field(repr=False)
    total: Words = field(repr=False)


@dataclass(frozen=True, slots=True)
class Acking:
    """Step 14: collecting acknowledgements of the new adapter."""

    round: Round
    roster_hash: bytes
    cohort: Cohort
    aggregate: bytes = field(repr=False)
    aggregate_hash: bytes
    acks: Mapping[str, Envelope]


@dataclass(frozen=True, slots=True)
class CompletedRound:
    """What a client that missed this round needs to catch up.

    Source: protocols/README.md, section "Catching up".
    """

    opened: bytes
    roster_hash: bytes
    aggregate: bytes = field(repr=False)
    acks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The round is over; ``record`` is there if it was completed.

    ``accepted`` and ``removed`` are empty where no cohort was fixed; ``dissenters`` acknowledged
    another adapter than the quorum.

    Source: protocols/README.md, section "A round".
    """

    round: Round
    outcome: str
    reason: str
    adapter_hash: bytes
    accepted: tuple[str, ...]
    removed: tuple[str, ...]
    dissenters: tuple[str, ...]
    record: CompletedRound | None


RunningRound = Offering | Drawing | Sharing | Committing | Uploading | Voting | Unmasking | Acking
CoordinatorState = RunningRound | Finished

# What a phase waits for, as deadlines and operators name it.
PHASES: Mapping[type[RunningRound], str] = MappingProxyType(
    {
        Offering: "offers",
        Drawing: "nonces",
        Sharing: "shares",
        Committing: "training",
        Uploading: "uploads",
        Voting: "votes",
        Unmasking: "unmasking",
        Acking: "acknowledgements",
    }
)


@dataclass(frozen=True, slots=True)
class CoordinatorContext:
    """What a transition may use besides state and event: the site and its randomness.

    Source: protocols/README.md, section "A round".
    """

    site: CoordinatorSite
    random: RandomSource
