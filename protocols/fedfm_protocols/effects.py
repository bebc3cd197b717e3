"""What a state machine is told (events) and what it asks for (effects).

A transition is a pure function of (state, event); it returns the new state and an ordered tuple of
effects.  The caller carries them out **in order**: a :class:`Persist` before a :class:`Send`
means that the record is on disk before the message leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.envelope import Envelope

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


# ---- effects


@dataclass(frozen=True, slots=True)
class Persist:
    """Write this journal record durably before any later effect.

    ``record`` names what happened (``opened``, ``voted``, ``closed``), ``value`` is what must be
    remembered about it (never a secret).

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
    """Train locally for this round and step, then answer with :class:`UpdateReady`."""

    round: int
    step: int
    kind: str


@dataclass(frozen=True, slots=True)
class ApplySum:
    """Apply the opened sum to the adapter of the step before (at step 0, of the round before),
    then answer with :class:`AdapterComputed`.

    ``total`` is the sum of the accepted updates in units of the update (float64, shape
    ``[values]``), ``accepted`` how many there are.

    Source: protocols/README.md, section "A round".
    """

    round: int
    step: int
    accepted: int
    total: NDArray[np.float64] = field(repr=False)


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
class Note:
    """Something an operator should read: a peer that misbehaves, a clip that bites.

    Source: protocols/README.md, section "A round".
    """

    text: str


Event = Received | UpdateReady | AdapterComputed | Deadline | Left
Effect = Persist | Send | Charge | Train | ApplySum | RoundEnded | Note


@dataclass(frozen=True, slots=True)
class Transition(Generic[StateT_co]):
    """New state, and the effects to carry out in order.

    Source: protocols/README.md, section "A round".
    """

    state: StateT_co
    effects: tuple[Effect, ...] = ()
