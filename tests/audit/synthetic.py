"""A synthetic federation with real keys and real signatures, and the evidence that it leaves.

Everything is seeded, so the same script gives the same bytes.  A script may change any message
before its sender signs it: that is how tests play a federation that lies under its own keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedfm_audit.bundle import CHARTER, POLICY
from fedfm_audit.charter_view import CHARTER_PAYLOAD_TYPE, open_charter
from fedfm_audit.errors import TranscriptError
from fedfm_audit.log import CHECKPOINT
from fedfm_audit.messages import (
    Cohort,
    CohortProof,
    CohortVote,
    KeyRoster,
    RoundAck,
    RoundClose,
    RoundOpen,
    UploadHash,
    UploadSet,
    context0,
    context1,
    dealers_hash,
)
from fedfm_audit.policy import render_policy
from fedfm_audit.statements import (
    CheckpointReference,
    ConclusionPredicate,
    EnrolmentPredicate,
    FederationPredicate,
    RoundCounts,
    RoundPredicate,
    conclusion_statement,
    enrolment_statement,
    federation_statement,
    round_statement,
    sign_statement,
    transcript_path,
)
from fedfm_audit.tiles import render_tiles
from fedfm_audit.transcript import Transcript, count_round, make_transcript
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.codec import encode
from fedfm_crypto.dsse import dsse_sign
from fedfm_crypto.envelope import NO_REFERENCE, CheckpointSeen, Envelope, seal_envelope
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

NAME = "ward-notes"
ORIGIN = "log.example/ward-notes"
COORDINATOR = "coordinator"
MOMENT = 1_800_000_000  # a fixed time of 2027; cosignatures carry it
NOT_AFTER = "2030-12-31"


def sha256(data: bytes) -> bytes:
    """Plain SHA-256."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Message:
    """A message before it is signed; a script's ``change`` may replace any part of it."""

    kind: str
    sender: str
    body: bytes
    context: bytes
    sequence: int
    checkpoint: CheckpointSeen
    refers_to: bytes = NO_REFERENCE
    step: int = 0


Change = Callable[[Message], Message | None]


def unchanged(message: Message) -> Message:
    """The honest change."""
    return message


@dataclass(frozen=True)
class Script:
    """How one round goes.

    ``silent`` maps a client to the first message kind that it no longer sends.  ``stop_before``
    is the coordinator message at which the round is aborted.  ``acknowledged`` overrides the
    adapter hash that a client acknowledges.
    """

    silent: Mapping[str, str] = field(default_factory=dict)
    stop_before: str | None = None
    outcome: str | None = None
    reason: str = ""
    acknowledged: Mapping[str, bytes] = field(default_factory=dict)
    change: Change = unchanged
    predicate: Callable[[RoundPredicate], RoundPredicate] = lambda predicate: predicate


CLIENT_ORDER = (
    "KeyOffer",
    "ShareBundle",
    "UploadHash",
    "Upload",
    "CohortVote",
    "Unmask",
    "RoundAck",
)


