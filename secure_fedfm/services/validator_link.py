"""The coordinator's link to the validator of a robust federation.

The validator announces its newest sketch key on every connection; that is its greeting. The
coordinator passes the key on to every client before a round uses it, repeats what the validator may
have missed of the round at hand, and has scores computed beside its own loop.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod

from fedfm_crypto.envelope import Envelope
from fedfm_protocols.coordinator_states import CoordinatorContext
from fedfm_protocols.effects import ComputeScores, ScoresComputed
from fedfm_protocols.errors import ReplayedMessage, RoundViolation, UnknownSender
from fedfm_protocols.messages import type_name
from fedfm_protocols.robust_messages import SketchEvaluationKeys, SketchKey
from fedfm_protocols.sketch_keys import SketchEpoch, read_sketch_epoch
from secure_fedfm.robust.encrypted_sketches import EncryptedSketches
from secure_fedfm.services.coordinator_link import CoordinatorLink
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.services.score_workers import ScoreWorkers
from secure_fedfm.transport.server import ServerTransport

LOG = logging.getLogger("secure_fedfm.coordinator")
SKETCH_KEY_MESSAGES = frozenset({type_name(SketchKey), type_name(SketchEvaluationKeys)})


class ValidatorLink(CoordinatorLink):
    """What the coordinator says to the validator and hears from it outside of rounds."""

    def __init__(
        self,
        context: CoordinatorContext,
        evidence: Evidence,
        transport: ServerTransport,
        sketching: EncryptedSketches | None,
    ) -> None:
        super().__init__(context, evidence, transport)
        self._sketch: SketchEpoch | None = None
        self._sketch_key: Envelope | None = None  # the first half of what is announced
        self._judging = False  # whether the validator is connected and has announced its key
        self._workers = None if sketching is None else ScoreWorkers(sketching)
        self._computing: set[asyncio.Task[None]] = set()

    @abstractmethod
    def _deliver(self, event: ScoresComputed) -> None:
        """Take an event that was computed elsewhere into the loop."""

    @property
    def _validator_ready(self) -> bool:
        """Whether a round that sums can be opened, as far as the validator goes."""
        return not self._federation.robust or (self._judging and self._sketch is not None)

    @property
    def _judges(self) -> frozenset[str]:
        """The validator, while it is connected."""
        return frozenset({self._federation.validator} if self._judging else ())

    def _validator_left(self) -> None:
        self._judging = False
        LOG.warning("the validator %s is gone", self._federation.validator)

    async def _take_sketch_keys(self, envelope: Envelope) -> None:
        """Both halves of an announcement, in order; what is wrong with it is logged.

        Raises
        ------
        MessageRefused
            if it is malformed, or not the validator's.
        """
        if envelope.header.sender != self._federation.validator or not self._federation.robust:
            raise UnknownSender(f"{envelope.header.type} from {envelope.header.sender}")
        if envelope.header.type == type_name(SketchKey):
            self._sketch_key = envelope
            return
        if self._sketch_key is None:
            return
        new, sketching = True, self._context.need_sketching()
        try:
            self._sketch = await asyncio.to_thread(
                read_sketch_epoch,
                self._federation,
                sketching,
                self._sketch_key,
                envelope,
                self._sketch,
            )
        except ReplayedMessage:
            new = False
        except RoundViolation as error:
            LOG.error("the validator's sketch key is not taken: %s", error)
            return
        back, self._judging = not self._judging, True
        if new and self._sketch is not None:
            LOG.info(
                "sketch key of epoch %d from %s",
                self._sketch.key.epoch,
                self._federation.validator,
                extra={"kind": "sketch-key", "epoch": self._sketch.key.epoch},
            )
            for name in sorted(self._peers.ready):
                await self._send(name, self._sketch.envelope)
        if back or not new:
            await self._repeat_to_validator()

    async def _repeat_to_validator(self) -> None:
        """What it may have missed: the requests of this round, or that all is over."""
        validator = self._federation.validator
        if self._evidence.history.concluded:
            await self._tell_validator_the_end()
            return
        sent = self._peers.outbox.get(validator)
        for again in (sent.after(0) or ()) if sent is not None else ():
            await self._send(validator, again)

    async def _tell_validator_the_end(self) -> None:
        """The validator witnesses nothing; of the log it is shown the conclusion, and stops."""
        if self._federation.robust and self._judging:
            await self._send(self._federation.validator, self._seal(self._evidence.offer(0)))

    async def _send_sketch_key(self, name: str) -> None:
        """The newest sketch key, to a client that may lack it; it drops what it has."""
        if self._sketch is not None:
            await self._send(name, self._sketch.envelope)

    def _begin_scores(self, effect: ComputeScores) -> None:
        if self._workers is None:
            return

        async def compute(workers: ScoreWorkers) -> None:
            try:
                event = await workers.compute(effect)
            except Exception as error:  # nobody waits for this task: the round must hear of it
                LOG.exception("the scores of round %d were not computed", effect.round)
                event = ScoresComputed(effect.round, effect.step, b"", str(error) or "it failed")
            self._deliver(event)

        task = asyncio.create_task(compute(self._workers))
        self._computing.add(task)
        task.add_done_callback(self._computing.discard)

    def _stop_scores(self) -> None:
        for task in self._computing:
            task.cancel()
        if self._workers is not None:
            self._workers.close()
