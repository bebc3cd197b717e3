"""What protocol tests do to a simulated federation: record it, drop from it, forge in it.

An :data:`~fedfm_protocols.simulation.Intercept` is all that a network or a malicious party can do;
the functions here build the common ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.labels import Label
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols import messages
from fedfm_protocols.catchup import verify_catch_up
from fedfm_protocols.client_states import ClientState, Idle
from fedfm_protocols.context import KEYS
from fedfm_protocols.coordinator_round import CompletedRound
from fedfm_protocols.coordinator_states import CoordinatorState, Finished
from fedfm_protocols.effects import Event, Send
from fedfm_protocols.errors import ProtocolError, RoundViolation
from fedfm_protocols.messages import CatchUp, CatchUpRound
from fedfm_protocols.scenario.charters import session_of
from fedfm_protocols.scenario.suites import encryption_for
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import (
    Delivery,
    Intercept,
    SimulatedClient,
    Simulation,
    deliver,
    next_adapter,
)
from fedfm_protocols.validator_states import ValidatorState
from tests.protocols.federations import make_federation, make_keys

CLIENT_MESSAGES = (
    "KeyOffer",
    "ShareBundle",
    "UploadHash",
    "Upload",
    "CohortVote",
    "Unmask",
    "RoundAck",
)
COORDINATOR_MESSAGES = (
    "RoundOpen",
    "KeyRoster",
    "ShareDelivery",
    "UploadSet",
    "Cohort",
    "CohortProof",
    "Aggregate",
    "RoundClose",
)
# On a sparse graph the nonces that draw it come between keys and shares.
SPARSE_CLIENT_MESSAGES = ("KeyOffer", "GraphNonce", *CLIENT_MESSAGES[1:])
SPARSE_COORDINATOR_MESSAGES = ("RoundOpen", "KeyRoster", "GraphNonces", *COORDINATOR_MESSAGES[2:])
START = bytes.fromhex("11" * 32)  # the initial adapter of a test charter


class RecordingSimulation(Simulation):
    """A simulation that keeps every state and event, for looking at afterwards."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.client_tape: list[tuple[str, ClientState, Event]] = []
        self.coordinator_tape: list[tuple[CoordinatorState, Event]] = []
        self.validator_tape: list[tuple[ValidatorState, Event]] = []
        self.records: list[CompletedRound] = []
        self.coordinator_sent: list[Envelope] = []

    def _send(self, sender: str, send: Send) -> None:
        if (
            sender == self.federation.coordinator
            and send.envelope not in self.coordinator_sent[-1:]
        ):
            self.coordinator_sent.append(send.envelope)
        super()._send(sender, send)

    def tell_client(self, name: str, event: Event) -> None:
        self.client_tape.append((name, self.clients[name].state, event))
        super().tell_client(name, event)

    def tell_validator(self, event: Event) -> None:
        assert self.validator is not None
        self.validator_tape.append((self.validator.state, event))
        super().tell_validator(event)

    def _tell_coordinator(self, event: Event) -> None:
        assert self.state is not None
        self.coordinator_tape.append((self.state, event))
        super()._tell_coordinator(event)

    def run_round(self, number: int, **changes: Any) -> Finished:
        """Run a round and keep what others need to catch up with it."""
        finished = super().run_round(number, **changes)
        if finished.record is not None:
            self.records.append(finished.record)
        return finished

    def catch_up(self, name: str) -> None:
        """Restart a client and let it repeat the completed rounds that it missed."""
        self.restart_client(name)
        client = self.clients[name]
        memory = client.state.memory
        missing = [
            catch_up_round(record)
            for record in self.records
            if messages.read_body(Envelope.decode(record.opened), messages.RoundOpen).round
            > memory.last_applied
        ]
        for missed in verify_catch_up(
            self.federation,
            CatchUp(tuple(missing)),
            last_applied=memory.last_applied,
            adapter_hash=memory.adapter_hash,
            keys=memory.keys,
            encryption=client.context.encryption,
        ):
            computed = memory.adapter_hash
            for step in missed.sums:
                computed = next_adapter(computed, step.total)
            assert computed == missed.adapter_after
            memory = replace(
                memory,
                last_opened=max(memory.last_opened, missed.round),
                last_applied=missed.round,
                completed=memory.completed + 1,
                adapter_hash=computed,
            )
            client.state = Idle(memory)


