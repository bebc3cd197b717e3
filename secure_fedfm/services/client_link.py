"""A client's link to its coordinator outside of rounds: greetings, catching up, checkpoints.

What the service and its link share is the state of this one client; a round's own messages are
``client.py``'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from dataclasses import replace

from fedfm_audit.statements import ConclusionPredicate, RoundPredicate, open_leaf
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, seal_envelope
from fedfm_crypto.errors import FedFMError
from fedfm_crypto.note import cosign
from fedfm_protocols.catchup import MissedRound, verify_catch_up
from fedfm_protocols.checks import check_place, verify_signature
from fedfm_protocols.client import leave_round
from fedfm_protocols.client_session import ClientContext
from fedfm_protocols.client_states import ClientMemory, ClientState, Idle
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.effects import Transition
from fedfm_protocols.errors import (
    DivergenceError,
    EquivocationError,
    MissingGroupKey,
    ProtocolError,
    SplitView,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.log_keys import log_in_force
from fedfm_protocols.mark_messages import MarkCheck
from fedfm_protocols.messages import (
    Body,
    CatchUp,
    CheckpointOffer,
    Cosignature,
    Hello,
    read_body,
    type_name,
)
from fedfm_protocols.split_view import check_echo, head_text
from fedfm_protocols.witness import grown_note, log_note, review_leaf, take_offer
from secure_fedfm.errors import ServiceError
from secure_fedfm.services.adapter_keeper import AdapterKeeper
from secure_fedfm.services.client_memory import ClientJournal
from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.errors import NotConnectedError

LOG = logging.getLogger("secure_fedfm.client")
MAX_UNPROVEN = 4  # answers that were under way before this site said where it stands, and more


class ClientLink(ABC):
    """What a client says and hears between rounds, and how it says anything at all."""

    def __init__(
        self,
        context: ClientContext,
        memory: ClientMemory,
        keeper: AdapterKeeper,
        journal: ClientJournal,
        transport: ClientTransport,
    ) -> None:
        self._context = context
        self._federation: Federation = context.site.federation
        self._keeper = keeper
        self._journal = journal
        self._transport = transport
        self._state: ClientState = Idle(memory)
        self._outbox: list[Envelope] = []  # this round's own messages, for byte-identical resends
        self._hellos = 0
        self._asked: bytes | None = None  # what this site asked the coordinator about last
        self._closed_epoch = 0  # of the sum that this site missed and has no group key for
        self._concluded = False
        self._words: tuple[bytes, ...] | None = None  # about this site's marks, once it looked
        self._unproven = 0  # times in a row that the log grew without a proof

    @abstractmethod
    async def _carry_out(self, transition: Transition[ClientState]) -> None:
        """Take a transition of the round's state machine and its effects."""

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
            note=memory.note,
        )
        self._hellos += 1
        await self._send(self._seal(hello, self._hellos))
        for envelope in tuple(self._outbox):
            await self._send(envelope)
        await self._speak_of_marks()

    async def _speak_of_marks(self) -> None:
        """Say what this site found of its marks, once the round that wrote them is over."""
        if self._state.memory.completed <= self._federation.charter.rounds:
            return
        if self._words is None:
            self._words = await asyncio.to_thread(self._find_marks)
        for leaf in self._words:
            self._hellos += 1
            await self._send(self._seal(MarkCheck(leaf), self._hellos))

    def _find_marks(self) -> tuple[bytes, ...]:
        """Signed statements about this site's marks in the adapter in force; none without any."""
        return ()

    async def _ask(self, about: bytes | None) -> None:
        """Greet, so that the coordinator sends what this site may have missed; once per matter,
        for it may repeat the very message that could not be taken."""
        if about is None or about != self._asked:
            self._asked = about
            await self._greet()

    async def _catch_up(self, envelope: Envelope) -> None:
        self._check_link(envelope)
        memory = self._state.memory
        if envelope.header.checkpoint_size == memory.checkpoint.size > 0:
            check_echo(memory.checkpoint, memory.note, envelope)
        catch_up = read_body(envelope, CatchUp)
        missed_rounds = verify_catch_up(
            self._federation,
            catch_up,
            last_applied=memory.last_applied,
            adapter_hash=memory.adapter_hash,
            keys=memory.keys,
            encryption=self._context.encryption,
            head=memory.checkpoint,
            note=memory.note,
        )
        try:
            for missed in missed_rounds:
                self._closed_epoch = 0
                memory = await self._repeat(memory, missed)
        except MissingGroupKey as error:
            self._closed_epoch = error.epoch
            raise
        await self._speak_of_marks()

    async def _repeat(self, memory: ClientMemory, missed: MissedRound) -> ClientMemory:
        """Apply the sum of one missed round as everybody else did."""
        if not isinstance(self._state, Idle):
            # A quorum has finished a round on this site's adapter: its own round is over.
            await self._carry_out(leave_round(self._state, "it ended without this site"))
        computed = missed.adapter_before
        for step, one in enumerate(missed.sums):
            computed = await asyncio.to_thread(
                self._keeper.compute, one.total, one.accepted, step, missed.kind
            )
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
        """Step 15: take the new checkpoint durably, then cosign it.

        Raises
        ------
        SplitView
            if the log's key signed two heads of one size, or one that grew is not proved to extend
            this site's although it asked for the proof again and again.
        """
        self._check_link(envelope)
        offer = read_body(envelope, CheckpointOffer)
        memory = self._state.memory
        try:
            extended = take_offer(self._federation, memory, offer)
        except SplitView:
            raise
        except ProtocolError as error:
            LOG.error("the log's checkpoint is not cosigned: %s", error)
            await self._demand_proof(offer.checkpoint, error)
            return
        self._unproven = 0
        try:
            review_leaf(extended.checkpoint, offer)
            concluded = self._review_leaf(offer.leaf, extended)
        except ProtocolError as error:
            LOG.error("the log's checkpoint is not cosigned: %s", error)
            # Explained if this site missed something.
            await self._ask(offer.checkpoint.partition(b"\n\n")[0])
            return
        self._remember(extended)
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

    async def _demand_proof(self, note: bytes, error: ProtocolError) -> None:
        """Say where this site stands: an honest log then proves its growth from there.

        One proof or two that start elsewhere may be under way already.
        """
        memory = self._state.memory
        log = log_in_force(self._federation, memory.log_changes)
        if not grown_note(memory.checkpoint, note, log):
            await self._ask(note.partition(b"\n\n")[0])
            return
        self._unproven += 1
        if self._unproven > MAX_UNPROVEN:
            raise SplitView(
                f"the log grew {self._unproven} times without a proof that it extends the head "
                f"that this site has seen ({head_text(memory.checkpoint)}): {error}",
                notes=(memory.note, log_note(note, log)),
            )
        await self._greet()

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
        if leaf in memory.log_changes:
            return False  # signed by the key before, in a checkpoint that the next one signed
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
