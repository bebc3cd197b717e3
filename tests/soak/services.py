"""Targets: what the two services do with whatever a connected peer sends them.

Behind the state machines the services take greetings, cosignatures, checkpoints and missed rounds;
nothing that one peer sends may end the process.  Real services, real log on disk; transport,
journal and learner are in memory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import tempfile
from collections.abc import Coroutine
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.split_view import SplitViewDocument
from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import CheckpointSeen, Envelope, seal_envelope
from fedfm_crypto.hashing import hash_tensors
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.note import cosign
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.client_states import Idle
from fedfm_protocols.coordinator import coordinator_step
from fedfm_protocols.enrolment import Role, request_enrolment
from fedfm_protocols.errors import MessageRefused
from fedfm_protocols.messages import CatchUp, CheckpointOffer, Cosignature, Hello
from secure_fedfm.config import ArchiveSection, SiteConfig
from secure_fedfm.errors import SplitViewFound
from secure_fedfm.services.archive import RoundArchive
from secure_fedfm.services.client import ClientService
from secure_fedfm.services.coordinator import CoordinatorService
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.outbox import Outbox
from secure_fedfm.services.site_inbox import SiteInbox
from secure_fedfm.services.split_views import kept_split_views
from secure_fedfm.storage.site import Site
from tests.protocols.federations import make_keys
from tests.protocols.scripted import forge
from tests.soak import recordings
from tests.soak.damage import damage_bytes, encoded_or_raw
from tests.soak.engine import Attempt, Target
from tests.soak.handlers import (
    CLIENT_STATES,
    PHASE_MESSAGES,
    SESSIONS_ONLY,
    SPARSE_ONLY,
    hostile,
)

CLIENT = "client-02"
STATES = tuple(name for name in CLIENT_STATES if name not in (*SPARSE_ONLY, *SESSIONS_ONLY))
PHASES = tuple(name for name in PHASE_MESSAGES if name not in SPARSE_ONLY)


def service_targets() -> list[Target]:
    """One target a service."""
    return [
        Target("service/coordinator", _coordinator_case),
        Target("service/client", _client_case),
    ]


class _Transport:
    """Takes everything and keeps nothing."""

    async def send(self, *_: object) -> None:
        """Nowhere."""

    async def plan(self, payload: bytes) -> SimpleNamespace:
        """What would be sent."""
        return SimpleNamespace(payload=payload)


class _Keeper:
    """Adapters as the simulation has them: hashes of the sums applied so far."""

    def __init__(self, adapter_hash: bytes) -> None:
        self.adapter_hash = adapter_hash
        self.adapter = None

    def compute(
        self, total: NDArray[np.float64], accepted: int, step: int = 0, kind: str = "train"
    ) -> bytes:
        """The hash of the old hash and the sum."""
        del accepted, step, kind
        before = np.frombuffer(self.adapter_hash, np.uint8)
        return hash_tensors({"before": before, "total": total})

    def adopt(self, adapter_hash: bytes) -> None:
        """In force from here on."""
        self.adapter_hash = adapter_hash

    def drop(self) -> None:
        """Nothing is pending."""


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _bounded(coroutine: Coroutine[Any, Any, str]) -> str:
    async def bounded() -> str:
        async with asyncio.timeout(10):
            return await coroutine

    return _loop().run_until_complete(bounded())


def _link(key: IdentityKey, sender: str, body: Any, checkpoint: CheckpointSeen) -> Envelope:
    return seal_envelope(
        key,
        context=recordings.masked().federation.link_context,
        type=type(body).__name__,
        sender=sender,
        step=0,
        sequence=7,
        checkpoint=checkpoint,
        body=encode(body),
    )


def _damaged_link(rng: random.Random, key: IdentityKey, honest: Envelope, body: Any) -> bytes:
    """One of the messages between rounds, damaged and signed again; a header field, sometimes."""
    if rng.random() < 0.1:
        return damage_bytes(rng, honest.encode())
    header: dict[str, Any] = {}
    if rng.random() < 0.3:
        header = rng.choice(
            (
                {"checkpoint_size": rng.choice((0, 1, 6, 7, 2**40))},
                {"checkpoint_root": rng.randbytes(32)},
                {"sequence": rng.choice((0, 2**32 - 1))},
                {"step": 1},
                {"context": rng.randbytes(32)},
            )
        )
    return forge(key, honest, encoded_or_raw(rng, body, [body]), **header).encode()


# ---------------------------------------------------------------- coordinator


class CoordinatorBench:
    """A coordinator after three rounds, with their evidence on disk."""

    def __init__(self, folder: Path) -> None:
        recording = recordings.masked()
        self.federation, keys = recording.federation, make_keys(5)
        site = Site(folder)
        self.evidence = Evidence(site, self.federation, keys.coordinator, keys.log)
        transport = AgreementKey.generate(SeededRandom(b"soak transport")).public
        parties = {**keys.clients, "coordinator": keys.coordinator}
        enrolments = {
            name: request_enrolment(name, _role(name), key, transport, "2031-01-01")
            for name, key in parties.items()
        }
        self.evidence.found(enrolments, "00" * 32)
        for finished in recording.finished:
            self.evidence.record_round(finished)
        self.service = CoordinatorService(
            site,
            SiteConfig(role="coordinator", name="coordinator"),
            self.federation,
            keys.coordinator,
            self.evidence,
            cast(Any, None),
            cast(Any, _Transport()),
            asyncio.Queue(),
            RoundArchive(site, ArchiveSection(), self.federation, 0),
        )

    def honest(self, rng: random.Random) -> tuple[Envelope, Any]:
        """A greeting or a cosignature as a client would send it now."""
        key = make_keys(5).clients[CLIENT]
        head = self.evidence.checkpoint
        nothing = bytes(32)
        numbers = (rng.randrange(5), rng.randrange(5), 0)
        body: Any = Hello(rng.randrange(4), nothing, *numbers, 0, nothing)
        seen = head
        if rng.random() < 0.4:
            line = cosign(self.evidence.note, f"test/{CLIENT}", key, 1_700_000_000)
            body = Cosignature(line)
        else:
            body = dataclasses.replace(body, log_size=head.size)
        return _link(key, CLIENT, body, seen), body

    async def take(self, state: Any, payload: bytes) -> str:
        """One message of :data:`CLIENT`, what follows from it, and the next checkpoint's offer."""
        service = self.service
        service._state = state
        said = recordings.masked().envelopes["RoundOpen"][:2]
        service._peers.outbox = {CLIENT: Outbox(envelopes=said)}
        event = await service._take_payload(CLIENT, payload)
        answer = "dropped"
        if event is not None:
            try:
                await self._step(state, event)
                answer = type(event).__name__
            except MessageRefused as error:
                answer = type(error).__name__
        if CLIENT in service._peers.ready:
            answer = "ready"
            await service._offer(CLIENT)
        service._peers.ready.clear()
        service._peers.forked.clear()
        service._peers.log_size.clear()
        return answer

    async def _step(self, state: Any, event: Any) -> None:
        coordinator_step(self.service._context, state, event)


