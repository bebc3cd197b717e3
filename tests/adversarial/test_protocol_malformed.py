"""Bytes that are no message: every type, broken in every way, signed by the one who may send it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_protocols import messages
from fedfm_protocols.client import client_step
from fedfm_protocols.client_states import ClientState
from fedfm_protocols.coordinator import coordinator_step
from fedfm_protocols.coordinator_states import CoordinatorState
from fedfm_protocols.effects import Received
from fedfm_protocols.errors import MalformedMessage, ProtocolError
from tests.protocols.scripted import (
    CLIENT_MESSAGES,
    COORDINATOR_MESSAGES,
    START,
    RecordingSimulation,
    all_idle_at,
    exact_simulation,
    forge,
    forging,
    key_of,
)

MALLORY = "client-02"
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda body: b"",
    "truncated": lambda body: body[:-1],
    "halved": lambda body: body[: len(body) // 2],
    "trailing byte": lambda body: body + b"\x00",
    "doubled": lambda body: body * 2,
    "all ones": lambda body: b"\xff" * max(len(body), 40),  # counts and lengths of 2^32 - 1
}


@cache
def _recorded() -> RecordingSimulation:
    simulation = exact_simulation(5)
    assert simulation.run_round(1).outcome == "completed"
    return simulation


def _step_that_takes(kind: str) -> tuple[Envelope, Callable[[Envelope], object]]:
    """One recorded message of this type, and the transition that took it."""
    recorded = _recorded()
    for phase, event in recorded.coordinator_tape:
        if isinstance(event, Received) and event.envelope.header.type == kind:
            return event.envelope, partial(_coordinator_takes, phase)
    for name, state, event in recorded.client_tape:
        if isinstance(event, Received) and event.envelope.header.type == kind:
            return event.envelope, partial(_client_takes, name, state)
    raise LookupError(kind)


def _coordinator_takes(phase: CoordinatorState, envelope: Envelope) -> object:
    return coordinator_step(_recorded().coordinator, phase, Received(envelope))


def _client_takes(name: str, state: ClientState, envelope: Envelope) -> object:
    return client_step(_recorded().clients[name].context, state, Received(envelope))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", CLIENT_MESSAGES + COORDINATOR_MESSAGES)
def test_a_malformed_body_is_refused_and_the_state_kept(kind: str, damage: str) -> None:
    envelope, take = _step_that_takes(kind)
    assert take(envelope)
    key = key_of(_recorded(), envelope.header.sender)
    forged = forge(key, envelope, DAMAGE[damage](envelope.body))
    with pytest.raises(MalformedMessage, match=f"(?i){kind} (from|of) {envelope.header.sender}"):
        take(forged)


@pytest.mark.parametrize("kind", CLIENT_MESSAGES)
def test_the_others_finish_without_a_client_that_sends_rubbish(kind: str) -> None:
    simulation = exact_simulation(5)
    forger = forging(simulation, MALLORY, kind, lambda body: encode(body)[:-1])
    finished = simulation.run_round(1)
    assert finished.outcome == "completed"
    assert forger.done == 1
    (error,) = [error for error in simulation.refused if isinstance(error, MalformedMessage)]
    assert MALLORY in str(error)
    honest = [name for name in simulation.clients if name != MALLORY]
    assert all_idle_at(simulation, finished.adapter_hash, honest)


@pytest.mark.parametrize("kind", COORDINATOR_MESSAGES)
def test_a_client_that_is_sent_rubbish_drops_it(kind: str) -> None:
    simulation = exact_simulation(5)
    forging(simulation, "coordinator", kind, lambda body: encode(body)[:-1], to=(MALLORY,))
    finished = simulation.run_round(1)
    client = simulation.clients[MALLORY]
    assert [e for e in client.refused if isinstance(e, MalformedMessage) and kind in str(e)]
    assert client.state.memory.adapter_hash == START
    honest = [name for name in simulation.clients if name != MALLORY]
    assert all_idle_at(simulation, finished.adapter_hash, honest)


@pytest.mark.parametrize("kind", CLIENT_MESSAGES + COORDINATOR_MESSAGES)
def test_a_body_under_another_types_name_is_refused(kind: str) -> None:
    envelope, take = _step_that_takes(kind)
    key = key_of(_recorded(), envelope.header.sender)
    for other in (*CLIENT_MESSAGES, *COORDINATOR_MESSAGES, "Hello", "", "ShareContents"):
        if other != kind:
            with pytest.raises(ProtocolError):
                take(forge(key, envelope, type=other))
    with pytest.raises(MalformedMessage, match=f"found {kind}"):
        messages.read_body(envelope, messages.Hello)


BODIES: tuple[type[object], ...] = (
    *(getattr(messages, name) for name in CLIENT_MESSAGES + COORDINATOR_MESSAGES),
    messages.CheckpointOffer,
    messages.Cosignature,
    messages.Hello,
    messages.CatchUp,
    messages.ShareContents,
)


@settings(max_examples=150, deadline=None)
@given(body=st.sampled_from(BODIES), data=st.binary(max_size=400))
def test_random_bytes_decode_canonically_or_not_at_all(body: type[object], data: bytes) -> None:
    try:
        value = decode(body, data)
    except CodecError:
        return
    assert encode(value) == data


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_no_envelope(data: bytes) -> None:
    with pytest.raises(CodecError):
        Envelope.decode(data)


def test_announced_sizes_are_refused_before_anything_is_allocated() -> None:
    """A length of 2^32 - 1 in a body of a few bytes costs nothing."""
    huge = (2**32 - 1).to_bytes(4, "big")
    lists: tuple[type[object], ...] = (
        messages.KeyRoster,
        messages.UploadSet,
        messages.CohortProof,
        messages.Upload,
    )
    for body in lists:
        with pytest.raises(CodecError, match="expected at most"):
            decode(body, huge)
    many = (4096).to_bytes(4, "big")
    for body in lists[:3]:
        with pytest.raises(CodecError, match="truncated"):
            decode(body, many)
