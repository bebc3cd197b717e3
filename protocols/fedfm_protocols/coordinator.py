"""The coordinator's side of a round, as a pure function of (state, event).

Transition function :func:`coordinator_step`; states in ``coordinator_states``; steps numbered as
in protocols/README.md.  The coordinator is not trusted with anything but progress: it relays
signed sets, adds masked words, and removes masks that a quorum agreed to remove.  Every client
checks all it says.  With encryption it sees neither an update nor their sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import CheckpointSeen, seal_envelope
from fedfm_protocols.context import KEYS, RoundIdentity
from fedfm_protocols.coordinator_inbox import take, transcript_entry
from fedfm_protocols.coordinator_phases import advance
from fedfm_protocols.coordinator_robust import ask_verdict
from fedfm_protocols.coordinator_round import CollectiveKey, Round, RoundTranscript
from fedfm_protocols.coordinator_speech import finish
from fedfm_protocols.coordinator_states import (
    CoordinatorContext,
    CoordinatorState,
    Finished,
    Offering,
    RunningRound,
    Scoring,
    phase_of,
)
from fedfm_protocols.effects import (
    Deadline,
    Event,
    Left,
    Received,
    ScoresComputed,
    Send,
    Transition,
)
from fedfm_protocols.errors import OutOfOrder, RoundAborted
from fedfm_protocols.messages import RoundOpen, type_name
from fedfm_protocols.sketch_keys import SketchEpoch


@dataclass(frozen=True, slots=True)
class RoundOpening:
    """What the coordinator states when it opens a round (step 0).

    ``key_epoch`` is the epoch that a round of kind ``keys`` makes, or the epoch of ``key``; 0 in
    suites without encryption.  ``sketch`` is there in a robust federation, in every round that
    sums: the validator's keys as everybody invited was given them.
    """

    round: int
    kind: str
    invited: tuple[str, ...]
    adapter_hash: bytes
    checkpoint: CheckpointSeen
    checkpoint_note: bytes
    consistency: tuple[bytes, ...]
    key_epoch: int = 0
    key: CollectiveKey | None = None
    sketch: SketchEpoch | None = None


def open_round(context: CoordinatorContext, opening: RoundOpening) -> Transition[CoordinatorState]:
    """Step 0: open a round with everyone in ``opening.invited`` (sorted names).

    Raises
    ------
    RoundAborted
        if a validator is to judge and its keys are missing.
    """
    federation = context.site.federation
    judged = federation.robust and opening.kind != KEYS
    if judged and opening.sketch is None:
        raise RoundAborted(
            f"round {opening.round} cannot be opened before the validator {federation.validator} "
            "has sent its sketch key: start it"
        )
    body = RoundOpen(
        round=opening.round,
        key_epoch=opening.key_epoch,
        steps=federation.steps_of(opening.kind),
        kind=opening.kind,
        invited=opening.invited,
        adapter_hash=opening.adapter_hash,
        config_hash=federation.config_hash,
        checkpoint=opening.checkpoint_note,
        consistency=opening.consistency,
    )
    identity = RoundIdentity.of(federation.charter_hash, body)
    context0 = identity.context0()
    envelope = seal_envelope(
        context.site.key,
        context=context0,
        type=type_name(RoundOpen),
        sender=context.site.name,
        step=0,
        sequence=0,
        checkpoint=opening.checkpoint,
        body=encode(body),
    )
    transcript = RoundTranscript().add(transcript_entry(envelope))
    if judged and opening.sketch is not None:  # it names no round, but this one's context names it
        transcript = transcript.add(transcript_entry(opening.sketch.envelope))
    state = Offering(
        Round(
            identity=identity,
            key=opening.key,
            context0=context0,
            context=context0,
            step=0,
            sent=1,
            checkpoint=opening.checkpoint,
            opened=envelope,
            taken={},
            gone=frozenset(),
            transcript=transcript,
            sketch=opening.sketch if judged else None,
        ),
        offers={},
        owners={},
    )
    return Transition(state, tuple(Send(name, envelope) for name in opening.invited))


def coordinator_step(
    context: CoordinatorContext, state: CoordinatorState, event: Event
) -> Transition[CoordinatorState]:
    """One transition of the coordinator.

    Raises
    ------
    MessageRefused
        the message is dropped, the caller keeps the old state.  Everything else that goes wrong
        ends the round through :class:`Finished`.
    """
    if isinstance(state, Finished):
        raise OutOfOrder("the round is over")
    if isinstance(event, Received):
        return advance(context, take(context, state, event.envelope), forced=False)
    if isinstance(event, ScoresComputed) and isinstance(state, Scoring):
        return ask_verdict(context, state, event)
    if isinstance(event, Left):
        gone = replace(state.round, gone=state.round.gone | {event.name})
        return advance(context, replace(state, round=gone), forced=False)
    if isinstance(event, Deadline):
        if event.phase != phase_of(state):
            return Transition(state)
        return advance(context, state, forced=True)
    raise OutOfOrder(f"a coordinator has no use for {type(event).__name__}")


def abort_round(
    context: CoordinatorContext, state: RunningRound, reason: str
) -> Transition[CoordinatorState]:
    """End a round without a result; everyone keeps the adapter from before."""
    return finish(context, state, "aborted", reason)
