"""The states of a client in a round.  Each holds exactly what that moment needs, so a message out
of order finds nothing to act on, and secrets are gone with the state that held them.

::

    Idle -> Offered -> Shared -> Training -> Committed -> Uploaded -> Voted -> Unmasked
      ^        |          ^         ^                                              |
      |        +-> Opened +         +------------------------ Applying <-----------+
      |        |   (sparse graph)      (for another step)        |
      |        |                                                 |
      |        +-> KeyDealt -> Acked  (a collective key)         |
      |                          |                               |
      +--------------------------+-- Acked or LeftOut <----------+

In a robust federation Committed -> NonceOpened -> Sketched -> Judged -> Voted, and
Unmasked -> Binding -> Applying, or Unbound where the validator's check has failed.

Every state but Idle also goes back to Idle on RoundClose, on a RoundViolation, and when a later
round is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.identity import IdentityKey
from fedfm_protocols.beacon import BeaconPart, Measured
from fedfm_protocols.context import RoundIdentity, context1
from fedfm_protocols.effects import ApplySum
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.masking import RoundSecrets, Words
from fedfm_protocols.messages import Cohort, KeyOffer, StepShares
from fedfm_protocols.neighbourhood import Neighbourhoods
from fedfm_protocols.robust_messages import Verdict
from fedfm_protocols.sketch_keys import HeldSketchKey
from fedfm_protocols.steps import StepKeys, StepResult


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
    adapter it adopted, ``adapter_hash`` the adapter it holds, ``checkpoint`` the last it saw,
    ``note`` the log's signed note of it (cosignatures left out), ``log_changes`` the leaves by
    which the log's key changed up to there, ``keys`` its part of the collective keys (suites with
    encryption; secret), ``sketch_key`` the newest key of the validator (robust federations).

    Source: protocols/README.md, section "What a crash leaves".
    """

    last_opened: int
    last_applied: int
    completed: int
    adapter_hash: bytes
    checkpoint: CheckpointSeen
    keys: KeyRing = field(default_factory=KeyRing, repr=False)
    sketch_key: HeldSketchKey | None = None
    note: bytes = b""
    log_changes: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """The round this client is in.

    ``context`` is context0 until the key roster fixes context1, to which ``key_hash`` binds the
    collective key (zeros for none) and, where a validator judges, ``sketch_key``.  ``taken`` maps
    the place (``checks.place_of``) of every coordinator message taken in this ``step`` to its body
    hash: another body in the same place is equivocation.  ``sent`` counts own messages under
    ``context``, ``received`` the coordinator's.  ``done`` are the last two steps that this site
    finished: a round may end at either.  ``head`` is the log's head that the round was opened with,
    ``note`` the log's note of it.

    Source: protocols/README.md, section "A round".
    """

    identity: RoundIdentity
    context0: bytes
    context: bytes
    key_hash: bytes
    step: int
    sent: int
    taken: Mapping[str, bytes]
    received: int
    head: CheckpointSeen
    note: bytes
    done: tuple[StepResult, ...] = ()
    sketch_key: HeldSketchKey | None = None

    @property
    def before(self) -> StepResult | None:
        """What the present step builds on; None in the first."""
        return self.done[-1] if self.done else None

    @property
    def last_step(self) -> bool:
        """Whether no step follows the present one."""
        return self.step + 1 == self.identity.steps

    def finish(self, result: StepResult) -> Session:
        """Remember a step that this site has finished."""
        return replace(self, done=(*self.done, result)[-2:])

    def next_step(self) -> Session:
        """The same round, one step on."""
        return replace(self, step=self.step + 1, taken={})

    def context1(self, roster_hash: bytes) -> bytes:
        """The context that a key roster fixes."""
        return context1(self.context0, roster_hash, self.key_hash)


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
class KeyDealt:
    """Step K1 done: this client's part of the collective key is dealt; waits for KeyDelivery."""

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
    beacon: BeaconPart | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """The step's keys are at hand; waits for the local update.

    ``dealers`` take part in this step, ``held`` are their shares, of every dealer whose sealed
    entry opened; ``protect`` masks and encrypts lane words, once; ``later`` are the keys of the
    steps to come; ``beacon`` is there where a validator judges.

    Source: protocols/README.md, section "A round".
    """

    memory: ClientMemory
    session: Session
    hood: Neighbourhoods
    dealers: tuple[str, ...]
    held: Mapping[str, StepShares] = field(repr=False)
    protect: Protect = field(repr=False)
    later: tuple[StepKeys, ...] = field(repr=False)
    beacon: BeaconPart | None = None


@dataclass(frozen=True, slots=True)
class EncodedUpload:
    """The bodies that a client committed to and will send: what was hashed is what leaves.

    ``wrap`` is the WrappedKey body of a suite with encryption, else empty with a hash of zeros.

    Source: protocols/README.md, step 4a.
    """

    upload: bytes = field(repr=False)
    upload_hash: bytes
    wrap: bytes = field(repr=False)
    wrap_hash: bytes


Protect = Callable[[Words], EncodedUpload]


