"""The opened sum is the plaintext integer sum, to the last bit (PROTOCOL.md steps 0 to 14)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.lanes import from_lanes
from fedfm_crypto.quantise import Quantiser
from fedfm_protocols.charter import make_charter
from fedfm_protocols.client_states import Idle
from fedfm_protocols.errors import CharterError
from fedfm_protocols.messages import Aggregate
from tests.protocols.federations import charter_fields, make_keys, make_simulation
from tests.protocols.scripted import body_of, exact_simulation, opened_integers, plain_sum

LANES = {32: {"lane_bits": 32, "scale": 65536}, 24: {"lane_bits": 24, "scale": 4096}}


@pytest.mark.parametrize("clients", [3, 5, 20])
@pytest.mark.parametrize("lane_bits", [24, 32])
@pytest.mark.parametrize("suite", ["masked", "clear"])
def test_every_client_is_given_exactly_the_plaintext_sum(
    suite: str, lane_bits: int, clients: int
) -> None:
    simulation = exact_simulation(clients, suite=suite, quantiser=LANES[lane_bits])
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.removed) == ("completed", ())
    assert finished.accepted == simulation.federation.clients
    expected = plain_sum(simulation, finished.accepted, 1)
    for client in simulation.clients.values():
        (total,) = client.totals
        assert np.array_equal(opened_integers(simulation, total), expected)
        assert not client.violations
        assert not client.refused


def test_fractional_updates_sum_to_exactly_what_was_quantised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With stochastic rounding the truth is what each client's quantiser returned."""
    words: list[NDArray[np.uint32]] = []
    quantise = Quantiser.quantise

    def recording(self: Quantiser, values: Any, random: Any) -> NDArray[np.uint32]:
        words.append(quantise(self, values, random).copy())
        return words[-1].copy()

    monkeypatch.setattr(Quantiser, "quantise", recording)
    simulation = make_simulation(5)
    assert simulation.run_round(1).outcome == "completed"
    assert len(words) == 5
    expected = np.sum([from_lanes(word, 32) for word in words], axis=0)
    for client in simulation.clients.values():
        assert np.array_equal(opened_integers(simulation, client.totals[0]), expected)


def test_three_rounds_in_a_row_then_the_charter_is_used_up() -> None:
    simulation = exact_simulation(5)
    for number in (1, 2, 3):
        finished = simulation.run_round(number)
        assert finished.outcome == "completed"
        expected = plain_sum(simulation, finished.accepted, number)
        for client in simulation.clients.values():
            assert np.array_equal(opened_integers(simulation, client.totals[-1]), expected)
            assert client.state.memory.completed == number
    assert simulation.run_round(4).outcome == "aborted"
    reasons = [str(client.violations[-1]) for client in simulation.clients.values()]
    assert all("beyond the charter's 3 rounds" in reason for reason in reasons)


def test_the_round_leaves_everyone_idle_with_the_acknowledged_adapter() -> None:
    simulation = exact_simulation(5)
    finished = simulation.run_round(1)
    for client in simulation.clients.values():
        assert isinstance(client.state, Idle)
        memory = client.state.memory
        assert (memory.adapter_hash, memory.last_applied) == (finished.adapter_hash, 1)
        assert [record.record for record in client.journal] == [
            "opened",
            "voted",
            "unmasked",
            "closed",
        ]


def test_identical_updates_add_up_in_both_suites() -> None:
    """Two sites with nothing to say (all zeros) must not look like a copied upload."""
    for suite in ("masked", "clear"):
        simulation = exact_simulation(5, suite=suite)
        simulation.updates = lambda name, number, step: np.zeros(50)
        assert simulation.run_round(1).outcome == "completed", suite
        for client in simulation.clients.values():
            assert not client.totals[0].any()


# ---------------------------------------------------------------- capacity


