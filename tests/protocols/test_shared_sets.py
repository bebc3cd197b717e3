"""Sharing verified sets inside a simulation: the same answers as the real check, and its cost."""

from __future__ import annotations

from typing import Any

import pytest

from fedfm_crypto.envelope import Envelope
from fedfm_protocols import shared_sets
from fedfm_protocols.checks import open_signed_set
from fedfm_protocols.client_states import Committed
from fedfm_protocols.effects import Received
from fedfm_protocols.errors import MalformedMessage, UnknownSender, WrongContext
from fedfm_protocols.messages import UploadHash, UploadSet
from fedfm_protocols.shared_sets import SharedSets
from tests.protocols.scripted import body_of, exact_simulation


def _set() -> tuple[tuple[bytes, ...], dict[str, Any]]:
    simulation = exact_simulation(5)
    simulation.run_round(1)
    for _, state, event in simulation.client_tape:
        if isinstance(state, Committed) and isinstance(event, Received):
            arguments = {
                "federation": simulation.federation,
                "allowed": frozenset(state.dealers),
                "context": state.session.context,
                "step": 0,
            }
            return body_of(event.envelope, UploadSet).hashes, arguments
    raise LookupError("no UploadSet")


def test_it_opens_what_the_real_check_opens_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, arguments = _set()
    calls = []

    def counted(*positional: Any, **named: Any) -> Any:
        calls.append(positional)
        return open_signed_set(*positional, **named)

    monkeypatch.setattr(shared_sets, "open_signed_set", counted)
    shared = SharedSets()
    expected = open_signed_set(encoded, UploadHash, **arguments)
    assert shared(encoded, UploadHash, **arguments) == expected
    assert shared.take_spared() == 0
    first = shared(encoded, UploadHash, **arguments)
    assert first == expected
    assert len(calls) == 1
    assert shared.take_spared() > 0
    assert shared.take_spared() == 0
    first.clear()  # nobody can change what the others are given
    assert shared(list(encoded), UploadHash, **arguments) == expected


def test_what_differs_is_verified_again() -> None:
    encoded, arguments = _set()
    shared = SharedSets()
    shared(encoded, UploadHash, **arguments)
    with pytest.raises(WrongContext):
        shared(encoded, UploadHash, **{**arguments, "context": bytes(32)})
    with pytest.raises(WrongContext):
        shared(encoded, UploadHash, **{**arguments, "step": 1})
    with pytest.raises(UnknownSender, match="may not be"):
        shared(encoded, UploadHash, **{**arguments, "allowed": frozenset(("client-01",))})
    with pytest.raises(MalformedMessage):
        shared(encoded, UploadSet, **arguments)
    with pytest.raises(MalformedMessage):
        shared(encoded[::-1], UploadHash, **arguments)


def test_a_refusal_is_found_again_by_everyone() -> None:
    encoded, arguments = _set()
    last = Envelope.decode(encoded[-1])
    forged = Envelope(last.header, bytes(64), last.body).encode()
    shared = SharedSets()
    for _ in range(2):
        with pytest.raises(UnknownSender, match="not signed by the key"):
            shared((*encoded[:-1], forged), UploadHash, **arguments)
    assert shared.take_spared() == 0


def test_every_client_is_charged_what_it_was_spared() -> None:
    simulation = exact_simulation(70, limits={"colluding": 5, "dropouts": 5})
    simulation.run_round(1)
    spared = sorted(client.spared_s for client in simulation.clients.values())
    assert spared[0] < spared[1]  # somebody was the first
    assert sum(s > 0 for s in spared) >= 69
