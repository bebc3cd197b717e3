"""Sessions: several sums under one key setup, each step with masks and keys of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.client_states import Idle
from fedfm_protocols.context import KEYS
from fedfm_protocols.messages import Cohort, KeyOffer, RoundClose, Unmask
from fedfm_protocols.privacy import NoPrivacy
from fedfm_protocols.scenario.suites import encryption_for
from fedfm_protocols.simulation import Delivery, Intercept, Simulation, deliver
from tests.protocols.federations import make_federation, make_keys
from tests.protocols.scripted import (
    RecordingSimulation,
    body_of,
    integers_of,
    opened_integers,
    plain_sum,
)

STEPS = 4
SUITES = ("masked", "layered")


def shared_noise(steps: int = STEPS, **changes: Any) -> dict[str, Any]:
    """A charter's privacy section under which a round has ``steps`` steps."""
    return {
        "mode": "shared-noise",
        "epsilon": 8.0,
        "delta": 1e-5,
        "noise_multiplier": 1.0,
        "sampling_rate": 0.1,
        "steps_per_round": steps,
        "clip": 1.0,
        "mechanism": "discrete-gaussian",
        "honest_shares": 3,
        "batch": 100.0,
        **changes,
    }


def session_simulation(
    suite: str = "masked",
    *,
    steps: int = STEPS,
    clients: int = 5,
    intercept: Intercept = deliver,
    **changes: Any,
) -> RecordingSimulation:
    """Sessions without their noise, so that every opened sum is known to the last integer."""
    if suite == "layered":
        pytest.importorskip("tenseal", reason="encryption needs TenSEAL (extra: federation)")
    keys = make_keys(clients, 1)
    section = {"values": 50, "clip": 1.0, "scale": 65536, "lane_bits": 32}
    privacy = shared_noise(steps, honest_shares=changes.pop("honest_shares", 3))
    federation = make_federation(keys, suite=suite, quantiser=section, privacy=privacy, **changes)
    silent = replace(federation.encoding, privacy=NoPrivacy(mode="none"))
    federation = replace(federation, encoding=silent)

    def update(name: str, number: int, step: int) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
        return integers_of(federation.charter.quantiser, name, number, step) / np.float64(65536)

    simulation = RecordingSimulation(
        federation,
        keys.clients,
        keys.coordinator,
        SeededRandom(b"session"),
        update,
        encryption=encryption_for(suite),
    )
    if suite == "layered":
        assert simulation.run_round(1, kind=KEYS).key is not None
    simulation.intercept = intercept
    return simulation


