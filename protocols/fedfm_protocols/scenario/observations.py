"""What is written down while a scenario runs: events for the transcript, facts for the verdict.

Nothing secret is written down: of a message its signed header, of a body only its hash, of shares
revealed only whose they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedfm_crypto.codec import decode
from fedfm_crypto.envelope import Envelope
from fedfm_protocols import effects
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.errors import ProtocolError
from fedfm_protocols.messages import Cohort, KeyOffer, Unmask
from fedfm_protocols.scenario.actors import body_of
from fedfm_protocols.simulation import Delivery

Event = dict[str, Any]

STEP_OF = {
    "RoundOpen": "0",
    "KeyOffer": "1",
    "KeyRoster": "2",
    "GraphNonce": "2",
    "GraphNonces": "2",
    "KeyDealing": "K1",
    "KeyDelivery": "K2",
    "ShareBundle": "3",
    "ShareDelivery": "3",
    "UploadHash": "4a",
    "UploadSet": "4b",
    "Upload": "4c",
    "WrappedKey": "4c",
    "SketchKey": "0",
    "SketchEvaluationKeys": "0",
    "BeaconNonce": "4c",
    "BeaconNonces": "5",
    "Sketch": "6",
    "ScoreRequest": "7",
    "Verdict": "7",
    "SumSketch": "13",
    "BindingRequest": "13",
    "BindingResult": "13",
    "Cohort": "8",
    "CohortVote": "9",
    "CohortProof": "10",
    "Unmask": "11",
    "KeyRequest": "11",
    "KeyOpening": "11",
    "Aggregate": "12",
    "RoundAck": "14",
    "RoundClose": "14",
    "CheckpointOffer": "15",
    "Cosignature": "15",
}


@dataclass(frozen=True, slots=True)
class ErrorSeen:
    """A refusal or a violation: by whom, which class of the tree, what it said."""

    by: str
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class Reveal:
    """Whose shares one client gave out in which step, for which cohort: names only."""

    step: int
    cohort_hash: bytes
    seeds: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass
class RoundFacts:
    """What happened in one round."""

    number: int
    index: int  # among the scenario's rounds, from 1; 0 for the one that makes the first key
    kind: str
    invited: tuple[str, ...]
    adapter_before: bytes
    errors: list[ErrorSeen] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    sent: dict[str, list[str]] = field(default_factory=dict)
    reveals: dict[str, list[Reveal]] = field(default_factory=dict)
    cohorts: dict[bytes, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    openings: dict[str, list[bytes]] = field(default_factory=dict)
    opened_before: dict[str, int] = field(default_factory=dict)
    holders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    threshold: int = 0
    finished: Finished | None = None
    behind: tuple[str, ...] = ()
    keyless: tuple[str, ...] = ()

    def good_steps(self) -> int:
        """How many steps the round has achieved."""
        record = None if self.finished is None else self.finished.record
        return 0 if record is None else len(record.aggregates)

    def accepted_in(self, step: int) -> tuple[str, ...]:
        """Whose updates are in the sum of a step, as the coordinator has it on record."""
        if self.finished is None:
            return ()
        for entry in self.finished.round.transcript.steps[step]:
            if entry.signed.header.type == "Cohort" and entry.body is not None:
                return decode(Cohort, entry.body).accepted
        return ()

    def released_by(self, names: Sequence[str]) -> int:
        """How many shares these clients gave out."""
        return sum(
            len(reveal.seeds) + len(reveal.keys)
            for name in names
            for reveal in self.reveals.get(name, ())
        )


class Announcing(list[ProtocolError]):
    """A list that says what is appended, at the moment it is: before the effects that follow."""

    def __init__(self, announce: Callable[[ProtocolError], None]) -> None:
        super().__init__()
        self._announce = announce

    def append(self, error: ProtocolError) -> None:
        super().append(error)
        self._announce(error)


def header_view(envelope: Envelope) -> Event:
    """The signed header of a message, as a transcript shows it."""
    header = envelope.header
    return {
        "step": STEP_OF.get(header.type, "-"),
        "type": header.type,
        "sender": header.sender,
        "session_step": header.step,
        "sequence": header.sequence,
        "context": header.context.hex(),
        "refers_to": header.refers_to.hex(),
        "body_sha256": header.body_hash.hex(),
        "body_bytes": len(envelope.body),
        "signature_sha256": hashlib.sha256(envelope.signature).hexdigest(),
    }


def difference(before: Envelope, after: Envelope) -> list[str]:
    """Which parts of an envelope an act changed."""
    old, new = before.header, after.header
    names = ("type", "sender", "step", "sequence", "context", "refers_to", "body_hash")
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    if before.body != after.body and old.body_hash == new.body_hash:
        changed.append("body")
    if not changed and before.signature != after.signature:
        changed.append("signature")
    return changed


@dataclass
class Observer:
    """Collects the events of a run, in order, and the facts of each round."""

    events: list[Event] = field(default_factory=list)
    rounds: list[RoundFacts] = field(default_factory=list)
    _merged: dict[tuple[str, ...], Event] = field(default_factory=dict, repr=False)

    @property
    def now(self) -> RoundFacts:
        """The round that is running."""
        return self.rounds[-1]

    def record(self, event: str, **fields: Any) -> Event:
        """Append one event."""
        written: Event = {"n": len(self.events) + 1, "event": event}
        if self.rounds:
            written["round"] = self.now.number
        written.update(fields)
        self.events.append(written)
        self._merged.clear()
        return written

    def _once(self, key: tuple[str, ...], recipient: str, event: str, **fields: Any) -> None:
        """As :meth:`record`; the same again for another recipient only adds the recipient."""
        known = self._merged.get(key)
        if known is not None:
            known["to"].append(recipient)
            return
        before = dict(self._merged)
        written = self.record(event, to=[recipient], **fields)
        self._merged = {**before, key: written}

    def saw_sent(self, sender: str, recipient: str, envelope: Envelope) -> None:
        """A party handed a message to the network."""
        key = ("sent", sender, envelope.signature.hex())
        fields = header_view(envelope)
        if envelope.header.type == "Unmask":
            reveal = _reveal(envelope)
            fields |= {"seed_shares_of": list(reveal.seeds), "key_shares_of": list(reveal.keys)}
        self._once(key, recipient, "sent", **{"from": sender, **fields})

    def saw_change(
        self, act: str, sender: str, recipient: str, envelope: Envelope, became: Sequence[Delivery]
    ) -> None:
        """An act made something else of a delivery."""
        views = []
        for other, changed in became:
            view: Event = {"type": changed.header.type, "sender": changed.header.sender}
            parts = difference(envelope, changed)
            if changed is envelope or not parts:
                view["as_sent"] = True
            else:
                view |= {"changed": parts, "body_sha256": changed.header.body_hash.hex()}
            if other != recipient:
                view["to"] = other
            views.append(view)
        key = ("act", act, sender, envelope.header.type, repr(views))
        self._once(
            key,
            recipient,
            "act",
            **{"act": act, "from": sender, "type": envelope.header.type, "became": views},
        )

    def saw_error(self, by: str, error: ProtocolError, envelope: Envelope | None) -> None:
        """A party refused a message, or left the round."""
        kind = type(error).__name__
        self.now.errors.append(ErrorSeen(by, kind, str(error)))
        about = {"type": envelope.header.type} if envelope is not None else {}
        self.record("refused", by=by, error=kind, text=str(error), **about)

    def saw_own(self, name: str, envelope: Envelope) -> None:
        """A client's own state machine produced a message (before any act touched it)."""
        kind = envelope.header.type
        self.now.sent.setdefault(name, []).append(kind)
        if kind == "KeyOpening":
            self.now.openings.setdefault(name, []).append(envelope.header.refers_to)
        if kind == "Unmask":
            self.now.reveals.setdefault(name, []).append(_reveal(envelope))


def offered_keys(envelope: Envelope) -> tuple[bytes, ...]:
    """The ephemeral public keys in a KeyOffer."""
    offer = body_of(envelope, KeyOffer)
    return tuple(key for key in (offer.share_key, *(s.mask_key for s in offer.steps)) if any(key))


def _reveal(envelope: Envelope) -> Reveal:
    body = body_of(envelope, Unmask)
    return Reveal(
        envelope.header.step,
        envelope.header.refers_to,
        tuple(share.dealer for share in body.seed_shares),
        tuple(share.dealer for share in body.key_shares),
    )


def envelope_of(event: effects.Event) -> Envelope | None:
    """The message that an event brings, if any."""
    return event.envelope if isinstance(event, effects.Received) else None


def journal_value(effect: effects.Persist) -> str:
    """Journal values are hashes or an outcome."""
    try:
        text = effect.value.decode("ascii")
    except UnicodeDecodeError:
        return effect.value.hex()
    return text if text.isalpha() else effect.value.hex()
