"""What every part of a round's replay stands on: the evidence, the charter, and a way to object."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

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


class RoundChecks:
    """One round under replay; a check that does not hold is noted, and the replay goes on."""

    def __init__(self, evidence: RoundEvidence, charter: CharterView, findings: Findings) -> None:
        self.evidence = evidence
        self.charter = charter
        self._findings = findings
        self.of = evidence.transcript.of
        self.thresholds = charter.thresholds
        self.offerers = sorted(senders(self.of("KeyOffer")))

    def offers(self) -> dict[str, KeyOffer]:
        """The key offers by sender.

        Raises
        ------
        TranscriptError
            if one does not decode.
        """
        return {entry.header.sender: read_body(entry, KeyOffer) for entry in self.of("KeyOffer")}

    def one(self, kind: str) -> Entry | None:
        """The coordinator's one message of a kind, if the round got that far."""
        entries = self.of(kind)
        return entries[0] if entries else None

    def expect(self, holds: bool, reason: str) -> None:
        """Note ``reason`` as a failure of this round unless ``holds``."""
        if not holds:
            self._findings.fail(self.evidence.place, reason)

    def at_least(self, found: int, needed: int, what: str) -> None:
        """Note a failure if fewer are ``found`` than the charter needs."""
        self.expect(found >= needed, f"{found} {what}, the charter needs {needed}")

    def expect_within(self, kind: str, allowed: Collection[str], whom: str) -> None:
        """Note a failure if a message of a kind comes from anybody but ``allowed``."""
        strangers = sorted(set(senders(self.of(kind))) - set(allowed))
        self.expect(not strangers, f"{kind} of {', '.join(strangers)}, not among {whom}")
