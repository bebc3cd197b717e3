"""A process that writes a coordinator's evidence as fast as it can, and says what is done.

It runs the coordinator's own :class:`Evidence` over the real log: a round after the other is
recorded (transcript, statement, tiles, checkpoint), and every checkpoint gets the cosignatures of
its witnesses.  Whatever returns is acknowledged through a pipe at that very moment, so whoever
kills it knows what must have survived.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope, seal_envelope
from fedfm_crypto.note import cosign
from fedfm_protocols.context import RoundIdentity
from fedfm_protocols.coordinator_inbox import transcript_entry
from fedfm_protocols.coordinator_round import RoundTranscript
from fedfm_protocols.federation import Federation
from fedfm_protocols.messages import RoundClose, RoundOpen
from secure_fedfm.services.evidence import Evidence
from secure_fedfm.storage.site import Site
from tests.audit.simulated import MOMENT, founded
from tests.audit.simulated import Evidence as Founded

REASON = "nobody came"
Acknowledge = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's folder, and the keys of its federation."""

    root: Path
    founded: Founded
    federation: Federation

    @classmethod
    def at(cls, root: Path) -> Coordinator:
        made = founded(3)
        site = Site(root)
        site.write(site.charter_file, made.envelope)
        return cls(root, made, Federation.of(made.charter))

    def open(self) -> Evidence:
        """What a coordinator does on start; it recomputes the root and repairs tiles."""
        keys = self.founded.keys
        return Evidence(Site(self.root), self.federation, keys.coordinator, keys.log)

    def work(self, acknowledge: Acknowledge) -> None:
        """Start, then record rounds without end."""
        evidence = self.open()
        _announce(evidence, acknowledge)
        names = ("coordinator", *self.federation.clients)
        enrolments = dict(zip(names, self.founded.leaves, strict=False))
        evidence.found(enrolments, self.founded.charter.model.sha256)
        while True:
            self._round(evidence)
            for name in self.federation.clients:
                key = self.founded.keys.clients[name]
                evidence.attach(cosign(evidence.note, f"test/{name}", key, MOMENT))
                acknowledge({"note": evidence.note.decode()})

    def _round(self, evidence: Evidence) -> None:
        """A round that is aborted right after its opening: every kind of file is written."""
        number, adapter = evidence.history.last_round + 1, evidence.history.adapter_hash
        opened = RoundOpen(
            round=number,
            key_epoch=0,
            steps=1,
            kind="train",
            invited=self.federation.clients,
            adapter_hash=adapter,
            config_hash=self.federation.config_hash,
            checkpoint=evidence.note,
            consistency=(),
        )
        context = RoundIdentity.of(self.federation.charter_hash, opened).context0()
        close = RoundClose("aborted", REASON, adapter, ())
        bodies: tuple[RoundOpen | RoundClose, ...] = (opened, close)
        entries = [
            transcript_entry(self._sealed(evidence, context, place, body))
            for place, body in enumerate(bodies)
        ]
        evidence.record_outcome(
            number=number,
            kind="train",
            outcome="aborted",
            reason=REASON,
            adapter_out=adapter,
            transcript=RoundTranscript(setup=(entries[0],), close=(entries[1],)),
            steps=1,
            good=0,
        )

    def _sealed(
        self, evidence: Evidence, context: bytes, place: int, body: RoundOpen | RoundClose
    ) -> Envelope:
        return seal_envelope(
            self.founded.keys.coordinator,
            context=context,
            type=type(body).__name__,
            sender=self.federation.coordinator,
            step=0,
            sequence=place,
            checkpoint=evidence.checkpoint,
            body=encode(body),
        )


def _announce(evidence: Evidence, acknowledge: Acknowledge) -> None:
    """Say what the log has promised, as soon as it has: a leaf, a checkpoint."""
    log: Any = evidence.log
    append, sign = log.append, log.sign_checkpoint

    def appended(leaf: bytes) -> int:
        index: int = append(leaf)
        acknowledge({"index": index, "leaf": leaf.decode()})
        return index

    def signed(key: Any) -> bytes:
        note: bytes = sign(key)
        acknowledge({"note": note.decode()})
        return note

    log.append, log.sign_checkpoint = appended, signed
    acknowledge({"started": log.size})


def run_child(coordinator: Coordinator) -> tuple[int, int]:
    """Fork a process that works; returns its id and the reading end of its acknowledgements."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    try:
        with os.fdopen(writing, "w", buffering=1) as stream:
            coordinator.work(lambda said: _tell(stream.fileno(), said))
    finally:
        os._exit(3)  # it never ends by itself


def _tell(descriptor: int, said: dict[str, Any]) -> None:
    data = (json.dumps({**said, "at": time.monotonic()}) + "\n").encode()
    while data:
        data = data[os.write(descriptor, data) :]