def catch_up_round(record: CompletedRound) -> CatchUpRound:
    """What a client is given of a completed round that it missed."""
    return CatchUpRound(
        record.opened, record.roster_hash, record.key_hash, record.aggregates, record.acks
    )


def integer_update(
    name: str,
    number: int,
    step: int = 0,
    *,
    values: int = 50,
    scale: int = 65536,
    clip: float = 1.0,
) -> NDArray[np.int64]:
    """What a client contributes to a step, as the integers that quantising must give."""
    later = (step,) if step else ()
    seed = np.random.SeedSequence([number, *later, *name.encode()])
    bound = int(scale * clip)
    return np.random.default_rng(seed).integers(-bound, bound, values, endpoint=True)


def exact_simulation(
    clients: int = 5,
    *,
    intercept: Intercept = deliver,
    seed: int = 1,
    quantiser: dict[str, Any] | None = None,
    session: int = 1,
    **changes: Any,
) -> RecordingSimulation:
    """A simulation whose updates are multiples of the quantisation step, so that the plaintext
    integer sum is known (:func:`plain_sum`); its rounds are sessions of ``session`` steps."""
    keys = make_keys(clients, seed)
    section = {"values": 50, "clip": 1.0, "scale": 65536, "lane_bits": 32, **(quantiser or {})}
    federation = make_federation(keys, quantiser=section, **changes)
    if session > 1:
        federation = session_of(federation, session)

    def update(name: str, number: int, step: int) -> NDArray[np.floating]:
        scale = np.float64(federation.charter.quantiser.scale)
        return integers_of(federation.charter.quantiser, name, number, step) / scale

    return RecordingSimulation(
        federation,
        keys.clients,
        keys.coordinator,
        SeededRandom(b"exact" + seed.to_bytes(4, "big")),
        update,
        intercept,
        shared_sets=SharedSets() if federation.sparse else None,
        encryption=encryption_for(federation.charter.suite),
    )


def keyed_simulation(
    clients: int = 5, *, suite: str = "layered", **changes: Any
) -> RecordingSimulation:
    """As :func:`exact_simulation` in a suite that encrypts, with the first key made in round 1."""
    pytest.importorskip("tenseal", reason="encryption needs TenSEAL (extra: federation)")
    network = changes.pop("intercept", deliver)
    simulation = exact_simulation(clients, suite=suite, **changes)
    assert simulation.run_round(1, kind=KEYS).key is not None
    simulation.intercept = network
    return simulation


def integers_of(section: Any, name: str, number: int, step: int = 0) -> NDArray[np.int64]:
    """:func:`integer_update` for a charter's quantiser section."""
    return integer_update(
        name, number, step, values=section.values, scale=section.scale, clip=section.clip
    )


def plain_sum(
    simulation: Simulation, names: Sequence[str], number: int, step: int = 0
) -> NDArray[np.int64]:
    """The plaintext integer sum of these clients' updates of one step."""
    section = simulation.federation.charter.quantiser
    total = np.zeros(section.values, np.int64)
    for name in names:
        total += integers_of(section, name, number, step)
    return total


def opened_integers(simulation: Simulation, total: NDArray[np.float64]) -> NDArray[np.int64]:
    """The integers behind a sum that a client was given to apply; fails if it holds fractions."""
    scaled = total * simulation.federation.charter.quantiser.scale
    integers = np.rint(scaled).astype(np.int64)
    assert np.array_equal(integers, scaled)
    return integers


