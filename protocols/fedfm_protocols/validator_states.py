"""The states of a validator, and what it keeps: keys, the rule's memory, and what it answered last.

::

    Ready -ScoreRequest-> Deliberating -(scores judged)-> Ready -BindingRequest-> Ready

A validator is not a client: it holds no share, casts no vote and never sees an update.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret
from fedfm_protocols.checks import OpenSet, open_signed_set
from fedfm_protocols.federation import Federation
from fedfm_protocols.sketching import Question, Sketching


@dataclass(frozen=True, slots=True)
class ValidatorSite:
    """What does not change during a run: who this validator is, and under which charter.

    Source: protocols/README.md, section "The validator".
    """

    name: str
    key: IdentityKey = field(repr=False)
    federation: Federation = field(repr=False)


@dataclass(frozen=True, slots=True)
class ValidatorContext:
    """What a transition may use besides state and event.

    Source: protocols/README.md, section "The validator".
    """

    site: ValidatorSite
    random: RandomSource
    sketching: Sketching
    open_set: OpenSet = open_signed_set


@dataclass(frozen=True, slots=True)
class EpochSecret:
    """The secrets of one sketch key, how many rounds were judged under it, and the signed messages
    (encoded envelopes) that announced it.

    Source: protocols/README.md, section "Sketch keys".
    """

    epoch: int
    key_hash: bytes
    secret: Secret
    box: AgreementKey = field(repr=False)
    served: int
    announced: tuple[bytes, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class JudgedRound:
    """The last step judged: the request, the verdict on it, and the check of its sum if that was
    asked for (encoded envelopes; the request of the check by its hash).

    Source: protocols/README.md, section "The validator".
    """

    round: int
    step: int
    context: bytes
    key_epoch: int
    request_hash: bytes
    verdict: bytes = field(repr=False)
    verdict_hash: bytes
    accepted: tuple[str, ...]
    checkpoint: CheckpointSeen
    binding_request: bytes = b""
    binding: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ValidatorMemory:
    """What survives a restart; the caller keeps it durably, and secret.

    ``keys`` are the newest sketch key and, until a verdict is given under it, the one before;
    ``rule`` is the rule's own memory, opaque to the protocol.

    Source: protocols/README.md, section "The validator".
    """

    epoch: int = 0
    keys: tuple[EpochSecret, ...] = field(default=(), repr=False)
    rule: bytes = field(default=b"", repr=False)
    judged: JudgedRound | None = None

    @property
    def newest(self) -> EpochSecret | None:
        """The key of the highest epoch."""
        return self.keys[-1] if self.keys else None

    def of(self, epoch: int) -> EpochSecret | None:
        """The key of an epoch, if it is (still) at hand."""
        return next((key for key in self.keys if key.epoch == epoch), None)


@dataclass(frozen=True, slots=True)
class Ready:
    """Waits for a request.

    Source: protocols/README.md, section "The validator".
    """

    memory: ValidatorMemory


@dataclass(frozen=True, slots=True)
class Deliberating:
    """A request was found in order, and the rule is at work on its ``question``; nothing has been
    said yet.  ``sketches`` are the hashes of the sketches, in the order of the question's names.

    Source: protocols/README.md, step 7.
    """

    memory: ValidatorMemory
    round: int
    step: int
    context: bytes
    key_epoch: int
    request_hash: bytes
    sketches: tuple[bytes, ...]
    checkpoint: CheckpointSeen
    question: Question


ValidatorState = Ready | Deliberating
