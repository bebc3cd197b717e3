"""Rounds on a sparse masking graph: exact sums whoever vanishes, and masks and shares among
neighbours only."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest

from fedfm_crypto.envelope import Envelope
from fedfm_protocols import masking
from fedfm_protocols.client_states import Shared
from fedfm_protocols.coordinator_states import Finished, Sharing
from fedfm_protocols.messages import GraphNonce, ShareBundle, ShareDelivery
from fedfm_protocols.neighbourhood import Neighbourhoods
from fedfm_protocols.simulation import Delivery
from tests.protocols.scripted import (
    SPARSE_CLIENT_MESSAGES,
    START,
    Crash,
    RecordingSimulation,
    all_idle_at,
    body_of,
    exact_simulation,
    opened_integers,
    plain_sum,
)

SEVENTY = {"colluding": 5, "dropouts": 5}
HUNDRED = {"colluding": 10, "dropouts": 10}
SAMPLED = ("GraphNonce", "Upload", "Unmask")  # all of them, in one round: ten of a hundred, below


def _check_sum(
    simulation: RecordingSimulation, finished: Finished, gone: Collection[str] = ()
) -> None:
    """The survivors hold the plaintext sum of exactly the accepted, and one adapter."""
    assert finished.outcome == "completed", finished.reason
    expected = plain_sum(simulation, finished.accepted, finished.round.identity.round)
    survivors = [name for name in simulation.clients if name not in gone]
    for name in survivors:
        total = simulation.clients[name].totals[-1]
        assert np.array_equal(opened_integers(simulation, total), expected), name
    assert all_idle_at(simulation, finished.adapter_hash, survivors)


def _hood(simulation: RecordingSimulation) -> Neighbourhoods:
    (found, *_) = [s for s, _ in simulation.coordinator_tape if isinstance(s, Sharing)]
    return found.hood


def _hash(label: str, *parts: bytes) -> bytes:
    """The hash of protocols/README.md, written out again."""
    pieces = [b"secure-fedfm/v1/" + label.encode(), *parts]
    return hashlib.sha256(
        b"".join(len(piece).to_bytes(8, "big") + piece for piece in pieces)
    ).digest()


def _ring(context: bytes, nonces: Mapping[str, bytes]) -> list[str]:
    """The ring of protocols/README.md, step 2, written out again."""
    parts = [part for name in sorted(nonces) for part in (name.encode(), nonces[name])]
    seed = _hash("graph", context, *parts)
    return sorted(nonces, key=lambda name: _hash("graph", seed, name.encode()))


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, marks=() if step in SAMPLED else pytest.mark.soak)
        for step in SPARSE_CLIENT_MESSAGES
    ],
)
def test_a_few_of_seventy_die_before_any_message(step: str) -> None:
    gone = ["client-03", "client-17", "client-42", "client-70"]
    simulation = exact_simulation(70, intercept=Crash(dict.fromkeys(gone, step)), limits=SEVENTY)
    finished = simulation.run_round(1)
    in_the_sum = step in ("CohortVote", "Unmask", "RoundAck")
    assert (set(gone) <= set(finished.accepted)) is in_the_sum
    assert len(finished.accepted) == (70 if in_the_sum else 66)
    assert finished.removed == (tuple(gone) if step in ("UploadHash", "Upload") else ())
    _check_sum(simulation, finished, gone)
    if step in ("KeyOffer", "GraphNonce"):
        # The ring is drawn among those who are there; they tolerate one dropout more, not five.
        assert _hood(simulation).everyone == finished.accepted


def test_ten_of_a_hundred_die_at_eight_steps() -> None:
    steps = (*SPARSE_CLIENT_MESSAGES, "UploadHash", "Upload")
    crash = Crash({f"client-{9 * i + 5:02d}": step for i, step in enumerate(steps)})
    simulation = exact_simulation(100, intercept=crash, limits=HUNDRED)
    finished = simulation.run_round(1)
    assert len(finished.removed) == 4
    assert len(finished.accepted) == 93
    _check_sum(simulation, finished, crash.dead)


def test_nobody_dies_and_a_second_round_draws_another_ring() -> None:
    simulation = exact_simulation(70, limits=SEVENTY)
    _check_sum(simulation, simulation.run_round(1))
    _check_sum(simulation, simulation.run_round(2))
    rings = {
        state.hood.ring.order
        for state, _ in simulation.coordinator_tape
        if isinstance(state, Sharing) and state.hood.ring is not None
    }
    assert len(rings) == 2


def test_suite_clear_needs_no_graph() -> None:
    simulation = exact_simulation(70, limits=SEVENTY, suite="clear")
    _check_sum(simulation, simulation.run_round(1))
    assert not [e for e in simulation.coordinator_received if e.header.type == "GraphNonce"]


# ---------------------------------------------------------------- withheld nonces


@pytest.mark.parametrize(
    "withheld", [*(pytest.param(n, marks=pytest.mark.soak) for n in (1, 2)), 3]
)
def test_up_to_four_nonces_may_be_withheld(withheld: int) -> None:
    """(Four: see above.)  Whoever withholds is out of the round, and knows."""
    silent = [f"client-{i:02d}" for i in range(1, withheld + 1)]

    def network(sender: str, recipient: str, envelope: Envelope) -> tuple[Delivery, ...]:
        lost = sender in silent and envelope.header.type == "GraphNonce"
        return () if lost else ((recipient, envelope),)

    simulation = exact_simulation(70, intercept=network, limits=SEVENTY)
    finished = simulation.run_round(1)
    assert len(finished.accepted) == 70 - withheld
    _check_sum(simulation, finished, silent)
    assert all_idle_at(simulation, START, silent)
    for name in silent:
        assert "graph nonce came too late" in str(simulation.clients[name].violations[0])


def test_five_withheld_nonces_end_the_round() -> None:
    silent = [f"client-{i:02d}" for i in range(1, 6)]
    simulation = exact_simulation(
        70, intercept=Crash(dict.fromkeys(silent, "GraphNonce")), limits=SEVENTY
    )
    finished = simulation.run_round(1)
    assert finished.outcome == "aborted"
    assert finished.reason == "5 clients did not open their nonces, at most 4 may be missing"
    assert all_idle_at(simulation, START, [n for n in simulation.clients if n not in silent])
    assert not [e for e in simulation.coordinator_received if e.header.type == "ShareBundle"]


# ---------------------------------------------------------------- neighbours


def test_masks_and_shares_are_those_of_the_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a ring computed here, from the nonces on the wire."""
    crash = Crash({"client-07": "ShareBundle", "client-08": "GraphNonce"})
    simulation = exact_simulation(70, intercept=crash, limits=SEVENTY)
    peers: dict[str, set[str]] = {}
    mask_keys = masking.mask_keys

    def spy(**arguments: Any) -> Any:
        peers[arguments["client"]] = set(arguments["peers"]) - {arguments["client"]}
        return mask_keys(**arguments)

    monkeypatch.setattr(masking, "mask_keys", spy)
    finished = simulation.run_round(1)
    _check_sum(simulation, finished, crash.dead)
    opened = {
        envelope.header.sender: body_of(envelope, GraphNonce).nonce
        for envelope in simulation.coordinator_received
        if envelope.header.type == "GraphNonce"
    }
    assert len(opened) == 69
    ring = _ring(finished.round.context, opened)
    degree = simulation.federation.thresholds.graph(69).degree
    half, size = degree // 2, len(ring)
    for place, name in enumerate(ring):
        near = {ring[(place + o) % size] for o in range(-half, half + 1) if o}
        assert len(near) == degree
        if name == "client-07":
            continue
        assert peers[name] == near - {"client-07"}
        (bundle,) = [
            body_of(envelope, ShareBundle)
            for envelope in simulation.clients[name].sent
            if envelope.header.type == "ShareBundle"
        ]
        assert {entry.recipient for entry in bundle.shares} == near | {name}
    # What a client keeps of the others' keys is its neighbourhood's.
    for name, state, event in simulation.client_tape:
        if isinstance(state, Shared):
            assert set(state.offers) == set(state.hood.of(name))
            assert state.hood.threshold == simulation.federation.thresholds.graph(69).threshold
            assert type(event).__name__ == "Received"


