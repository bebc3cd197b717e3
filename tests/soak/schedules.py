"""A federation whose network, processes and clock are in the hands of a schedule.

As the services have it: a client keeps its memory when it writes a journal record, a coordinator
keeps what it logged; everything else of a party is gone with its process.  Messages wait in a pool
until the schedule delivers, repeats or drops one, so that any order is possible between parties
and, where asked, within one connection.  What must never happen is checked after every step.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.hashing import hash_tensors
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.catchup import verify_catch_up
from fedfm_protocols.client import client_step, leave_round
from fedfm_protocols.client_session import ClientContext
from fedfm_protocols.client_states import ClientMemory, ClientSite, ClientState, Idle
from fedfm_protocols.context import KEYS, TRAIN
from fedfm_protocols.coordinator import RoundOpening, coordinator_step, open_round
from fedfm_protocols.coordinator_round import CollectiveKey, CompletedRound
from fedfm_protocols.coordinator_states import (
    CoordinatorContext,
    CoordinatorSite,
    CoordinatorState,
    Finished,
    RunningRound,
    phase_of,
)
from fedfm_protocols.effects import (
    AdapterComputed,
    ApplySum,
    Deadline,
    Effect,
    Event,
    Left,
    Persist,
    Received,
    Send,
    Train,
    UpdateReady,
)
from fedfm_protocols.errors import DivergenceError, MessageRefused, RoundViolation
from fedfm_protocols.messages import CatchUp, RoundOpen, read_body
from fedfm_protocols.scenario.charters import session_of
from fedfm_protocols.scenario.suites import encryption_for
from fedfm_protocols.witness import NOTHING_SEEN
from tests.protocols.federations import make_federation, make_keys
from tests.protocols.scripted import START, catch_up_round, integers_of
from tests.soak.ledger import Ledger

COORDINATOR = "coordinator"
PHASES = len(get_args(RunningRound)) + 1  # the keys may be opened in a second attempt


@dataclass
class Client:
    """One client process: ``memory`` is on its disk, ``state`` in its process (None if down)."""

    context: ClientContext
    memory: ClientMemory
    state: ClientState | None
    outbox: list[Envelope] = field(default_factory=list)
    dies_after: int | None = None  # effects until the process is killed


@dataclass(frozen=True, slots=True)
class Flying:
    """A message under way."""

    sender: str
    recipient: str
    envelope: Envelope


class ScheduledFederation:
    """Clients, coordinator, pool of messages; every method is one step of a schedule."""

    def __init__(
        self,
        clients: int = 4,
        *,
        values: int = 6,
        seed: int = 1,
        suite: str = "masked",
        session: int = 1,
    ) -> None:
        keys = make_keys(clients, seed)
        section = {"values": values, "clip": 1.0, "scale": 65536, "lane_bits": 32}
        federation = make_federation(keys, quantiser=section, rounds=500, suite=suite)
        self.federation = federation if session == 1 else session_of(federation, session)
        self._deadlines = PHASES * session
        encryption = encryption_for(suite)
        random = SeededRandom(b"schedule" + seed.to_bytes(4, "big"))
        memory = ClientMemory(0, 0, 0, START, NOTHING_SEEN)
        self.clients = {
            name: Client(
                ClientContext(ClientSite(name, key, self.federation), random, encryption),
                memory,
                Idle(memory),
            )
            for name, key in keys.clients.items()
        }
        self.coordinator = CoordinatorContext(
            CoordinatorSite(keys.coordinator, self.federation), random, encryption
        )
        self.state: CoordinatorState | None = None
        self.coordinator_outbox: dict[str, list[Envelope]] = {}
        self.pool: list[Flying] = []
        # On the coordinator's disk: the last round opened, the adapter, records of the completed.
        self.last_round = 0
        self.last_epoch = 0
        self.key: CollectiveKey | None = None
        self.adapter_hash = START
        self.records: list[CompletedRound] = []
        self.ledger = Ledger(self.federation)

    # ---- the coordinator's process

    def needs_key(self) -> bool:
        """Whether somebody who is there lacks the key in force, or nobody has one yet."""
        if not self.federation.encrypted:
            return False
        epoch = 0 if self.key is None else self.key.epoch
        running = [client.state for client in self.clients.values() if client.state is not None]
        held = [state.memory.keys.of(epoch) for state in running]
        return self.key is None or any(k is None or k.key_hash != self.key.key_hash for k in held)

    def open_round(self, *, new_key: bool = False) -> None:
        """Open the next round with everyone whose process runs, if they are enough; where a key
        is needed (or wanted) one that makes it."""
        up = tuple(name for name, client in self.clients.items() if client.state is not None)
        if self.state is not None or len(up) < self.federation.thresholds.vote_quorum:
            return
        self.coordinator_outbox.clear()
        self.last_round += 1  # journalled before anything is sent
        kind = KEYS if self.needs_key() or (new_key and self.federation.encrypted) else TRAIN
        if kind == KEYS:
            self.last_epoch += 1
        epoch = 0 if self.key is None else self.key.epoch
        opening = RoundOpening(
            round=self.last_round,
            kind=kind,
            invited=up,
            adapter_hash=self.adapter_hash,
            checkpoint=NOTHING_SEEN,
            checkpoint_note=b"",
            consistency=(),
            key_epoch=self.last_epoch if kind == KEYS else epoch,
            key=None if kind == KEYS else self.key,
        )
        opened = open_round(self.coordinator, opening)
        self._coordinator_did(opened.state, opened.effects)

    def deadline(self) -> None:
        """The present phase's time is up."""
        if self.state is not None and not isinstance(self.state, Finished):
            self._tell_coordinator(Deadline(phase_of(self.state)))

    def crash_coordinator(self) -> None:
        """Kill and restart it: the round is logged as aborted, everybody greets again."""
        self.state = None
        self.coordinator_outbox.clear()
        self.pool = [f for f in self.pool if COORDINATOR not in (f.sender, f.recipient)]
        for name in self.clients:
            self.greet(name)

    def _tell_coordinator(self, event: Event) -> None:
        if self.state is None:
            return
        try:
            transition = coordinator_step(self.coordinator, self.state, event)
        except MessageRefused:
            return
        self._coordinator_did(transition.state, transition.effects)

    def _coordinator_did(self, state: CoordinatorState, effects: tuple[Effect, ...]) -> None:
        self.state = state
        if isinstance(state, Finished):  # logged before anybody is told
            self.ledger.ended(state)
            self.adapter_hash = state.adapter_hash
            self.key = state.key or self.key
            if state.record is not None:
                self.records.append(state.record)
            self.state = None
        for effect in effects:
            if isinstance(effect, Send):
                self.coordinator_outbox.setdefault(effect.recipient, []).append(effect.envelope)
                self.pool.append(Flying(COORDINATOR, effect.recipient, effect.envelope))

    # ---- the clients' processes

    def crash_client(self, name: str, after: int = 0) -> None:
        """Kill a client once ``after`` more effects are carried out (0: now)."""
        client = self.clients[name]
        if client.state is None:
            return
        if after:
            client.dies_after = after
            return
        client.state, client.dies_after = None, None
        client.outbox.clear()
        self.pool = [f for f in self.pool if f.recipient != name]
        self._tell_coordinator(Left(name))

    def restart_client(self, name: str) -> None:
        """Start a client again from what is on its disk."""
        client = self.clients[name]
        if client.state is None:
            client.state = Idle(client.memory)
            self.greet(name)

    def greet(self, name: str) -> None:
        """A client's new connection: both sides repeat what the other may have missed."""
        client = self.clients[name]
        if client.state is None:
            return
        self._catch_up(client)
        session = getattr(client.state, "session", None)
        if self.state is not None:
            current = self._round.identity.round
            same = session is not None and session.identity.round == current
            if not same and any(place[0] == name for place in self._round.taken):
                self._tell_coordinator(Left(name))
            else:
                sent = self.coordinator_outbox.get(name, [])
                for envelope in sent[session.received if session is not None and same else 0 :]:
                    self.pool.append(Flying(COORDINATOR, name, envelope))
        for envelope in client.outbox:
            self.pool.append(Flying(name, COORDINATOR, envelope))

    @property
    def _round(self) -> Any:
        assert self.state is not None
        return self.state.round

    def _catch_up(self, client: Client) -> None:
        assert client.state is not None
        memory = client.state.memory
        missing = tuple(
            catch_up_round(r)
            for r in self.records
            if read_body(Envelope.decode(r.opened), RoundOpen).round > memory.last_applied
        )
        for missed in verify_catch_up(
            self.federation,
            CatchUp(missing),
            last_applied=memory.last_applied,
            adapter_hash=memory.adapter_hash,
            keys=memory.keys,
            encryption=client.context.encryption,
        ):
            if not isinstance(client.state, Idle):
                left = leave_round(client.state, "it ended without this site")
                self._client_did(client, left.state, left.effects)
            assert client.state is not None
            computed = missed.adapter_before
            for step in missed.sums:
                computed = apply_sum(computed, step.total)
            assert computed == missed.adapter_after
            memory = dataclasses.replace(
                client.state.memory,
                last_applied=missed.round,
                last_opened=max(client.state.memory.last_opened, missed.round),
                completed=client.state.memory.completed + 1,
                adapter_hash=missed.adapter_after,
            )
            client.memory = memory
            client.state = dataclasses.replace(client.state, memory=memory)

    def _tell_client(self, name: str, event: Event) -> None:
        client = self.clients[name]
        if client.state is None:
            return
        try:
            transition = client_step(client.context, client.state, event)
        except MessageRefused:
            return
        except (RoundViolation, DivergenceError) as error:
            self.ledger.violated(name, error)
            transition = leave_round(client.state, str(error))
        self._client_did(client, transition.state, transition.effects)

    def _client_did(self, client: Client, state: ClientState, effects: tuple[Effect, ...]) -> None:
        name = client.context.site.name
        if _round_of(client.state) != _round_of(state):
            client.outbox.clear()
        client.state = state
        for effect in effects:
            if client.state is None:
                return  # an earlier effect was its last
            if client.dies_after is not None:
                client.dies_after -= 1
                if client.dies_after <= 0:
                    self.crash_client(name)
                    return
            match effect:
                case Persist():
                    self.ledger.journalled(name, effect)
                    client.memory = state.memory
                case Send():
                    self.ledger.sent(name, effect.envelope)
                    client.outbox.append(effect.envelope)
                    self.pool.append(Flying(name, COORDINATOR, effect.envelope))
                case Train(number, step):
                    section = self.federation.charter.quantiser
                    update = integers_of(section, name, number, step) / np.float64(section.scale)
                    self._tell_client(name, UpdateReady(number, step, update))
                case ApplySum(number, step, _, total):
                    self.ledger.opened(name, number, step, total)
                    computed = apply_sum(_adapter_of(state), total)
                    self._tell_client(name, AdapterComputed(number, step, computed))

    # ---- the network

    def deliver(self, place: int) -> None:
        """Deliver the first message of one connection."""
        self._arrive(self.pool.pop(self._first_of(place)))

    def deliver_out_of_order(self, place: int) -> None:
        """Deliver any message of the pool: what an at-most-once network cannot do, but a
        coordinator can."""
        self._arrive(self.pool.pop(place % len(self.pool)))

    def duplicate(self, place: int) -> None:
        """Deliver a message that also stays under way."""
        self._arrive(self.pool[self._first_of(place)])

    def drop(self, place: int) -> None:
        """Lose a message; the connection is gone with it, and the parties greet again later."""
        self.pool.pop(place % len(self.pool))

    def _first_of(self, place: int) -> int:
        chosen = self.pool[place % len(self.pool)]
        ways = [(f.sender, f.recipient) for f in self.pool]
        return ways.index((chosen.sender, chosen.recipient))

    def _arrive(self, flying: Flying) -> None:
        if flying.recipient == COORDINATOR:
            self._tell_coordinator(Received(flying.envelope))
        else:
            self._tell_client(flying.recipient, Received(flying.envelope))

    def drain(self) -> None:
        """Deliver everything, in order."""
        while self.pool:
            self._arrive(self.pool.pop(0))

    # ---- recovery

    def recover(self) -> Finished:
        """All processes up, a network that loses nothing: the next round, to its end."""
        for name in self.clients:
            self.restart_client(name)
            self.clients[name].dies_after = None
        for _ in range(2 * self._deadlines):
            self.drain()
            if self.state is None:
                break
            self.deadline()
        assert self.state is None, "the old round never ends"
        for name in self.clients:
            self.greet(name)
        self.drain()
        before = len(self.ledger.finished)
        if self.needs_key():
            before += 1
            self._whole_round()
            assert not self.needs_key(), self.ledger.finished[-1].reason
        self._whole_round()
        return self.ledger.finished[before]

    def _whole_round(self) -> None:
        self.open_round()
        self.drain()
        for _ in range(self._deadlines):
            self.deadline()
            self.drain()


def apply_sum(adapter_hash: bytes, total: np.ndarray[Any, np.dtype[np.float64]]) -> bytes:
    """The adapter that follows: the hash of the old one's hash and the sum."""
    return hash_tensors({"before": np.frombuffer(adapter_hash, np.uint8), "total": total})


def _adapter_of(state: ClientState) -> bytes:
    """The adapter that a step builds on."""
    session = getattr(state, "session", None)
    before = None if session is None else session.before
    found: bytes = state.memory.adapter_hash if before is None else before.adapter_hash
    return found


def _round_of(state: ClientState | None) -> int:
    session = getattr(state, "session", None)
    return 0 if session is None else int(session.identity.round)
