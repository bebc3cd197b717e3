"""One synthetic round of one step or several: what a script lets everybody say, signed as said.

A script may change any message before its sender signs it: that is how tests play a federation
that lies under its own keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fedfm_audit.entries import STEP_MESSAGES
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
    step_hash,
)
from fedfm_audit.statements import KeyReference, RoundPredicate
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import (
    NO_REFERENCE,
    CheckpointSeen,
    Envelope,
    SignedHeader,
    seal_envelope,
)
from fedfm_crypto.random_source import SeededRandom

if TYPE_CHECKING:
    from tests.audit.synthetic import Federation

COORDINATOR = "coordinator"
Signed = tuple[SignedHeader, bytes | None]
Parts = tuple[list[Signed], list[list[Signed]], list[Signed]]


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


Moment = str | tuple[int, str]
"""A kind of message, at the first step or at the one given."""


@dataclass(frozen=True)
class Script:
    """How one round goes.

    ``silent`` maps a client to the first message that it no longer sends.  ``lost`` are messages
    (step, kind, client) that never arrive, while their sender goes on.  ``stop_before`` is the
    coordinator message at which the round ends, with what it has by then.  ``acknowledged``
    overrides the adapter hash that a client, or a client at a step (step, client), acknowledges.
    ``kind`` ``keys`` makes a collective key; ``epoch`` overrides the key epoch that is named.
    ``active`` are the sets of holders that are asked to open the key sum, one after the other
    (default: the first ``key_threshold`` that voted and unmasked); of each, those who are not in
    ``absent`` answer.
    """

    kind: str = TRAIN
    epoch: int | None = None
    active: Sequence[Sequence[str]] | None = None
    absent: Sequence[str] = ()
    silent: Mapping[str, Moment] = field(default_factory=dict)
    lost: Collection[tuple[int, str, str]] = ()
    stop_before: Moment | None = None
    outcome: str | None = None
    reason: str = ""
    acknowledged: Mapping[Any, bytes] = field(default_factory=dict)
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
        self.planned = federation.steps if script.kind == TRAIN else 1
        self.good = 0
        self.sent: list[Envelope] = []
        self.outcome = "aborted"
        self.reason = script.reason
        self.adapter_out = federation.adapter
        self.key = federation.key if script.kind == TRAIN and federation.encrypted else None
        self._seen = federation.head()
        self._step = 0
        self._context = b""
        self._counts: dict[tuple[str, bytes], int] = {}
        self._offered: tuple[str, ...] = ()
        self._holders: tuple[str, ...] = ()
        self._dealers: tuple[str, ...] = ()
        self._before: tuple[bytes, dict[str, bytes]] | None = None
        self._acks: list[list[Envelope]] = []

    def run(self) -> None:
        federation, script = self.federation, self.script
        latest = federation.key.epoch if federation.key else 0
        epoch = latest + (script.kind == KEYS) if script.epoch is None else script.epoch
        opened = RoundOpen(
            round=self.number,
            key_epoch=epoch,
            steps=self.planned,
            kind=script.kind,
            invited=federation.names,
            adapter_hash=federation.adapter,
            config_hash=federation.config_hash,
            checkpoint=federation.note(),
            consistency=(),
        )
        self._context = context0(federation.charter_hash, opened)
        phases = self._key_phases if script.kind == KEYS else self._phases
        whole = bool(self._say("RoundOpen", encode(opened))) and phases()
        self._conclude(whole=whole)
        if script.kind == KEYS and self.outcome == "completed":
            self.key = KeyReference(epoch, self._key_hash().hex(), self._holders)
        acks = self._acks[max(self.good, 1) - 1] if self._acks else []
        close = RoundClose(
            self.outcome, self.reason, self.adapter_out, tuple(ack.encode() for ack in acks)
        )
        if self.outcome == "completed":
            self._step = max(self.good, 1) - 1
        self._say("RoundClose", encode(close))

    def _conclude(self, *, whole: bool) -> None:
        """How the round ends: ``whole`` if no step was cut short."""
        script = self.script
        if script.kind == KEYS:
            self.outcome = (script.outcome or "completed") if whole else "aborted"
            self.good = int(self.outcome == "completed")
            return
        for step, acks in enumerate(self._acks):
            held = [decode(RoundAck, ack.body).adapter_hash for ack in acks]
            most = max((held.count(adapter) for adapter in held), default=0)
            if most < self.federation.quorum:
                break
            self.good = step + 1
        if whole or self.good:
            self.outcome = script.outcome or "completed"
        elif self._acks:
            self.outcome = "void"
        if self.outcome == "completed":
            self.adapter_out = self.new_adapter(max(self.good, 1) - 1)
            if 0 < self.good < self.planned:
                why = script.reason or "stopped"
                self.reason = f"ended after {self.good} of {self.planned} steps: {why}"

    def _stops(self, kind: str) -> bool:
        stop = self.script.stop_before
        return (stop if isinstance(stop, tuple) else (0, stop)) == (self._step, kind)

    def _offer(self, name: str) -> bytes:
        keys = self.script.kind == KEYS
        steps = tuple(
            StepKeys(self._bytes(f"mask {n}", name, 32), self._bytes(f"seed {n}", name, 32))
            for n in range(self.planned)
        )
        return encode(
            KeyOffer(
                share_key=self._bytes("share key", name, 32),
                steps=steps if self.federation.masked and not keys else (),
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
        if self._stops("KeyRoster"):
            return False
        self._context = context1(self._context, sha256(roster), key_hash)
        self._say("KeyRoster", roster)
        return True

    # ---- a round that makes a key

    def _key_hash(self) -> bytes:
        return self._bytes("key", "", 32)

    def _key_phases(self) -> bool:
        federation = self.federation
        if not self._fix_roster(NO_HASH):
            return False
        most = 2 * federation.colluding + 1 + federation.dropouts
        to_be = self._offered if len(federation.names) <= 64 else self._offered[:most]
        dealt = self._all("KeyDealing", lambda name: self._bytes("part", name, 96), among=to_be)
        self._holders = tuple(envelope.header.sender for envelope in dealt)
        if self._stops("KeyDelivery"):
            return False
        for name in self._offered:
            self._say("KeyDelivery", self._bytes("key delivery", name, 96))
        acknowledged, ack = self.script.acknowledged, encode(RoundAck(federation.adapter))
        acks: list[Envelope] = []
        for name in self._offered:
            stored = acknowledged.get(name, self._key_hash())
            acks += self._all("RoundAck", lambda _: ack, stored, among=(name,))
        self._acks = [acks] if acks else []
        return True

    # ---- a round that sums updates

    def _phases(self) -> bool:
        """Everything between RoundOpen and RoundClose; False where the round is cut short."""
        if not self._fix_roster(bytes.fromhex(self.key.hash) if self.key else NO_HASH):
            return False
        bundles = self._all("ShareBundle", lambda name: self._bytes("shares", name, 96))
        self._dealers = tuple(sorted(bundle.header.sender for bundle in bundles))
        if self._stops("ShareDelivery"):
            return False
        for name in self._dealers:
            self._say("ShareDelivery", self._bytes("delivery", name, 96))
        for step in range(self.planned):
            self._step = step
            if not self._one_step():
                return False
        return True

    def _one_step(self) -> bool:
        """From upload hashes to acknowledgements; False where the round is cut short."""
        federation = self.federation
        # From the second step on only those who are still taken in speak at all.
        among = self._dealers if self._before else federation.names
        uploads = {name: self._bytes("upload", name, 256) for name in among}
        wraps = {name: self._bytes("wrap", name, 128) for name in among}

        def commit(name: str) -> bytes:
            wrap = sha256(wraps[name]) if federation.encrypted else NO_HASH
            return encode(UploadHash(sha256(uploads[name]), wrap))

        hashes = []
        for name in among:
            hashes += self._all("UploadHash", commit, self._basis(name), among=(name,))
        hashes = [entry for entry in hashes if self._builds(entry.header.sender)]
        upload_set = encode(UploadSet(tuple(entry.encode() for entry in hashes)))
        if self._stops("UploadSet") or (self._before and not self._agreed()):
            return False
        self._say("UploadSet", upload_set)
        agreed = sha256(upload_set)
        named = [entry.header.sender for entry in hashes if entry.header.sender in uploads]
        if federation.encrypted:
            self._all("WrappedKey", lambda name: wraps[name], agreed, among=named)
        sent = self._all("Upload", lambda name: uploads[name], agreed, among=named)
        accepted = tuple(entry.header.sender for entry in sent)
        removed = tuple(name for name in self._dealers if name not in accepted)
        if self._stops("Cohort"):
            return False
        if not self._open(Cohort(agreed, accepted, removed), agreed, among):
            return False
        self._dealers = accepted
        return True

    def _basis(self, name: str) -> bytes:
        """What a client's upload hash refers to."""
        if self._before is None:
            return dealers_hash(self._context, self._dealers, None)
        aggregate, held = self._before
        adapter = held.get(name, self.new_adapter(self._step - 1))
        return step_hash(self._context, self._step, self._dealers, aggregate, adapter, None)

    def _agreed(self) -> bytes | None:
        """The adapter that a quorum acknowledged after the step before."""
        held = list(self._before[1].values()) if self._before else []
        quorum = self.federation.quorum
        return next((adapter for adapter in held if held.count(adapter) >= quorum), None)

    def _builds(self, name: str) -> bool:
        """Whether the upload hash of a client is taken into the set of this step."""
        if self._before is None:
            return True
        return self._agreed() is not None and self._before[1].get(name) == self._agreed()

    def _open(self, cohort: Cohort, upload_set: bytes, among: Sequence[str]) -> bool:
        said = self._say("Cohort", encode(cohort), upload_set)
        agreed = said.header.body_hash if said else sha256(encode(cohort))
        vote = encode(CohortVote(agreed))
        votes = self._all("CohortVote", lambda name: vote, agreed, among=among)
        if self._stops("CohortProof"):
            return False
        self._say("CohortProof", encode(CohortProof(tuple(v.encode() for v in votes))), agreed)
        unmasked = self._all(
            "Unmask", lambda name: self._bytes("unmask", name, 99), agreed, among=among
        )
        if self._stops("KeyRequest"):
            return False
        if self.federation.encrypted:
            voters = {vote.header.sender for vote in votes}
            there = [said.header.sender for said in unmasked if said.header.sender in voters]
            self._open_key_sum(agreed, there)
        if self._stops("Aggregate"):
            return False
        aggregate = self._bytes("aggregate", "", 256)
        self._say("Aggregate", aggregate, agreed)
        acks = self._all("RoundAck", self._ack, sha256(aggregate), among=among)
        if acks:
            self._acks.append(acks)
        held = {ack.header.sender: decode(RoundAck, ack.body).adapter_hash for ack in acks}
        self._before = (sha256(aggregate), held)
        return True

    def _ack(self, name: str) -> bytes:
        usual, said = self.new_adapter(self._step), self.script.acknowledged
        return encode(RoundAck(said.get((self._step, name), said.get(name, usual))))

    def _open_key_sum(self, cohort_hash: bytes, there: Sequence[str]) -> None:
        holders = self.key.holders if self.key else ()
        able = [name for name in there if name in holders]
        default = [able[: self.federation.colluding + 1]]
        for active in default if self.script.active is None else self.script.active:
            reference = active_hash(self._context, cohort_hash, self._step, tuple(active))
            self._say("KeyRequest", self._bytes("request", "".join(active), 64), reference)
            answering = [name for name in active if name not in self.script.absent]
            self._all(
                "KeyOpening",
                lambda name: self._bytes("opening", name, 64),
                reference,
                among=answering,
            )

    def new_adapter(self, step: int) -> bytes:
        """Hash of the adapter after a step."""
        return sha256(b"adapter %d.%d" % (self.number, step))

    def _bytes(self, what: str, name: str, length: int) -> bytes:
        return SeededRandom(f"{self.number}.{self._step} {what} {name}".encode())(length)

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
            if self._speaks(name, kind):
                envelope = self._say(kind, body(name), refers_to, name)
                if envelope is not None:
                    said.append(envelope)
        return said

    def _speaks(self, name: str, kind: str) -> bool:
        if (self._step, kind, name) in self.script.lost:
            return False
        last = self.script.silent.get(name)
        if last is None:
            return True
        step, until = last if isinstance(last, tuple) else (0, last)
        return (self._step, CLIENT_ORDER.index(kind)) < (step, CLIENT_ORDER.index(until))

    def _say(
        self, kind: str, body: bytes, refers_to: bytes = NO_REFERENCE, sender: str = COORDINATOR
    ) -> Envelope | None:
        place = (sender, self._context)
        message = Message(
            kind,
            sender,
            body,
            self._context,
            self._counts.get(place, 0),
            self._seen,
            refers_to,
            self._step,
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


def parts_of(messages: Iterable[Signed]) -> Parts:
    """Signed messages by part of the transcript, as the coordinator hands them over."""
    setup: list[Signed] = []
    steps: list[list[Signed]] = []
    close: list[Signed] = []
    for signed, body in messages:
        kind, step = signed.header.type, signed.header.step
        if kind in STEP_MESSAGES:
            steps += [[] for _ in range(step + 1 - len(steps))]
            steps[step].append((signed, body))
        else:
            (close if kind == "RoundClose" else setup).append((signed, body))
    return setup, steps, close


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
