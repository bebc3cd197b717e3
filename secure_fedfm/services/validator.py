"""The validator process: opens scores of encrypted sketches, applies the charter's rule, and says
whom it excludes and why.

It sees no update and no sum. What it answers is durable before it is said: killed at any moment and
started again, it gives the same request the same bytes. On every connection it announces its newest
sketch key, which the coordinator takes for a greeting; when ``key_rounds`` rounds are judged it
makes the next one at once, so that the coordinator has it before another round.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from fedfm_audit.statements import ConclusionPredicate, open_leaf
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError, CryptoError, FedFMError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import system_random
from fedfm_protocols.checks import check_place, verify_signature
from fedfm_protocols.effects import (
    Effect,
    Event,
    JudgeScores,
    Note,
    Persist,
    Received,
    RenewKey,
    ScoresJudged,
    Send,
    StoreScores,
    Transition,
)
from fedfm_protocols.errors import MessageRefused, RoundViolation, UnknownSender
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import CheckpointOffer, read_body, type_name
from fedfm_protocols.robust_messages import Verdict
from fedfm_protocols.sketching import Sketching
from fedfm_protocols.validator import announcements, key_due, validator_step
from fedfm_protocols.validator_states import (
    Deliberating,
    Ready,
    ValidatorContext,
    ValidatorSite,
    ValidatorState,
)
from secure_fedfm.services.site_inbox import Arrived, Connected, SiteInbox
from secure_fedfm.services.status import Status, StatusFile
from secure_fedfm.services.validator_memory import ValidatorJournal
from secure_fedfm.services.verdicts import VerdictFile
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.errors import NotConnectedError

LOG = logging.getLogger("secure_fedfm.validator")


class ValidatorService:
    """One validator, from its first connection to the federation's conclusion."""

    def __init__(
        self,
        site: Site,
        federation: Federation,
        key: IdentityKey,
        sketching: Sketching,
        journal: ValidatorJournal,
        verdicts: VerdictFile,
        transport: ClientTransport,
    ) -> None:
        self._federation = federation
        self._context = ValidatorContext(
            ValidatorSite(federation.validator, key, federation), system_random, sketching
        )
        self._journal = journal
        self._verdicts = verdicts
        self._transport = transport
        self._status = StatusFile(site.root)
        self._state: ValidatorState = Ready(journal.recall())
        self._inbox = SiteInbox(transport)
        self._openings: Mapping[str, tuple[bytes, bytes]] = {}
        self._concluded = False
        self._judged_rounds = journal.judged_rounds()

    async def run(self) -> None:
        """Judge until the coordinator shows the conclusion in its log.

        Raises
        ------
        FedFMError
            whatever ends the validator for good; the message says what to do.
        """
        self._inbox.open()
        ended = "stopped"
        try:
            await self._renew()
            while not self._concluded:
                self._report()
                await self._handle(await self._inbox.take())
            ended = "finished"
        finally:
            self._inbox.close()
            self._report(ended)
            self._status.close()

    # ---- what comes in

    async def _handle(self, item: Arrived | Connected | Event) -> None:
        match item:
            case Connected():
                await self._announce()
            case Arrived(message):
                await self._take(message.take())
            case _:
                await self._step(item)

    async def _announce(self) -> None:
        for send in announcements(self._context, self._state.memory):
            await self._send(send.envelope)

    async def _take(self, data: bytes) -> None:
        try:
            envelope = Envelope.decode(data)
        except CodecError as error:
            LOG.warning("a message from the coordinator does not decode: %s", error)
            return
        if envelope.header.type == type_name(CheckpointOffer):
            self._take_conclusion(envelope)
        else:
            await self._step(Received(envelope))

    def _take_conclusion(self, envelope: Envelope) -> None:
        """The coordinator shows the federation's conclusion: nothing is left to judge."""
        try:
            if envelope.header.sender != self._federation.coordinator:
                raise UnknownSender(f"{envelope.header.type} from {envelope.header.sender}")
            verify_signature(envelope, self._federation)
            check_place(envelope, context=self._federation.link_context, step=0)
            keys = {key.hex: key for key in self._federation.identities.values()}
            leaf = open_leaf(read_body(envelope, CheckpointOffer).leaf, keys)
        except FedFMError as error:
            LOG.info("refused: %s", error)
            return
        self._concluded = isinstance(leaf.statement.predicate, ConclusionPredicate)

    # ---- the state machine

    async def _step(self, event: Event) -> None:
        try:
            transition = validator_step(self._context, self._state, event)
        except MessageRefused as error:
            LOG.info("refused: %s", error)
            return
        except RoundViolation as error:
            LOG.warning("not answered: %s", error)
            return
        await self._carry_out(transition)

    async def _renew(self) -> None:
        """Make the next sketch key where the next round needs one."""
        if key_due(self._context, self._state.memory):
            await self._step(RenewKey())

    async def _carry_out(self, transition: Transition[ValidatorState]) -> None:
        self._state = transition.state
        for effect in transition.effects:
            await self._effect(effect)

    async def _effect(self, effect: Effect) -> None:
        match effect:
            case StoreScores():
                self._openings = effect.openings
            case Persist():
                # What opens a verdict's commitments goes with the record of the verdict.
                openings, self._openings = self._openings, {}
                self._journal.record(effect, self._state.memory, openings)
                self._tell(effect)
            case Send(_, envelope):
                await self._send(envelope)
                if envelope.header.type == type_name(Verdict):
                    self._judged_rounds = self._journal.judged_rounds()
                    await self._renew()
            case JudgeScores(number):
                LOG.info(
                    "round %d: judging %d sketches",
                    number,
                    len(effect.question.names),
                    extra={"kind": "judging", "round": number},
                )
                self._inbox.begin(self._judge(effect))
            case Note(text):
                LOG.warning("%s", text)

    async def _judge(self, effect: JudgeScores) -> None:
        """Decrypt and apply the rule beside the loop; seconds where there are many clients."""
        try:
            judgement = await asyncio.to_thread(
                self._context.sketching.judge, effect.secret, effect.scores, effect.question
            )
            event = ScoresJudged(effect.round, effect.step, judgement)
        except CryptoError as error:
            event = ScoresJudged(effect.round, effect.step, None, str(error))
        self._inbox.put(event)

    async def _send(self, envelope: Envelope) -> None:
        try:
            await self._transport.send(envelope.encode())
        except NotConnectedError as error:
            # The coordinator asks again when this site is back, and gets the same bytes.
            LOG.warning("%s was not sent: %s", envelope.header.type, error)

    # ---- what operators see

    def _tell(self, persist: Persist) -> None:
        what = {"sketch-key": "sketch key of epoch %d made", "judged": "round %d: judged"}
        LOG.info(
            what.get(persist.record, "round %d: the sum was checked"),
            persist.round,
            extra={"kind": persist.record, "round": persist.round},
        )

    def _report(self, state: str | None = None) -> None:
        memory = self._state.memory
        judged = 0 if memory.judged is None else memory.judged.round
        busy = self._state.round if isinstance(self._state, Deliberating) else judged
        self._status.show(
            Status(
                role="validator",
                name=self._context.site.name,
                state=state or type(self._state).__name__.lower(),
                round=busy,
                completed=self._judged_rounds,
                rounds=self._federation.charter.rounds,
                adapter="",
                verdict=self._verdicts.last,
            )
        )
