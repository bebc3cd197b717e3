"""A bundle of a large federation in privacy mode ``local``, for measuring its verifier.

The real state machines play every round; each institution charges each round in a ledger of its
own and settles it, as a deployment's clients do.  The entries go to the log directly, not by way
of the UploadHashes.  Keys are seeded and updates are zeros: what a verifier reads is the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fedfm_audit.bundle import write_files
from fedfm_audit.charter_view import open_charter
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.policy import render_policy
from fedfm_audit.privacy.budget import Budget
from fedfm_audit.privacy.entries import Participants, Provenance
from fedfm_audit.privacy.events import CompletedRound, GaussianSteps
from fedfm_audit.privacy.ledger import InstitutionLedger, LedgerTerms, MemoryStore
from fedfm_audit.privacy.terms import PrivacyTerms, read_terms
from fedfm_audit.statements import (
    CheckpointReference,
    ConclusionPredicate,
    FederationPredicate,
    KeyReference,
    RoundPredicate,
    Statement,
    conclusion_statement,
    federation_statement,
    round_statement,
    sign_statement,
    transcript_path,
)
from fedfm_audit.steps_summary import summarise_steps
from fedfm_audit.tiles import render_tiles
from fedfm_audit.transcript import count_round, make_transcript
from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.merkle import leaf_hash, tree_root
from fedfm_crypto.note import Checkpoint, add_signature, cosign, sign_checkpoint
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.charter import Charter, add_charter_signature, make_charter, sign_charter
from fedfm_protocols.context import KEYS, TRAIN
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.enrolment import Role, request_enrolment
from fedfm_protocols.federation import Federation
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.scenario.federations import (
    LOG_ORIGIN,
    Keys,
    charter_fields,
    client_names,
    make_keys,
)
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import Simulation

NOT_AFTER, MOMENT = "2030-01-01", 1_800_000_000
NOISE, RATE, STEPS, DELTA = 1.5, 0.05, 20, 1e-5
_HASH = hashlib.sha256(b"benchmark").hexdigest()


class RecordedFederation:
    """Plays rounds and writes down what an auditor gets to see."""

    def __init__(self, clients: int, rounds: int, suite: str, epsilon: float) -> None:
        self.keys = make_keys(clients)
        self.leaves: list[bytes] = []
        self.transcripts: dict[int, bytes] = {}
        fields = charter_fields(
            self.keys,
            rounds=rounds,
            suite=suite,
            limits={"colluding": 1, "dropouts": clients // 5},
            privacy={
                "mode": "local",
                "epsilon": epsilon,
                "delta": DELTA,
                "noise_multiplier": NOISE,
                "sampling_rate": RATE,
                "steps_per_round": STEPS,
                "clip": 1.0,
            },
        )
        coordinator = bytes.fromhex(fields["coordinator"]["transport"])
        self._enrol("coordinator", "coordinator", coordinator)
        for entry in fields["roster"]:
            leaf = self._enrol(entry["name"], "client", bytes.fromhex(entry["transport"]))
            entry["enrolment"] = hashlib.sha256(leaf).hexdigest()
        self.charter = make_charter(fields)
        self.envelope = _signed(self.charter, self.keys)
        self._state(
            federation_statement(
                FederationPredicate(
                    charter=self.charter.hash.hex(),
                    package="secure-fedfm",
                    version="0",
                    python="0",
                    base_model=self.charter.model.sha256,
                    config=open_charter(self.envelope).config_hash.hex(),
                    code=_HASH,
                    distributions=(),
                )
            )
        )
        self.ledgers = self._ledgers(clients)

    def _enrol(self, name: str, role: Role, transport: bytes) -> bytes:
        key = self.keys.coordinator if role == "coordinator" else self.keys.clients[name]
        leaf = request_enrolment(name, role, key, transport, NOT_AFTER)
        self.leaves.append(leaf)
        return leaf

    def _state(self, statement: Statement) -> None:
        self.leaves.append(sign_statement(statement, self.keys.coordinator))

    def _ledgers(self, clients: int) -> dict[str, InstitutionLedger]:
        view = open_charter(self.envelope)
        terms = read_terms(view.privacy, view.thresholds, view.values, view.scale)
        if terms is None:
            raise ValueError("the charter has no privacy terms")
        return {
            name: InstitutionLedger(self._terms(name, terms, clients), key, MemoryStore())
            for name, key in self.keys.clients.items()
        }

    def _terms(self, name: str, terms: PrivacyTerms, clients: int) -> LedgerTerms:
        return LedgerTerms(
            federation=self.charter.federation,
            charter=self.charter.hash.hex(),
            institution=name,
            key=self.keys.clients[name].public.hex,
            unit=terms.unit,
            adversary=terms.adversary,
            released="noised sums of clipped per-example gradients",
            participants=Participants(clients, 1),
            hashes=Provenance(_HASH, _HASH, _HASH, _HASH, _HASH),
            generator="seeded",
            budget=Budget(terms.epsilon, terms.delta, "pld"),
        )

    def head(self) -> CheckpointSeen:
        """Size and root of the log as it is."""
        return CheckpointSeen(len(self.leaves), tree_root([leaf_hash(e) for e in self.leaves]))

    def note(self) -> bytes:
        """The checkpoint, cosigned by all."""
        head = self.head()
        note = sign_checkpoint(
            Checkpoint(LOG_ORIGIN, head.size, head.root), LOG_ORIGIN, self.keys.log
        )
        for name, key in self.keys.clients.items():
            note = add_signature(
                note, cosign(note, f"{self.charter.federation}/{name}", key, MOMENT)
            )
        return note

    def play(self) -> None:
        """All rounds (with the one before that makes a key, if the suite encrypts)."""
        encrypted = self.charter.suite in ("sealed", "layered")
        zeros = np.zeros(self.charter.quantiser.values)
        simulation = Simulation(
            Federation.of(self.charter),
            self.keys.clients,
            self.keys.coordinator,
            SeededRandom(b"audit speed"),
            lambda _name, _round, _step: zeros,
            shared_sets=SharedSets(),
            keep_messages=False,
            encryption=LatticeEncryption() if encrypted else None,
        )
        # One checkpoint for all rounds: the simulation passes no consistency proofs.
        seen, note = self.head(), self.note()
        kinds = [KEYS] * encrypted + [TRAIN] * self.charter.rounds
        for number, kind in enumerate(kinds, start=1):
            before = simulation.adapter_hash
            if kind == TRAIN:
                event = GaussianSteps(
                    noise_multiplier=NOISE, clip=1.0, sampling_rate=RATE, steps=STEPS
                )
                self.leaves += [led.reserve(number, event) for led in self.ledgers.values()]
            finished = simulation.run_round(number, kind=kind, checkpoint=seen, note=note)
            self._record(number, finished, before)
            if kind == TRAIN:
                self._settle(finished)
        self._state(
            conclusion_statement(
                ConclusionPredicate(
                    self.charter.hash.hex(),
                    simulation.adapter_hash.hex(),
                    self.charter.rounds,
                    0,
                    0,
                )
            )
        )

    def _record(self, number: int, finished: Finished, before: bytes) -> None:
        if finished.outcome != "completed":
            raise RuntimeError(f"round {number} was {finished.outcome}: {finished.reason}")
        said, identity = finished.round.transcript, finished.round.identity
        transcript = make_transcript(
            number,
            [(entry.signed, entry.body) for entry in said.setup],
            [[(entry.signed, entry.body) for entry in step] for step in said.steps],
            [(entry.signed, entry.body) for entry in said.close],
        )
        head, key = self.head(), finished.key or finished.round.key
        self.transcripts[number] = transcript.encode()
        predicate = RoundPredicate(
            charter=self.charter.hash.hex(),
            round=number,
            kind=identity.kind,
            outcome=finished.outcome,
            reason=finished.reason,
            adapter_in=before.hex(),
            adapter_out=finished.adapter_hash.hex(),
            counts=count_round(transcript),
            steps=summarise_steps(transcript, planned=identity.steps, good=1),
            previous=CheckpointReference(head.size, head.root.hex()),
            key=None if key is None else KeyReference(key.epoch, key.key_hash.hex(), key.holders),
        )
        self._state(round_statement(predicate, self.transcripts[number]))

    def _settle(self, finished: Finished) -> None:
        accepted = 0 if finished.record is None else len(self.ledgers)
        for ledger in self.ledgers.values():
            (charge,) = ledger.state.open_charges
            self.leaves.append(
                ledger.settle(
                    CompletedRound(charge=charge.sequence, accepted=accepted, aggregate=_HASH)
                )
            )

    def write(self, folder: Path) -> Path:
        """The bundle."""
        return write_files(
            {
                "charter.json": self.envelope,
                "policy": render_policy(open_charter(self.envelope)),
                CHECKPOINT: self.note(),
                **render_tiles(self.leaves),
                **{transcript_path(number): data for number, data in self.transcripts.items()},
            },
            folder,
        )


def _signed(charter: Charter, keys: Keys) -> bytes:
    first, second = client_names(len(keys.clients))[:2]
    envelope = sign_charter(charter, first, keys.clients[first])
    return add_charter_signature(envelope, second, keys.clients[second])


def make_bundle(
    folder: Path, *, clients: int, rounds: int, suite: str = "masked", epsilon: float = 1000.0
) -> Path:
    """Play a federation of ``rounds`` completed rounds and write its bundle to ``folder``.

    With ``epsilon`` below what all rounds cost by Renyi divergence, the budget is judged by PLD.
    """
    federation = RecordedFederation(clients, rounds, suite, epsilon)
    federation.play()
    return federation.write(folder)
