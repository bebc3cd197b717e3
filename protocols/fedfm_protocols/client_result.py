"""Client, steps 12 to 14: take the sum, acknowledge the adapter, close the round."""

from __future__ import annotations

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError, CryptoError
from fedfm_crypto.lanes import unpack_lanes
from fedfm_protocols.checks import OpenSet, check_place
from fedfm_protocols.client_decrypt import open_aggregate
from fedfm_protocols.client_epoch import epoch_keys
from fedfm_protocols.client_protect import begin_step
from fedfm_protocols.client_robust import report_sum
from fedfm_protocols.client_session import ClientContext, end_round, say, taken
from fedfm_protocols.client_states import (
    Acked,
    Applying,
    ClientState,
    InRound,
    LeftOut,
    Unbound,
    Unmasked,
)
from fedfm_protocols.context import rotation_seed
from fedfm_protocols.effects import AdapterComputed, ApplySum, Transition
from fedfm_protocols.errors import (
    BelowThreshold,
    DivergenceError,
    EquivocationError,
    OutOfOrder,
    RoundRefused,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.masking import Words
from fedfm_protocols.messages import Aggregate, RoundAck, RoundClose, read_body
from fedfm_protocols.split_view import check_echo, one_history
from fedfm_protocols.steps import StepResult


def take_aggregate(
    context: ClientContext, state: Unmasked, envelope: Envelope
) -> Transition[ClientState]:
    federation = context.site.federation
    aggregate = read_body(envelope, Aggregate)
    if envelope.header.refers_to != state.cohort_hash:
        raise EquivocationError("the aggregate refers to another cohort than was voted")
    if aggregate.accepted != len(state.cohort.accepted):
        raise EquivocationError(
            f"the aggregate claims {aggregate.accepted} updates, the cohort has "
            f"{len(state.cohort.accepted)}"
        )
    total = _open(context, state, aggregate)
    session = taken(state.session, envelope)
    seed = rotation_seed(session.context, session.step)
    identity = session.identity
    opened = federation.encoding_of(identity.kind).decode(total, seed)
    apply = ApplySum(identity.round, session.step, aggregate.accepted, opened, identity.kind)
    if state.judged is not None:
        return report_sum(
            context, state, session, state.judged, total, envelope.header.body_hash, apply
        )
    applying = Applying(state.memory, session, envelope.header.body_hash, state.following)
    return Transition(applying, (apply,))


def _open(context: ClientContext, state: Unmasked, aggregate: Aggregate) -> Words:
    federation, session = context.site.federation, state.session
    if not federation.encrypted:
        return plain_total(aggregate, federation.lanes.lane_bits, state.values)
    keys = epoch_keys(state)
    return open_aggregate(
        context.need_encryption(),
        federation,
        aggregate,
        open_set=one_history(context.open_set, session),
        holders=keys.holders,
        group_keys=(keys.group,),
        context=session.context,
        step=session.step,
        cohort_hash=state.cohort_hash,
    )


def plain_total(aggregate: Aggregate, lane_bits: int, values: int) -> Words:
    """Words of an aggregate that is not encrypted, checked for length.

    Raises
    ------
    EquivocationError
        if it does not have ``values`` words, or holds openings of a key.
    """
    if aggregate.openings:
        raise EquivocationError("the aggregate of a suite without encryption holds key openings")
    try:
        words = unpack_lanes(aggregate.words, lane_bits)
    except (CodecError, CryptoError, ValueError) as error:
        raise EquivocationError(f"the aggregate's words do not unpack: {error}") from error
    if words.size != values:
        raise EquivocationError(f"the aggregate has {words.size} values, expected {values}")
    return words


def acknowledge(
    context: ClientContext, state: Applying, event: AdapterComputed
) -> Transition[ClientState]:
    """Step 14: say which adapter came of it, and go on with the next step, if there is one."""
    session, memory = state.session, state.memory
    if (event.round, event.step) != (session.identity.round, session.step):
        raise OutOfOrder(
            f"an adapter of round {event.round} step {event.step} in round "
            f"{session.identity.round} step {session.step}"
        )
    session, send = say(
        context, memory, session, RoundAck(event.adapter_hash), state.aggregate_hash
    )
    session = session.finish(StepResult(event.step, state.aggregate_hash, event.adapter_hash))
    if session.last_step:
        return Transition(Acked(memory, session), (send,))
    if state.following is None:
        return Transition(LeftOut(memory, session), (send,))
    begun = begin_step(memory, session.next_step(), state.following)
    return Transition(begun.state, (send, *begun.effects))


def close_round(
    context: ClientContext, state: InRound, envelope: Envelope
) -> Transition[ClientState]:
    session, federation = state.session, context.site.federation
    closed, last = read_body(envelope, RoundClose), envelope.header.step
    check_place(envelope, context=session.context, step=last)
    check_echo(session.head, session.note, envelope)
    if closed.outcome != "completed":
        if closed.adapter_hash != session.identity.adapter_hash:
            raise EquivocationError(
                f"round {session.identity.round} is closed as {closed.outcome} with another "
                "adapter than the one it started from"
            )
        return end_round(state, closed.outcome, closed.reason)
    if isinstance(state, Applying) and last == session.step:
        raise OutOfOrder("the round is closed as completed before this site acknowledged it")
    if isinstance(state, Unbound):
        raise EquivocationError(
            "the round is closed as completed, although the validator found that the opened sum is "
            "not the sum of the accepted sketches"
        )
    done = next((result for result in session.done if result.step == last), None)
    if done is None:
        # Nothing that this site waits for can still come: drop the round's secrets now.
        raise RoundRefused("the round was completed without this site; catch up")
    check_acks(
        closed.acks,
        open_set=one_history(context.open_set, session),
        federation=federation,
        context=session.context,
        step=last,
        aggregate_hash=done.aggregate_hash,
        adapter_hash=closed.adapter_hash,
    )
    if closed.adapter_hash != done.adapter_hash:
        raise DivergenceError(
            f"the quorum agreed on adapter {closed.adapter_hash.hex()[:16]}, this site computed "
            f"{done.adapter_hash.hex()[:16]} from the same sum: compare library versions and "
            "hardware with the others"
        )
    return end_round(state, "completed", closed.reason, done)


def check_acks(
    encoded: tuple[bytes, ...],
    *,
    open_set: OpenSet,
    federation: Federation,
    context: bytes,
    step: int,
    aggregate_hash: bytes,
    adapter_hash: bytes,
) -> None:
    """Demand a quorum of signed acknowledgements of one adapter, computed from one aggregate.

    Raises
    ------
    BelowThreshold
        if fewer than ``vote_quorum`` clients signed exactly this.
    """
    members = open_set(
        encoded,
        RoundAck,
        federation=federation,
        allowed=federation.clients,
        context=context,
        step=step,
    )
    agreeing = [
        name
        for name, (member, ack) in members.items()
        if ack.adapter_hash == adapter_hash and member.header.refers_to == aggregate_hash
    ]
    quorum = federation.thresholds.vote_quorum
    if len(agreeing) < quorum:
        raise BelowThreshold(
            f"{len(agreeing)} clients acknowledge adapter {adapter_hash.hex()[:16]}, "
            f"{quorum} are needed"
        )