# ---------------------------------------------------------------- dropping


@dataclass
class Crash:
    """An intercept: each client of ``before`` (name -> message type) dies when it would send its
    first message of that type; nothing reaches it or leaves it afterwards."""

    before: dict[str, str]
    dead: set[str] = field(default_factory=set)

    def __call__(self, sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if self.before.get(sender) == envelope.header.type:
            self.dead.add(sender)
        if self.dead & {sender, recipient}:
            return ()
        return ((recipient, envelope),)


# ---------------------------------------------------------------- forging


B = TypeVar("B")


def forge(
    key: IdentityKey, envelope: Envelope, body: object | None = None, **header: Any
) -> Envelope:
    """``envelope`` with another body (a dataclass or raw bytes) or other header fields, properly
    signed by ``key``."""
    if body is None:
        body = envelope.body
    data = body if isinstance(body, bytes) else encode(body)
    changed = replace(envelope.header, **{"body_hash": hashlib.sha256(data).digest(), **header})
    return Envelope(changed, key.sign(Label.ENVELOPE, encode(changed)), data)


def body_of(envelope: Envelope, expected: type[B]) -> B:
    """The body of an envelope, not verified."""
    return decode(expected, envelope.body)


Change = Callable[[Any], object]


@dataclass
class Forger:
    """An intercept that rewrites one party's messages of one type and signs them with its key.

    ``change`` gets the decoded body and returns the new one (or raw bytes); ``to`` restricts it to
    some recipients; ``header`` replaces header fields.  ``done`` counts the forgeries.
    """

    simulation: Simulation | None
    sender: str
    type: str
    change: Change = lambda body: body
    to: tuple[str, ...] | None = None
    header: dict[str, Any] = field(default_factory=dict)
    done: int = 0

    def __call__(self, sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if (
            sender != self.sender
            or envelope.header.type != self.type
            or (self.to is not None and recipient not in self.to)
        ):
            return ((recipient, envelope),)
        assert self.simulation is not None
        self.done += 1
        body = self.change(body_of(envelope, getattr(messages, self.type)))
        forged = forge(key_of(self.simulation, sender), envelope, body, **self.header)
        return ((recipient, forged),)


def key_of(simulation: Simulation, name: str) -> IdentityKey:
    """The identity key of any party of a simulation."""
    if name == simulation.federation.coordinator:
        return simulation.coordinator.site.key
    if simulation.validator is not None and name == simulation.federation.validator:
        return simulation.validator.context.site.key
    return simulation.clients[name].context.site.key


def forging(
    simulation: RecordingSimulation, sender: str, type: str, change: Change, **rest: Any
) -> Forger:
    """Install a :class:`Forger` as the simulation's network."""
    forger = Forger(simulation, sender, type, change, **rest)
    simulation.intercept = forger
    return forger


def sent_types(simulation: Simulation) -> dict[str, list[str]]:
    """Types of the messages that each client has sent, in order."""
    return {
        name: [envelope.header.type for envelope in client.sent]
        for name, client in simulation.clients.items()
    }


def revealed(simulation: Simulation) -> int:
    """How many clients have sent shares for unmasking."""
    return sum(types.count("Unmask") for types in sent_types(simulation).values())


def all_idle_at(simulation: Simulation, adapter_hash: bytes, names: Sequence[str] = ()) -> bool:
    """Whether these clients (default: all) are in no round and hold this adapter."""
    states = [simulation.clients[name].state for name in names or simulation.clients]
    return all(
        isinstance(state, Idle) and state.memory.adapter_hash == adapter_hash for state in states
    )


def first_problem(client: SimulatedClient, kind: type[ProtocolError]) -> ProtocolError:
    """The first violation or the first refused message, whichever ``kind`` is one of."""
    return (client.violations if issubclass(kind, RoundViolation) else client.refused)[0]
