"""What every phase of the coordinator does: say something to everybody, end the round."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, seal_envelope
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.coordinator_inbox import transcript_entry
from fedfm_protocols.coordinator_states import (
    Acking,
    CoordinatorContext,
    CoordinatorState,
    Decrypting,
    Finished,
    KeyAcking,
    Round,
    RunningRound,
    Unmasking,
    Voting,
)
from fedfm_protocols.effects import Effect, RoundEnded, Send, Transition
from fedfm_protocols.message_fields import MAX_REASON_BYTES
from fedfm_protocols.messages import Body, RoundClose, type_name


def _seal(
    context: CoordinatorContext, current: Round, body: Body, refers_to: bytes
) -> tuple[Round, Envelope]:
    envelope = seal_envelope(
        context.site.key,
        context=current.context,
        type=type_name(type(body)),
        sender=context.site.name,
        step=current.step,
        sequence=current.sent,
        refers_to=refers_to,
        checkpoint=current.checkpoint,
        body=encode(body),
    )
    transcript = (*current.transcript, transcript_entry(envelope))
    return replace(current, sent=current.sent + 1, transcript=transcript), envelope


def tell(
    context: CoordinatorContext,
    current: Round,
    recipients: Iterable[str],
    body: Body,
    refers_to: bytes = NO_HASH,
) -> tuple[Round, tuple[Effect, ...]]:
    """One envelope, the same for everyone."""
    after, envelope = _seal(context, current, body, refers_to)
    return after, tuple(Send(name, envelope) for name in recipients)


def over(current: Round, expected: Collection[str], have: Collection[str], forced: bool) -> bool:
    return forced or not set(expected) - set(have) - current.gone


def shortened(reason: str) -> str:
    """As much of ``reason`` as RoundClose holds, whose bound counts bytes."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def finish(
    context: CoordinatorContext, state: RunningRound, outcome: str, reason: str
) -> Transition[CoordinatorState]:
    """End the round without a result: everyone keeps the adapter from before."""
    before = state.round.identity.adapter_hash
    reason = shortened(reason)
    acks: tuple[bytes, ...] = ()
    if isinstance(state, Acking | KeyAcking):
        acks = tuple(state.acks[name].encode() for name in sorted(state.acks))
    close = RoundClose(outcome, reason, before, acks)
    current, sends = tell(context, state.round, state.round.identity.invited, close)
    accepted, removed = _cohort_of(state)
    finished = Finished(current, outcome, reason, before, accepted, removed, (), record=None)
    return Transition(finished, (*sends, ended(finished)))


def ended(finished: Finished) -> RoundEnded:
    """The effect that tells the caller how a round ended."""
    identity = finished.round.identity
    return RoundEnded(
        identity.round, identity.kind, finished.outcome, finished.reason, finished.adapter_hash
    )


def _cohort_of(state: RunningRound) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Accepted and removed of a round that got as far as a cohort."""
    if isinstance(state, Voting | Unmasking | Decrypting | Acking):
        return state.cohort.accepted, state.cohort.removed
    return (), ()


def abort(
    context: CoordinatorContext, state: RunningRound, what: str, found: int, needed: int
) -> Transition[CoordinatorState]:
    return finish(context, state, "aborted", f"{found} clients {what}, {needed} are needed")
