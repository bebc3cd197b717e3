"""The coordinator process: the protocol's state machine with a transport, a disk and a clock.

One loop takes one thing at a time.  The state machine decides; this module carries out what it
asks for, runs the deadlines, records every round in the log **before** its result is sent, and
brings clients that come back up to date.
"""

from __future__ import annotations

import asyncio
import json
import logging

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError, NoteError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import system_random
from fedfm_protocols.context import KEYS, TRAIN
from fedfm_protocols.coordinator import RoundOpening, coordinator_step, open_round
from fedfm_protocols.coordinator_states import (
    CoordinatorContext,
    CoordinatorSite,
    CoordinatorState,
    Finished,
    phase_of,
)
from fedfm_protocols.effects import (
    ComputeScores,
    Deadline,
    Event,
    Left,
    Received,
    ScoresComputed,
    Send,
    Transition,
)
from fedfm_protocols.errors import MessageRefused
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import (
    UploadHash,
    read_body,
)
from secure_fedfm.config import SiteConfig
from secure_fedfm.errors import ServiceError
from secure_fedfm.services.archive import RoundArchive
from secure_fedfm.services.coordinator_link import step_of
from secure_fedfm.services.encryption import encryption_for
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.interrupted import close_interrupted_round
from secure_fedfm.services.outbox import Outbox
from secure_fedfm.services.sketching import sketching_for
from secure_fedfm.services.status import Status, StatusFile
from secure_fedfm.services.timestamping import stamp_checkpoint
from secure_fedfm.services.validator_link import SKETCH_KEY_MESSAGES, ValidatorLink
from secure_fedfm.storage.database import Database, store_journal
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.events import EventKind, TransportEvent
from secure_fedfm.transport.framing import MessagePlan
from secure_fedfm.transport.reception import Inbound
from secure_fedfm.transport.server import ServerTransport

LOG = logging.getLogger("secure_fedfm.coordinator")
# Rounds that may fail one after the other before the coordinator gives up.
MAX_FAILURES = 5


CoordinatorItem = Inbound | TransportEvent | ScoresComputed | BaseException


