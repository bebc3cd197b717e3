"""The client process: the protocol's state machine with a transport, a disk and a learner.

One loop takes one thing at a time: a message, the end of training, a new connection.  The state
machine decides; this module carries out its effects in their order.  Training runs in a thread of
its own, so heartbeats and messages go on meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError
from fedfm_crypto.random_source import system_random
from fedfm_protocols.client import client_step, leave_round
from fedfm_protocols.client_session import ClientContext, no_objection
from fedfm_protocols.client_states import ClientSite, ClientState, Idle
from fedfm_protocols.context import KEYS, WATERMARK
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
    VerdictSeen,
)
from fedfm_protocols.errors import (
    DivergenceError,
    MessageRefused,
    RoundViolation,
    SplitView,
)
from secure_fedfm.errors import SplitViewFound
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.learning.training import TrainingProgress
from secure_fedfm.robust.reasons import REASONS
from secure_fedfm.services.ahead import WorkAhead
from secure_fedfm.services.client_link import ClientLink
from secure_fedfm.services.client_setup import ClientSetup
from secure_fedfm.services.encryption import encryption_for
from secure_fedfm.services.marking import found_marks
from secure_fedfm.services.metering import Stopwatch, client_part
from secure_fedfm.services.privacy import RoundLedger
from secure_fedfm.services.site_inbox import Arrived, Connected, SiteInbox
from secure_fedfm.services.sketching import sketching_for
from secure_fedfm.services.split_views import keep_split_view, refuse_after_split_view
from secure_fedfm.services.status import Status, StatusFile
from secure_fedfm.services.verdicts import SeenVerdict, VerdictFile, removed_for_people
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.watermark.writing import MarkWriter

LOG = logging.getLogger("secure_fedfm.client")
T = TypeVar("T")
PROGRESS_SECONDS = 1.0


class _TrainingStopped(Exception):
    """Raised inside the training thread when its round is over."""


def _round_of(state: ClientState) -> int:
    return 0 if isinstance(state, Idle) else state.session.identity.round


class ClientService(ClientLink):
    """One client, from its first connection to the end of the federation."""

    def __init__(self, site: Site, setup: ClientSetup, transport: ClientTransport) -> None:
        self._ahead = WorkAhead()
        context = ClientContext(
            ClientSite(setup.name, setup.identity, setup.federation),
            system_random,
            encryption_for(setup.federation),
            objection=no_objection if setup.ledger is None else setup.ledger.objection,
            ahead=self._begin,
            sketching=sketching_for(setup.federation),
        )
        super().__init__(context, setup.memory, setup.keeper, setup.journal, transport)
        self._site = site
        self._status = StatusFile(site.root)
        self._ledger: RoundLedger | None = setup.ledger
        self._charges_sent: tuple[bytes, ...] = ()  # what this round's upload hash carried
        self._learner: LocalLearner = setup.learner
        self._marks: MarkWriter | None = setup.marks
        self._inbox = SiteInbox(transport)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="training")
        self._stopwatch = Stopwatch()
        self._verdicts = VerdictFile(site.root)
        self._accepted = 0  # least updates in a sum of this round

    async def run(self) -> None:
        """Take part until the federation's conclusion is logged and cosigned.

        Raises
        ------
        FedFMError
            whatever ends this site's part for good; the message says what to do.
        """
        self._inbox.open()
        ended = "stopped"
        try:
            while not self._concluded:
                self._report()
                await self._handle(await self._inbox.take())
            ended = "finished"
        except SplitViewFound:
            ended = "split view"
            raise
        finally:
            self._inbox.close()
            self._state = Idle(self._state.memory)
            self._worker.shutdown(wait=False, cancel_futures=True)
            self._ahead.stop()
            self._report(ended)
            self._status.close()
            self._write_metrics()

    def _begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Begin what a later step needs, beside training and waiting."""

        def prepare() -> T:
            with self._stopwatch.running("preparing"):
                return work()

        return self._ahead.begin(prepare)

    # ---- what comes in

    async def _handle(self, item: Arrived | Connected | Event) -> None:
        match item:
            case Connected():
                await self._greet()
            case Arrived(message):
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
        except SplitView as error:
            keep_split_view(self._site, error, self._state.memory.log_changes)
            refuse_after_split_view(self._site)
        except RoundViolation as error:
            LOG.warning("not taken: %s", error)

    # ---- the state machine

    async def _step(self, event: Event) -> None:
        try:
            with self._stopwatch.running(client_part(event)):
                transition = client_step(self._context, self._state, event)
        except (RoundViolation, DivergenceError) as error:
            if isinstance(self._state, Idle):
                LOG.warning("not joined: %s", error)
            else:
                LOG.error("left the round: %s", error)
            await self._carry_out(leave_round(self._state, str(error)))
            if isinstance(error, SplitView):
                raise
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
        self._ahead.start()

    async def _effect(self, effect: Effect) -> None:
        match effect:
            case Persist():
                with self._stopwatch.running("journal"):
                    self._journal.record(effect, self._state.memory)
            case Send(_, envelope):
                self._outbox.append(envelope)
                with self._stopwatch.running("sending"):
                    await self._send(envelope)
            case Charge(number):
                if self._ledger is not None:
                    self._ledger.enter(await asyncio.to_thread(self._ledger.prepare, number))
                    LOG.info("round %d: charged, %s", number, self._ledger.spent())
            case Train(number, step, kind):
                self._start_training(number, step, kind)
            case ApplySum(number, step, accepted, total, kind):
                self._accepted = min(accepted, self._accepted) if step else accepted
                with self._stopwatch.running("applying"):
                    adapter_hash = await asyncio.to_thread(
                        self._keeper.compute, total, accepted, step, kind
                    )
                self._inbox.put(AdapterComputed(number, step, adapter_hash))
            case VerdictSeen():
                self._tell_verdict(effect)
            case RoundEnded():
                await self._end(effect)
            case Note(text):
                LOG.warning("%s", text)

    async def _end(self, ended: RoundEnded) -> None:
        """A round is over: which adapter is in force, and what the ledger and others are told."""
        number, kind, outcome = ended.round, ended.kind, ended.outcome
        if outcome == "completed" and kind != KEYS:
            self._keeper.adopt(ended.adapter_hash)
        else:
            self._keeper.drop()
        if kind != WATERMARK:
            self._settle(
                number, ended.aggregate_hash, ended.steps, completed=outcome == "completed"
            )
        elif outcome == "completed" and self._ledger is not None:
            self._ledger.mark_logged(self._charges_sent)
        self._stopwatch.ends()
        LOG.info(
            "round %d %s%s",
            number,
            outcome,
            f": {ended.reason}" if ended.reason else "",
            extra={"kind": "round-ended", "round": number, "outcome": outcome},
        )
        if outcome == "completed" and kind == KEYS:
            # Those who lacked a key may now open the sums that they have missed.
            await self._greet()
        if outcome == "completed" and kind == WATERMARK:
            await self._speak_of_marks()

    def _tell_verdict(self, seen: VerdictSeen) -> None:
        """What the validator decided on this site, to whoever runs it."""
        removed = removed_for_people(seen.removed)
        self._verdicts.add(SeenVerdict(seen.round, seen.step, seen.own, removed))
        extra = {"kind": "verdict", "round": seen.round, "own": seen.own, "reason": seen.reason}
        if seen.own == "removed":
            LOG.warning(
                "round %d: the validator EXCLUDED this site's update: %s (%s)",
                seen.round,
                REASONS.get(seen.reason, "its rule has its own reason"),
                seen.reason,
                extra=extra,
            )
        else:
            LOG.info("round %d: the validator's verdict: %s", seen.round, seen.own, extra=extra)

    def _settle(self, number: int, aggregate: bytes, steps: int, *, completed: bool) -> None:
        """What the round's charge led to; and, if it was closed, its entries are in the log."""
        if self._ledger is None:
            return
        self._ledger.settle(number, accepted=self._accepted, aggregate=aggregate, steps=steps)
        if completed:
            self._ledger.mark_logged(self._charges_sent)
        self._charges_sent = ()
        if self._state.memory.completed < self._federation.charter.rounds:
            # The next opening will ask; finding out takes seconds, and the accountant remembers.
            self._worker.submit(self._ledger.objection)

    def _find_marks(self) -> tuple[bytes, ...]:
        if self._marks is None:
            return ()
        memory, site = self._state.memory, self._context.site
        return found_marks(self._marks, self._keeper.adapter, memory, site)

    def _start_training(self, number: int, step: int, kind: str) -> None:
        loop = asyncio.get_running_loop()
        adapter = self._keeper.base(step)
        # The charter's schedule counts rounds of training; keys and failed rounds have numbers too.
        completed = self._state.memory.completed
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
            result: Event | Exception
            update: NDArray[np.floating]
            try:
                with self._stopwatch.running("marking" if kind == WATERMARK else "training"):
                    if kind == WATERMARK and self._marks is not None:
                        update = self._marks.update(adapter)
                    else:
                        update = self._learner.train(
                            adapter, number, progress, step=step, completed=completed
                        )
                result = UpdateReady(number, step, update, charges)
            except _TrainingStopped:
                return
            except Exception as error:
                result = error
            self._inbox.put_from_thread(loop, result)

        LOG.debug("round %d step %d: training", number, step)
        self._stopwatch.trains(step)
        self._worker.submit(train)

    def _report(self, state: str | None = None) -> None:
        memory = self._state.memory
        number = 0 if isinstance(self._state, Idle) else self._state.session.identity.round
        status = Status(
            role="client",
            name=self._context.site.name,
            state=state or type(self._state).__name__.lower(),
            round=number,
            completed=min(memory.completed, self._federation.charter.rounds),
            rounds=self._federation.charter.rounds,
            adapter=memory.adapter_hash.hex(),
            verdict=self._verdicts.last,
        )
        self._status.show(status)

    def _write_metrics(self) -> None:
        document = json.dumps(self._stopwatch.report(), indent=1) + "\n"
        self._site.write(self._site.metrics_file, document.encode())
