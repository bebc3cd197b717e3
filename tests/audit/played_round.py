"""One synthetic round: what a script lets everybody say, signed as it is said.

A script may change any message before its sender signs it: that is how tests play a federation
that lies under its own keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fedfm_audit.messages import (
    KEYS,
    NO_HASH,
    TRAIN,
    Cohort,
    CohortProof,
    CohortVote,
    KeyOffer,
    KeyRoster,
    RoundAck,
    RoundClose,
    RoundOpen,
    StepKeys,
    UploadHash,
    UploadSet,
    active_hash,
    context0,
    context1,
    dealers_hash,
)
from fedfm_audit.statements import KeyReference, RoundPredicate
from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import NO_REFERENCE, CheckpointSeen, Envelope, seal_envelope
from fedfm_crypto.random_source import SeededRandom

if TYPE_CHECKING:
    from tests.audit.synthetic import Federation

COORDINATOR = "coordinator"


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
    adapter hash that a client acknowledges.  ``kind`` ``keys`` makes a collective key; ``epoch``
    overrides the key epoch that is named.  ``active`` are the sets of holders that are asked to
    open the key sum, one after the other (default: the first ``key_threshold`` that voted and
    unmasked); of each, those who are not in ``absent`` answer.
    """

    kind: str = TRAIN
    epoch: int | None = None
    active: Sequence[Sequence[str]] | None = None
    absent: Sequence[str] = ()
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
    "KeyDealing",
    "UploadHash",
    "WrappedKey",
    "Upload",
    "CohortVote",
    "Unmask",
    "KeyOpening",
    "RoundAck",
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
        self.key = federation.key if script.kind == TRAIN and federation.encrypted else None
        self._seen = federation.head()
        self._context = b""
        self._counts: dict[tuple[str, bytes], int] = {}
        self._offered: tuple[str, ...] = ()
        self._holders: tuple[str, ...] = ()

    def run(self) -> None:
        federation, script = self.federation, self.script
        latest = federation.key.epoch if federation.key else 0
        epoch = latest + (script.kind == KEYS) if script.epoch is None else script.epoch
        opened = RoundOpen(
            round=self.number,
            key_epoch=epoch,
            steps=1,
            kind=script.kind,
            invited=federation.names,
            adapter_hash=federation.adapter,
            config_hash=federation.config_hash,
            checkpoint=federation.note(),
            consistency=(),
        )
        self._context = context0(federation.charter_hash, opened)
        acks: list[Envelope] = []
        phases = self._key_phases if script.kind == KEYS else self._phases
        if self._say("RoundOpen", encode(opened)) and phases(acks):
            self.outcome = script.outcome or "completed"
            if self.outcome == "completed" and script.kind == TRAIN:
                self.adapter_out = self._new_adapter()
        if script.kind == KEYS and self.outcome == "completed":
            self.key = KeyReference(epoch, self._key_hash().hex(), self._holders)
        close = RoundClose(
            self.outcome, script.reason, self.adapter_out, tuple(ack.encode() for ack in acks)
        )
        self._say("RoundClose", encode(close))

    def _offer(self, name: str) -> bytes:
        keys = self.script.kind == KEYS
        step = StepKeys(self._bytes("mask key", name, 32), self._bytes("seed", name, 32))
        return encode(
            KeyOffer(
                share_key=self._bytes("share key", name, 32),
                steps=(step,) if self.federation.masked and not keys else (),
                nonce_commitment=self._bytes("nonce", name, 32),
                graph_commitment=NO_HASH,
                key_commitment=self._bytes("key part", name, 32) if keys else NO_HASH,
            )
        )

    def _fix_roster(self, key_hash: bytes) -> bool:
        """Key offers and the roster of them; False where the script stops."""
        offers = self._all("KeyOffer", self._offer)
        self._offered = tuple(offer.header.sender for offer in offers)
        roster = encode(KeyRoster(tuple(offer.encode() for offer in offers)))
        if self.script.stop_before == "KeyRoster":
            return False
        self._context = context1(self._context, sha256(roster), key_hash)
        self._say("KeyRoster", roster)
        return True

    # ---- a round that makes a key

    def _key_hash(self) -> bytes:
        return self._bytes("key", "", 32)

    def _key_phases(self, acks: list[Envelope]) -> bool:
        federation = self.federation
        if not self._fix_roster(NO_HASH):
            return False
        most = 2 * federation.colluding + 1 + federation.dropouts
        to_be = self._offered if len(federation.names) <= 64 else self._offered[:most]
        dealt = self._all("KeyDealing", lambda name: self._bytes("part", name, 96), among=to_be)
        self._holders = tuple(envelope.header.sender for envelope in dealt)
        if self.script.stop_before == "KeyDelivery":
            return False
        for name in self._offered:
            self._say("KeyDelivery", self._bytes("key delivery", name, 96))
        acknowledged, ack = self.script.acknowledged, encode(RoundAck(federation.adapter))
        for name in self._offered:
            stored = acknowledged.get(name, self._key_hash())
            acks += self._all("RoundAck", lambda _: ack, stored, among=(name,))
        return True

    # ---- a round that sums updates

    def _phases(self, acks: list[Envelope]) -> bool:
        """Everything between RoundOpen and RoundClose; False where the script stops."""
        federation = self.federation
        if not self._fix_roster(bytes.fromhex(self.key.hash) if self.key else NO_HASH):
            return False
        bundles = self._all("ShareBundle", lambda name: self._bytes("shares", name, 96))
        dealers = tuple(sorted(bundle.header.sender for bundle in bundles))
        if self.script.stop_before == "ShareDelivery":
            return False
        for name in dealers:
            self._say("ShareDelivery", self._bytes("delivery", name, 96))
        uploads = {name: self._bytes("upload", name, 256) for name in federation.names}
        wraps = {name: self._bytes("wrap", name, 128) for name in federation.names}
        refers = dealers_hash(self._context, dealers, None)

        def commit(name: str) -> bytes:
            wrap = sha256(wraps[name]) if federation.encrypted else NO_HASH
            return encode(UploadHash(sha256(uploads[name]), wrap))

        hashes = self._all("UploadHash", commit, refers)
        upload_set = encode(UploadSet(tuple(entry.encode() for entry in hashes)))
        if self.script.stop_before == "UploadSet":
            return False
        self._say("UploadSet", upload_set)
        if federation.encrypted:
            self._all("WrappedKey", lambda name: wraps[name], sha256(upload_set))
        sent = self._all("Upload", lambda name: uploads[name], sha256(upload_set))
        accepted = tuple(entry.header.sender for entry in sent)
        removed = tuple(name for name in dealers if name not in accepted)
        if self.script.stop_before == "Cohort":
            return False
        agreed = sha256(upload_set)
        return self._open(Cohort(agreed, accepted, removed), agreed, acks)

    def _open(self, cohort: Cohort, upload_set: bytes, acks: list[Envelope]) -> bool:
        said = self._say("Cohort", encode(cohort), upload_set)
        agreed = said.header.body_hash if said else sha256(encode(cohort))
        votes = self._all("CohortVote", lambda name: encode(CohortVote(agreed)), agreed)
        if self.script.stop_before == "CohortProof":
            return False
        self._say("CohortProof", encode(CohortProof(tuple(v.encode() for v in votes))), agreed)
        unmasked = self._all("Unmask", lambda name: self._bytes("unmask", name, 99), agreed)
        if self.script.stop_before == "KeyRequest":
            return False
        if self.federation.encrypted:
            voters = {vote.header.sender for vote in votes}
            there = [said.header.sender for said in unmasked if said.header.sender in voters]
            self._open_key_sum(agreed, there)
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

    def _open_key_sum(self, cohort_hash: bytes, there: Sequence[str]) -> None:
        holders = self.key.holders if self.key else ()
        able = [name for name in there if name in holders]
        default = [able[: self.federation.colluding + 1]]
        for active in default if self.script.active is None else self.script.active:
            reference = active_hash(self._context, cohort_hash, 0, tuple(active))
            self._say("KeyRequest", self._bytes("request", "".join(active), 64), reference)
            answering = [name for name in active if name not in self.script.absent]
            self._all(
                "KeyOpening",
                lambda name: self._bytes("opening", name, 64),
                reference,
                among=answering,
            )

    def _new_adapter(self) -> bytes:
        return sha256(b"adapter %d" % self.number)

    def _bytes(self, what: str, name: str, length: int) -> bytes:
        return SeededRandom(f"{self.number} {what} {name}".encode())(length)

    def _all(
        self,
        kind: str,
        body: Callable[[str], bytes],
        refers_to: bytes = NO_REFERENCE,
        *,
        among: Sequence[str] | None = None,
    ) -> list[Envelope]:
        """Every client (or those ``among``) that still speaks says ``kind``."""
        said = []
        for name in self.federation.names if among is None else among:
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


DROPOUT = Script(silent={"client-05": "Upload"})
MAKE_KEYS = Script(kind=KEYS)
ABORTED = Script(
    silent={"client-04": "UploadHash", "client-05": "UploadHash"},
    stop_before="UploadSet",
    reason="3 clients committed an update, 4 are needed",
)


def change_body(kind: str, edit: Callable[[Message], bytes], sender: str | None = None) -> Change:
    """A change that gives one kind of message another body."""

    def change(message: Message) -> Message:
        if message.kind != kind or (sender is not None and message.sender != sender):
            return message
        return replace(message, body=edit(message))

    return change
