"""The coordinator process: the protocol's state machine with a transport, a disk and a clock.

One loop takes one thing at a time.  The state machine decides; this module carries out what it
asks for, runs the deadlines, records every round in the log **before** its result is sent, and
brings clients that come back up to date.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field

from fedfm_audit.errors import LogForkError
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import CheckpointSeen, Envelope, seal_envelope
from fedfm_crypto.errors import CodecError, NoteError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import system_random
from fedfm_protocols.checks import check_place, verify_signature
from fedfm_protocols.context import KEYS, TRAIN
from fedfm_protocols.coordinator import RoundOpening, coordinator_step, open_round
from fedfm_protocols.coordinator_states import (
    CoordinatorContext,
    CoordinatorSite,
    CoordinatorState,
    Finished,
    phase_of,
)
from fedfm_protocols.effects import Deadline, Event, Left, Received, Send, Transition
from fedfm_protocols.errors import MalformedMessage, MessageRefused
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import (
    Body,
    CatchUp,
    Cosignature,
    Hello,
    UploadHash,
    read_body,
    type_name,
)
from secure_fedfm.config import SiteConfig
from secure_fedfm.errors import ServiceError
from secure_fedfm.services.encryption import encryption_for
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.key_epochs import KeyEpochs
from secure_fedfm.services.metering import Meter
from secure_fedfm.services.outbox import Outbox
from secure_fedfm.services.status import Status, write_status
from secure_fedfm.storage.database import Database, store_journal
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.errors import NotConnectedError
from secure_fedfm.transport.events import EventKind, TransportEvent
from secure_fedfm.transport.framing import MessagePlan
from secure_fedfm.transport.reception import Inbound
from secure_fedfm.transport.server import ServerTransport

LOG = logging.getLogger("secure_fedfm.coordinator")
# Rounds that may fail one after the other before the coordinator gives up.
MAX_FAILURES = 5


@dataclass
class _Peers:
    """What the coordinator knows about the clients' connections.

    ``ready`` have said Hello on their present connection; ``log_size`` is the checkpoint each was
    offered last, or said that it holds; ``outbox`` holds this round's messages to each, for
    byte-identical resends; ``forked`` claim to have seen another log than this one.
    """

    ready: set[str] = field(default_factory=set)
    log_size: dict[str, int] = field(default_factory=dict)
    outbox: dict[str, Outbox] = field(default_factory=dict)
    cosigned: set[str] = field(default_factory=set)
    forked: set[str] = field(default_factory=set)


class CoordinatorService:
    """One coordinator, from its first client to the conclusion of the federation."""

    def __init__(
        self,
        site: Site,
        config: SiteConfig,
        federation: Federation,
        key: IdentityKey,
        evidence: Evidence,
        database: Database,
        transport: ServerTransport,
        inbox: asyncio.Queue[Inbound | TransportEvent | BaseException],
    ) -> None:
        self._site = site
        self._config = config
        self._federation = federation
        self._context = CoordinatorContext(
            CoordinatorSite(key, federation), system_random, encryption_for(federation)
        )
        self._evidence = evidence
        self._database = database
        self._transport = transport
        self._inbox = inbox
        self._peers = _Peers()
        self._state: CoordinatorState | None = None
        self._meter = Meter()
        self._links = 0
        self._failures = 0
        self._epochs = KeyEpochs(federation)

    async def run(self) -> None:
        """Run the charter's rounds, conclude, and write the evidence bundle.

        Raises
        ------
        ServiceError
            if too many rounds fail in a row, or too few clients ever connect.
        """
        reader = asyncio.create_task(self._read())
        try:
            concluded = self._evidence.history.concluded
            # Started again after the end, it serves those who missed the end: any number.
            needed = 0 if concluded else self._federation.thresholds.vote_quorum
            await self._gather(self._config.timeouts.connect, needed)
            while self._evidence.history.completed < self._federation.charter.rounds:
                await self._gather(self._grace(), self._federation.thresholds.vote_quorum)
                key = self._evidence.history.key
                needs_key = self._epochs.needed(self._peers.ready, key)
                await self._run_round(KEYS if needs_key else TRAIN)
                await self._publish_checkpoint()
                self._check_failures()
            if not concluded:
                await self._supply_latecomers()
            self._evidence.conclude()
            await self._publish_checkpoint()
            self._check_witnesses()
        finally:
            reader.cancel()
            self._meter.enter(None)
            self._write_metrics()
            self._report("stopped")
        self._evidence.bundle(self._site.bundle_folder)
        LOG.info("evidence bundle at %s", self._site.bundle_folder, extra={"kind": "concluded"})
        self._report("finished")

    async def _supply_latecomers(self) -> None:
        """A last key for those who are back without one: with the group keys that come with it
        they can still open the sums that they missed, and end with the adapter."""
        ready, quorum = self._peers.ready, self._federation.thresholds.vote_quorum
        if len(ready) >= quorum and self._epochs.supply(ready, self._evidence.history.key):
            await self._run_round(KEYS)
            await self._publish_checkpoint()

    def _check_failures(self) -> None:
        if self._failures >= MAX_FAILURES:
            raise ServiceError(
                f"{self._failures} rounds in a row failed, the last one because "
                f"{self._last_reason}; see the log above, then start the coordinator again"
            )

    # ---- waiting

    async def _read(self) -> None:
        try:
            while True:
                self._inbox.put_nowait(await self._transport.receive())
        except Exception as error:
            self._inbox.put_nowait(error)

    async def _next(self, seconds: float) -> Inbound | TransportEvent | BaseException | None:
        """The next thing that comes in, for :meth:`_take`; None on time-out."""
        if seconds <= 0:  # a queue that is never empty must not put off a deadline
            return None
        try:
            async with asyncio.timeout(seconds):
                return await self._inbox.get()
        except TimeoutError:
            return None

    async def _idle(self, seconds: float) -> None:
        """Handle one thing between rounds, or let ``seconds`` pass; late messages are dropped."""
        item = await self._next(seconds)
        if item is not None:
            await self._take(item)

    async def _take(self, item: Inbound | TransportEvent | BaseException) -> Event | None:
        match item:
            case BaseException():
                raise item
            case TransportEvent(EventKind.DISCONNECTED | EventKind.REVOKED, str(peer), _):
                self._peers.ready.discard(peer)
                return Left(peer)
            case TransportEvent():
                return None
            case Inbound(sender, message):
                # Only now into memory: however many wait, one at a time.
                return await self._take_payload(sender, message.take())

    async def _take_payload(self, sender: str, payload: bytes) -> Event | None:
        try:
            envelope = Envelope.decode(payload)
        except CodecError as error:
            LOG.warning("a message from %s does not decode: %s", sender, error)
            return None
        # The transport key and the identity key of one message must belong to one party.
        if envelope.header.sender != sender:
            LOG.warning("%s sent a message signed as %s; dropped", sender, envelope.header.sender)
            return None
        self._meter.count_received(envelope.header.type, len(payload))
        try:
            match envelope.header.type:
                case "Hello":
                    return await self._welcome(sender, envelope)
                case "Cosignature":
                    self._take_cosignature(sender, envelope)
                case "UploadHash":
                    self._check_charges(sender, envelope)
                    return Received(envelope)
                case _:
                    return Received(envelope)
        except (MessageRefused, NoteError) as error:
            LOG.info("refused: %s", error)
        return None

    def _check_charges(self, name: str, envelope: Envelope) -> None:
        """What enters the log must be in order before the upload that it pays for is taken."""
        if self._state is None or isinstance(self._state, Finished):
            return
        charges = read_body(envelope, UploadHash).charges
        self._evidence.charges.check(name, self._state.round.identity.round, charges)

    async def _gather(self, seconds: float, needed: int) -> None:
        """Wait until all clients are ready, or the time is up and ``needed`` are."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while missing := set(self._federation.clients) - self._peers.ready:
            self._report("waiting")
            remaining = deadline - loop.time()
            if remaining <= 0:
                break
            await self._idle(remaining)
        if missing:
            LOG.warning("not connected: %s", ", ".join(sorted(missing)))
        while len(self._peers.ready) < needed:
            self._report("waiting")
            LOG.warning(
                "%d clients are connected, a round needs %d; waiting",
                len(self._peers.ready),
                needed,
            )
            await self._idle(self._config.timeouts.rejoin)

    # ---- rounds

    def _grace(self) -> float:
        """How long to wait for who is missing: everybody was waited for before the first round."""
        return self._config.timeouts.rejoin if self._evidence.history.last_round else 0.0

    async def _run_round(self, kind: str) -> None:
        number, key = self._evidence.history.last_round + 1, self._evidence.history.key
        makes_key, ready = kind == KEYS, self._peers.ready
        invited = ready if makes_key else self._epochs.holding(ready, key)
        self._peers.outbox.clear()
        opened = open_round(
            self._context,
            RoundOpening(
                round=number,
                kind=kind,
                invited=tuple(sorted(invited)),
                adapter_hash=self._evidence.history.adapter_hash,
                checkpoint=self._evidence.checkpoint,
                checkpoint_note=self._evidence.note,
                consistency=(),  # every client that is ready has seen this very checkpoint
                # Numbered like the round that makes it: above every epoch that anybody saw.
                key_epoch=number if makes_key else 0 if key is None else key.epoch,
                key=None if makes_key else key,
            ),
        )
        state = opened.state
        if isinstance(state, Finished):
            raise ServiceError("a round that was just opened cannot be finished")
        with self._database.transaction() as connection:
            store_journal(connection, number, "opened", state.round.opened.encode())
        LOG.info(
            "round %d: opened%s",
            number,
            ", it makes a collective key" if makes_key else "",
            extra={
                "kind": "round-opened",
                "round": number,
                "makes_key": makes_key,
                "completed": self._evidence.history.completed,
            },
        )
        await self._carry_out(opened)
        while not isinstance(self._state, Finished):
            await self._advance(number)
        self._epochs.note(self._state)
        self._failures = 0 if self._state.outcome == "completed" else self._failures + 1
        self._last_reason = self._state.reason
        self._state = None

    async def _advance(self, number: int) -> None:
        """Wait for the present phase's next event or deadline, and let the state machine decide."""
        if self._state is None or isinstance(self._state, Finished):
            return
        phase = phase_of(self._state)
        self._meter.enter(phase)
        self._report(phase)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.timeouts.of_phase(phase)
        while not isinstance(self._state, Finished) and phase_of(self._state) == phase:
            item = await self._next(deadline - loop.time())
            event = Deadline(phase) if item is None else await self._take(item)
            if event is None:
                continue
            try:
                transition = coordinator_step(self._context, self._state, event)
            except MessageRefused as error:
                LOG.info("refused: %s", error)
                continue
            await self._carry_out(transition)
        LOG.info("round %d: %s done", number, phase, extra={"kind": "phase", "phase": phase})

    async def _carry_out(self, transition: Transition[CoordinatorState]) -> None:
        self._state = transition.state
        if isinstance(transition.state, Finished):
            # In the log before anybody adopts it; a crash in between leaves nothing untold.
            self._evidence.record_round(transition.state)
            finished = transition.state
            LOG.info(
                "round %d %s with %d accepted%s",
                finished.round.identity.round,
                finished.outcome,
                len(finished.accepted),
                f": {finished.reason}" if finished.reason else "",
                extra={
                    "kind": "round-ended",
                    "round": finished.round.identity.round,
                    "makes_key": finished.round.identity.makes_keys,
                    "outcome": finished.outcome,
                },
            )
        sends = [effect for effect in transition.effects if isinstance(effect, Send)]
        for effect in sends:
            self._peers.outbox.setdefault(effect.recipient, Outbox()).add(effect.envelope)
        # One envelope for all is encoded and hashed once, and all sends read the same bytes.
        plans: dict[int, MessagePlan] = {}
        for effect in sends:
            if id(effect.envelope) not in plans:
                plan = await self._transport.plan(effect.envelope.encode())
                plans[id(effect.envelope)] = plan
        await asyncio.gather(
            *(self._send(e.recipient, e.envelope, plans[id(e.envelope)]) for e in sends)
        )

    # ---- links: greetings, catching up, checkpoints

    async def _send(self, name: str, envelope: Envelope, plan: MessagePlan | None = None) -> None:
        message = plan or await self._transport.plan(envelope.encode())
        try:
            await self._transport.send(name, message)
        except NotConnectedError as error:
            LOG.info("%s for %s waits for its return: %s", envelope.header.type, name, error)
        else:
            self._meter.count_sent(envelope.header.type, len(message.payload))

    def _seal(self, body: Body) -> Envelope:
        self._links += 1
        return seal_envelope(
            self._context.site.key,
            context=self._federation.link_context,
            type=type_name(type(body)),
            sender=self._context.site.name,
            step=0,
            sequence=self._links,
            checkpoint=self._evidence.checkpoint,
            body=encode(body),
        )

    def _check_link(self, envelope: Envelope) -> None:
        verify_signature(envelope, self._federation)
        check_place(envelope, context=self._federation.link_context, step=0)

    async def _welcome(self, name: str, envelope: Envelope) -> Event | None:
        """A client says where it stands: bring it up to date.

        One that has lost the round it took part in has left it; nobody waits for it any longer.
        """
        self._check_link(envelope)
        hello = read_body(envelope, Hello)
        if hello.log_size != envelope.header.checkpoint.size:
            # Proofs start from it, and none starts from a size that this log never had.
            raise MalformedMessage(
                f"{name} greets with a log of size {hello.log_size} and echoes a checkpoint of "
                f"size {envelope.header.checkpoint.size}"
            )
        if not self._same_log(name, envelope.header.checkpoint):
            return None
        self._epochs.held[name] = hello.key_hash
        for missed in self._evidence.missed_rounds(hello.last_round):
            await self._send(name, self._seal(CatchUp((missed,))))
        self._peers.log_size[name] = hello.log_size
        if hello.log_size < self._evidence.log.size:
            await self._offer(name)
        if name not in self._peers.ready:
            LOG.info("%s is ready", name, extra={"kind": "ready", "peer": name})
        self._peers.ready.add(name)
        if self._state is None or isinstance(self._state, Finished):
            return None
        current = self._state.round
        same_round = hello.round == current.identity.round
        if not same_round and any(sender == name for sender, *_ in current.taken):
            return Left(name)
        sent = self._peers.outbox.get(name)
        waiting = () if sent is None else sent.after(hello.received if same_round else 0)
        if waiting is None:
            return Left(name)
        for again in waiting:
            await self._send(name, again)
        return None

    def _same_log(self, name: str, seen: CheckpointSeen) -> bool:
        """Whether the checkpoint that a client has seen is one of this log.

        Raises
        ------
        LogForkError
            if more clients deny it than may conspire: this log was forked, or restored from an
            old copy, and must not grow.  One client alone could be lying.
        """
        try:
            self._evidence.log.check_head(seen.size, seen.root)
        except LogForkError as error:
            LOG.error("%s is not admitted to rounds: %s", name, error)
            self._peers.ready.discard(name)
            self._peers.forked.add(name)
            if len(self._peers.forked) > self._federation.thresholds.colluding:
                raise
            return False
        self._peers.forked.discard(name)
        return True

    async def _offer(self, name: str) -> None:
        """Offer the latest checkpoint, proven from the one this client will have read before."""
        offer = self._evidence.offer(self._peers.log_size.get(name, 0))
        self._peers.log_size[name] = self._evidence.log.size
        await self._send(name, self._seal(offer))

    def _take_cosignature(self, name: str, envelope: Envelope) -> None:
        self._check_link(envelope)
        self._evidence.attach(read_body(envelope, Cosignature).line)
        self._peers.cosigned.add(name)

    async def _publish_checkpoint(self) -> None:
        """Step 15: offer the new checkpoint to everyone, collect the witnesses' cosignatures."""
        self._meter.enter("cosignatures")
        self._report("cosignatures")
        self._peers.cosigned.clear()
        for name in sorted(self._peers.ready):
            await self._offer(name)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.timeouts.cosignatures
        while self._peers.ready - self._peers.cosigned and loop.time() < deadline:
            await self._idle(deadline - loop.time())
        self._meter.enter(None)

    def _check_witnesses(self) -> None:
        """Without a quorum of witnesses the evidence convinces nobody: not a success."""
        signed, quorum = self._evidence.witnesses(), self._federation.thresholds.vote_quorum
        if len(signed) < quorum:
            raise ServiceError(
                f"{len(signed)} clients have cosigned the conclusion, {quorum} are needed for "
                "evidence that verifies; start the missing clients, then this coordinator again"
            )

    # ---- what operators see

    def _report(self, state: str) -> None:
        history = self._evidence.history
        running = self._state
        write_status(
            self._site.root,
            Status(
                role="coordinator",
                name=self._context.site.name,
                state=state,
                round=running.round.identity.round if running else history.last_round,
                completed=history.completed,
                rounds=self._federation.charter.rounds,
                adapter=history.adapter_hash.hex(),
                connected=tuple(sorted(self._peers.ready)),
            ),
        )

    def _write_metrics(self) -> None:
        document = json.dumps(self._meter.report(), indent=1) + "\n"
        self._site.write(self._site.metrics_file, document.encode())
