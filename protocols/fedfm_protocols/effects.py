"""What a state machine is told (events) and what it asks for (effects).

A transition is a pure function of (state, event); it returns the new state and an ordered tuple of
effects.  The caller carries them out **in order**: a :class:`Persist` before a :class:`Send`
means that the record is on disk before the message leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.secret import Secret
from fedfm_protocols.sketching import Judgement, Question

StateT_co = TypeVar("StateT_co", covariant=True)


# ---- events


@dataclass(frozen=True, slots=True)
class Received:
    """A message has arrived; nothing about it is trusted yet.

    Source: protocols/README.md, section "A round".
    """

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class UpdateReady:
    """Local training for ``round`` and ``step`` has finished.

    ``update`` is a flat float array of the charter's layout.  The numbers are those of the
    :class:`Train` that asked for it, so that training which outlives its round is not sent in
    the next one.  ``charges`` are the ledger entries that the log lacks, this round's included.
    """

    round: int
    step: int
    update: NDArray[np.floating] = field(repr=False)
    charges: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterComputed:
    """The sum opened in ``step`` of ``round`` was applied to the adapter; ``adapter_hash`` is the
    result's hash.

    Source: protocols/README.md, section "A round".
    """

    round: int
    step: int
    adapter_hash: bytes


@dataclass(frozen=True, slots=True)
class Deadline:
    """Time is up for the phase named; late deadlines of earlier phases are ignored.

    Source: protocols/README.md, section "A round".
    """

    phase: str


@dataclass(frozen=True, slots=True)
class Left:
    """The transport has lost this participant; waiting for it in this round is pointless.

    Source: protocols/README.md, section "A round".
    """

    name: str


@dataclass(frozen=True, slots=True)
class ScoresComputed:
    """The coordinator's encrypted inner products of ``round`` and ``step`` are there; ``scores``
    is empty, and ``reason`` says why, if they could not be computed.

    Source: protocols/README.md, step 7.
    """

    round: int
    step: int
    scores: bytes = field(repr=False)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ScoresJudged:
    """The validator's rule has answered; None, with the reason, if it could not.

    Source: protocols/README.md, step 7.
    """

    round: int
    step: int
    judgement: Judgement | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RenewKey:
    """The validator is to make the sketch key of the next epoch.

    Source: protocols/README.md, section "Sketch keys".
    """


# ---- effects


@dataclass(frozen=True, slots=True)
class Persist:
    """Write this journal record durably before any later effect.

    ``record`` names what happened (``opened``, ``voted``, ``closed``), ``value`` is what must be
    remembered about it (never a secret).  ``round`` is the epoch where the record is of a sketch
    key.

    Source: protocols/README.md, section "What a crash leaves".
    """

    round: int
    step: int
    record: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signed envelope to one participant by name.

    Source: protocols/README.md, section "A round".
    """

    recipient: str
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Charge:
    """Charge all steps of this round to the site's privacy ledger, durably, before anything that
    follows: the charge stands whatever becomes of the round.

    Source: protocols/README.md, section "Privacy modes".
    """

    round: int


@dataclass(frozen=True, slots=True)
class Train:
    """Train locally for this round and step (kind ``watermark``: compute what this owner's marks
    add to the adapter in force), then answer with :class:`UpdateReady`."""

    round: int
    step: int
    kind: str


@dataclass(frozen=True, slots=True)
class ApplySum:
    """Apply the opened sum to the adapter of the step before (at step 0, of the round before),
    then answer with :class:`AdapterComputed`.

    ``total`` is the sum of the accepted updates in units of the update (float64, shape
    ``[values]``), ``accepted`` how many there are.  In a round of kind ``watermark`` it is added
    to the adapter as it is: marks are no average.

    Source: protocols/README.md, section "A round".
    """

    round: int
    step: int
    accepted: int
    total: NDArray[np.float64] = field(repr=False)
    kind: str = "train"


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """The round is over for this site.

    ``outcome`` is ``completed`` (adopt the computed adapter), ``void`` or ``aborted`` (keep the
    one from before); ``adapter_hash`` is the adapter in force afterwards, which a completed round
    of kind ``keys`` leaves as it was.  ``aggregate_hash`` names the last sum in the adapter that
    a client adopted, ``steps`` says how many there are.

    Source: protocols/README.md, section "A round".
    """

    round: int
    kind: str
    outcome: str
    reason: str
    adapter_hash: bytes
    aggregate_hash: bytes = b""
    steps: int = 0


@dataclass(frozen=True, slots=True)
class VerdictSeen:
    """What the validator decided in a round, as this client was told before it voted.

    ``own`` is ``accepted``, ``removed`` (then ``reason`` is the rule's code) or ``unseen`` (no
    sketch of this site was judged); ``removed`` are all removed clients with their codes.

    Source: protocols/README.md, step 8.
    """

    round: int
    step: int
    own: str
    reason: str
    removed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ComputeScores:
    """Compute encrypted inner products of all pairs of ``sketches`` (in the order of their owners'
    names), then answer with :class:`ScoresComputed`; work for other processes.

    Source: protocols/README.md, step 7.
    """

    round: int
    step: int
    sketches: tuple[bytes, ...] = field(repr=False)
    public_key: bytes = field(repr=False)
    evaluation: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class JudgeScores:
    """Decrypt ``scores`` with ``secret`` and apply the rule, then answer with
    :class:`ScoresJudged`; work for another process.

    Source: protocols/README.md, step 7.
    """

    round: int
    step: int
    secret: Secret
    scores: bytes = field(repr=False)
    question: Question


@dataclass(frozen=True, slots=True)
class StoreScores:
    """Keep what opens the verdict's commitments, durably and at the validator only: name ->
    (salt, its scores).

    Source: protocols/README.md, step 7.
    """

    round: int
    step: int
    openings: Mapping[str, tuple[bytes, bytes]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Note:
    """Something an operator should read: a peer that misbehaves, a clip that bites.

    Source: protocols/README.md, section "A round".
    """

    text: str


Event = (
    Received
    | UpdateReady
    | AdapterComputed
    | Deadline
    | Left
    | ScoresComputed
    | ScoresJudged
    | RenewKey
)
Effect = (
    Persist
    | Send
    | Charge
    | Train
    | ApplySum
    | RoundEnded
    | VerdictSeen
    | ComputeScores
    | JudgeScores
    | StoreScores
    | Note
)


@dataclass(frozen=True, slots=True)
class Transition(Generic[StateT_co]):
    """New state, and the effects to carry out in order.

    Source: protocols/README.md, section "A round".
    """

    state: StateT_co
    effects: tuple[Effect, ...] = ()