class Losing:
    """A network on which each client of ``when`` (name -> step, message type) is gone from the
    moment it would send that message."""

    def __init__(self, when: dict[str, tuple[int, str]]) -> None:
        self.when, self.gone = when, set[str]()

    def __call__(self, sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        header = envelope.header
        if self.when.get(sender) == (header.step, header.type):
            self.gone.add(sender)
        return () if self.gone & {sender, recipient} else ((recipient, envelope),)


def number_of(simulation: Simulation) -> int:
    """The number of the first session: a suite that encrypts has made its key in round 1."""
    return 2 if simulation.federation.encrypted else 1


@pytest.mark.parametrize("suite", SUITES)
def test_every_step_opens_its_own_sum_exactly(suite: str) -> None:
    simulation = session_simulation(suite)
    number = number_of(simulation)
    finished = simulation.run_round(number)
    assert (finished.outcome, finished.reason) == ("completed", "")
    for client in simulation.clients.values():
        assert len(client.totals) == STEPS
        for step, total in enumerate(client.totals):
            expected = plain_sum(simulation, tuple(simulation.clients), number, step)
            assert np.array_equal(opened_integers(simulation, total), expected)
        ended = client.outcomes[-1]
        assert (ended.outcome, ended.steps) == ("completed", STEPS)
        assert isinstance(client.state, Idle)
        assert client.state.memory.adapter_hash == finished.adapter_hash
        assert not client.violations
        assert not client.refused


@pytest.mark.parametrize("suite", SUITES)
def test_a_client_that_drops_is_left_out_of_the_steps_that_follow(suite: str) -> None:
    lost = Losing({"client-05": (1, "Upload")})
    simulation = session_simulation(suite, intercept=lost)
    number = number_of(simulation)
    finished = simulation.run_round(number)
    assert (finished.outcome, finished.reason) == ("completed", "")
    there = tuple(name for name in simulation.clients if name != "client-05")
    assert finished.accepted == there
    assert finished.removed == ()
    totals = simulation.clients["client-01"].totals
    everyone = tuple(simulation.clients)
    for step, names in enumerate((everyone, there, there, there)):
        expected = plain_sum(simulation, names, number, step)
        assert np.array_equal(opened_integers(simulation, totals[step]), expected)
    # What is given out about the one that dropped: one key share of step 1 by each, no more.
    for name in there:
        for envelope in simulation.clients[name].sent:
            if envelope.header.type != "Unmask":
                continue
            reveal = body_of(envelope, Unmask)
            about = [e.dealer for e in reveal.key_shares if e.dealer == "client-05"]
            assert about == (["client-05"] if envelope.header.step == 1 else [])
            seeds = {entry.dealer for entry in reveal.seed_shares}
            assert seeds == set(everyone if envelope.header.step == 0 else there)


@pytest.mark.parametrize("suite", SUITES)
def test_a_session_ends_at_its_last_good_step(suite: str) -> None:
    lost = Losing({"client-05": (1, "Upload"), "client-04": (2, "Upload")})
    simulation = session_simulation(suite, intercept=lost)
    finished = simulation.run_round(number_of(simulation))
    assert finished.outcome == "completed"
    assert finished.reason.startswith(f"ended after 2 of {STEPS} steps: ")
    for name in ("client-01", "client-02", "client-03"):
        client = simulation.clients[name]
        assert client.outcomes[-1].steps == 2
        assert isinstance(client.state, Idle)
        assert client.state.memory.adapter_hash == finished.adapter_hash
    closes = [e for e in simulation.coordinator_sent if e.header.type == "RoundClose"]
    assert closes[-1].header.step == 1
    assert len(body_of(closes[-1], RoundClose).acks) >= 4


def test_a_session_without_a_good_step_is_aborted() -> None:
    lost = Losing({"client-05": (0, "Upload"), "client-04": (0, "Upload")})
    simulation = session_simulation(intercept=lost)
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    assert finished.adapter_hash == simulation.adapter_hash


def test_a_client_that_acknowledged_a_step_too_many_goes_back_one() -> None:
    """Two never say what came of step 2: it is not good, and the others undo it."""
    lost = Losing({"client-05": (2, "RoundAck"), "client-04": (2, "RoundAck")})
    simulation = session_simulation(intercept=lost)
    finished = simulation.run_round(1)
    assert finished.reason.startswith(f"ended after 2 of {STEPS} steps: ")
    for name in ("client-01", "client-02", "client-03"):
        client = simulation.clients[name]
        assert len(client.totals) == 3
        assert client.outcomes[-1].steps == 2
        assert client.state.memory.adapter_hash == finished.adapter_hash
        assert not client.violations


@pytest.mark.parametrize("suite", SUITES)
def test_who_missed_a_session_repeats_all_its_sums(suite: str) -> None:
    lost = Losing({"client-05": (1, "Upload")})
    simulation = session_simulation(suite, intercept=lost)
    simulation.run_round(number_of(simulation))
    lost.gone.clear()
    lost.when.clear()
    simulation.catch_up("client-05")
    memory = simulation.clients["client-05"].state.memory
    assert memory.adapter_hash == simulation.adapter_hash
    assert (memory.completed, memory.last_applied) == (1, number_of(simulation))
    assert simulation.run_round(number_of(simulation) + 1).accepted == tuple(simulation.clients)


def test_no_key_seed_or_mask_serves_two_steps() -> None:
    simulation = session_simulation()
    simulation.run_round(1)
    seen: list[bytes] = []
    for client in simulation.clients.values():
        offers = [e for e in client.sent if e.header.type == "KeyOffer"]
        assert len(offers) == 1  # one key setup, whatever the number of steps
        offer = body_of(offers[0], KeyOffer)
        assert len(offer.steps) == STEPS
        seen += [offer.share_key]
        for step in offer.steps:
            seen += [step.mask_key, step.seed_commitment]
        uploads = [e.header.body_hash for e in client.sent if e.header.type == "Upload"]
        assert len(uploads) == STEPS
        seen += uploads
        for envelope in client.sent:
            if envelope.header.type == "Unmask":
                reveal = body_of(envelope, Unmask)
                seen += [entry.value for entry in reveal.seed_shares]
    assert len(seen) == len(set(seen))


def test_the_transcript_is_kept_step_by_step() -> None:
    simulation = session_simulation()
    finished = simulation.run_round(1)
    transcript = finished.round.transcript
    assert len(transcript.steps) == STEPS
    for step, entries in enumerate(transcript.steps):
        assert {entry.signed.header.step for entry in entries} == {step}
        types = [entry.signed.header.type for entry in entries]
        assert (types.count("Cohort"), types.count("RoundAck")) == (1, 5)
        assert types.count("UploadHash") == types.count("Upload") == 5
    assert [e.signed.header.type for e in transcript.close] == ["RoundClose"]


def test_votes_of_a_step_name_its_own_cohort_only() -> None:
    simulation = session_simulation()
    simulation.run_round(1)
    cohorts = [e for e in simulation.coordinator_sent if e.header.type == "Cohort"]
    by_step = {e.header.step: body_of(e, Cohort).upload_set for e in cohorts}
    assert len(by_step) == STEPS
    assert len(set(by_step.values())) == STEPS
