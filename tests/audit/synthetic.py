"""A synthetic federation with real keys and real signatures, and the evidence that it leaves.

Everything is seeded, so the same script gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedfm_audit.bundle import CHARTER, POLICY
from fedfm_audit.charter_view import CHARTER_PAYLOAD_TYPE, open_charter
from fedfm_audit.errors import TranscriptError
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.messages import KEYS
from fedfm_audit.policy import render_policy
from fedfm_audit.report import Report
from fedfm_audit.statements import (
    CheckpointReference,
    ConclusionPredicate,
    Distribution,
    EnrolmentPredicate,
    FederationPredicate,
    KeyReference,
    RoundCounts,
    RoundPredicate,
    conclusion_statement,
    enrolment_statement,
    federation_statement,
    round_statement,
    sign_statement,
    transcript_path,
)
from fedfm_audit.steps_summary import summarise_steps
from fedfm_audit.tiles import render_tiles
from fedfm_audit.transcript import Transcript, count_round, make_transcript
from fedfm_audit.verify import verify_files
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import dsse_sign
from fedfm_crypto.envelope import CheckpointSeen, Envelope
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import leaf_hash, tree_root
from fedfm_crypto.note import (
    Checkpoint,
    add_signature,
    cosign,
    format_vkey,
    sign_checkpoint,
)
from fedfm_crypto.random_source import SeededRandom
from tests.audit.played_round import (
    ABORTED,
    COORDINATOR,
    DROPOUT,
    PlayedRound,
    Script,
    parts_of,
    sha256,
)

NAME = "ward-notes"
ORIGIN = "log.example/ward-notes"
MOMENT = 1_800_000_000  # a fixed time of 2027; cosignatures carry it
NOT_AFTER = "2030-12-31"


SHARED_NOISE: dict[str, Any] = {
    "mode": "shared-noise",
    "epsilon": 8.0,
    "delta": 1e-5,
    "noise_multiplier": 1.5,
    "sampling_rate": 0.05,
    "steps_per_round": 3,
    "clip": 1.0,
    "mechanism": "discrete-gaussian",
    "honest_shares": 3,
    "batch": 32.0,
}


class Federation:
    """Plays scripts and collects leaves and transcripts."""

    def __init__(
        self,
        clients: int = 5,
        colluding: int = 1,
        dropouts: int = 1,
        *,
        suite: str = "masked",
        steps: int | None = None,
        seed: bytes = b"synthetic",
        not_after: str = NOT_AFTER,
        change_charter: Callable[[dict[str, Any]], None] = lambda fields: None,
    ) -> None:
        self.random = SeededRandom(seed)
        self.names = tuple(f"client-{number:02d}" for number in range(1, clients + 1))
        self.keys = {name: IdentityKey.generate(self.random) for name in self.names}
        self.coordinator = IdentityKey.generate(self.random)
        self.log_key = IdentityKey.generate(self.random)
        self.leaves: list[bytes] = []
        self.transcripts: dict[int, bytes] = {}
        self.outcomes: list[str] = []
        self.colluding, self.dropouts = colluding, dropouts
        self.key: KeyReference | None = None
        transports = {name: self.random(32) for name in (COORDINATOR, *self.names)}
        for name in (COORDINATOR, *self.names):
            self.leaves.append(self._enrolment(name, transports[name], not_after))
        fields = self._charter_fields(transports, colluding, dropouts)
        fields["suite"] = suite
        if steps is not None:
            fields["privacy"] = {**SHARED_NOISE, "steps_per_round": steps}
        change_charter(fields)
        self.steps: int = (
            fields["privacy"]["steps_per_round"]
            if fields["privacy"]["mode"] == SHARED_NOISE["mode"]
            else 1
        )
        payload = canonical_encode(fields)
        signers = [(self.keys[name].public.hex, self.keys[name]) for name in self.names[:3]]
        self.charter = dsse_sign(payload, CHARTER_PAYLOAD_TYPE, signers)
        self.charter_hash = sha256(payload)
        self.config_hash = sha256(
            canonical_encode({name: fields[name] for name in ("training", "server_optimiser")})
        )
        self.suite = fields["suite"]
        self.masked = self.suite in ("masked", "layered")
        self.encrypted = self.suite in ("sealed", "layered")
        self.adapter = bytes.fromhex(fields["initial_adapter"])
        self.quorum = max(2 * clients // 3 + 1, (clients + colluding) // 2 + 1)
        federation = FederationPredicate(
            *(self.charter_hash.hex(), "secure-fedfm", "0.1.0", "3.11", fields["model"]["sha256"]),
            config=self.config_hash.hex(),
            code="c0" * 32,
            distributions=(Distribution("cryptography", "46.0.3"), Distribution("numpy", "2.4.6")),
        )
        self.leaves.append(sign_statement(federation_statement(federation), self.coordinator))

    def _enrolment(self, name: str, transport: bytes, not_after: str) -> bytes:
        key = self.coordinator if name == COORDINATOR else self.keys[name]
        role = "coordinator" if name == COORDINATOR else "client"
        predicate = EnrolmentPredicate(name, role, key.public.hex, transport.hex(), not_after)
        return sign_statement(enrolment_statement(predicate), key)

    def _charter_fields(
        self, transports: Mapping[str, bytes], colluding: int, dropouts: int
    ) -> dict[str, Any]:
        roster = [
            {
                "name": name,
                "identity": self.keys[name].public.hex,
                "transport": transports[name].hex(),
                "enrolment": sha256(self.leaves[index]).hex(),
            }
            for index, name in enumerate(self.names, start=1)
        ]
        return {
            "version": 1,
            "federation": NAME,
            "coordinator": {
                "name": COORDINATOR,
                "identity": self.coordinator.public.hex,
                "transport": transports[COORDINATOR].hex(),
            },
            "roster": roster,
            "founders": {"names": list(self.names[:3]), "quorum": 2},
            "log": {"origin": ORIGIN, "key": format_vkey(ORIGIN, self.log_key.public)},
            "model": {"name": "tiny-encoder", "sha256": sha256(b"weights").hex()},
            "task": {"kind": "classification", "labels": ["urgent", "routine"]},
            "adapter": {"rank": 8},
            "training": {"learning_rate": 0.002},
            "server_optimiser": {"name": "fedavg"},
            "rounds": 10,
            "suite": "masked",
            "limits": {"colluding": colluding, "dropouts": dropouts},
            "quantiser": {"values": 64, "clip": 0.5, "scale": 4096, "lane_bits": 32},
            "privacy": {"mode": "none"},
            "initial_adapter": sha256(b"adapter 0").hex(),
        }

    # ---- the log

    def head(self) -> CheckpointSeen:
        """The head of the log as it is now."""
        root = tree_root([leaf_hash(leaf) for leaf in self.leaves])
        return CheckpointSeen(len(self.leaves), root)

    def note(
        self,
        leaves: Sequence[bytes] | None = None,
        *,
        key: IdentityKey | None = None,
        witnesses: Iterable[str] | None = None,
    ) -> bytes:
        """A checkpoint of ``leaves`` (default: the log's), cosigned by ``witnesses`` (all)."""
        chosen = self.leaves if leaves is None else leaves
        root = tree_root([leaf_hash(leaf) for leaf in chosen])
        note = sign_checkpoint(
            Checkpoint(ORIGIN, len(chosen), root), ORIGIN, self.log_key if key is None else key
        )
        for name in self.names if witnesses is None else witnesses:
            note = add_signature(note, cosign(note, f"{NAME}/{name}", self.keys[name], MOMENT))
        return note

    def files(
        self,
        *,
        leaves: Sequence[bytes] | None = None,
        note: bytes | None = None,
        witnesses: Iterable[str] | None = None,
    ) -> dict[str, bytes]:
        """The files of a bundle of this federation (or of other leaves under its keys)."""
        chosen = self.leaves if leaves is None else list(leaves)
        return {
            CHARTER: self.charter,
            POLICY: render_policy(open_charter(self.charter)),
            CHECKPOINT: self.note(chosen, witnesses=witnesses) if note is None else note,
            **render_tiles(chosen),
            **{transcript_path(number): data for number, data in self.transcripts.items()},
        }

    # ---- rounds

    def play(self, script: Script) -> None:
        """Play one round and append its statement."""
        number = len(self.transcripts) + 1
        played = PlayedRound(self, script, number)
        played.run()
        self.add_round(transcript_of(number, played.sent), played)

    def add_round(
        self, transcript: Transcript, played: PlayedRound, data: bytes | None = None
    ) -> None:
        """Append the statement of a played round; ``data`` is another file than its transcript."""
        data = transcript.encode() if data is None else data
        head = self.head()
        predicate = RoundPredicate(
            charter=self.charter_hash.hex(),
            round=transcript.round,
            kind=played.script.kind,
            outcome=played.outcome,
            reason=played.reason,
            adapter_in=self.adapter.hex(),
            adapter_out=played.adapter_out.hex(),
            counts=_count(transcript),
            steps=summarise_steps(transcript, planned=played.planned, good=played.good),
            previous=CheckpointReference(head.size, head.root.hex()),
            key=played.key,
        )
        predicate = played.script.predicate(predicate)
        self.leaves.append(sign_statement(round_statement(predicate, data), self.coordinator))
        self.transcripts[transcript.round] = data
        if played.script.kind == KEYS:
            self.key = played.key or self.key
        else:
            self.outcomes.append(played.outcome)
        self.adapter = played.adapter_out

    def conclude(
        self, change: Callable[[ConclusionPredicate], ConclusionPredicate] = lambda said: said
    ) -> None:
        """Append the conclusion."""
        predicate = ConclusionPredicate(
            charter=self.charter_hash.hex(),
            adapter=self.adapter.hex(),
            completed=self.outcomes.count("completed"),
            void=self.outcomes.count("void"),
            aborted=self.outcomes.count("aborted"),
        )
        self.leaves.append(
            sign_statement(conclusion_statement(change(predicate)), self.coordinator)
        )


def transcript_of(number: int, sent: Iterable[Envelope]) -> Transcript:
    """The transcript of these messages, each in the part that its type and step say."""
    return make_transcript(number, *parts_of((e.signed_header, e.body) for e in sent))


def _count(transcript: Transcript) -> RoundCounts:
    """Counts of a transcript; zeros where a script made it uncountable."""
    try:
        return count_round(transcript)
    except TranscriptError:
        return RoundCounts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def play_federation(*scripts: Script, conclude: bool = True, **options: Any) -> Federation:
    """A federation that played these scripts (default: a full round, an aborted one, and one
    with a dropout)."""
    federation = Federation(**options)
    for script in scripts or (Script(), ABORTED, DROPOUT):
        federation.play(script)
    if conclude:
        federation.conclude()
    return federation


def judge(*scripts: Script, **options: Any) -> Report:
    """What the verifier says about a federation that played these scripts."""
    return verify_files(play_federation(*scripts, **options).files(), name="bundle")


def names(*numbers: int) -> tuple[str, ...]:
    """Clients by number."""
    return tuple(f"client-{number:02d}" for number in numbers)
