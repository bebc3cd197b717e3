"""A round's transcript: every signed header of the round, and the bodies that are public.

One canonical JSON file per round, in parts: the key setup, each step of the session, the close.
The order within a part is fixed by the protocol (phase, sender, sequence) and every message
belongs to one part, so one set of messages has one file.  A step's part is a leaf of the tree
whose root the round's statement holds (``fedfm_audit.steps_summary``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from fedfm_audit.entries import (
    CLOSE_MESSAGES,
    COORDINATOR_MESSAGES,
    MESSAGE_ORDER,
    PHASE,
    PUBLIC_BODIES,
    SETUP_MESSAGES,
    STEP_MESSAGES,
    Entry,
    exact_fields,
    read_body,
    read_entry,
    rebuild_beacon_nonces,
    rebuild_cohort_proof,
    rebuild_nonces,
    rebuild_roster,
    rebuild_upload_set,
)
from fedfm_audit.errors import TranscriptError
from fedfm_audit.messages import MAX_STEPS, Cohort, RoundOpen
from fedfm_audit.statements import RoundCounts
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.envelope import SignedHeader

__all__ = [
    "COORDINATOR_MESSAGES",
    "MESSAGE_ORDER",
    "PUBLIC_BODIES",
    "Entry",
    "Transcript",
    "count_round",
    "make_transcript",
    "read_body",
    "rebuild_beacon_nonces",
    "rebuild_cohort_proof",
    "rebuild_nonces",
    "rebuild_roster",
    "rebuild_upload_set",
]

TRANSCRIPT_VERSION = 2
MAX_ENTRIES = 65536
"""Messages of one part of a transcript."""

Message = tuple[SignedHeader, bytes | None]
"""A signed header with its body."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """All messages of one round: of its key setup, of each of its steps, and of its close.

    Raises
    ------
    TranscriptError
        if an entry is in the wrong part, out of order or repeated, has an unknown type, or has a
        body where none belongs (or none where one does); or if the last step is empty.
    """

    round: int
    setup: tuple[Entry, ...]
    steps: tuple[tuple[Entry, ...], ...]
    close: tuple[Entry, ...]
    _by_type: dict[str, list[Entry]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.round <= 999_999:
            raise TranscriptError(f"round {self.round}, expected 1 to 999999")
        if len(self.steps) > MAX_STEPS:
            raise TranscriptError(f"{len(self.steps)} steps, at most {MAX_STEPS} allowed")
        if self.steps and not self.steps[-1]:
            raise TranscriptError(f"step {len(self.steps) - 1} is the last one and has no message")
        _check_part("setup", self.setup, 0, SETUP_MESSAGES)
        for step, entries in enumerate(self.steps):
            _check_part(f"step {step}", entries, step, STEP_MESSAGES)
        _check_part("close", self.close, None, CLOSE_MESSAGES)
        by_type: dict[str, list[Entry]] = {}
        for entry in self.entries:
            by_type.setdefault(entry.header.type, []).append(entry)
        object.__setattr__(self, "_by_type", by_type)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The messages of all parts, in order."""
        return (*self.setup, *chain.from_iterable(self.steps), *self.close)

    def placed(self) -> Iterator[tuple[str, Entry]]:
        """Every message with its place (``step 3 message 7``), in order."""
        named = [
            ("setup", self.setup),
            *((f"step {step}", entries) for step, entries in enumerate(self.steps)),
            ("close", self.close),
        ]
        for part, entries in named:
            for position, entry in enumerate(entries):
                yield f"{part} message {position}", entry

    def of(self, kind: str) -> tuple[Entry, ...]:
        """The messages of one type in all parts, in order."""
        return tuple(self._by_type.get(kind, ()))

    def encode(self) -> bytes:
        """Canonical JSON of the file."""
        return canonical_encode(
            {
                "version": TRANSCRIPT_VERSION,
                "round": self.round,
                "setup": _to_json(self.setup),
                "steps": [_to_json(entries) for entries in self.steps],
                "close": _to_json(self.close),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Transcript:
        """Parse a transcript file; only the bytes that :meth:`encode` writes are accepted.

        Raises
        ------
        TranscriptError, CanonicalJSONError
            naming the step and the message that is wrong.
        """
        document = canonical_decode(data)
        names = frozenset({"version", "round", "setup", "steps", "close"})
        fields = exact_fields(document, names, "transcript")
        if fields["version"] != TRANSCRIPT_VERSION:
            raise TranscriptError(f"version {fields['version']!r}, expected {TRANSCRIPT_VERSION}")
        number, steps = fields["round"], fields["steps"]
        if type(number) is not int or not isinstance(steps, list) or len(steps) > MAX_STEPS:
            raise TranscriptError("round must be a number and steps a list of bounded length")
        # Canonical JSON, hex and base64 that re-encode to themselves, and one order of messages:
        # no other bytes hold this transcript.
        return cls(
            number,
            read_part(fields["setup"], "setup"),
            tuple(read_part(listed, f"step {step}") for step, listed in enumerate(steps)),
            read_part(fields["close"], "close"),
        )


def make_transcript(
    round_number: int,
    setup: Iterable[Message],
    steps: Iterable[Iterable[Message]],
    close: Iterable[Message],
) -> Transcript:
    """The transcript of a round from the messages of its parts, each in any order.

    A message is a signed header with its body; bodies that must not become evidence are left out
    here, whatever the caller passes.  An identical resend counts once.  Acknowledgements of a
    round of kind ``keys`` are those of its step 0.

    Raises
    ------
    TranscriptError
        if a message is not of the part that it is passed with, a public body is missing or is not
        the one that was signed, or the same sender and sequence said two things.
    """
    return Transcript(
        round_number, _sorted(setup), tuple(_sorted(messages) for messages in steps), _sorted(close)
    )


def count_round(transcript: Transcript) -> RoundCounts:
    """What a round statement says about participation, counted from the transcript.

    Messages are counted over all steps.  ``accepted`` are the names in the last Cohort,
    ``removed`` those in all of them: who is removed at one step is in no later one, so that both
    together are the clients that the first step began with.  Nothing here depends on suite or
    kind: a message that a round does not have counts zero, and no round has both kinds of dealer.

    Raises
    ------
    TranscriptError
        if RoundOpen or a Cohort does not decode.
    """
    opens = [read_body(entry, RoundOpen) for entry in transcript.of("RoundOpen")]
    cohorts = [read_body(entry, Cohort) for entry in transcript.of("Cohort")]
    return RoundCounts(
        invited=len(opens[0].invited) if opens else 0,
        offers=len(transcript.of("KeyOffer")),
        dealers=len(transcript.of("ShareBundle")) + len(transcript.of("KeyDealing")),
        uploads=len(transcript.of("Upload")),
        accepted=len(cohorts[-1].accepted) if cohorts else 0,
        removed=sum(len(cohort.removed) for cohort in cohorts),
        votes=len(transcript.of("CohortVote")),
        unmasked=len(transcript.of("Unmask")),
        openings=len(transcript.of("KeyOpening")),
        acks=len(transcript.of("RoundAck")),
    )


def encode_part(entries: Sequence[Entry]) -> bytes:
    """Canonical JSON of one part of a transcript, as it stands in the file."""
    return canonical_encode(_to_json(entries))


def read_part(listed: object, part: str) -> tuple[Entry, ...]:
    """The messages of one part from its JSON list.

    Raises
    ------
    TranscriptError
        naming the message that is wrong.
    """
    if not isinstance(listed, list) or len(listed) > MAX_ENTRIES:
        raise TranscriptError(f"{part}: expected a list of at most {MAX_ENTRIES} messages")
    return tuple(
        read_entry(item, f"{part} message {position}") for position, item in enumerate(listed)
    )


def _to_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [entry.to_json() for entry in entries]


def _sorted(messages: Iterable[Message]) -> tuple[Entry, ...]:
    entries: dict[tuple[int, str, int], Entry] = {}
    for signed, body in messages:
        header = signed.header
        if header.type not in PHASE:
            raise TranscriptError(f"{header.type} is not a message of a round")
        entry = Entry(signed, body if header.type in PUBLIC_BODIES else None)
        if entry.body is not None and hashlib.sha256(entry.body).digest() != header.body_hash:
            raise TranscriptError(f"{header.type} of {header.sender}: not the body that was signed")
        if entries.setdefault(entry.order, entry) != entry:
            raise TranscriptError(
                f"two different {header.type} number {header.sequence} from {header.sender}"
            )
    return tuple(entries[order] for order in sorted(entries))


def _check_part(
    part: str, entries: Sequence[Entry], step: int | None, kinds: Collection[str]
) -> None:
    """Types, bodies, step (None for any) and order of the messages of one part."""
    if len(entries) > MAX_ENTRIES:
        raise TranscriptError(f"{part}: {len(entries)} messages, at most {MAX_ENTRIES} allowed")
    previous: tuple[int, str, int] | None = None
    for position, entry in enumerate(entries):
        place, header = f"{part} message {position}", entry.header
        if header.type not in PHASE:
            raise TranscriptError(f"{place}: unknown type {header.type!r}")
        if header.type not in kinds:
            raise TranscriptError(f"{place}: {header.type} of {header.sender} is not of this part")
        if step is not None and header.step != step:
            raise TranscriptError(
                f"{place}: {header.type} of {header.sender} is of step {header.step}"
            )
        if (entry.body is not None) != (header.type in PUBLIC_BODIES):
            wanted = "a" if header.type in PUBLIC_BODIES else "no"
            raise TranscriptError(f"{place}: {header.type} must have {wanted} body here")
        if previous is not None and entry.order <= previous:
            raise TranscriptError(
                f"{place}: {header.type} of {header.sender} is out of order or repeated"
            )
        previous = entry.order
