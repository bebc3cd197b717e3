"""A malicious coordinator in steps 12 to 15: sums, acknowledgements, closings, missed rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope
from fedfm_protocols.catchup import MissedRound, verify_catch_up
from fedfm_protocols.client import client_step
from fedfm_protocols.client_states import Applying, Idle, Training
from fedfm_protocols.coordinator import abort_round
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.effects import AdapterComputed, Send, UpdateReady
from fedfm_protocols.errors import (
    BelowThreshold,
    DivergenceError,
    EquivocationError,
    MalformedMessage,
    OutOfOrder,
    ProtocolError,
    RoundRefused,
    UnknownSender,
    WrongContext,
)
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.messages import (
    Aggregate,
    CatchUp,
    CatchUpRound,
    RoundAck,
    RoundClose,
    RoundOpen,
)
from fedfm_protocols.simulation import Delivery, SimulatedClient
from tests.protocols.federations import make_keys
from tests.protocols.scripted import (
    START,
    RecordingSimulation,
    all_idle_at,
    body_of,
    catch_up_round,
    exact_simulation,
    forge,
    forging,
    key_of,
    opened_integers,
    plain_sum,
    sent_types,
)

KEYS = make_keys(5)
VICTIM = "client-03"
OTHER_ADAPTER = b"\x66" * 32


# ---------------------------------------------------------------- step 12


@pytest.mark.parametrize(
    ("change", "header", "text"),
    [
        (lambda a: replace(a, accepted=4), {}, "claims 4 updates, the cohort has 5"),
        (lambda a: replace(a, words=a.words[:-4]), {}, "49 values, expected 50"),
        (lambda a: replace(a, words=a.words + bytes(4)), {}, "51 values, expected 50"),
        (lambda a: replace(a, words=a.words[:-1]), {}, "do not unpack"),
        (lambda a: replace(a, words=b""), {}, "0 values, expected 50"),
        (lambda a: a, {"refers_to": bytes(32)}, "another cohort"),
    ],
)
def test_an_aggregate_that_lies_about_its_shape(
    change: Callable[[Aggregate], Aggregate], header: dict[str, bytes], text: str
) -> None:
    simulation = exact_simulation(5)
    forging(simulation, "coordinator", "Aggregate", change, header=header)
    assert simulation.run_round(1).outcome == "void"
    for client in simulation.clients.values():
        (error,) = client.violations
        assert isinstance(error, EquivocationError)
        assert text in str(error)
        assert not client.totals
    assert all_idle_at(simulation, START)


def _other_sum(aggregate: Aggregate) -> Aggregate:
    return replace(aggregate, words=bytes(len(aggregate.words)))


def test_another_sum_for_one_client_is_not_adopted_by_it() -> None:
    simulation = exact_simulation(5)
    forging(simulation, "coordinator", "Aggregate", _other_sum, to=(VICTIM,))
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    # Its acknowledgement names an aggregate that nobody else saw: refused, and no quorum for it.
    assert any("acknowledges another aggregate" in str(error) for error in simulation.refused)
    (error,) = simulation.clients[VICTIM].violations
    assert isinstance(error, BelowThreshold)
    assert all_idle_at(simulation, START, [VICTIM])
    honest = [name for name in simulation.clients if name != VICTIM]
    assert all_idle_at(simulation, finished.adapter_hash, honest)


def test_two_sums_for_two_groups_void_the_round_for_all() -> None:
    simulation = exact_simulation(5)
    forging(
        simulation, "coordinator", "Aggregate", _other_sum, to=("client-01", "client-02", VICTIM)
    )
    assert simulation.run_round(1).outcome == "void"
    assert all_idle_at(simulation, START)


def test_clients_that_compute_different_adapters_void_the_round_and_are_named() -> None:
    simulation = exact_simulation(5)
    apply = simulation._apply

    def diverging(client: SimulatedClient, total: object) -> bytes:
        honest = apply(client, total)  # type: ignore[arg-type]
        wrong = client.context.site.name in (VICTIM, "client-05")
        return OTHER_ADAPTER if wrong else honest

    simulation._apply = diverging  # type: ignore[method-assign]
    finished = simulation.run_round(1)
    assert finished.outcome == "void"
    assert f"{VICTIM}, client-05 disagree" in finished.reason
    assert all_idle_at(simulation, START)


def test_a_single_client_that_diverges_is_told_so_and_stays_behind() -> None:
    simulation = exact_simulation(5)
    apply = simulation._apply

    def diverging(client: SimulatedClient, total: object) -> bytes:
        honest = apply(client, total)  # type: ignore[arg-type]
        return OTHER_ADAPTER if client.context.site.name == VICTIM else honest

    simulation._apply = diverging  # type: ignore[method-assign]
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.dissenters) == ("completed", (VICTIM,))
    assert finished.reason == f"{VICTIM} computed another adapter"
    (error,) = simulation.clients[VICTIM].violations
    assert isinstance(error, DivergenceError)
    assert "compare library versions" in str(error)
    assert all_idle_at(simulation, START, [VICTIM])


# ---------------------------------------------------------------- step 14: closings that lie


def _ack_for(simulation: RecordingSimulation, encoded: bytes, adapter: bytes) -> bytes:
    envelope = Envelope.decode(encoded)
    return forge(key_of(simulation, envelope.header.sender), envelope, RoundAck(adapter)).encode()


def _closing_lies(
    simulation: RecordingSimulation,
) -> dict[str, tuple[Callable[[RoundClose], RoundClose], type[ProtocolError], str]]:
    coordinator = key_of(simulation, "coordinator")
    return {
        "too few acknowledgements": (
            lambda c: replace(c, acks=c.acks[:3]),
            BelowThreshold,
            "3 clients acknowledge",
        ),
        "no acknowledgements": (lambda c: replace(c, acks=()), BelowThreshold, "0 clients"),
        "an adapter that nobody computed": (
            lambda c: replace(c, adapter_hash=OTHER_ADAPTER),
            BelowThreshold,
            "0 clients acknowledge",
        ),
        "one colluder for another adapter": (
            lambda c: replace(
                c,
                adapter_hash=OTHER_ADAPTER,
                acks=(*c.acks[:-1], _ack_for(simulation, c.acks[-1], OTHER_ADAPTER)),
            ),
            BelowThreshold,
            "1 clients acknowledge",
        ),
        "acknowledgements of another sum": (
            lambda c: replace(
                c,
                acks=tuple(
                    forge(
                        key_of(simulation, Envelope.decode(a).header.sender),
                        Envelope.decode(a),
                        refers_to=bytes(32),
                    ).encode()
                    for a in c.acks
                ),
            ),
            BelowThreshold,
            "0 clients acknowledge",
        ),
        "one acknowledgement counted twice": (
            lambda c: replace(c, acks=(c.acks[0], *c.acks)),
            MalformedMessage,
            "each sender once",
        ),
        "a forged acknowledgement": (
            lambda c: replace(
                c, acks=(*c.acks[:-1], forge(coordinator, Envelope.decode(c.acks[-1])).encode())
            ),
            UnknownSender,
            "not signed by the key enrolled",
        ),
        "the coordinator acknowledges too": (
            lambda c: replace(
                c,
                acks=(
                    *c.acks,
                    forge(coordinator, Envelope.decode(c.acks[0]), sender="coordinator").encode(),
                ),
            ),
            UnknownSender,
            "may not be",
        ),
        "void, but with another adapter": (
            lambda c: RoundClose("void", "", OTHER_ADAPTER, ()),
            EquivocationError,
            "another adapter than the one it started from",
        ),
        "aborted, but with the new adapter": (
            lambda c: RoundClose("aborted", "", c.adapter_hash, c.acks),
            EquivocationError,
            "another adapter than the one it started from",
        ),
    }


@pytest.mark.parametrize("lie", list(_closing_lies(exact_simulation(5))))
def test_a_closing_that_lies_changes_no_adapter(lie: str) -> None:
    simulation = exact_simulation(5)
    change, expected, text = _closing_lies(simulation)[lie]
    forging(simulation, "coordinator", "RoundClose", change, to=(VICTIM,))
    finished = simulation.run_round(1)
    client = simulation.clients[VICTIM]
    errors = [e for e in (*client.violations, *client.refused) if isinstance(e, expected)]
    assert text in str(errors[0])
    assert client.state.memory.adapter_hash == START
    assert client.state.memory.completed == 0
    assert finished.outcome == "completed"
    # The lie costs one round, which the quorum's own signatures make good.
    simulation.intercept = lambda sender, recipient, envelope: ((recipient, envelope),)
    simulation.catch_up(VICTIM)
    assert simulation.run_round(2).accepted == simulation.federation.clients


def test_a_completed_round_called_void_is_caught_up_with() -> None:
    simulation = exact_simulation(5)
    forging(
        simulation,
        "coordinator",
        "RoundClose",
        lambda c: RoundClose("void", "sorry", START, ()),
        to=(VICTIM,),
    )
    finished = simulation.run_round(1)
    assert all_idle_at(simulation, START, [VICTIM])
    simulation.catch_up(VICTIM)
    assert all_idle_at(simulation, finished.adapter_hash)


@pytest.mark.parametrize(
    "before", ["KeyRoster", "ShareDelivery", "UploadSet", "Cohort", "CohortProof", "Aggregate"]
)
def test_completed_too_early_ends_the_round_without_a_new_adapter(before: str) -> None:
    """The site drops its keys: nothing that it waited for can come any more."""
    simulation = exact_simulation(5)

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if recipient == VICTIM and envelope.header.type == before:
            state = simulation.clients[VICTIM].state
            assert not isinstance(state, Idle)
            close = forge(
                key_of(simulation, "coordinator"),
                envelope,
                RoundClose("completed", "", OTHER_ADAPTER, ()),
                type="RoundClose",
                context=state.session.context,
            )
            return ((recipient, close), (recipient, envelope))
        return ((recipient, envelope),)

    simulation.intercept = network
    simulation.run_round(1)
    error = simulation.clients[VICTIM].violations[0]
    assert isinstance(error, RoundRefused)
    assert "completed without this site" in str(error)
    assert all_idle_at(simulation, START, [VICTIM])


def test_aborted_at_any_moment_is_believed_because_it_changes_nothing() -> None:
    simulation = exact_simulation(5)

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if recipient == VICTIM and envelope.header.type == "Cohort":
            close = forge(
                key_of(simulation, "coordinator"),
                envelope,
                RoundClose("aborted", "tired", START, ()),
                type="RoundClose",
            )
            return ((recipient, close),)
        return ((recipient, envelope),)

    simulation.intercept = network
    assert simulation.run_round(1).outcome == "completed"
    assert simulation.clients[VICTIM].outcomes[0].reason == "tired"
    assert sent_types(simulation)[VICTIM][-1] == "Upload"
    assert all_idle_at(simulation, START, [VICTIM])


def test_an_unknown_outcome_does_not_decode() -> None:
    simulation = exact_simulation(5)

    def change(close: RoundClose) -> bytes:
        return encode(close).replace(b"completed", b"celebrate")

    forging(simulation, "coordinator", "RoundClose", change, to=(VICTIM,))
    simulation.run_round(1)
    assert isinstance(simulation.clients[VICTIM].refused[-1], MalformedMessage)


def test_reasons_of_any_length_and_script_fit_the_message() -> None:
    simulation = exact_simulation(5)
    simulation.intercept = lambda *_: ()
    simulation.run_round(1)
    state = simulation.coordinator_tape[0][0]
    assert not isinstance(state, Finished)
    transition = abort_round(simulation.coordinator, state, "é" * 400)
    send = transition.effects[0]
    assert isinstance(send, Send)
    assert body_of(send.envelope, RoundClose).reason == "é" * 256


# ---------------------------------------------------------------- catching up


@cache
def _missed(rounds: int = 2) -> tuple[RecordingSimulation, list[CatchUpRound]]:
    simulation = exact_simulation(5)
    for number in range(1, rounds + 1):
        simulation.run_round(number)
    return simulation, [catch_up_round(record) for record in simulation.records]


def _verify(
    simulation: RecordingSimulation,
    rounds: Sequence[CatchUpRound],
    last_applied: int = 0,
    adapter_hash: bytes = START,
) -> Iterator[MissedRound]:
    return verify_catch_up(
        simulation.federation,
        CatchUp(tuple(rounds)),
        last_applied=last_applied,
        adapter_hash=adapter_hash,
        keys=KeyRing(),
        encryption=None,
    )


def test_missed_rounds_are_repeated_exactly() -> None:
    simulation, rounds = _missed()
    verified = list(_verify(simulation, rounds))
    assert [v.round for v in verified] == [1, 2]
    assert verified[0].adapter_before == START
    assert verified[0].adapter_after == verified[1].adapter_before
    assert verified[1].adapter_after == simulation.adapter_hash
    for missed in verified:
        expected = plain_sum(simulation, simulation.federation.clients, missed.round)
        assert np.array_equal(opened_integers(simulation, missed.sums[0].total), expected)
        assert [step.accepted for step in missed.sums] == [5]


def test_nothing_missed_is_nothing_to_do() -> None:
    simulation, _ = _missed(1)
    assert list(_verify(simulation, [], 1, simulation.adapter_hash)) == []


def _catch_up_lies(
    simulation: RecordingSimulation, rounds: list[CatchUpRound]
) -> dict[str, tuple[list[CatchUpRound], type[ProtocolError], str]]:
    first, second = rounds
    aggregate = decode(Aggregate, first.aggregates[0])
    opened = Envelope.decode(first.opened)
    coordinator = key_of(simulation, "coordinator")
    acks = [Envelope.decode(ack) for ack in first.acks]
    foreign = exact_simulation(5, federation="other")
    foreign.run_round(1)
    other = foreign.records[0]

    def with_acks(*changed: Envelope) -> list[CatchUpRound]:
        return [replace(first, acks=tuple(ack.encode() for ack in changed))]

    return {
        "another sum": (
            [replace(first, aggregates=(encode(_other_sum(aggregate)),))],
            BelowThreshold,
            "no quorum of 4",
        ),
        "another count": (
            [replace(first, aggregates=(encode(replace(aggregate, accepted=4)),))],
            BelowThreshold,
            "no quorum of 4",
        ),
        "too few acknowledgements": (with_acks(*acks[:3]), BelowThreshold, "no quorum of 4"),
        "two adapters": (
            with_acks(
                *acks[:3],
                *(
                    forge(key_of(simulation, a.header.sender), a, RoundAck(OTHER_ADAPTER))
                    for a in acks[3:]
                ),
            ),
            BelowThreshold,
            "no quorum of 4",
        ),
        "one acknowledgement twice": (
            with_acks(acks[0], *acks[:3]),
            MalformedMessage,
            "each sender once",
        ),
        "forged acknowledgement": (
            with_acks(*acks[:-1], forge(coordinator, acks[-1])),
            UnknownSender,
            "not signed by the key enrolled",
        ),
        "acknowledgements of another round": (
            [replace(first, acks=second.acks)],
            WrongContext,
            "was signed for context",
        ),
        "another roster": (
            [replace(first, roster_hash=bytes(32))],
            WrongContext,
            "was signed for context",
        ),
        "another federation": (
            [catch_up_round(other)],
            WrongContext,
            "was signed for context",
        ),
        "opening signed by a client": (
            [replace(first, opened=forge(key_of(simulation, VICTIM), opened).encode())],
            UnknownSender,
            "not signed by the key enrolled",
        ),
        "opening with another adapter": (
            [
                replace(
                    first,
                    opened=forge(
                        coordinator,
                        opened,
                        replace(body_of(opened, RoundOpen), adapter_hash=OTHER_ADAPTER),
                    ).encode(),
                )
            ],
            WrongContext,
            "was signed for context",
        ),
        "a gap": ([second], RoundRefused, "this site holds"),
        "the wrong order": ([second, first], RoundRefused, "this site holds"),
        "the same round twice": ([first, first], RoundRefused, "was applied before"),
        "junk opening": ([replace(first, opened=b"junk")], MalformedMessage, "does not decode"),
        "junk aggregate": (
            [replace(first, aggregates=(first.aggregates[0] + b"\x00",))],
            MalformedMessage,
            "does not decode",
        ),
    }


@pytest.mark.parametrize("lie", list(_catch_up_lies(*_missed())))
def test_a_missed_round_that_is_forged_is_refused(lie: str) -> None:
    simulation, honest = _missed()
    rounds, expected, text = _catch_up_lies(simulation, honest)[lie]
    with pytest.raises(expected, match=text):
        list(_verify(simulation, rounds))


def test_a_round_applied_before_is_not_applied_again() -> None:
    simulation, rounds = _missed()
    with pytest.raises(RoundRefused, match="round 1 was applied before"):
        next(_verify(simulation, rounds, 1))


def test_late_events_of_an_earlier_round_are_not_used_in_a_later_one() -> None:
    """Training that outlives its round would otherwise send one update under two cohorts."""
    simulation = exact_simulation(5)
    simulation.run_round(1)
    simulation.run_round(2)
    by_state = {type(s): s for n, s, _ in simulation.client_tape if n == VICTIM}
    context = simulation.clients[VICTIM].context
    with pytest.raises(OutOfOrder, match="never sent twice"):
        client_step(context, by_state[Training], UpdateReady(1, 0, np.zeros(50)))
    with pytest.raises(OutOfOrder, match="an adapter of round 1 step 0 in round 2 step 0"):
        client_step(context, by_state[Applying], AdapterComputed(1, 0, OTHER_ADAPTER))
    assert client_step(context, by_state[Training], UpdateReady(2, 0, np.zeros(50))).effects
