"""Suites ``sealed`` and ``layered``: the opened sum is the plaintext integer sum, whoever opens it,
whoever is gone, and a resend is the same bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("tenseal", reason="encryption needs TenSEAL (extra: federation)")
pytest.importorskip("numba", reason="encryption needs numba (extra: federation)")

from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.client_states import Idle
from fedfm_protocols.context import KEYS
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.messages import Aggregate
from fedfm_protocols.simulation import Delivery
from tests.protocols.scripted import (
    Crash,
    RecordingSimulation,
    body_of,
    keyed_simulation,
    opened_integers,
    plain_sum,
)

STEPS = (
    "KeyOffer",
    "ShareBundle",
    "UploadHash",
    "WrappedKey",
    "Upload",
    "CohortVote",
    "Unmask",
    "KeyOpening",
    "RoundAck",
)
IN_THE_SUM = ("CohortVote", "Unmask", "KeyOpening", "RoundAck")


def check_sum(simulation: RecordingSimulation, finished: Finished) -> None:
    """Every client that adopted the result holds the plaintext sum."""
    expected = plain_sum(simulation, finished.accepted, finished.round.identity.round)
    adopted = [
        client
        for client in simulation.clients.values()
        if client.state.memory.adapter_hash == finished.adapter_hash
    ]
    assert len(adopted) >= simulation.federation.thresholds.vote_quorum
    for client in adopted:
        assert np.array_equal(opened_integers(simulation, client.totals[-1]), expected)


@pytest.mark.parametrize("suite", ["sealed", "layered"])
@pytest.mark.parametrize("lane_bits", [24, 32])
@pytest.mark.parametrize("clients", [3, 7])
def test_sums_are_exact(clients: int, lane_bits: int, suite: str) -> None:
    section = {"values": 1001, "lane_bits": lane_bits}
    simulation = keyed_simulation(clients, suite=suite, quantiser=section)
    finished = simulation.run_round(2)
    assert finished.accepted == simulation.federation.clients
    check_sum(simulation, finished)


@pytest.mark.parametrize("suite", ["sealed", "layered"])
@pytest.mark.parametrize("step", STEPS)
def test_one_of_five_dies_before_any_message(step: str, suite: str) -> None:
    """client-01 is in the first active set, so that a second one is asked where it matters."""
    victim = "client-01"
    simulation = keyed_simulation(5, suite=suite, intercept=Crash({victim: step}))
    finished = simulation.run_round(2)
    assert finished.outcome == "completed"
    assert (victim in finished.accepted) == (step in IN_THE_SUM)
    check_sum(simulation, finished)
    simulation.intercept = Crash({})
    simulation.catch_up(victim)
    second = simulation.run_round(3)
    assert second.accepted == simulation.federation.clients
    check_sum(simulation, second)


def _active_sets(simulation: RecordingSimulation) -> set[tuple[str, ...]]:
    """Whose openings came with each sum that was sent out."""
    found = set()
    for _, _, event in simulation.client_tape:
        envelope = getattr(event, "envelope", None)
        if envelope is not None and envelope.header.type == "Aggregate":
            openings = body_of(envelope, Aggregate).openings
            found.add(tuple(Envelope.decode(data).header.sender for data in openings))
    return found


# Whose openings are lost -> who opens the sum in the end.
LOST = {
    (): ("client-01", "client-02"),
    ("client-01",): ("client-02", "client-03"),
    ("client-02",): ("client-01", "client-03"),
    ("client-01", "client-02"): ("client-03", "client-04"),
}


@pytest.mark.parametrize("suite", ["sealed", "layered"])
def test_several_active_sets_open_a_sum(suite: str) -> None:
    simulation = keyed_simulation(5, suite=suite, rounds=50)
    for number, (silent, active) in enumerate(LOST.items(), 2):

        def network(
            sender: str, recipient: str, envelope: Envelope, silent: tuple[str, ...] = silent
        ) -> Sequence[Delivery]:
            lost = sender in silent and envelope.header.type == "KeyOpening"
            return () if lost else ((recipient, envelope),)

        simulation.intercept = network
        finished = simulation.run_round(number)
        assert finished.outcome == "completed", finished.reason
        check_sum(simulation, finished)
        assert active in _active_sets(simulation)
    assert _active_sets(simulation) == set(LOST.values())


@settings(max_examples=6, deadline=None)
@given(
    plan=st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(1, 5), st.booleans()), min_size=1, max_size=4
    ),
    suite=st.sampled_from(["sealed", "layered"]),
)
def test_random_dropouts_and_new_keys(plan: list[tuple[str, int, bool]], suite: str) -> None:
    """In each round one client dies somewhere and comes back; now and then a new key is made."""
    simulation = keyed_simulation(5, suite=suite, rounds=100)
    number = 2
    for step, victim, new_key in plan:
        if new_key:
            simulation.intercept = Crash({})
            assert simulation.run_round(number, kind=KEYS).key is not None
            number += 1
        name = f"client-{victim:02d}"
        simulation.intercept = Crash({name: step})
        finished = simulation.run_round(number)
        number += 1
        assert finished.outcome == "completed", finished.reason
        check_sum(simulation, finished)
        simulation.intercept = Crash({})
        simulation.catch_up(name)
    last = simulation.run_round(number)
    assert last.accepted == simulation.federation.clients
    check_sum(simulation, last)
    for client in simulation.clients.values():
        assert isinstance(client.state, Idle)
        records = [(entry.round, entry.record) for entry in client.journal]
        assert len(set(records)) == len(records)  # never a third set, no record twice


def test_what_is_sent_again_is_the_same_bytes() -> None:
    """Every message of a round twice: the second is refused as a resend, and changes nothing."""
    simulation = keyed_simulation(5)
    sent: dict[tuple[str, bytes, str, bytes], bytes] = {}

    def twice(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        header = envelope.header
        if sender in simulation.clients:
            place = (sender, header.context, header.type, header.refers_to)
            assert sent.setdefault(place, envelope.encode()) == envelope.encode()
        return ((recipient, envelope), (recipient, envelope))

    simulation.intercept = twice
    finished = simulation.run_round(2)
    assert finished.accepted == simulation.federation.clients
    check_sum(simulation, finished)
    kinds = {kind for _, _, kind, _ in sent}
    assert {"WrappedKey", "Upload", "KeyOpening"} <= kinds
    assert any("KeyOpening from client-01 was taken already" in str(e) for e in simulation.refused)
