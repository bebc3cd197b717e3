"""What every phase of the coordinator does: say something to everybody, end the round."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, seal_envelope
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.coordinator_inbox import transcript_entry
from fedfm_protocols.coordinator_round import CompletedRound, GoodSteps, Round, StepSum
from fedfm_protocols.coordinator_states import (
    Acking,
    Committing,
    Comparing,
    CoordinatorContext,
    CoordinatorState,
    Decrypting,
    Finished,
    KeyAcking,
    Reporting,
    RunningRound,
    Unmasking,
    Voting,
)
from fedfm_protocols.effects import Effect, RoundEnded, Send, Transition
from fedfm_protocols.message_fields import MAX_REASON_BYTES
from fedfm_protocols.messages import Body, RoundClose, type_name


def _seal(
    context: CoordinatorContext, current: Round, body: Body, refers_to: bytes, step: int
) -> tuple[Round, Envelope]:
    envelope = seal_envelope(
        context.site.key,
        context=current.context,
        type=type_name(type(body)),
        sender=context.site.name,
        step=step,
        sequence=current.sent,
        refers_to=refers_to,
        checkpoint=current.checkpoint,
        body=encode(body),
    )
    transcript = current.transcript.add(transcript_entry(envelope))
    return replace(current, sent=current.sent + 1, transcript=transcript), envelope


def tell(
    context: CoordinatorContext,
    current: Round,
    recipients: Iterable[str],
    body: Body,
    refers_to: bytes = NO_HASH,
    *,
    step: int | None = None,
) -> tuple[Round, tuple[Effect, ...]]:
    """One envelope, the same for everyone; of the present step unless another is named."""
    place = current.step if step is None else step
    after, envelope = _seal(context, current, body, refers_to, place)
    return after, tuple(Send(name, envelope) for name in recipients)


def over(current: Round, expected: Collection[str], have: Collection[str], forced: bool) -> bool:
    return forced or not set(expected) - set(have) - current.gone


def shortened(reason: str) -> str:
    """As much of ``reason`` as RoundClose holds, whose bound counts bytes."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def finish(
    context: CoordinatorContext, state: RunningRound, outcome: str, reason: str
) -> Transition[CoordinatorState]:
    """End the round where it is: with the last good step, if there is one, else without a result,
    and everyone keeps the adapter from before."""
    current, good = state.round, _achieved(context, state)
    if good is not None:
        done, planned = good.step + 1, current.identity.steps
        return complete(context, current, good, f"ended after {done} of {planned} steps: {reason}")
    before = current.identity.adapter_hash
    reason = shortened(reason)
    close = RoundClose(outcome, reason, before, _acks_of(state))
    current, sends = tell(context, current, current.identity.invited, close)
    accepted, removed = _cohort_of(state)
    finished = Finished(current, outcome, reason, before, accepted, removed, (), record=None)
    return Transition(finished, (*sends, ended(finished)))


def complete(
    context: CoordinatorContext, current: Round, good: GoodSteps, reason: str
) -> Transition[CoordinatorState]:
    """End the round with what a quorum has acknowledged."""
    reason = shortened(reason)
    close = RoundClose("completed", reason, good.adapter_hash, good.acks)
    current, sends = tell(context, current, current.identity.invited, close, step=good.step)
    record = CompletedRound(
        opened=current.opened.encode(),
        roster_hash=current.roster_hash,
        key_hash=current.key_hash,
        aggregates=good.aggregates,
        acks=good.acks,
    )
    finished = Finished(
        current,
        "completed",
        reason,
        good.adapter_hash,
        good.accepted,
        good.removed,
        good.dissenters,
        record,
    )
    return Transition(finished, (*sends, ended(finished)))


def _pending(state: RunningRound) -> StepSum | None:
    """The step whose acknowledgements are being collected."""
    match state:
        case Acking(_, result):
            return result
        case Committing(_, _, before):
            return before
    return None


def _achieved(context: CoordinatorContext, state: RunningRound) -> GoodSteps | None:
    """The last step that a quorum has acknowledged by now."""
    pending, good = _pending(state), state.round.good
    if pending is None:
        return good
    adapter, agreeing = pending.most_agree()
    quorum = context.site.federation.thresholds.vote_quorum
    return pending.good(adapter, good) if agreeing >= quorum else good


def _acks_of(state: RunningRound) -> tuple[bytes, ...]:
    """The acknowledgements at hand of what did not become a result."""
    pending = _pending(state)
    acks: Mapping[str, Envelope] = {} if pending is None else pending.acks
    if isinstance(state, KeyAcking):
        acks = state.acks
    return tuple(acks[name].encode() for name in sorted(acks))


def ended(finished: Finished) -> RoundEnded:
    """The effect that tells the caller how a round ended."""
    identity = finished.round.identity
    return RoundEnded(
        identity.round, identity.kind, finished.outcome, finished.reason, finished.adapter_hash
    )


def _cohort_of(state: RunningRound) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Accepted and removed of a round that got as far as a cohort."""
    match state:
        case Voting() | Unmasking() | Decrypting():
            return state.cohort.accepted, state.cohort.removed
        case Reporting() | Comparing():
            return state.result.cohort.accepted, state.result.cohort.removed
    pending = _pending(state)
    return ((), ()) if pending is None else (pending.cohort.accepted, pending.cohort.removed)


def abort(
    context: CoordinatorContext, state: RunningRound, what: str, found: int, needed: int
) -> Transition[CoordinatorState]:
    return finish(context, state, "aborted", f"{found} clients {what}, {needed} are needed")