def test_a_delivery_holds_the_neighbours_shares_and_names_all_dealers() -> None:
    simulation = exact_simulation(70, limits=SEVENTY)
    finished = simulation.run_round(1)
    hood = _hood(simulation)
    seen = 0
    for name, state, event in simulation.client_tape:
        if isinstance(state, Shared):
            delivery = body_of(event.envelope, ShareDelivery)  # type: ignore[union-attr]
            assert delivery.dealers == finished.accepted
            assert tuple(entry.dealer for entry in delivery.shares) == hood.of(name)
            seen += 1
    assert seen == 70


def test_the_threshold_of_a_neighbourhood_is_what_rebuilds_a_secret() -> None:
    """With t holders of one client's shares the sum opens, with t - 1 the round is aborted and
    the client named, although a quorum of the whole roster reveals."""
    parameters = exact_simulation(70, limits=SEVENTY).federation.thresholds.graph(70)
    for holders in (parameters.threshold, parameters.threshold - 1):
        simulation = exact_simulation(70, limits=SEVENTY)
        silent: list[str] = []

        def network(
            sender: str,
            recipient: str,
            envelope: Envelope,
            simulation: RecordingSimulation = simulation,
            silent: list[str] = silent,
            holders: int = holders,
        ) -> tuple[Delivery, ...]:
            if envelope.header.type == "CohortProof" and not silent:
                silent += _hood(simulation).of("client-33")[holders:]
            lost = sender in silent and envelope.header.type == "Unmask"
            return () if lost else ((recipient, envelope),)

        simulation.intercept = network
        finished = simulation.run_round(1)
        assert len(silent) == parameters.degree + 1 - holders
        if holders == parameters.threshold:
            _check_sum(simulation, finished)
        else:
            assert finished.outcome == "aborted"
            assert f"fewer than {parameters.threshold} clients hold usable" in finished.reason
            assert "client-33" in finished.reason