def _role(name: str) -> Role:
    return "coordinator" if name == "coordinator" else "client"


@cache
def coordinator_bench() -> CoordinatorBench:
    """One for all cases: rounds do not change it, cosignatures only add themselves."""
    return CoordinatorBench(Path(tempfile.mkdtemp(prefix="soak-coordinator-")))


def _coordinator_case(rng: random.Random) -> Attempt:
    bench, recording = coordinator_bench(), recordings.masked()
    phase = rng.choice(PHASES)
    moment = rng.choice(recording.moments[phase])
    if rng.random() < 0.3:
        data = hostile(rng, recording, moment, PHASE_MESSAGES[phase])
    else:
        data = _damaged_link(rng, make_keys(5).clients[CLIENT], *bench.honest(rng))
    return Attempt(data, lambda: _bounded(bench.take(moment.state, data)), allowed=())


# ---------------------------------------------------------------- client


class ClientBench:
    """A client whose state can be set to any recorded one."""

    def __init__(self, folder: Path) -> None:
        recording = recordings.masked()
        self.client = recording.simulation.clients[CLIENT]
        self.keeper = _Keeper(bytes(32))
        journal = SimpleNamespace(record=lambda *_: None, remember=lambda _: None)
        setup = SimpleNamespace(
            name=CLIENT,
            identity=recording.key(CLIENT),
            federation=recording.federation,
            learner=None,
            marks=None,
            keeper=self.keeper,
            journal=journal,
            memory=self.client.state.memory,
            ledger=None,
        )
        self.site = Site(folder)
        self.site.write(self.site.charter_file, b"a charter, to be copied into evidence")
        self.service = ClientService(self.site, cast(Any, setup), cast(Any, _Transport()))
        self.service.__dict__["_start_training"] = lambda number, step, kind: None

    async def take(self, state: Any, payload: bytes) -> str:
        """One message of the coordinator, and what the service itself answers to it."""
        service = self.service
        service._state = state
        service._inbox = SiteInbox(cast(Any, _Transport()))
        service._concluded = False
        service._unproven = 0
        self.keeper.adapter_hash = state.memory.adapter_hash
        try:
            await service._take_payload(payload)
            while not service._inbox._items.empty():
                await service._handle(await service._inbox.take())
        except SplitViewFound:
            # The log's key or the coordinator's signed two histories: it stops, with evidence.
            for path in kept_split_views(self.site):
                SplitViewDocument.decode(path.read_bytes())
                path.unlink()
            return "split view"
        after = type(service._state).__name__
        return "same" if service._state is state else f"now {after}"


@cache
def client_bench() -> ClientBench:
    """One for all cases; each sets the state."""
    return ClientBench(Path(tempfile.mkdtemp(prefix="soak-client-")))


def _client_case(rng: random.Random) -> Attempt:
    bench, recording = client_bench(), recordings.masked()
    name = rng.choice(STATES)
    moments = [m for m in recording.moments[name] if m.party == CLIENT]
    moment = rng.choice(moments)
    state = moment.state
    if rng.random() < 0.3:
        data = hostile(rng, recording, moment, CLIENT_STATES[name])
    else:
        evidence = coordinator_bench().evidence
        honest: CatchUp | CheckpointOffer
        if rng.random() < 0.5:
            honest = CatchUp(tuple(evidence.missed_rounds(rng.randrange(3))))
        else:
            honest = evidence.offer(0)
            if rng.random() < 0.5:
                seen = CheckpointSeen(7, evidence.log.root(7))
                state = Idle(dataclasses.replace(state.memory, checkpoint=seen))
                honest = evidence.offer(7)
        key = recording.key("coordinator")
        envelope = _link(key, "coordinator", honest, evidence.checkpoint)
        data = _damaged_link(rng, key, envelope, honest)
    return Attempt(data, lambda: _bounded(bench.take(state, data)), allowed=())