class CoordinatorService(ValidatorLink):
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
        inbox: asyncio.Queue[CoordinatorItem],
        archive: RoundArchive,
    ) -> None:
        sketching = sketching_for(federation)
        context = CoordinatorContext(
            CoordinatorSite(key, federation), system_random, encryption_for(federation), sketching
        )
        super().__init__(context, evidence, transport, sketching)
        self._site = site
        self._status = StatusFile(site.root)
        self._config = config
        self._database = database
        self._inbox = inbox
        self._archive = archive
        self._failures = 0

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
            foreseeing = asyncio.create_task(self._foresee())
            await self._gather(self._config.timeouts.connect, needed)
            await self._close_interrupted()
            while self._evidence.history.completed < self._federation.charter.rounds:
                await self._gather(self._grace(), self._federation.thresholds.vote_quorum)
                await foreseeing
                key = self._evidence.history.key
                needs_key = self._epochs.needed(self._peers.ready, key)
                if not needs_key:
                    await self._await_validator()
                await self._run_round(KEYS if needs_key else TRAIN)
                foreseeing = asyncio.create_task(self._foresee())
                await self._publish_checkpoint()
                self._check_failures()
            if not concluded:
                await self._supply_latecomers()
            self._evidence.conclude()
            await self._tell_validator_the_end()
            await self._publish_checkpoint()
            self._check_witnesses()
            await asyncio.to_thread(
                stamp_checkpoint, self._site, self._evidence.note, self._config.timestamp
            )
        finally:
            reader.cancel()
            self._stop_scores()
            self._meter.enter(None)
            self._write_metrics()
            self._report("stopped")
            self._status.close()
        self._evidence.bundle(self._site.bundle_folder)
        LOG.info("evidence bundle at %s", self._site.bundle_folder, extra={"kind": "concluded"})
        self._report("finished")
        self._status.close()

    async def _close_interrupted(self) -> None:
        """A round that a crash cut off, logged as aborted; not before a quorum has said which head
        it knows, since a log that was restored from an old copy must not grow."""
        if close_interrupted_round(
            self._evidence, self._database, self._federation, self._context.site.key
        ):
            await self._publish_checkpoint()

    async def _foresee(self) -> None:
        """What the next round's charges will be asked: found out before anybody waits for it."""
        if self._evidence.history.completed < self._federation.charter.rounds:
            await asyncio.to_thread(self._evidence.charges.foresee)

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

    def _deliver(self, event: ScoresComputed) -> None:
        self._inbox.put_nowait(event)

    async def _next(self, seconds: float) -> CoordinatorItem | None:
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

    async def _take(self, item: CoordinatorItem) -> Event | None:
        match item:
            case BaseException():
                raise item
            case ScoresComputed():
                return item
            case TransportEvent(EventKind.DISCONNECTED | EventKind.REVOKED, str(peer), _) if (
                self._federation.robust and peer == self._federation.validator
            ):
                self._validator_left()
                return None
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
                case kind if kind in SKETCH_KEY_MESSAGES:
                    await self._take_sketch_keys(envelope)
                case "UploadHash":
                    await self._check_charges(sender, envelope)
                    return Received(envelope)
                case _:
                    return Received(envelope)
        except (MessageRefused, NoteError) as error:
            LOG.info("refused: %s", error)
        return None

    async def _check_charges(self, name: str, envelope: Envelope) -> None:
        """What enters the log must be in order before the upload that it pays for is taken.

        In a thread: what a budget allows may take seconds to find out, and nobody else shall seem
        to be gone meanwhile.
        """
        if self._state is None or isinstance(self._state, Finished):
            return
        charges, step = read_body(envelope, UploadHash).charges, envelope.header.step
        check, number = self._evidence.charges.check, self._state.round.identity.round
        if step or not self._evidence.charges.keeps:
            check(name, number, charges, step=step)
        else:
            await asyncio.to_thread(check, name, number, charges)

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

    async def _await_validator(self) -> None:
        """Without its sketch key no round that sums can be opened."""
        while not self._validator_ready:
            self._report("waiting for the validator")
            LOG.warning(
                "the validator %s is not connected, and a round needs it; waiting",
                self._federation.validator,
                extra={"kind": "no-validator"},
            )
            loop = asyncio.get_running_loop()
            until = loop.time() + self._config.timeouts.rejoin
            while not self._validator_ready and loop.time() < until:
                await self._idle(until - loop.time())

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
                sketch=None if makes_key else self._sketch,
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
        phase, step = phase_of(self._state), step_of(self._state)
        in_session = self._state.round.identity.steps > 1
        self._meter.enter(phase, (number, step) if in_session else None)
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
            if isinstance(event, Received):
                await self._archive.take(number, event.envelope)
            await self._carry_out(transition)
        self._tell_progress(number, phase, step)

    def _tell_progress(self, number: int, phase: str, step: int | None) -> None:
        """One line for every phase, and in a session one for every step."""
        if step is None:
            LOG.info("round %d: %s done", number, phase, extra={"kind": "phase", "phase": phase})
        elif self._state is not None and step_of(self._state) != step:
            steps = self._state.round.identity.steps
            LOG.info(
                "round %d: step %d of %d done",
                number,
                step + 1,
                steps,
                extra={"kind": "step", "round": number, "done": step + 1, "of": steps},
            )

    async def _carry_out(self, transition: Transition[CoordinatorState]) -> None:
        self._state = transition.state
        if isinstance(transition.state, Finished):
            await self._archive.close_round(transition.state)
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
        for effect in transition.effects:
            if isinstance(effect, ComputeScores):
                self._begin_scores(effect)
        sends = [effect for effect in transition.effects if isinstance(effect, Send)]
        await self._archive.sent(transition.state.round.identity.round, sends)
        for send in sends:
            self._peers.outbox.setdefault(send.recipient, Outbox()).add(send.envelope)
        # One envelope for all is encoded and hashed once, and all sends read the same bytes.
        plans: dict[int, MessagePlan] = {}
        for send in sends:
            if id(send.envelope) not in plans:
                plan = await self._transport.plan(send.envelope.encode())
                plans[id(send.envelope)] = plan
        await asyncio.gather(
            *(self._send(e.recipient, e.envelope, plans[id(e.envelope)]) for e in sends)
        )

    # ---- checkpoints

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

    # ---- what operators see

    def _report(self, state: str) -> None:
        history = self._evidence.history
        running = self._state
        self._status.show(
            Status(
                role="coordinator",
                name=self._context.site.name,
                state=state,
                round=running.round.identity.round if running else history.last_round,
                completed=history.completed,
                rounds=self._federation.charter.rounds,
                adapter=history.adapter_hash.hex(),
                connected=tuple(sorted(self._peers.ready | self._judges)),
            ),
        )

    def _write_metrics(self) -> None:
        document = json.dumps(self._meter.report(), indent=1) + "\n"
        self._site.write(self._site.metrics_file, document.encode())
