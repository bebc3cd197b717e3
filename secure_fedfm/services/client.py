"""The client process: the protocol's state machine with a transport, a disk and a learner.

One loop takes one thing at a time: a message, the end of training, a new connection.  The state
machine decides; this module carries out its effects in their order.  Training runs in a thread of
its own, so heartbeats and messages go on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from fedfm_audit.statements import ConclusionPredicate, RoundPredicate, open_leaf
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, seal_envelope
from fedfm_crypto.errors import CodecError, FedFMError
from fedfm_crypto.note import cosign
from fedfm_crypto.random_source import system_random
from fedfm_protocols.catchup import MissedRound, verify_catch_up
from fedfm_protocols.checks import check_place, verify_signature
from fedfm_protocols.client import client_step, leave_round
from fedfm_protocols.client_session import ClientContext, no_objection
from fedfm_protocols.client_states import ClientMemory, ClientSite, ClientState, Idle
from fedfm_protocols.context import KEYS, NO_HASH
from fedfm_protocols.effects import (
    AdapterComputed,
    ApplySum,
    Charge,
    Effect,
    Event,
    Note,
    Persist,
    Received,
    RoundEnded,
    Send,
    Train,
    Transition,
    UpdateReady,
)
from fedfm_protocols.errors import (
    DivergenceError,
    EquivocationError,
    MessageRefused,
    MissingGroupKey,
    ProtocolError,
    RoundViolation,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import (
    Body,
    CatchUp,
    CheckpointOffer,
    Cosignature,
    Hello,
    read_body,
    type_name,
)
from fedfm_protocols.witness import review_offer
from secure_fedfm.errors import ServiceError
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.learning.training import TrainingProgress
from secure_fedfm.services.adapter_keeper import AdapterKeeper
from secure_fedfm.services.client_memory import ClientJournal
from secure_fedfm.services.client_setup import ClientSetup
from secure_fedfm.services.encryption import encryption_for
from secure_fedfm.services.privacy import RoundLedger
from secure_fedfm.services.status import Status, write_status
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.errors import NotConnectedError
from secure_fedfm.transport.spool import Stored

LOG = logging.getLogger("secure_fedfm.client")
T = TypeVar("T")
PROGRESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Arrived:
    message: Stored


@dataclass(frozen=True, slots=True)
class _Connected:
    number: int


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


_Item = _Arrived | _Connected | _Failed | Event


class _TrainingStopped(Exception):
    """Raised inside the training thread when its round is over."""


def _round_of(state: ClientState) -> int:
    return 0 if isinstance(state, Idle) else state.session.identity.round


class ClientService:
    """One client, from its first connection to the end of the federation."""

    def __init__(self, site: Site, setup: ClientSetup, transport: ClientTransport) -> None:
        self._site = site
        self._federation: Federation = setup.federation
        self._preparing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preparing")
        self._context = ClientContext(
            ClientSite(setup.name, setup.identity, setup.federation),
            system_random,
            encryption_for(setup.federation),
            objection=no_objection if setup.ledger is None else setup.ledger.objection,
            ahead=self._begin,
        )
        self._ledger: RoundLedger | None = setup.ledger
        self._charges_sent: tuple[bytes, ...] = ()  # what this round's upload hash carried
        self._learner: LocalLearner = setup.learner
        self._keeper: AdapterKeeper = setup.keeper
        self._journal: ClientJournal = setup.journal
        self._transport = transport
        self._state: ClientState = Idle(setup.memory)
        self._inbox: asyncio.Queue[_Item] = asyncio.Queue()
        self._outbox: list[Envelope] = []  # this round's own messages, for byte-identical resends
        self._hellos = 0
        self._asked: bytes | None = None  # what this site asked the coordinator about last
        self._closed_epoch = 0  # of the sum that this site missed and has no group key for
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="training")
        self._accepted = 0  # least updates in a sum of this round
        self._concluded = False

    async def run(self) -> None:
        """Take part until the federation's conclusion is logged and cosigned.

        Raises
        ------
        FedFMError
            whatever ends this site's part for good; the message says what to do.
        """
        tasks = [
            asyncio.create_task(self._feed(self._read_messages)),
            asyncio.create_task(self._feed(self._watch_connections)),
        ]
        try:
            while not self._concluded:
                self._report()
                await self._handle(await self._inbox.get())
        finally:
            for task in tasks:
                task.cancel()
            self._state = Idle(self._state.memory)
            for pool in (self._worker, self._preparing):
                pool.shutdown(wait=False, cancel_futures=True)
            self._report("finished" if self._concluded else "stopped")

    def _begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Begin what a later step needs, beside training and waiting."""
        return self._preparing.submit(work).result

    # ---- what comes in

    async def _feed(self, source: Callable[[], object]) -> None:
        try:
            await source()  # type: ignore[misc]
        except Exception as error:
            self._inbox.put_nowait(_Failed(error))

    async def _read_messages(self) -> None:
        while True:
            self._inbox.put_nowait(_Arrived(await self._transport.receive()))

    async def _watch_connections(self) -> None:
        async for number in self._transport.connections():
            self._inbox.put_nowait(_Connected(number))

    async def _handle(self, item: _Item) -> None:
        match item:
            case _Failed(error):
                raise error
            case _Connected():
                await self._greet()
            case _Arrived(message):
                await self._take_payload(message.take())
            case _:
                try:
                    await self._step(item)
                except MessageRefused as error:  # training that outlived its round
                    LOG.info("discarded: %s", error)

    async def _take_payload(self, data: bytes) -> None:
        try:
            envelope = Envelope.decode(data)
        except CodecError as error:
            LOG.warning("a message from the coordinator does not decode: %s", error)
            return
        try:
            match envelope.header.type:
                case "CatchUp":
                    await self._catch_up(envelope)
                case "CheckpointOffer":
                    await self._witness(envelope)
                case _:
                    await self._step(Received(envelope))
        except MessageRefused as error:
            LOG.info("refused: %s", error)
        except RoundViolation as error:
            LOG.warning("not taken: %s", error)

    # ---- the state machine

    async def _step(self, event: Event) -> None:
        try:
            transition = client_step(self._context, self._state, event)
        except (RoundViolation, DivergenceError) as error:
            if isinstance(self._state, Idle):
                LOG.warning("not joined: %s", error)
            else:
                LOG.error("left the round: %s", error)
            await self._carry_out(leave_round(self._state, str(error)))
            await self._ask(event.envelope.signature if isinstance(event, Received) else None)
            return
        await self._carry_out(transition)

    async def _carry_out(self, transition: Transition[ClientState]) -> None:
        before = self._state
        self._state = transition.state
        if _round_of(before) != _round_of(transition.state):
            self._outbox.clear()
        for effect in transition.effects:
            await self._effect(effect)

    async def _effect(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self._journal.record(effect, self._state.memory)
            case Send(_, envelope):
                self._outbox.append(envelope)
                await self._send(envelope)
            case Charge(number):
                if self._ledger is not None:
                    self._ledger.enter(await asyncio.to_thread(self._ledger.prepare, number))
                    LOG.info("round %d: charged, %s", number, self._ledger.spent())
            case Train(number, step, _):
                self._start_training(number, step)
            case ApplySum(number, step, accepted, total):
                self._accepted = min(accepted, self._accepted) if step else accepted
                adapter_hash = await asyncio.to_thread(self._keeper.compute, total, accepted, step)
                self._inbox.put_nowait(AdapterComputed(number, step, adapter_hash))
            case RoundEnded(number, kind, outcome, reason, adapter_hash, aggregate_hash, steps):
                if outcome == "completed" and kind != KEYS:
                    self._keeper.adopt(adapter_hash)
                else:
                    self._keeper.drop()
                self._settle(number, aggregate_hash, steps, completed=outcome == "completed")
                LOG.info(
                    "round %d %s%s",
                    number,
                    outcome,
                    f": {reason}" if reason else "",
                    extra={"kind": "round-ended", "round": number, "outcome": outcome},
                )
                if outcome == "completed" and kind == KEYS:
                    # Those who lacked a key may now open the sums that they have missed.
                    await self._greet()
            case Note(text):
                LOG.warning("%s", text)

    def _settle(self, number: int, aggregate: bytes, steps: int, *, completed: bool) -> None:
        """What the round's charge led to; and, if it was closed, its entries are in the log."""
        if self._ledger is None:
            return
        self._ledger.settle(number, accepted=self._accepted, aggregate=aggregate, steps=steps)
        if completed:
            self._ledger.mark_logged(self._charges_sent)
        self._charges_sent = ()

    def _start_training(self, number: int, step: int) -> None:
        loop = asyncio.get_running_loop()
        adapter = self._keeper.base(step)
        # Nobody can need what was said two steps ago: without it this site is left out by now.
        self._outbox = [e for e in self._outbox if e.header.step >= step - 1]
        charges: tuple[bytes, ...] = ()
        if step == 0 and self._ledger is not None:
            self._charges_sent = charges = self._ledger.unlogged()
        said = 0.0

        def progress(done: TrainingProgress) -> None:
            nonlocal said
            session = getattr(self._state, "session", None)
            if session is None or session.identity.round != number:
                raise _TrainingStopped
            if done.step < done.steps and time.monotonic() - said < PROGRESS_SECONDS:
                return
            said = time.monotonic()
            LOG.info(
                "round %d: step %d of %d",
                number,
                done.step,
                done.steps,
                extra={"kind": "training", "round": number, "done": done.step, "of": done.steps},
            )

        def train() -> None:
            item: _Item
            try:
                update = self._learner.train(adapter, number, progress, step=step)
                item = UpdateReady(number, step, update, charges)
            except _TrainingStopped:
                return
            except Exception as error:
                item = _Failed(error)
            loop.call_soon_threadsafe(self._inbox.put_nowait, item)

        LOG.debug("round %d step %d: training", number, step)
        self._worker.submit(train)

    # ---- messages outside of rounds

    def _seal(self, body: Body, sequence: int) -> Envelope:
        return seal_envelope(
            self._context.site.key,
            context=self._federation.link_context,
            type=type_name(type(body)),
            sender=self._context.site.name,
            step=0,
            sequence=sequence,
            checkpoint=self._state.memory.checkpoint,
            body=encode(body),
        )

    async def _send(self, envelope: Envelope) -> None:
        try:
            await self._transport.send(envelope.encode())
        except NotConnectedError as error:
            LOG.warning("%s will be sent again on reconnection: %s", envelope.header.type, error)

    async def _greet(self) -> None:
        """Say where this site stands, and repeat what it said in the present round."""
        memory = self._state.memory
        session = None if isinstance(self._state, Idle) else self._state.session
        keys = memory.keys.latest
        hello = Hello(
            last_round=memory.last_applied,
            adapter_hash=memory.adapter_hash,
            round=session.identity.round if session else 0,
            received=session.received if session else 0,
            log_size=memory.checkpoint.size,
            key_epoch=0 if keys is None else keys.epoch,
            key_hash=NO_HASH if keys is None else keys.key_hash,
        )
        self._hellos += 1
        await self._send(self._seal(hello, self._hellos))
        for envelope in tuple(self._outbox):
            await self._send(envelope)

    async def _ask(self, about: bytes | None) -> None:
        """Greet, so that the coordinator sends what this site may have missed; once per matter,
        for it may repeat the very message that could not be taken."""
        if about is None or about != self._asked:
            self._asked = about
            await self._greet()

    async def _catch_up(self, envelope: Envelope) -> None:
        self._check_link(envelope)
        memory = self._state.memory
        catch_up = read_body(envelope, CatchUp)
        missed_rounds = verify_catch_up(
            self._federation,
            catch_up,
            last_applied=memory.last_applied,
            adapter_hash=memory.adapter_hash,
            keys=memory.keys,
            encryption=self._context.encryption,
        )
        try:
            for missed in missed_rounds:
                self._closed_epoch = 0
                memory = await self._repeat(memory, missed)
        except MissingGroupKey as error:
            self._closed_epoch = error.epoch
            raise

    async def _repeat(self, memory: ClientMemory, missed: MissedRound) -> ClientMemory:
        """Apply the sum of one missed round as everybody else did."""
        if not isinstance(self._state, Idle):
            # A quorum has finished a round on this site's adapter: its own round is over.
            await self._carry_out(leave_round(self._state, "it ended without this site"))
        computed = missed.adapter_before
        for step, one in enumerate(missed.sums):
            computed = await asyncio.to_thread(self._keeper.compute, one.total, one.accepted, step)
        if computed != missed.adapter_after:
            raise DivergenceError(
                f"round {missed.round} repeated here gives adapter {computed.hex()[:16]}, "
                f"the quorum computed {missed.adapter_after.hex()[:16]}: compare library "
                "versions and hardware with the others"
            )
        self._keeper.adopt(computed)
        memory = replace(
            memory,
            last_applied=missed.round,
            last_opened=max(memory.last_opened, missed.round),
            completed=memory.completed + 1,
            adapter_hash=computed,
        )
        self._remember(memory)
        LOG.info("caught up with round %d", missed.round, extra={"kind": "caught-up"})
        return memory

    def _remember(self, memory: ClientMemory) -> None:
        self._journal.remember(memory)
        self._state = replace(self._state, memory=memory)

    async def _witness(self, envelope: Envelope) -> None:
        """Step 15: take the new checkpoint durably, then cosign it."""
        self._check_link(envelope)
        offer = read_body(envelope, CheckpointOffer)
        memory = self._state.memory
        try:
            checkpoint = review_offer(memory.checkpoint, offer, self._federation.charter.log)
            concluded = self._review_leaf(offer.leaf, memory)
        except ProtocolError as error:
            LOG.error("the log's checkpoint is not cosigned: %s", error)
            # Explained if this site missed something, or the proof starts elsewhere.
            await self._ask(offer.checkpoint.partition(b"\n\n")[0])
            return
        self._remember(replace(memory, checkpoint=checkpoint))
        site = self._context.site
        line = cosign(
            offer.checkpoint,
            f"{self._federation.charter.federation}/{site.name}",
            site.key,
            int(time.time()),
        )
        self._hellos += 1
        await self._send(self._seal(Cosignature(line), self._hellos))
        if concluded:
            self._concluded = True

    def _review_leaf(self, leaf: bytes, memory: ClientMemory) -> bool:
        """Check that a statement does not contradict what this site knows; True if it is the
        conclusion.

        Raises
        ------
        EquivocationError
            if the coordinator logs something else than what happened here.
        ServiceError
            if this site can never have the result: it lacks the key of a sum that it missed.
        """
        keys = {key.hex: key for key in self._federation.identities.values()}
        try:
            predicate = open_leaf(leaf, keys).statement.predicate
        except FedFMError as error:
            raise EquivocationError(f"the offered statement does not verify: {error}") from error
        if isinstance(predicate, RoundPredicate) and predicate.round == memory.last_applied:
            said = (predicate.outcome, predicate.adapter_out)
            if said != ("completed", memory.adapter_hash.hex()):
                raise EquivocationError(
                    f"round {predicate.round} is logged as {said[0]} with adapter "
                    f"{said[1][:16]}; here it was completed with {memory.adapter_hash.hex()[:16]}"
                )
        if not isinstance(predicate, ConclusionPredicate):
            return False
        if predicate.adapter != memory.adapter_hash.hex():
            if self._closed_epoch:
                raise ServiceError(
                    "the federation is concluded, and this site has no group key of epoch "
                    f"{self._closed_epoch} to open the sums that it missed; no key is made any "
                    "more: ask another institution for its adapter (SITE/export) and compare it "
                    "with the evidence (secure-fedfm audit verify --adapter)"
                )
            raise EquivocationError(
                f"the federation is concluded with adapter {predicate.adapter[:16]}, this site "
                f"holds {memory.adapter_hash.hex()[:16]}"
            )
        return True

    def _check_link(self, envelope: Envelope) -> None:
        verify_signature(envelope, self._federation)
        if envelope.header.sender != self._federation.coordinator:
            raise EquivocationError(f"{envelope.header.type} from {envelope.header.sender}")
        check_place(envelope, context=self._federation.link_context, step=0)

    def _report(self, state: str | None = None) -> None:
        memory = self._state.memory
        number = 0 if isinstance(self._state, Idle) else self._state.session.identity.round
        status = Status(
            role="client",
            name=self._context.site.name,
            state=state or type(self._state).__name__.lower(),
            round=number,
            completed=memory.completed,
            rounds=self._federation.charter.rounds,
            adapter=memory.adapter_hash.hex(),
        )
        write_status(self._site.root, status)
