"""The coordinator's link to the validator: its key goes to all clients, what it missed to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedfm_crypto.envelope import CheckpointSeen, Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.coordinator_states import CoordinatorContext, CoordinatorSite
from fedfm_protocols.effects import ComputeScores, ScoresComputed, Send
from fedfm_protocols.errors import UnknownSender
from fedfm_protocols.messages import CheckpointOffer
from fedfm_protocols.scenario.federations import (
    VALIDATOR,
    make_federation,
    make_keys,
    robust_fields,
)
from fedfm_protocols.scenario.open_sketches import OpenSketches
from fedfm_protocols.validator import announcements, renew_key
from fedfm_protocols.validator_states import (
    Ready,
    ValidatorContext,
    ValidatorMemory,
    ValidatorSite,
    ValidatorState,
)
from secure_fedfm.services.outbox import Outbox
from secure_fedfm.services.validator_link import ValidatorLink

CLIENTS = ("client-01", "client-02")


class _Wire:
    """A transport that notes what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    async def plan(self, data: bytes) -> Any:
        return SimpleNamespace(payload=data)

    async def send(self, name: str, message: Any) -> None:
        self.sent.append((name, Envelope.decode(message.payload).header.type))


class _Link(ValidatorLink):
    def _deliver(self, event: ScoresComputed) -> None:
        self.computed = event


class Bench:
    """A coordinator's link with two clients ready, and a validator."""

    def __init__(self) -> None:
        keys, random = make_keys(5), SeededRandom(b"link")
        federation = make_federation(keys, **robust_fields(keys))
        sketching = OpenSketches.of(federation, random)
        self.validator = ValidatorContext(
            ValidatorSite(VALIDATOR, keys.validator, federation), random, sketching
        )
        self.state: ValidatorState = Ready(ValidatorMemory())
        offer = CheckpointOffer(b"note", (), 0, b"leaf", ())
        evidence = SimpleNamespace(
            history=SimpleNamespace(concluded=False),
            checkpoint=CheckpointSeen(0, bytes(32)),
            offer=lambda size: offer,
        )
        context = CoordinatorContext(
            CoordinatorSite(keys.coordinator, federation), random, None, sketching
        )
        self.wire = _Wire()
        self.link = _Link(context, cast(Any, evidence), cast(Any, self.wire), None)
        self.link._peers.ready |= set(CLIENTS)

    def renew(self) -> None:
        """The validator makes its next key."""
        self.state = renew_key(self.validator, self.state).state

    def announce(self, sends: Iterable[Send] | None = None) -> list[tuple[str, str]]:
        """What the coordinator sends when the validator announces (its newest key)."""
        self.wire.sent.clear()
        for send in sends or announcements(self.validator, self.state.memory):
            asyncio.run(self.link._take_sketch_keys(send.envelope))
        return list(self.wire.sent)


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.renew()
    return made


def test_a_new_key_goes_to_every_client_once(bench: Bench) -> None:
    assert not bench.link._validator_ready
    assert bench.announce() == [(name, "SketchKey") for name in CLIENTS]
    assert bench.link._validator_ready
    assert bench.link._judges == {VALIDATOR}
    assert bench.announce() == []
    bench.renew()
    assert bench.announce() == [(name, "SketchKey") for name in CLIENTS]
    assert bench.link._sketch is not None
    assert bench.link._sketch.key.epoch == 2


def test_a_validator_that_is_back_gets_what_it_missed(bench: Bench) -> None:
    bench.announce()
    link = bench.link
    missed = announcements(bench.validator, bench.state.memory)[0].envelope  # any signed message
    link._peers.outbox[VALIDATOR] = Outbox()
    link._peers.outbox[VALIDATOR].add(missed)
    link._validator_left()
    assert not link._validator_ready
    assert bench.announce() == [(VALIDATOR, "SketchKey")]
    assert link._validator_ready
    # And when all is over, the log's conclusion.
    cast(Any, link._evidence).history.concluded = True
    assert bench.announce() == [(VALIDATOR, "CheckpointOffer")]


def test_a_second_key_of_an_epoch_is_not_taken(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.announce()
    other = renew_key(bench.validator, Ready(ValidatorMemory())).state
    assert bench.announce(announcements(bench.validator, other.memory)) == []
    assert "signed two sketch keys of epoch 1" in caplog.text
    assert bench.link._sketch is not None
    assert bench.link._sketch.key.key_hash == bench.state.memory.keys[-1].key_hash


def test_keys_from_somebody_else_are_refused(bench: Bench) -> None:
    offered = bench.link._seal(CheckpointOffer(b"", (), 0, b"", ()))
    with pytest.raises(UnknownSender, match="from coordinator"):
        asyncio.run(bench.link._take_sketch_keys(offered))


def test_scores_that_fail_reach_the_round_with_a_reason(bench: Bench) -> None:
    class Failing:
        async def compute(self, effect: ComputeScores) -> ScoresComputed:
            raise CryptoError("out of memory")

    async def run() -> None:
        bench.link._workers = cast(Any, Failing())
        bench.link._begin_scores(ComputeScores(3, 0, (), b"", b""))
        await asyncio.gather(*bench.link._computing)

    asyncio.run(run())
    assert bench.link.computed == ScoresComputed(3, 0, b"", "out of memory")
