"""Bytes and seconds of every phase, as the coordinator sees them.

Sizes are of encoded envelopes, without CURVE's and TCP's own overhead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Which phase of a round a message belongs to, for the report.
PHASE_OF: dict[str, str] = {
    "RoundOpen": "keys",
    "KeyOffer": "keys",
    "KeyRoster": "keys",
    "GraphNonce": "keys",
    "GraphNonces": "keys",
    "ShareBundle": "shares",
    "ShareDelivery": "shares",
    "KeyDealing": "collective key",
    "KeyDelivery": "collective key",
    "UploadHash": "training",
    "UploadSet": "uploads",
    "WrappedKey": "uploads",
    "Upload": "uploads",
    "Cohort": "votes",
    "CohortVote": "votes",
    "CohortProof": "votes",
    "Unmask": "unmasking",
    "KeyRequest": "decryption",
    "KeyOpening": "decryption",
    "Aggregate": "result",
    "RoundAck": "result",
    "RoundClose": "result",
}
OTHER = "evidence and links"


@dataclass
class Meter:
    """Running totals: bytes to and from the clients per phase, seconds per phase."""

    clock: Callable[[], float] = time.monotonic
    received: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _phase: str | None = None
    _since: float = 0.0

    def count_received(self, kind: str, size: int) -> None:
        """A message of this type and encoded size came in."""
        phase = PHASE_OF.get(kind, OTHER)
        self.received[phase] = self.received.get(phase, 0) + size

    def count_sent(self, kind: str, size: int) -> None:
        """A message of this type and encoded size went out to one client."""
        phase = PHASE_OF.get(kind, OTHER)
        self.sent[phase] = self.sent.get(phase, 0) + size

    def enter(self, phase: str | None) -> None:
        """The clock runs for another phase from now on (None: for none)."""
        now = self.clock()
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def report(self) -> dict[str, dict[str, float]]:
        """JSON-ready totals."""
        return {
            "bytes_received_per_phase": dict(self.received),
            "bytes_sent_per_phase": dict(self.sent),
            "seconds_per_phase": {k: round(v, 3) for k, v in self.seconds.items()},
        }
