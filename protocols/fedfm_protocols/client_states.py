"""The states of a client in a round.  Each holds exactly what that moment needs, so a message out
of order finds nothing to act on, and secrets are gone with the state that held them.

::

    Idle -> Offered -> Shared -> Training -> Committed -> Uploaded -> Voted -> Unmasked
      ^        |          ^                                                        |
      |        +-> Opened +  (sparse graph only)                                   |
      +------------------------- Acked <- Applying <-------------------------------+

Every state but Idle also goes back to Idle on RoundClose, on a RoundViolation, and when a later
round is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.identity import IdentityKey
from fedfm_protocols.context import RoundIdentity
from fedfm_protocols.federation import Federation
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.messages import Cohort, KeyOffer, ShareContents
from fedfm_protocols.neighbourhood import Neighbourhoods


@dataclass(frozen=True, slots=True)
class ClientSite:
    """What does not change during a run: who this client is, and under which charter.

    Source: protocols/README.md, section "A round".
    """

    name: str
    key: IdentityKey = field(repr=False)
    federation: Federation = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientMemory:
    """What survives rounds and restarts; the caller keeps it durably.

    ``last_opened`` is the highest round this client ever answered, ``last_applied`` the last whose
    adapter it adopted, ``adapter_hash`` the adapter it holds, ``checkpoint`` the last it saw.

    Source: protocols/README.md, section "What a crash leaves".
    """

    last_opened: int
    last_applied: int
    completed: int
    adapter_hash: bytes
    checkpoint: CheckpointSeen


@dataclass(frozen=True, slots=True)
class Session:
    """The round this client is in.

    ``context`` is context0 until the key roster fixes context1.  ``taken`` maps the type of every
    coordinator message taken in this round to its body hash: another body of the same type is
    equivocation.  ``sent`` counts own messages under ``context``.

    Source: protocols/README.md, section "A round".
    """

    identity: RoundIdentity
    context0: bytes
    context: bytes
    step: int
    sent: int
    taken: Mapping[str, bytes]
    received: int


@dataclass(frozen=True, slots=True)
class Idle:
    """In no round.

    Source: protocols/README.md, section "A round".
    """

    memory: ClientMemory


@dataclass(frozen=True, slots=True)
class Offered:
    """Step 1 done: keys offered; waits for KeyRoster."""

    memory: ClientMemory
    session: Session
    secrets: RoundSecrets = field(repr=False)
    offer: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """Step 2 done on a sparse graph: nonce opened; waits for GraphNonces."""

    memory: ClientMemory
    session: Session
    secrets: RoundSecrets = field(repr=False)
    offers: Mapping[str, KeyOffer]


@dataclass(frozen=True, slots=True)
class Shared:
    """Step 3 done: shares dealt; waits for ShareDelivery.  ``offers`` are the neighbours' and
    this client's own."""

    memory: ClientMemory
    session: Session
    secrets: RoundSecrets = field(repr=False)
    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods


@dataclass(frozen=True, slots=True)
class Training:
    """Shares held; waits for the local update.  ``held`` are the shares of every dealer whose
    sealed entry opened.

    Source: protocols/README.md, section "A round".
    """

    memory: ClientMemory
    session: Session
    secrets: RoundSecrets = field(repr=False)
    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods
    dealers: tuple[str, ...]
    held: Mapping[str, ShareContents] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Committed:
    """Step 4a done: the upload is built and its hash sent; own mask secrets are gone."""

    memory: ClientMemory
    session: Session
    hood: Neighbourhoods
    dealers: tuple[str, ...]
    held: Mapping[str, ShareContents] = field(repr=False)
    upload: bytes = field(repr=False)
    upload_hash: bytes


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Step 4c done: upload sent; waits for the cohort."""

    memory: ClientMemory
    session: Session
    hood: Neighbourhoods
    dealers: tuple[str, ...]
    held: Mapping[str, ShareContents] = field(repr=False)
    values: int
    upload_set: bytes
    uploaders: frozenset[str]


@dataclass(frozen=True, slots=True)
class Voted:
    """Step 9 done: one cohort signed; waits for the proof that a quorum signed the same."""

    memory: ClientMemory
    session: Session
    held: Mapping[str, ShareContents] = field(repr=False)
    values: int
    cohort: Cohort
    cohort_hash: bytes


@dataclass(frozen=True, slots=True)
class Unmasked:
    """Step 11 done: shares revealed and erased; waits for the aggregate."""

    memory: ClientMemory
    session: Session
    values: int
    cohort: Cohort
    cohort_hash: bytes


@dataclass(frozen=True, slots=True)
class Applying:
    """Aggregate taken; waits for the adapter's new hash.

    Source: protocols/README.md, section "A round".
    """

    memory: ClientMemory
    session: Session
    aggregate_hash: bytes


@dataclass(frozen=True, slots=True)
class Acked:
    """Step 14: adapter computed and acknowledged; waits for the round to be closed."""

    memory: ClientMemory
    session: Session
    aggregate_hash: bytes
    adapter_hash: bytes


InRound = (
    Offered
    | Opened
    | Shared
    | Training
    | Committed
    | Uploaded
    | Voted
    | Unmasked
    | Applying
    | Acked
)
ClientState = Idle | InRound
