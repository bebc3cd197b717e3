"""Clients that vanish: at every step, one or two, and on random schedules (PROTOCOL.md)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.client_states import Acked, Idle
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.effects import Left
from fedfm_protocols.simulation import Delivery
from tests.protocols.scripted import (
    CLIENT_MESSAGES,
    COORDINATOR_MESSAGES,
    START,
    Crash,
    RecordingSimulation,
    all_idle_at,
    exact_simulation,
    opened_integers,
    plain_sum,
)

VICTIM = "client-03"
SECOND = "client-05"


def _check_sum(simulation: RecordingSimulation, finished: Finished, survivors: list[str]) -> None:
    expected = plain_sum(simulation, finished.accepted, finished.round.identity.round)
    for name in survivors:
        total = simulation.clients[name].totals[-1]
        assert np.array_equal(opened_integers(simulation, total), expected), name


@pytest.mark.parametrize("suite", ["masked", "clear"])
@pytest.mark.parametrize("step", CLIENT_MESSAGES)
def test_one_of_five_dies_before_any_message(step: str, suite: str) -> None:
    simulation = exact_simulation(5, intercept=Crash({VICTIM: step}), suite=suite)
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    survivors = [name for name in simulation.clients if name != VICTIM]
    in_the_sum = step in ("CohortVote", "Unmask", "RoundAck")
    assert (VICTIM in finished.accepted) == in_the_sum
    assert finished.removed == ((VICTIM,) if step in ("UploadHash", "Upload") else ())
    _check_sum(simulation, finished, survivors)
    assert all_idle_at(simulation, finished.adapter_hash, survivors)
    # The victim comes back with the adapter from before, catches up, and takes part again.
    assert simulation.clients[VICTIM].state.memory.adapter_hash == START
    simulation.intercept = Crash({})
    simulation.catch_up(VICTIM)
    second = simulation.run_round(2)
    assert second.accepted == simulation.federation.clients
    _check_sum(simulation, second, list(simulation.clients))
    assert all_idle_at(simulation, second.adapter_hash)


@pytest.mark.parametrize("step", CLIENT_MESSAGES)
def test_two_of_five_abort_the_round_and_the_next_one_runs(step: str) -> None:
    simulation = exact_simulation(5, intercept=Crash({VICTIM: step, SECOND: step}))
    finished = simulation.run_round(1)
    # A sum that was opened but not acknowledged by a quorum is void; before, nothing was opened.
    assert finished.outcome == ("void" if step == "RoundAck" else "aborted")
    assert "3 clients" in finished.reason
    assert "4 are needed" in finished.reason
    assert finished.adapter_hash == START
    survivors = [name for name in simulation.clients if name not in (VICTIM, SECOND)]
    assert all_idle_at(simulation, START, survivors)
    assert finished.record is None
    simulation.intercept = Crash({})
    simulation.restart_client(VICTIM)
    simulation.restart_client(SECOND)
    second = simulation.run_round(2)
    assert second.accepted == simulation.federation.clients
    _check_sum(simulation, second, list(simulation.clients))


@pytest.mark.parametrize("first", ["KeyOffer", "Upload", "CohortVote"])
@pytest.mark.parametrize("second", ["ShareBundle", "Upload", "Unmask"])
def test_two_of_five_at_different_steps_never_yield_a_wrong_sum(first: str, second: str) -> None:
    simulation = exact_simulation(5, intercept=Crash({VICTIM: first, SECOND: second}))
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    survivors = [name for name in simulation.clients if name not in (VICTIM, SECOND)]
    assert all_idle_at(simulation, START, survivors)
    assert all(not simulation.clients[name].totals for name in survivors)


@pytest.mark.parametrize("step", CLIENT_MESSAGES)
def test_three_clients_tolerate_no_dropout(step: str) -> None:
    simulation = exact_simulation(3, intercept=Crash({"client-02": step}))
    finished = simulation.run_round(1)
    assert finished.outcome == ("void" if step == "RoundAck" else "aborted")
    assert all_idle_at(simulation, START, ["client-01", "client-03"])


def test_twenty_clients_lose_six_at_six_steps() -> None:
    limits = {"colluding": 1, "dropouts": 6}
    steps = ("KeyOffer", "ShareBundle", "UploadHash", "Upload", "CohortVote", "Unmask")
    names = [f"client-{i:02d}" for i in (2, 5, 9, 11, 17, 20)]
    crash = Crash(dict(zip(names, steps, strict=True)))
    simulation = exact_simulation(20, intercept=crash, limits=limits)
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert finished.removed == ("client-09", "client-11")
    assert len(finished.accepted) == 16
    _check_sum(simulation, finished, [name for name in simulation.clients if name not in names])


def test_a_lost_connection_is_not_waited_for() -> None:
    """With Left the phases end without their deadlines."""
    crash = Crash({VICTIM: "Upload"})
    simulation = exact_simulation(5)

    def network(sender: str, recipient: str, envelope: Envelope) -> tuple[Delivery, ...]:
        delivered = tuple(crash(sender, recipient, envelope))
        if envelope.header.type == "Upload" and sender == VICTIM:
            simulation._tell_coordinator(Left(VICTIM))
        return delivered

    simulation.intercept = network
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.removed) == ("completed", (VICTIM,))
    assert not [e for _, e in simulation.coordinator_tape if type(e).__name__ == "Deadline"]


def test_a_client_left_off_the_roster_leaves_at_once() -> None:
    """Its keys are dropped then, not when the next round happens to be opened."""
    simulation = exact_simulation(5)
    held: list[Delivery] = []

    def network(sender: str, recipient: str, envelope: Envelope) -> tuple[Delivery, ...]:
        if sender == VICTIM and envelope.header.type == "KeyOffer":
            held.append((recipient, envelope))
            return ()
        return ((recipient, envelope),)

    simulation.intercept = network
    assert simulation.run_round(1).outcome == "completed"
    assert held
    assert isinstance(simulation.clients[VICTIM].state, Idle)
    assert "key offer came too late" in str(simulation.clients[VICTIM].violations[0])


# ---------------------------------------------------------------- random schedules

_CRASHES = st.dictionaries(
    st.sampled_from([f"client-{i:02d}" for i in range(1, 6)]), st.sampled_from(CLIENT_MESSAGES)
)
_LOSSES = st.sets(
    st.tuples(
        st.sampled_from([f"client-{i:02d}" for i in range(1, 6)]),
        st.sampled_from(CLIENT_MESSAGES + COORDINATOR_MESSAGES),
    ),
    max_size=5,
)


def _check_round(simulation: RecordingSimulation, finished: Finished, before: bytes) -> None:
    thresholds = simulation.federation.thresholds
    after = finished.adapter_hash
    for name, client in simulation.clients.items():
        assert client.state.memory.adapter_hash in (before, after), name
        for total in client.totals:  # whoever was given a sum was given the right one
            expected = plain_sum(simulation, finished.accepted, 1)
            assert np.array_equal(opened_integers(simulation, total), expected)
    if finished.outcome == "completed":
        assert len(finished.accepted) >= thresholds.min_accepted
        assert after != before
        adopted = [
            name
            for name, client in simulation.clients.items()
            if isinstance(client.state, Acked) or client.state.memory.adapter_hash == after
        ]
        assert len(adopted) >= thresholds.vote_quorum
    else:
        assert after == before
        assert finished.record is None


def _next_round_runs(simulation: RecordingSimulation) -> None:
    simulation.intercept = Crash({})
    for client in simulation.clients.values():
        client.totals.clear()
    for name in simulation.clients:
        simulation.catch_up(name)
    finished = simulation.run_round(2)
    assert finished.accepted == simulation.federation.clients
    assert all_idle_at(simulation, finished.adapter_hash)


@settings(max_examples=15, deadline=None)
@given(crashes=_CRASHES)
def test_any_crashes_give_the_exact_sum_or_the_last_adapter(crashes: dict[str, str]) -> None:
    simulation = exact_simulation(5, intercept=Crash(crashes))
    finished = simulation.run_round(1)
    _check_round(simulation, finished, START)
    assert (finished.outcome == "completed") == (len(crashes) <= 1)
    _next_round_runs(simulation)


@settings(max_examples=15, deadline=None)
@given(losses=_LOSSES)
def test_any_lost_messages_give_the_exact_sum_or_the_last_adapter(
    losses: set[tuple[str, str]],
) -> None:
    def network(sender: str, recipient: str, envelope: Envelope) -> tuple[Delivery, ...]:
        lost = {(sender, envelope.header.type), (recipient, envelope.header.type)} & losses
        return () if lost else ((recipient, envelope),)

    simulation = exact_simulation(5, intercept=network)
    _check_round(simulation, simulation.run_round(1), START)
    _next_round_runs(simulation)
