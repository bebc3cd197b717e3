"""Who was left out of which sum, and why, as far as a transcript tells.

A verdict says why in a code of its rule.  For the others it follows from what they sent and what
not; a message that came too late, or was refused, looks like one that never came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedfm_audit.entries import Entry, read_body
from fedfm_audit.messages import Cohort
from fedfm_audit.robust_messages import Verdict
from fedfm_audit.transcript import Transcript

_MISSING = (
    ("UploadHash", "committed to no update"),
    ("WrappedKey", "the key of its upload did not come, or too late"),
    ("Upload", "its upload did not come, came too late or was not the one committed to"),
    ("BeaconNonce", "did not open its nonce of the beacon"),
    ("Sketch", "sent no sketch"),
)
UNSAID = "the transcript does not say"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One client that is not in the sum of one step.  ``code`` is the verdict's reason, empty where
    no verdict removed it; ``reason`` says it in words."""

    round: int
    step: int
    client: str
    code: str
    reason: str


def exclusions_in(
    transcript: Transcript, *, rule: str = "", encrypted: bool = False
) -> tuple[Exclusion, ...]:
    """Everybody whom a verdict or a cohort of this round removed, by step and name.

    ``rule`` is the charter's robust rule, if it has one.

    Raises
    ------
    TranscriptError
        if a Cohort or a Verdict does not decode.
    """
    return tuple(
        exclusion
        for step, entries in enumerate(transcript.steps)
        for exclusion in _in_step(transcript.round, step, entries, rule, encrypted)
    )


def _in_step(
    number: int, step: int, entries: Sequence[Entry], rule: str, encrypted: bool
) -> Iterator[Exclusion]:
    removed: set[str] = set()
    codes: dict[str, str] = {}
    sent: dict[str, set[str]] = {}
    for entry in entries:
        sent.setdefault(entry.header.type, set()).add(entry.header.sender)
        if entry.header.type == "Cohort":
            removed |= set(read_body(entry, Cohort).removed)
        elif entry.header.type == "Verdict":
            codes |= read_body(entry, Verdict).reasons
    asked = {"UploadHash", "Upload"}
    asked |= {"WrappedKey"} if encrypted else set()
    asked |= {"BeaconNonce", "Sketch"} if rule else set()
    for name in sorted(removed | codes.keys()):
        if name in codes:
            reason = f"removed by the verdict of rule {rule}: {codes[name]}"
            yield Exclusion(number, step, name, codes[name], reason)
            continue
        missing = (
            why for kind, why in _MISSING if kind in asked and name not in sent.get(kind, ())
        )
        yield Exclusion(number, step, name, "", next(missing, UNSAID))
