"""Evidence of a federation that the real state machines played in memory, and its verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.archive import ARCHIVED_KINDS, ArchiveWriter, archived_messages
from fedfm_audit.bundle import CHARTER, POLICY
from fedfm_audit.charter_view import open_charter
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.messages import KEYS, TRAIN, WATERMARK
from fedfm_audit.policy import render_policy
from fedfm_audit.report import Report
from fedfm_audit.statements import (
    CheckpointReference,
    ConclusionPredicate,
    Distribution,
    FederationPredicate,
    KeyReference,
    RoundPredicate,
    conclusion_statement,
    federation_statement,
    round_statement,
    sign_statement,
    transcript_path,
)
from fedfm_audit.steps_summary import summarise_steps
from fedfm_audit.tiles import render_tiles
from fedfm_audit.transcript import Transcript, count_round, make_transcript
from fedfm_audit.verify import verify_files
from fedfm_crypto.envelope import CheckpointSeen, Envelope, SignedHeader
from fedfm_crypto.merkle import leaf_hash, tree_root
from fedfm_crypto.note import Checkpoint, add_signature, cosign, sign_checkpoint
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.charter import Charter, add_charter_signature, make_charter, sign_charter
from fedfm_protocols.coordinator_round import TranscriptEntry
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.enrolment import request_enrolment
from fedfm_protocols.federation import Federation
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.scenario.federations import watermark_section
from fedfm_protocols.scenario.open_sketches import OpenSketches
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import Delivery, Simulation
from tests.protocols.federations import Keys, charter_fields, make_keys, seeded_update

NOT_AFTER, MOMENT = "2030-01-01", 1_800_000_000
ORIGIN = "test/log"
Losses = Mapping[int, Mapping[str, Sequence[str]]]
"""Who loses which message in which round: of a type at every step, or (``Upload 2``) at one."""


@dataclass
class Evidence:
    """Leaves, transcripts and keys of a federation that has run."""

    keys: Keys
    charter: Charter
    envelope: bytes
    leaves: list[bytes]
    transcripts: dict[int, bytes]
    outcomes: list[str]
    predicates: dict[int, RoundPredicate] = field(default_factory=dict)

    def head(self) -> CheckpointSeen:
        return CheckpointSeen(len(self.leaves), tree_root([leaf_hash(e) for e in self.leaves]))

    def note(self) -> bytes:
        head = self.head()
        note = sign_checkpoint(Checkpoint(ORIGIN, head.size, head.root), ORIGIN, self.keys.log)
        for name, key in self.keys.clients.items():
            note = add_signature(note, cosign(note, f"test/{name}", key, MOMENT))
        return note

    def files(self) -> dict[str, bytes]:
        return {
            CHARTER: self.envelope,
            POLICY: render_policy(open_charter(self.envelope)),
            CHECKPOINT: self.note(),
            **render_tiles(self.leaves),
            **{transcript_path(number): data for number, data in self.transcripts.items()},
        }

    def verify(self, **options: Any) -> Report:
        return verify_files(self.files(), name="simulated", **options)

    def add_round(
        self, number: int, transcript: Transcript, finished: Finished, before: bytes
    ) -> None:
        data, head = transcript.encode(), self.head()
        kind, key = finished.round.identity.kind, finished.key or finished.round.key
        planned = finished.round.identity.steps
        predicate = RoundPredicate(
            self.charter.hash.hex(),
            number,
            kind,
            finished.outcome,
            finished.reason,
            before.hex(),
            finished.adapter_hash.hex(),
            count_round(transcript),
            summarise_steps(transcript, planned=planned, good=_good_steps(finished)),
            CheckpointReference(head.size, head.root.hex()),
            None if key is None else KeyReference(key.epoch, key.key_hash.hex(), key.holders),
        )
        statement = sign_statement(round_statement(predicate, data), self.keys.coordinator)
        self.leaves.append(statement)
        self.predicates[number] = predicate
        self.transcripts[number] = data
        self.outcomes.append(finished.outcome if kind == TRAIN else f"{kind} {finished.outcome}")


Messages = list[tuple[SignedHeader, bytes | None]]


def _messages(entries: Sequence[TranscriptEntry]) -> Messages:
    return [(entry.signed, entry.body) for entry in entries]


def _good_steps(finished: Finished) -> int:
    """How many steps the coordinator itself calls good."""
    if finished.round.identity.kind == KEYS:
        return int(finished.outcome == "completed")
    return 0 if finished.record is None else len(finished.record.aggregates)


def founded(
    clients: int,
    marks: Callable[[Keys], Sequence[tuple[str, str, bytes]]] | None = None,
    agreed: int = 9,
    **changes: object,
) -> Evidence:
    """A federation's charter of ``agreed`` rounds, and the leaves from before its first round;
    ``marks`` makes leaves that commit to marks (client, mark, leaf), which the charter names."""
    keys = make_keys(clients)
    fields = charter_fields(keys, rounds=agreed, **changes)
    transport = bytes.fromhex(fields["coordinator"]["transport"])
    leaves = [
        request_enrolment("coordinator", "coordinator", keys.coordinator, transport, NOT_AFTER)
    ]
    for entry in fields["roster"]:
        name, transport = entry["name"], bytes.fromhex(entry["transport"])
        leaf = request_enrolment(name, "client", keys.clients[name], transport, NOT_AFTER)
        entry["enrolment"] = hashlib.sha256(leaf).hexdigest()
        leaves.append(leaf)
    if "validator" in fields:
        name, transport = fields["validator"]["name"], fields["validator"]["transport"]
        leaf = request_enrolment(
            name, "validator", keys.validator, bytes.fromhex(transport), NOT_AFTER
        )
        fields["validator"]["enrolment"] = hashlib.sha256(leaf).hexdigest()
        leaves.append(leaf)
    if marks is not None:
        made = sorted(marks(keys))
        leaves += [leaf for *_, leaf in made]
        section = watermark_section([made[0][0]])
        section["owners"] = [
            {"client": name, "mark": mark, "commitment": hashlib.sha256(leaf).hexdigest()}
            for name, mark, leaf in made
        ]
        fields.setdefault("watermark", section)
    charter = make_charter(fields)
    first, second = charter.clients[:2]
    envelope = sign_charter(charter, first, keys.clients[first])
    envelope = add_charter_signature(envelope, second, keys.clients[second])
    federation = FederationPredicate(
        *(charter.hash.hex(), "secure-fedfm", "0.1.0", "3.11", charter.model.sha256),
        config=Federation.of(charter).config_hash.hex(),
        code="c0" * 32,
        distributions=(Distribution("cryptography", "46.0.3"), Distribution("numpy", "2.4.6")),
    )
    leaves.append(sign_statement(federation_statement(federation), keys.coordinator))
    return Evidence(keys, charter, envelope, leaves, {}, [])


def played(
    clients: int,
    rounds: int,
    losses: Losses,
    change: Callable[[Keys, Messages], Messages] = lambda keys, messages: messages,
    key_rounds: Sequence[int] = (),
    archive: ArchiveWriter | None = None,
    updates: Callable[[str, int, int], NDArray[np.float64]] = seeded_update,
    marks: Callable[[Keys], Sequence[tuple[str, str, bytes]]] | None = None,
    mark_rounds: Sequence[int] = (),
    words: Callable[[Evidence], Sequence[bytes]] = lambda evidence: (),
    agreed: int = 9,
    **changes: object,
) -> Evidence:
    """Run the real state machines and write down what they leave.

    ``change`` may alter the messages of each part of a transcript; ``key_rounds`` make keys;
    ``archive`` gets what a coordinator keeps for a replay; ``updates`` are those of a client in a
    round, so many values; ``marks`` are committed to before, ``mark_rounds`` write them and
    ``words`` are leaves of their owners before the conclusion.  A robust federation has a validator
    that reads open sketches.
    """
    evidence = founded(clients, marks, agreed, **changes)
    number, values = 0, evidence.charter.quantiser.values

    def network(sender: str, recipient: str, envelope: Envelope) -> tuple[Delivery, ...]:
        lost, header = losses.get(number, {}), envelope.header
        kinds = (header.type, f"{header.type} {header.step}")
        if any(sender in lost.get(k, ()) for k in kinds):
            return ()
        if archive is not None and header.type in ARCHIVED_KINDS:
            archive.put(number, header.step, header.type, sender, envelope.body)
        return ((recipient, envelope),)

    federation, random = Federation.of(evidence.charter), SeededRandom(b"evidence")
    simulation = Simulation(
        federation,
        evidence.keys.clients,
        evidence.keys.coordinator,
        random,
        lambda name, number, _: updates(name, number, values),
        network,
        shared_sets=SharedSets(),
        encryption=LatticeEncryption() if key_rounds else None,
        validator_key=evidence.keys.validator if federation.robust else None,
        sketching=OpenSketches.of(federation, random) if federation.robust else None,
    )
    # One checkpoint for all rounds: the simulation passes no consistency proofs.
    seen, note = evidence.head(), evidence.note()
    for number in range(1, rounds + 1):
        before = simulation.adapter_hash
        kind = KEYS if number in key_rounds else WATERMARK if number in mark_rounds else TRAIN
        finished = simulation.run_round(number, kind=kind, checkpoint=seen, note=note)
        said = finished.round.transcript
        transcript = make_transcript(
            number,
            change(evidence.keys, _messages(said.setup)),
            [change(evidence.keys, _messages(step)) for step in said.steps],
            change(evidence.keys, _messages(said.close)),
        )
        evidence.add_round(number, transcript, finished, before)
        if archive is not None:
            masked, encrypted = (getattr(simulation.federation, a) for a in ("masked", "encrypted"))
            kept = {
                step: archived_messages(entries, masked=masked, encrypted=encrypted)
                for step, entries in enumerate(transcript.steps)
                if kind != KEYS
            }
            archive.close_round(number, kept)
    evidence.leaves += words(evidence)
    conclusion = ConclusionPredicate(
        evidence.charter.hash.hex(),
        simulation.adapter_hash.hex(),
        evidence.outcomes.count("completed"),
        evidence.outcomes.count("void"),
        evidence.outcomes.count("aborted"),
    )
    evidence.leaves.append(
        sign_statement(conclusion_statement(conclusion), evidence.keys.coordinator)
    )
    return evidence
