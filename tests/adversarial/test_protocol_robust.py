"""Robust rounds: bytes that are no message, to everybody who takes one; and a round in which one
party's messages are rubbish ends cleanly for the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_protocols import robust_messages
from fedfm_protocols.client import client_step
from fedfm_protocols.client_states import ClientState
from fedfm_protocols.coordinator import coordinator_step
from fedfm_protocols.coordinator_states import CoordinatorState
from fedfm_protocols.effects import Received
from fedfm_protocols.errors import MalformedMessage, ProtocolError
from fedfm_protocols.validator import validator_step
from fedfm_protocols.validator_states import ValidatorState
from tests.adversarial.test_protocol_malformed import DAMAGE
from tests.protocols.robust_federations import robust_simulation, validator_of
from tests.protocols.scripted import (
    START,
    RecordingSimulation,
    all_idle_at,
    forge,
    forging,
    key_of,
)

MALLORY = "client-02"
BY_CLIENT = ("BeaconNonce", "Sketch", "SumSketch")
TO_CLIENTS = ("SketchKey", "BeaconNonces", "Verdict", "BindingResult")
TO_VALIDATOR = ("ScoreRequest", "BindingRequest")
TO_COORDINATOR = (*BY_CLIENT, "Verdict", "BindingResult")
BODIES: tuple[type[object], ...] = tuple(
    getattr(robust_messages, name)
    for name in (*BY_CLIENT, *TO_CLIENTS, *TO_VALIDATOR, "SketchEvaluationKeys")
)
Take = Callable[[Envelope], object]


@cache
def _recorded() -> RecordingSimulation:
    simulation = robust_simulation(outliers={"client-03": 1.0})
    assert simulation.run_round(1).outcome == "completed"
    return simulation


def _coordinator(state: CoordinatorState) -> Take:
    return lambda e: coordinator_step(_recorded().coordinator, state, Received(e))


def _client(name: str, state: ClientState) -> Take:
    return lambda e: client_step(_recorded().clients[name].context, state, Received(e))


def _validator(state: ValidatorState) -> Take:
    return lambda e: validator_step(validator_of(_recorded()).context, state, Received(e))


def _takers(kind: str) -> list[tuple[Envelope, Take]]:
    """Every recorded message of this type, with the transition that took it."""
    recorded = _recorded()
    found: list[tuple[object, Take]] = [
        *((event, _coordinator(state)) for state, event in recorded.coordinator_tape),
        *((event, _client(name, state)) for name, state, event in recorded.client_tape),
        *((event, _validator(state)) for state, event in recorded.validator_tape),
    ]
    return [
        (event.envelope, take)
        for event, take in found
        if isinstance(event, Received) and event.envelope.header.type == kind
    ]


KINDS = sorted({*TO_CLIENTS, *TO_VALIDATOR, *TO_COORDINATOR})


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_body_is_refused_by_whoever_takes_it(kind: str, damage: str) -> None:
    takers = _takers(kind)
    assert takers
    for envelope, take in takers[:8]:
        assert take(envelope)
        key = key_of(_recorded(), envelope.header.sender)
        with pytest.raises(MalformedMessage):
            take(forge(key, envelope, DAMAGE[damage](envelope.body)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_under_another_types_name_is_refused(kind: str) -> None:
    envelope, take = _takers(kind)[0]
    key = key_of(_recorded(), envelope.header.sender)
    for other in (*KINDS, "Hello", "Cohort", ""):
        if other != kind:
            with pytest.raises(ProtocolError):
                take(forge(key, envelope, type=other))


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_signed_by_somebody_else_is_refused(kind: str) -> None:
    for envelope, take in _takers(kind)[:4]:
        stranger = "client-04" if envelope.header.sender != "client-04" else "client-05"
        key = key_of(_recorded(), stranger)
        with pytest.raises(ProtocolError):
            take(forge(key, envelope))
        if kind not in BY_CLIENT:  # another client may say such a thing for itself
            with pytest.raises(ProtocolError):
                take(forge(key, envelope, sender=stranger))


@pytest.mark.parametrize("kind", BY_CLIENT)
def test_the_others_finish_without_a_client_that_sends_rubbish(kind: str) -> None:
    simulation = robust_simulation()
    forging(simulation, MALLORY, kind, lambda body: encode(body)[:-1])
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert any(MALLORY in str(error) for error in simulation.refused)
    honest = [name for name in simulation.clients if name != MALLORY]
    assert all_idle_at(simulation, finished.adapter_hash, honest)


@pytest.mark.parametrize(("kind", "outcome"), [("Verdict", "aborted"), ("BindingResult", "void")])
def test_rubbish_from_the_validator_ends_the_round(kind: str, outcome: str) -> None:
    simulation = robust_simulation()
    forging(simulation, "validator", kind, lambda body: encode(body)[:-1])
    assert simulation.run_round(1).outcome == outcome
    assert all_idle_at(simulation, START)


@settings(max_examples=150, deadline=None)
@given(body=st.sampled_from(BODIES), data=st.binary(max_size=400))
def test_random_bytes_decode_canonically_or_not_at_all(body: type[object], data: bytes) -> None:
    try:
        value = decode(body, data)
    except CodecError:
        return
    assert encode(value) == data