class Federation:
    """Plays scripts and collects leaves and transcripts."""

    def __init__(
        self,
        clients: int = 5,
        colluding: int = 1,
        dropouts: int = 1,
        *,
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
        transports = {name: self.random(32) for name in (COORDINATOR, *self.names)}
        for name in (COORDINATOR, *self.names):
            self.leaves.append(self._enrolment(name, transports[name], not_after))
        fields = self._charter_fields(transports, colluding, dropouts)
        change_charter(fields)
        payload = canonical_encode(fields)
        signers = [(self.keys[name].public.hex, self.keys[name]) for name in self.names[:3]]
        self.charter = dsse_sign(payload, CHARTER_PAYLOAD_TYPE, signers)
        self.charter_hash = sha256(payload)
        self.config_hash = sha256(
            canonical_encode({name: fields[name] for name in ("training", "server_optimiser")})
        )
        self.adapter = bytes.fromhex(fields["initial_adapter"])
        self.quorum = max(2 * clients // 3 + 1, (clients + colluding) // 2 + 1)
        federation = FederationPredicate(
            self.charter_hash.hex(), "secure-fedfm", "0.1.0", "3.11", fields["model"]["sha256"]
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
        rounds = PlayedRound(self, script, number)
        rounds.run()
        transcript = make_transcript(
            number, [(sent.signed_header, sent.body) for sent in rounds.sent]
        )
        self.add_round(transcript, rounds)

    def add_round(self, transcript: Transcript, played: PlayedRound) -> None:
        """Append the statement of a played round."""
        data = transcript.encode()
        head = self.head()
        predicate = RoundPredicate(
            charter=self.charter_hash.hex(),
            round=transcript.round,
            kind="train",
            outcome=played.outcome,
            reason=played.script.reason,
            adapter_in=self.adapter.hex(),
            adapter_out=played.adapter_out.hex(),
            counts=_count(transcript),
            previous=CheckpointReference(head.size, head.root.hex()),
        )
        predicate = played.script.predicate(predicate)
        self.leaves.append(sign_statement(round_statement(predicate, data), self.coordinator))
        self.transcripts[transcript.round] = data
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


class PlayedRound:
    """One round's messages, signed as they are said."""

    def __init__(self, federation: Federation, script: Script, number: int) -> None:
        self.federation = federation
        self.script = script
        self.number = number
        self.sent: list[Envelope] = []
        self.outcome = "aborted"
        self.adapter_out = federation.adapter
        self._seen = federation.head()
        self._context = b""
        self._counts: dict[tuple[str, bytes], int] = {}

    def run(self) -> None:
        federation, script = self.federation, self.script
        opened = RoundOpen(
            round=self.number,
            key_epoch=0,
            steps=1,
            kind="train",
            invited=federation.names,
            adapter_hash=federation.adapter,
            config_hash=federation.config_hash,
            checkpoint=federation.note(),
            consistency=(),
        )
        self._context = context0(federation.charter_hash, opened)
        acks: list[Envelope] = []
        if self._say("RoundOpen", encode(opened)) and self._phases(acks):
            self.outcome = script.outcome or "completed"
            if self.outcome == "completed":
                self.adapter_out = self._new_adapter()
        close = RoundClose(
            self.outcome, script.reason, self.adapter_out, tuple(ack.encode() for ack in acks)
        )
        self._say("RoundClose", encode(close))

    def _phases(self, acks: list[Envelope]) -> bool:
        """Everything between RoundOpen and RoundClose; False where the script stops."""
        federation = self.federation
        offers = self._all("KeyOffer", lambda name: self._bytes("offer", name, 64))
        roster = encode(KeyRoster(tuple(offer.encode() for offer in offers)))
        if self.script.stop_before == "KeyRoster":
            return False
        self._context = context1(self._context, sha256(roster))
        self._say("KeyRoster", roster)
        bundles = self._all("ShareBundle", lambda name: self._bytes("shares", name, 96))
        dealers = tuple(sorted(bundle.header.sender for bundle in bundles))
        if self.script.stop_before == "ShareDelivery":
            return False
        for name in dealers:
            self._say("ShareDelivery", self._bytes("delivery", name, 96))
        uploads = {name: self._bytes("upload", name, 256) for name in federation.names}
        refers = dealers_hash(self._context, dealers, None)
        hashes = self._all(
            "UploadHash", lambda name: encode(UploadHash(sha256(uploads[name]))), refers
        )
        upload_set = encode(UploadSet(tuple(entry.encode() for entry in hashes)))
        if self.script.stop_before == "UploadSet":
            return False
        self._say("UploadSet", upload_set)
        sent = self._all("Upload", lambda name: uploads[name], sha256(upload_set))
        accepted = tuple(entry.header.sender for entry in sent)
        removed = tuple(name for name in dealers if name not in accepted)
        if self.script.stop_before == "Cohort":
            return False
        return self._open(Cohort(accepted, removed), sha256(upload_set), acks)

    def _open(self, cohort: Cohort, upload_set: bytes, acks: list[Envelope]) -> bool:
        said = self._say("Cohort", encode(cohort), upload_set)
        agreed = said.header.body_hash if said else sha256(encode(cohort))
        votes = self._all("CohortVote", lambda name: encode(CohortVote(agreed)), agreed)
        if self.script.stop_before == "CohortProof":
            return False
        self._say("CohortProof", encode(CohortProof(tuple(v.encode() for v in votes))), agreed)
        self._all("Unmask", lambda name: self._bytes("unmask", name, 99), agreed)
        if self.script.stop_before == "Aggregate":
            return False
        aggregate = self._bytes("aggregate", "", 256)
        self._say("Aggregate", aggregate, agreed)
        adapter = self._new_adapter()
        acks += self._all(
            "RoundAck",
            lambda name: encode(RoundAck(self.script.acknowledged.get(name, adapter))),
            sha256(aggregate),
        )
        return True

    def _new_adapter(self) -> bytes:
        return sha256(b"adapter %d" % self.number)

    def _bytes(self, what: str, name: str, length: int) -> bytes:
        return SeededRandom(f"{self.number} {what} {name}".encode())(length)

    def _all(
        self, kind: str, body: Callable[[str], bytes], refers_to: bytes = NO_REFERENCE
    ) -> list[Envelope]:
        """Every client that still speaks says ``kind``."""
        said = []
        for name in self.federation.names:
            last = self.script.silent.get(name)
            if last is None or CLIENT_ORDER.index(kind) < CLIENT_ORDER.index(last):
                envelope = self._say(kind, body(name), refers_to, name)
                if envelope is not None:
                    said.append(envelope)
        return said

    def _say(
        self, kind: str, body: bytes, refers_to: bytes = NO_REFERENCE, sender: str = COORDINATOR
    ) -> Envelope | None:
        place = (sender, self._context)
        message = Message(
            kind, sender, body, self._context, self._counts.get(place, 0), self._seen, refers_to
        )
        self._counts[place] = message.sequence + 1
        changed = self.script.change(message)
        if changed is None:
            return None
        keys = {COORDINATOR: self.federation.coordinator, **self.federation.keys}
        envelope = seal_envelope(
            keys[changed.sender],
            context=changed.context,
            type=changed.kind,
            sender=changed.sender,
            step=changed.step,
            sequence=changed.sequence,
            refers_to=changed.refers_to,
            checkpoint=changed.checkpoint,
            body=changed.body,
        )
        self.sent.append(envelope)
        return envelope


def _count(transcript: Transcript) -> RoundCounts:
    """Counts of a transcript; zeros where a script made it uncountable."""
    try:
        return count_round(transcript)
    except TranscriptError:
        return RoundCounts(0, 0, 0, 0, 0, 0, 0, 0, 0)


DROPOUT = Script(silent={"client-05": "Upload"})
ABORTED = Script(
    silent={"client-04": "UploadHash", "client-05": "UploadHash"},
    stop_before="UploadSet",
    reason="3 clients committed an update, 4 are needed",
)


def play_federation(*scripts: Script, conclude: bool = True, **options: Any) -> Federation:
    """A federation that played these scripts (default: a full round, an aborted one, and one
    with a dropout)."""
    federation = Federation(**options)
    for script in scripts or (Script(), ABORTED, DROPOUT):
        federation.play(script)
    if conclude:
        federation.conclude()
    return federation


def change_body(kind: str, edit: Callable[[Message], bytes], sender: str | None = None) -> Change:
    """A change that gives one kind of message another body."""

    def change(message: Message) -> Message:
        if message.kind != kind or (sender is not None and message.sender != sender):
            return message
        return replace(message, body=edit(message))

    return change
