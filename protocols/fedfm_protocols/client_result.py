"""Client, steps 12 to 14: take the sum, acknowledge the adapter, close the round."""

from __future__ import annotations

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError, CryptoError
from fedfm_crypto.lanes import unpack_lanes
from fedfm_protocols.checks import OpenSet, check_place
from fedfm_protocols.client_decrypt import open_aggregate
from fedfm_protocols.client_epoch import epoch_keys
from fedfm_protocols.client_session import ClientContext, end_round, say, taken
from fedfm_protocols.client_states import Acked, Applying, ClientState, InRound, Unmasked
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
    opened = federation.encoding.decode(total, seed)
    apply = ApplySum(session.identity.round, aggregate.accepted, opened)
    return Transition(Applying(state.memory, session, envelope.header.body_hash), (apply,))


def _open(context: ClientContext, state: Unmasked, aggregate: Aggregate) -> Words:
    federation, session = context.site.federation, state.session
    if not federation.encrypted:
        return plain_total(aggregate, federation.lanes.lane_bits, state.values)
    keys = epoch_keys(state)
    return open_aggregate(
        context.need_encryption(),
        federation,
        aggregate,
        open_set=context.open_set,
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
    if event.round != state.session.identity.round:
        raise OutOfOrder(
            f"an adapter of round {event.round} in round {state.session.identity.round}"
        )
    session, send = say(
        context,
        state.memory,
        state.session,
        RoundAck(event.adapter_hash),
        state.aggregate_hash,
    )
    acked = Acked(state.memory, session, state.aggregate_hash, event.adapter_hash)
    return Transition(acked, (send,))


def close_round(
    context: ClientContext, state: InRound, envelope: Envelope
) -> Transition[ClientState]:
    session, federation = state.session, context.site.federation
    closed = read_body(envelope, RoundClose)
    check_place(envelope, context=session.context, step=session.step)
    if closed.outcome != "completed":
        if closed.adapter_hash != session.identity.adapter_hash:
            raise EquivocationError(
                f"round {session.identity.round} is closed as {closed.outcome} with another "
                "adapter than the one it started from"
            )
        return end_round(state, closed.outcome, closed.reason, state.memory.adapter_hash)
    if isinstance(state, Applying):
        raise OutOfOrder("the round is closed as completed before this site acknowledged it")
    if not isinstance(state, Acked):
        # Nothing that this site waits for can still come: drop the round's secrets now.
        raise RoundRefused("the round was completed without this site; catch up")
    acked = state
    check_acks(
        closed.acks,
        open_set=context.open_set,
        federation=federation,
        context=session.context,
        step=session.step,
        aggregate_hash=acked.aggregate_hash,
        adapter_hash=closed.adapter_hash,
    )
    if closed.adapter_hash != acked.adapter_hash:
        raise DivergenceError(
            f"the quorum agreed on adapter {closed.adapter_hash.hex()[:16]}, this site computed "
            f"{acked.adapter_hash.hex()[:16]} from the same sum: compare library versions and "
            "hardware with the others"
        )
    return end_round(acked, "completed", closed.reason, acked.adapter_hash)


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