def _capacity_fields(clients: int, scale: int) -> dict[str, Any]:
    quantiser = {"values": 50, "clip": 1.0, "scale": scale, "lane_bits": 24}
    return charter_fields(make_keys(clients), quantiser=quantiser)


@pytest.mark.parametrize("clients", [3, 5, 7])
def test_capacity_is_exact_at_the_bound(clients: int) -> None:
    """n (s c + 1) < 2^23: the largest scale that fits carries n clients at the clip bound."""
    largest = (2**23 - 1) // clients - 1
    assert clients * (largest + 1) < 2**23 <= clients * (largest + 2)
    quantiser = {"values": 50, "clip": 1.0, "scale": largest, "lane_bits": 24}
    for bound in (1.0, -1.0):
        simulation = exact_simulation(clients, quantiser=quantiser)
        simulation.updates = lambda name, number, step, bound=bound: np.full(50, bound)  # type: ignore[misc]
        assert simulation.run_round(1).outcome == "completed"
        for client in simulation.clients.values():
            # scale is no power of two here, so compare the words, not scaled floats
            assert np.array_equal(
                np.rint(client.totals[0] * largest).astype(np.int64),
                np.full(50, int(bound) * clients * largest),
            )


@pytest.mark.parametrize("clients", [3, 5, 7])
def test_one_step_beyond_the_bound_is_refused_with_the_charter(clients: int) -> None:
    largest = (2**23 - 1) // clients - 1
    make_charter(_capacity_fields(clients, largest))
    with pytest.raises(CharterError, match="does not fit lanes of 24 bits"):
        make_charter(_capacity_fields(clients, largest + 1))


def test_one_client_more_than_fits_is_refused_with_the_charter() -> None:
    scale = (2**23 - 1) // 7 - 1
    make_charter(_capacity_fields(7, scale))
    with pytest.raises(CharterError, match="8 clients"):
        make_charter(_capacity_fields(8, scale))


# ---------------------------------------------------------------- this site's own update


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (np.full(50, np.nan), "cannot be quantised"),
        (np.full(50, np.inf), "cannot be quantised"),
        (np.zeros(49), "49 values, the charter says 50"),
        (np.zeros((50, 1)), "cannot be quantised"),
    ],
    ids=["nan", "infinite", "short", "two-dimensional"],
)
def test_an_unusable_update_takes_only_its_own_site_out(
    update: NDArray[np.float64], reason: str
) -> None:
    simulation = exact_simulation(5)
    honest = simulation.updates
    simulation.updates = lambda name, number, step: (
        update if name == "client-03" else honest(name, number, step)
    )
    finished = simulation.run_round(1)
    assert (finished.outcome, finished.removed) == ("completed", ("client-03",))
    assert reason in str(simulation.clients["client-03"].violations[0])
    expected = plain_sum(simulation, finished.accepted, 1)
    assert np.array_equal(
        opened_integers(simulation, simulation.clients["client-01"].totals[0]), expected
    )


def test_clipping_is_reported_and_bounds_what_is_summed() -> None:
    simulation = exact_simulation(3)
    simulation.updates = lambda name, number, step: np.full(50, 7.5)
    assert simulation.run_round(1).outcome == "completed"
    for client in simulation.clients.values():
        assert any("50 of 50 values exceed the charter's clip" in note for note in client.notes)
        assert np.array_equal(client.totals[0], np.full(50, 3.0))


def test_the_aggregate_is_salted() -> None:
    """Its hash is signed and logged; without a salt it would confirm a guess at the sum."""
    simulation = exact_simulation(3)
    simulation.run_round(1)
    bodies = []
    for _, _, event in simulation.client_tape:
        envelope = getattr(event, "envelope", None)
        if envelope is not None and envelope.header.type == "Aggregate":
            bodies.append(body_of(envelope, Aggregate))
    assert len({body.salt for body in bodies}) == 1
    assert len(bodies[0].salt) == 32
    assert any(bodies[0].salt)