@dataclass(frozen=True, slots=True)
class Committed:
    """Step 4a done: the upload is built and its hash sent; own mask secrets of this step are
    gone."""

    memory: ClientMemory
    session: Session
    hood: Neighbourhoods
    dealers: tuple[str, ...]
    held: Mapping[str, StepShares] = field(repr=False)
    upload: EncodedUpload = field(repr=False)
    later: tuple[StepKeys, ...] = field(repr=False)
    measured: Measured | None = None


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Step 4c done: upload sent; waits for the cohort.  ``wraps`` maps everyone in the upload set
    to the hash of its wrapped key."""

    memory: ClientMemory
    session: Session
    hood: Neighbourhoods
    dealers: tuple[str, ...]
    held: Mapping[str, StepShares] = field(repr=False)
    values: int
    upload_set: bytes
    wraps: Mapping[str, bytes]
    later: tuple[StepKeys, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class NonceOpened:
    """Step 4c done in a robust round: upload sent, nonce opened; waits for everybody's nonces.
    ``uploaded`` is what the step goes on with."""

    memory: ClientMemory
    session: Session
    uploaded: Uploaded
    measured: Measured


@dataclass(frozen=True, slots=True)
class Sketched:
    """Step 6 done: own update sketched under ``beacon`` (``sketch`` is the hash of what was sent,
    zeros if this site is no candidate); waits for the validator's verdict."""

    memory: ClientMemory
    session: Session
    uploaded: Uploaded
    candidates: frozenset[str]
    beacon: bytes
    sketch: bytes


@dataclass(frozen=True, slots=True)
class JudgedStep:
    """What stays of a verdict until the sum is bound to it: its hash, and the step's beacon.

    Source: protocols/README.md, steps 8 and 13.
    """

    verdict_hash: bytes
    beacon: bytes


@dataclass(frozen=True, slots=True)
class Judged:
    """Step 7 done: the validator's verdict is checked; waits for the cohort that must follow
    it."""

    memory: ClientMemory
    session: Session
    uploaded: Uploaded
    verdict: Verdict
    step: JudgedStep


@dataclass(frozen=True, slots=True)
class Voted:
    """Step 9 done: one cohort signed; waits for the proof that a quorum signed the same."""

    memory: ClientMemory
    session: Session
    hood: Neighbourhoods
    held: Mapping[str, StepShares] = field(repr=False)
    wraps: Mapping[str, bytes]
    values: int
    cohort: Cohort
    cohort_hash: bytes
    later: tuple[StepKeys, ...] = field(repr=False)
    judged: JudgedStep | None = None


@dataclass(frozen=True, slots=True)
class NextStep:
    """What a client keeps for the step after this one, from the cohort on that decides who takes
    part in it; ``protect`` is being prepared meanwhile.

    Source: protocols/README.md, section "Sessions".
    """

    hood: Neighbourhoods
    dealers: tuple[str, ...]
    held: Mapping[str, StepShares] = field(repr=False)
    protect: Protect = field(repr=False)
    later: tuple[StepKeys, ...] = field(repr=False)
    beacon: BeaconPart | None = None


@dataclass(frozen=True, slots=True)
class Unmasked:
    """Step 11 done: the step's shares revealed and erased; waits for the aggregate.  Until it
    comes, a holder may be asked to help open the key sum; ``opened_with`` are the active sets it
    did so in.  ``following`` is there if a step follows, with this site in it."""

    memory: ClientMemory
    session: Session
    wraps: Mapping[str, bytes]
    values: int
    cohort: Cohort
    cohort_hash: bytes
    following: NextStep | None
    opened_with: tuple[bytes, ...] = ()
    judged: JudgedStep | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """Step 13 of a robust round: the sum is opened and its sketch reported; it is applied only
    once the validator has found it to be the sum of what was judged."""

    memory: ClientMemory
    session: Session
    aggregate_hash: bytes
    apply: ApplySum
    following: NextStep | None


@dataclass(frozen=True, slots=True)
class Unbound:
    """Step 13 failed: the sum is dropped; waits for the round to be closed as void."""

    memory: ClientMemory
    session: Session


@dataclass(frozen=True, slots=True)
class Applying:
    """Aggregate taken; waits for the adapter's new hash.

    Source: protocols/README.md, section "A round".
    """

    memory: ClientMemory
    session: Session
    aggregate_hash: bytes
    following: NextStep | None


@dataclass(frozen=True, slots=True)
class Acked:
    """Step 14 of the last step: adapter computed and acknowledged; waits for the round to be
    closed."""

    memory: ClientMemory
    session: Session


@dataclass(frozen=True, slots=True)
class LeftOut:
    """This site's update did not make it into a sum that is not the last: it takes part again in
    the next round, and waits for this one to be closed.

    Source: protocols/README.md, section "Sessions".
    """

    memory: ClientMemory
    session: Session


InRound = (
    Offered
    | Opened
    | KeyDealt
    | Shared
    | Training
    | Committed
    | Uploaded
    | NonceOpened
    | Sketched
    | Judged
    | Voted
    | Unmasked
    | Binding
    | Unbound
    | Applying
    | Acked
    | LeftOut
)
ClientState = Idle | InRound
