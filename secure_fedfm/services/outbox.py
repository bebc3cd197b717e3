"""What the coordinator said to one client in this round, kept for byte-identical resends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedfm_crypto.envelope import Envelope


@dataclass
class Outbox:
    """A client's messages of the present round, in order; ``forgotten`` were too old to keep.

    In a session of many steps only those of the last two are kept: a client that lacks an older
    one has been left out, and catches up when the round is over.
    """

    forgotten: int = 0
    envelopes: list[Envelope] = field(default_factory=list)

    def add(self, envelope: Envelope) -> None:
        """Keep one more, and forget those of steps before the last two."""
        self.envelopes.append(envelope)
        oldest = envelope.header.step - 1
        kept = [one for one in self.envelopes if one.header.step >= oldest]
        self.forgotten += len(self.envelopes) - len(kept)
        self.envelopes = kept

    def after(self, received: int) -> Sequence[Envelope] | None:
        """Those that a client with ``received`` messages lacks; None if they are gone."""
        if received < self.forgotten:
            return None
        return self.envelopes[received - self.forgotten :]
