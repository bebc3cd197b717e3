"""The coordinator's part after training: the round of marks, and what owners say of it."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.context import KEYS, WATERMARK
from fedfm_protocols.coordinator_states import CoordinatorContext
from secure_fedfm.config import Timeouts
from secure_fedfm.robust.encrypted_sketches import EncryptedSketches
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.mark_words import MAX_MARK_ROUNDS, hear_owner, silent_owners
from secure_fedfm.services.validator_link import ValidatorLink
from secure_fedfm.transport.server import ServerTransport

LOG = logging.getLogger("secure_fedfm.coordinator")


class MarkRounds(ValidatorLink):
    """What comes between the last round of training and the conclusion, where owners write marks.

    The abstract methods are the service's: how it waits, and how it plays any round.
    """

    def __init__(
        self,
        context: CoordinatorContext,
        evidence: Evidence,
        transport: ServerTransport,
        sketching: EncryptedSketches | None,
        timeouts: Timeouts,
    ) -> None:
        super().__init__(context, evidence, transport, sketching)
        self._timeouts = timeouts
        self._words: dict[tuple[str, str], bytes] = {}  # what owners say of their marks

    @abstractmethod
    async def _gather(self, seconds: float, needed: int) -> None:
        """Wait until all clients are ready, or the time is up and ``needed`` are."""

    @abstractmethod
    async def _await_validator(self) -> None:
        """Wait for the validator, up to as long as for a client."""

    @abstractmethod
    def _grace(self) -> float:
        """How long to wait for who is missing."""

    @abstractmethod
    async def _run_round(self, kind: str) -> None:
        """Play one round to its end, and log it."""

    @abstractmethod
    async def _publish_checkpoint(self) -> None:
        """Offer the new checkpoint to everyone, collect the witnesses' cosignatures."""

    @abstractmethod
    async def _idle(self, seconds: float) -> None:
        """Handle one thing between rounds, or let ``seconds`` pass."""

    @abstractmethod
    def _check_failures(self) -> None:
        """Give up after too many failed rounds in a row."""

    async def _write_marks(self) -> None:
        """The round of marks, again while it fails, and then the owners' words about them.

        A federation whose owners cannot be brought together ends without marks, and its log says
        so: what was trained is not lost for it.
        """
        evidence = self._evidence
        while self._federation.marked and not evidence.history.marked:
            if evidence.history.unmarked >= MAX_MARK_ROUNDS:
                LOG.error("no round of marks succeeded; the adapter carries none")
                return
            await self._gather(self._grace(), self._federation.thresholds.vote_quorum)
            needs_key = self._epochs.needed(self._peers.ready, evidence.history.key)
            if not needs_key and not self._validator_ready:
                await self._await_validator()
                if not self._validator_ready:
                    LOG.error(
                        "no validator to judge what owners write; the adapter carries no marks"
                    )
                    return
                continue  # clients may have left meanwhile
            await self._run_round(KEYS if needs_key else WATERMARK)
            await self._publish_checkpoint()
            self._check_failures()
        await self._hear_owners()

    async def _hear_owners(self) -> None:
        """Wait for what owners say of their marks, for those who are away as long as for a round;
        silence is no complaint."""
        loop, evidence = asyncio.get_running_loop(), self._evidence
        back = loop.time() + self._timeouts.rejoin
        deadline = back + self._timeouts.cosignatures
        while (now := loop.time()) < deadline:
            asked = self._federation.clients if now < back else self._peers.ready
            if not silent_owners(self._federation, evidence.history, asked, self._words):
                break
            await self._idle((back if now < back else deadline) - now)
        said = [leaf for place, leaf in sorted(self._words.items())
                if place not in evidence.history.heard]  # fmt: skip
        if said:
            evidence.hear(said)
            await self._publish_checkpoint()

    def _take_word(self, sender: str, envelope: Envelope) -> None:
        """An owner's word about a mark, kept for the log; what it said first stands."""
        self._check_link(envelope)
        mark, leaf = hear_owner(self._evidence.history, self._federation, sender, envelope)
        self._words.setdefault((sender, mark), leaf)
