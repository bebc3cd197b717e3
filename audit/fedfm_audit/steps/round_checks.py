"""What every part of a round's replay stands on: the evidence, the charter, and a way to object."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from fedfm_audit.charter_view import CharterView
from fedfm_audit.messages import KeyOffer
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.findings import Findings
from fedfm_audit.transcript import Entry, read_body


def senders(entries: Sequence[Entry]) -> list[str]:
    """Who sent these messages, in their order."""
    return [entry.header.sender for entry in entries]


def sha256(data: bytes) -> bytes:
    """Plain SHA-256."""
    return hashlib.sha256(data).digest()


class Checks:
    """Some messages of a round under replay; a check that does not hold is noted with ``place``,
    and the replay goes on."""

    def __init__(
        self,
        evidence: RoundEvidence,
        charter: CharterView,
        findings: Findings,
        entries: Sequence[Entry],
        place: str,
    ) -> None:
        self.evidence = evidence
        self.charter = charter
        self.thresholds = charter.thresholds
        self.findings = findings
        self.place = place
        self._by_kind: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            self._by_kind[entry.header.type].append(entry)

    def of(self, kind: str) -> Sequence[Entry]:
        """The messages of one type, in order."""
        return tuple(self._by_kind.get(kind, ()))

    def one(self, kind: str) -> Entry | None:
        """The coordinator's one message of a kind, if it got that far."""
        entries = self.of(kind)
        return entries[0] if entries else None

    def expect(self, holds: bool, reason: str) -> None:
        """Note ``reason`` as a failure unless ``holds``."""
        if not holds:
            self.findings.fail(self.place, reason)

    def at_least(self, found: int, needed: int, what: str) -> None:
        """Note a failure if fewer are ``found`` than the charter needs."""
        self.expect(found >= needed, f"{found} {what}, the charter needs {needed}")

    def expect_within(self, kind: str, allowed: Collection[str], whom: str) -> None:
        """Note a failure if a message of a kind comes from anybody but ``allowed``."""
        strangers = sorted(set(senders(self.of(kind))) - set(allowed))
        self.expect(not strangers, f"{kind} of {', '.join(strangers)}, not among {whom}")


class StepChecks(Checks):
    """One step of a round under replay, and nothing but its messages."""

    def __init__(
        self, evidence: RoundEvidence, charter: CharterView, findings: Findings, step: int
    ) -> None:
        entries = evidence.transcript.steps[step]
        place = f"{evidence.place}, step {step}"
        super().__init__(evidence, charter, findings, entries, place)
        self.step = step


class RoundChecks(Checks):
    """A whole round under replay."""

    def __init__(self, evidence: RoundEvidence, charter: CharterView, findings: Findings) -> None:
        entries = evidence.transcript.entries
        super().__init__(evidence, charter, findings, entries, evidence.place)
        self.offerers = sorted(senders(self.of("KeyOffer")))
        self.recorded = len(evidence.transcript.steps)

    def offers(self) -> dict[str, KeyOffer]:
        """The key offers by sender.

        Raises
        ------
        TranscriptError
            if one does not decode.
        """
        return {entry.header.sender: read_body(entry, KeyOffer) for entry in self.of("KeyOffer")}

    def steps(self) -> Iterator[StepChecks]:
        """Each recorded step by itself, in order."""
        for step in range(self.recorded):
            yield StepChecks(self.evidence, self.charter, self.findings, step)
