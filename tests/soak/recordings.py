"""Honest rounds with every state and message kept: what hostile messages are made from.

The recordings: five masked clients over three rounds, one with a dropout; the same in suite
``clear``, and in sessions of three steps, in one of which a client is left out; another federation
with other keys (messages that must not be taken here); one round of twelve clients on a sparse
graph.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.codec import decode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret
from fedfm_protocols import messages, thresholds
from fedfm_protocols.client_states import ClientState, Idle
from fedfm_protocols.context import KEYS, TRAIN, RoundIdentity, context1
from fedfm_protocols.coordinator_states import CoordinatorState, Finished
from fedfm_protocols.effects import Event, Received
from fedfm_protocols.federation import Federation
from fedfm_protocols.robust_messages import Sketch
from fedfm_protocols.simulation import Delivery, Intercept, deliver
from fedfm_protocols.validator_states import Deliberating, Ready, ValidatorState
from tests.protocols.robust_federations import robust_simulation
from tests.protocols.scripted import Crash, RecordingSimulation, exact_simulation, forge

SPARSE_CLIENTS = 12
SETS = {
    "KeyRoster": ("offers", "KeyOffer"),
    "GraphNonces": ("nonces", "GraphNonce"),
    "UploadSet": ("hashes", "UploadHash"),
    "CohortProof": ("votes", "CohortVote"),
    "RoundClose": ("acks", "RoundAck"),
    "KeyRequest": ("wraps", "WrappedKey"),
    "Aggregate": ("openings", "KeyOpening"),
    "BeaconNonces": ("nonces", "BeaconNonce"),
    "BindingRequest": ("reports", "SumSketch"),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One state of one party, and the message that it took there in the honest run, if any."""

    party: str
    state: Any
    envelope: Envelope | None
    fingerprint: bytes = field(repr=False)


@dataclass
class Recording:
    """A run with the keys of all its parties."""

    simulation: RecordingSimulation
    finished: list[Finished] = field(default_factory=list)
    moments: dict[str, list[Moment]] = field(default_factory=dict)
    envelopes: dict[str, list[Envelope]] = field(default_factory=dict)

    @property
    def federation(self) -> Federation:
        return self.simulation.federation

    def key(self, name: str) -> IdentityKey:
        """A party's identity key; the coordinator's for a name that nobody has."""
        if name == self.federation.validator and self.simulation.validator is not None:
            return self.simulation.validator.context.site.key
        client = self.simulation.clients.get(name)
        context = self.simulation.coordinator if client is None else client.context
        return context.site.key

    def bodies(self, kind: str) -> list[Any]:
        """Decoded bodies of every recorded message of one type."""
        return [body_of(envelope) for envelope in self.envelopes.get(kind, ())]

    @property
    def all_envelopes(self) -> list[Envelope]:
        return [envelope for kind in sorted(self.envelopes) for envelope in self.envelopes[kind]]


def body_of(envelope: Envelope) -> Any:
    """The body of an honest envelope."""
    return decode(getattr(messages, envelope.header.type), envelope.body)


def record(simulation: RecordingSimulation) -> Recording:
    """Sort the tapes of a simulation that has run."""
    moments_of_a_kind = 40 * simulation.federation.steps_of(TRAIN)
    recording = Recording(simulation)
    tape: list[tuple[str, ClientState | CoordinatorState | ValidatorState, Event]] = [
        *simulation.client_tape,
        *(("coordinator", state, event) for state, event in simulation.coordinator_tape),
        *(("validator", state, event) for state, event in simulation.validator_tape),
    ]
    seen: set[bytes] = set()
    for party, state, event in tape:
        envelope = event.envelope if isinstance(event, Received) else None
        if envelope is not None and envelope.signature not in seen:
            seen.add(envelope.signature)
            recording.envelopes.setdefault(envelope.header.type, []).append(envelope)
        kind = type(state).__name__
        found = recording.moments.setdefault(kind, [])
        if len(found) < moments_of_a_kind and not isinstance(state, Finished):
            found.append(Moment(party, state, envelope, fingerprint(state)))
    return recording


@cache
def masked() -> Recording:
    """Five clients, three rounds; one dies before its upload in the second."""
    return _three_rounds(exact_simulation(5, quantiser={"values": 12}, rounds=50))


@cache
def clear() -> Recording:
    """The same in suite ``clear``."""
    return _three_rounds(exact_simulation(5, quantiser={"values": 12}, rounds=50, suite="clear"))


@cache
def sessions() -> Recording:
    """Five clients, three sessions of three steps; in the second an upload of step 1 is lost."""
    return _three_rounds(exact_simulation(5, quantiser={"values": 12}, rounds=50, session=3))


@cache
def layered() -> Recording:
    """The same in suite ``layered``; a round that makes the key comes first."""
    simulation = exact_simulation(5, quantiser={"values": 12}, rounds=50, suite="layered")
    assert simulation.run_round(1, kind=KEYS).key is not None
    return _three_rounds(simulation, first=2)


@cache
def robust() -> Recording:
    """Five clients and a validator, four rounds: one client stands out, lies about its sketch in
    the second, dies before it in the third."""
    simulation = robust_simulation(outliers={"client-03": 1.0}, rounds=50)
    rounds = [simulation.run_round(1)]
    simulation.intercept = _another_sketch(simulation)
    rounds.append(simulation.run_round(2))
    simulation.intercept = Crash({"client-03": "Sketch"})
    rounds.append(simulation.run_round(3))
    simulation.catch_up("client-03")
    simulation.intercept = deliver
    rounds.append(simulation.run_round(4))
    assert [one.outcome for one in rounds] == ["completed", "void", "completed", "completed"]
    recording = record(simulation)
    recording.finished = rounds
    return recording


