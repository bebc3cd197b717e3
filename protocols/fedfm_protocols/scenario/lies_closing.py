"""Steps 12 and 14: a malicious coordinator lies about the sum and about how the round ended."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.coordinator_round import StepSum
from fedfm_protocols.coordinator_states import Acking, Committing, Reporting
from fedfm_protocols.messages import Aggregate, RoundAck, RoundClose, body_hash
from fedfm_protocols.scenario.actors import resigned, swapped
from fedfm_protocols.scenario.lies import Moment, Signed, lie

if TYPE_CHECKING:
    from fedfm_protocols.scenario.stage import Stage

OTHER_ADAPTER = b"\x77" * 32

# ---------------------------------------------------------------- step 12


@lie("wrong-count", "Aggregate", needs=("count",))
def _wrong_count(moment: Moment, aggregate: Aggregate) -> Aggregate:
    """The sum claims to be of `count` updates."""
    return replace(aggregate, accepted=moment.count)


@lie("short-sum", "Aggregate")
def _short_sum(moment: Moment, aggregate: Aggregate) -> Aggregate:
    """The sum has one value less."""
    width = moment.stage.federation.lanes.lane_bits // 8
    return replace(aggregate, words=aggregate.words[:-width])


@lie("bent-sum", "Aggregate")
def _bent_sum(moment: Moment, aggregate: Aggregate) -> Aggregate:
    """The sum ends in the middle of a value."""
    return replace(aggregate, words=aggregate.words[:-1])


@lie("other-sum", "Aggregate")
def _other_sum(moment: Moment, aggregate: Aggregate) -> Aggregate:
    """Another sum, all zeros, is given out as the opened one; told to everyone, the coordinator
    also stands by it."""
    false = replace(aggregate, words=bytes(len(aggregate.words)))
    stage = moment.stage
    if moment.form.to is None:
        _stand_by(stage, false)
    return false


def _stand_by(stage: Stage, false: Aggregate) -> None:
    def told(true: StepSum) -> StepSum:
        return replace(true, aggregate=encode(false), aggregate_hash=body_hash(false))

    match stage.state:
        case Acking(_, result) as acking:
            stage.state = replace(acking, result=told(result))
        case Reporting(_, result) as reporting:
            stage.state = replace(reporting, result=told(result))
        case Committing(before=StepSum() as before) as committing:
            stage.state = replace(committing, before=told(before))


@lie("sum-of-other-cohort", "Aggregate")
def _sum_of_other(moment: Moment, aggregate: Aggregate) -> Signed:
    """The sum refers to another cohort."""
    return Signed(aggregate, {"refers_to": bytes(32)})


# ---------------------------------------------------------------- step 14


@lie("few-acknowledgements", "RoundClose", needs=("count",))
def _few_acks(moment: Moment, closed: RoundClose) -> RoundClose:
    """The closing carries only `count` acknowledgements."""
    return replace(closed, acks=closed.acks[: moment.count])


@lie("close-with-other-adapter", "RoundClose")
def _other_adapter(moment: Moment, closed: RoundClose) -> RoundClose:
    """The closing names an adapter that nobody computed."""
    return replace(closed, adapter_hash=OTHER_ADAPTER)


@lie("colluding-acknowledgement", "RoundClose", needs=("client",), signs_for=True)
def _colluding_ack(moment: Moment, closed: RoundClose) -> RoundClose:
    """The closing names an adapter that only an accomplice acknowledges."""
    acks = moment.accomplice(closed.acks, RoundAck(OTHER_ADAPTER))
    return replace(closed, adapter_hash=OTHER_ADAPTER, acks=acks)


@lie("acknowledgements-of-other-sum", "RoundClose", needs=("clients",))
def _acks_of_other_sum(moment: Moment, closed: RoundClose) -> RoundClose:
    """The acknowledgements of `clients`, whose keys are stolen, refer to another sum."""
    acks = closed.acks
    for name in moment.clients:
        actor = moment.stage.actor(name)
        acks = tuple(
            resigned(actor, ack, refers_to=bytes(32)) if _sender(ack) == name else ack
            for ack in acks
        )
    return replace(closed, acks=acks)


@lie("repeat-acknowledgement", "RoundClose")
def _repeat_ack(moment: Moment, closed: RoundClose) -> RoundClose:
    """One acknowledgement is in the closing twice."""
    return replace(closed, acks=(closed.acks[0], *closed.acks))


@lie("forge-acknowledgement", "RoundClose")
def _forge_ack(moment: Moment, closed: RoundClose) -> RoundClose:
    """The coordinator signs an acknowledgement in its sender's name."""
    last = len(closed.acks) - 1
    return replace(
        closed, acks=swapped(closed.acks, last, resigned(moment.speaker, closed.acks[last]))
    )


@lie("own-acknowledgement", "RoundClose")
def _own_ack(moment: Moment, closed: RoundClose) -> RoundClose:
    """The coordinator acknowledges too."""
    own = resigned(moment.speaker, closed.acks[0], sender=moment.speaker.name)
    return replace(closed, acks=(*closed.acks, own))


@lie("void-with-new-adapter", "RoundClose")
def _void_with_new(moment: Moment, closed: RoundClose) -> RoundClose:
    """The round is called void, and another adapter is in force all the same."""
    return RoundClose("void", "", OTHER_ADAPTER, ())


@lie("call-it-void", "RoundClose")
def _call_it_void(moment: Moment, closed: RoundClose) -> RoundClose:
    """A completed round is called void."""
    return RoundClose("void", "sorry", moment.stage.observer.now.adapter_before, ())


@lie("misplace-closing", "RoundClose")
def _misplace_closing(moment: Moment, closed: RoundClose) -> Signed:
    """The closing is signed for another round."""
    return Signed(closed, {"context": bytes(32)})


def _sender(encoded: bytes) -> str:
    return Envelope.decode(encoded).header.sender
