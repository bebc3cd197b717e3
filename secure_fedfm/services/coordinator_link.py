"""The coordinator's links to its clients: greetings, catching up, checkpoints, and how it says
anything at all; a round's own messages are ``coordinator.py``'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from fedfm_audit.errors import LogForkError
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import CheckpointSeen, Envelope, seal_envelope
from fedfm_protocols.checks import check_place, verify_signature
from fedfm_protocols.coordinator_states import (
    CoordinatorContext,
    CoordinatorState,
    Drawing,
    Finished,
    Offering,
    Sharing,
)
from fedfm_protocols.effects import Event, Left
from fedfm_protocols.errors import MalformedMessage
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import (
    Body,
    CatchUp,
    Cosignature,
    Hello,
    read_body,
    type_name,
)
from secure_fedfm.errors import ServiceError
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.key_epochs import KeyEpochs
from secure_fedfm.services.metering import Meter
from secure_fedfm.services.outbox import Outbox
from secure_fedfm.transport.errors import NotConnectedError
from secure_fedfm.transport.framing import MessagePlan
from secure_fedfm.transport.server import ServerTransport

LOG = logging.getLogger("secure_fedfm.coordinator")


@dataclass
class Peers:
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


def step_of(state: CoordinatorState) -> int | None:
    """The step that a session is in; None in its key setup, at its end, and in other rounds."""
    if isinstance(state, Finished) or state.round.identity.steps == 1:
        return None
    return None if isinstance(state, (Offering, Drawing, Sharing)) else state.round.step


class CoordinatorLink:
    """What the coordinator says and hears between rounds."""

    def __init__(
        self, context: CoordinatorContext, evidence: Evidence, transport: ServerTransport
    ) -> None:
        self._context = context
        self._federation: Federation = context.site.federation
        self._evidence = evidence
        self._transport = transport
        self._peers = Peers()
        self._state: CoordinatorState | None = None
        self._meter = Meter()
        self._links = 0
        self._epochs = KeyEpochs(self._federation)

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

    async def _send_sketch_key(self, name: str) -> None:
        """In a robust federation the validator's key, which a client must hold before a round; in
        others there is none."""

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
        if not self._same_log(name, envelope.header.checkpoint, hello.note):
            return None
        self._epochs.held[name] = hello.key_hash
        for missed in self._evidence.missed_rounds(hello.last_round):
            await self._send(name, self._seal(CatchUp((missed,))))
        self._peers.log_size[name] = hello.log_size
        if hello.log_size < self._evidence.log.size:
            await self._offer(name)
        await self._send_sketch_key(name)
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

    def _same_log(self, name: str, seen: CheckpointSeen, note: bytes) -> bool:
        """Whether the checkpoint that a client has seen is one of this log.

        Raises
        ------
        LogForkError
            if one client shows another head in a note that this log's own key signed, or more
            clients deny this log without one than may conspire: it was forked, or restored from an
            old copy, and must not grow.
        MalformedMessage
            if the note is not of the head that the client echoes, or not this log's.
        """
        if note and self._evidence.head_of(note) != seen:
            raise MalformedMessage(f"{name} greets with a note that is not of the head it echoes")
        try:
            self._evidence.log.check_head(seen.size, seen.root)
        except LogForkError as error:
            if note:
                raise LogForkError(
                    f"{name} shows a checkpoint that this log's own key signed, and it is not of "
                    f"this log: {error}"
                ) from error
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

    def _check_witnesses(self) -> None:
        """Without a quorum of witnesses the evidence convinces nobody: not a success."""
        signed, quorum = self._evidence.witnesses(), self._federation.thresholds.vote_quorum
        if len(signed) < quorum:
            raise ServiceError(
                f"{len(signed)} clients have cosigned the conclusion, {quorum} are needed for "
                "evidence that verifies; start the missing clients, then this coordinator again"
            )