def _another_sketch(simulation: RecordingSimulation) -> Intercept:
    def lie(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        if (sender, envelope.header.type) != ("client-03", "Sketch"):
            return ((recipient, envelope),)
        data = messages.read_body(envelope, Sketch).ciphertext
        halved = np.frombuffer(data[16:], "<i8") // 2
        false = Sketch(data[:16] + halved.astype("<i8").tobytes())
        key = simulation.clients["client-03"].context.site.key
        return ((recipient, forge(key, envelope, false)),)

    return lie


@cache
def stranger() -> Recording:
    """Another federation with the same names and other keys."""
    return _three_rounds(exact_simulation(5, seed=2, quantiser={"values": 12}, rounds=50))


@cache
def sparse() -> Recording:
    """One round on a sparse graph; look at it under :func:`small_graphs` only."""
    with small_graphs():
        simulation = exact_simulation(SPARSE_CLIENTS, quantiser={"values": 12})
        assert simulation.federation.sparse
        assert simulation.run_round(1).outcome == "completed"
        return record(simulation)


@contextmanager
def small_graphs() -> Iterator[None]:
    """Sparse graphs from nine clients on: at the real bound of 64 a case takes a second."""
    before = thresholds.MAX_COMPLETE_GRAPH
    thresholds.MAX_COMPLETE_GRAPH = 8
    try:
        yield
    finally:
        thresholds.MAX_COMPLETE_GRAPH = before


def _three_rounds(simulation: RecordingSimulation, first: int = 1) -> Recording:
    rounds = []
    second = first + 1
    for number in (first, second, first + 2):
        simulation.intercept = _network(simulation, lossy=number == second)
        finished = simulation.run_round(number)
        assert finished.outcome == "completed"
        rounds.append(finished)
        if number == second:
            assert "client-03" not in finished.accepted
            simulation.catch_up("client-03")
    recording = record(simulation)
    recording.finished = rounds
    return recording


def _network(simulation: RecordingSimulation, *, lossy: bool) -> Intercept:
    """Where it is lossy client-03 dies before its upload; in a session its upload of step 1 is
    lost, and it waits for the end."""
    if simulation.federation.steps_of(TRAIN) == 1:
        return Crash({"client-03": "Upload"} if lossy else {})

    def lose(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        header = envelope.header
        gone = (sender, header.type, header.step) == ("client-03", "Upload", 1)
        return () if lossy and gone else ((recipient, envelope),)

    return lose


# ---------------------------------------------------------------- states


def fingerprint(value: object) -> bytes:
    """Hash of everything inside a state; a transition that changes its input changes this."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.digest()


def _feed(digest: Any, value: object) -> None:
    match value:
        case bytes() | str() | int() | float() | None:
            digest.update(repr(value).encode())
        case Secret():
            digest.update(value.reveal())
        case np.ndarray():
            digest.update(value.tobytes())
        case Mapping():
            for key in sorted(value, key=repr):
                _feed(digest, key)
                _feed(digest, value[key])
        case frozenset() | set():
            _feed(digest, tuple(sorted(value, key=repr)))
        case AgreementKey():
            digest.update(value.secret.reveal())
        case _ if hasattr(value, "_sums"):  # a ciphertext sum
            _feed(digest, value._sums)
        case tuple() | list():
            digest.update(b"%d" % len(value))
            for item in value:
                _feed(digest, item)
        case Federation():
            digest.update(value.charter_hash)
        case _ if dataclasses.is_dataclass(value):
            digest.update(type(value).__name__.encode())
            for entry in dataclasses.fields(value):
                _feed(digest, getattr(value, entry.name, None))
        case _:
            digest.update(type(value).__name__.encode())


# ---------------------------------------------------------------- forging


def fitting_context(state: Any, kind: str, body: bytes, federation: Federation) -> bytes | None:
    """The context under which a receiver in ``state`` would look at this body at all."""
    if kind == "RoundOpen":
        try:
            opened = decode(messages.RoundOpen, body)
        except CodecError:
            return None
        return RoundIdentity(
            charter_hash=federation.charter_hash,
            key_epoch=opened.key_epoch,
            round=opened.round,
            steps=opened.steps,
            kind=opened.kind,
            invited=opened.invited,
            adapter_hash=opened.adapter_hash,
            config_hash=opened.config_hash,
        ).context0()
    if kind in ("SketchKey", "SketchEvaluationKeys"):
        return federation.link_context
    if isinstance(state, Idle | Ready):
        return None
    if isinstance(state, Deliberating):
        return state.context
    place = state.session if hasattr(state, "session") else state.round
    if kind == "KeyRoster" and hasattr(place, "key_hash"):
        return context1(place.context0, hashlib.sha256(body).digest(), place.key_hash)
    context: bytes = place.context
    return context


def member_forged(
    rng: random.Random, recording: Recording, body: Any, kind: str, change: Any
) -> Any:
    """A set whose one member was changed by ``change`` and signed again by that member."""
    name, member_kind = SETS[kind]
    members: Sequence[bytes] = getattr(body, name)
    if not members:
        return body
    place = rng.randrange(len(members))
    honest = Envelope.decode(members[place])
    others = recording.bodies(member_kind)
    forged = forge(recording.key(honest.header.sender), honest, change(rng, honest, others))
    changed = (*members[:place], forged.encode(), *members[place + 1 :])
    return dataclasses.replace(body, **{name: changed})


def seeded(rng: random.Random) -> RandomSource:
    """The randomness of a transition that must be repeatable."""
    return rng.randbytes
