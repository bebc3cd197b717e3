"""What a run costs: bytes and seconds of every phase as the coordinator sees them, and what a
client does itself.

Sizes are of encoded envelopes, without CURVE's and TCP's own overhead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fedfm_protocols.effects import AdapterComputed, Event, Received, UpdateReady

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
    "BeaconNonce": "sketches",
    "BeaconNonces": "sketches",
    "Sketch": "sketches",
    "ScoreRequest": "verdict",
    "Verdict": "verdict",
    "Cohort": "votes",
    "CohortVote": "votes",
    "CohortProof": "votes",
    "Unmask": "unmasking",
    "KeyRequest": "decryption",
    "KeyOpening": "decryption",
    "Aggregate": "result",
    "SumSketch": "binding",
    "BindingRequest": "binding",
    "BindingResult": "binding",
    "RoundAck": "result",
    "RoundClose": "result",
}
OTHER = "evidence and links"


# What starts a client's work, by the part of a step that it belongs to.
CLIENT_PART_OF: dict[str, str] = {
    "UpdateReady": "protecting",
    "UploadSet": "uploads",
    "BeaconNonces": "sketching",
    "Verdict": "votes",
    "Cohort": "votes",
    "CohortProof": "unmasking",
    "KeyRequest": "decryption",
    "Aggregate": "opening",
    "BindingResult": "opening",
    "AdapterComputed": "acknowledging",
}
SETUP = "setup"


def client_part(event: Event) -> str:
    """The part of a step that a client's event belongs to; :data:`SETUP` before the first."""
    match event:
        case Received(envelope):
            return CLIENT_PART_OF.get(envelope.header.type, SETUP)
        case UpdateReady() | AdapterComputed():
            return CLIENT_PART_OF[type(event).__name__]
    return SETUP


@dataclass
class Meter:
    """Running totals: bytes to and from the clients per phase, seconds per phase.

    Of sessions also the seconds of the key setup and of every single step, from the moment when
    updates are asked for to the same moment of the next, and the processor seconds of all steps
    together.
    """

    clock: Callable[[], float] = time.monotonic
    cpu_clock: Callable[[], float] = time.process_time
    received: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    setup: float = 0.0
    steps: list[dict[str, float]] = field(default_factory=list)
    cpu_of_steps: float = 0.0
    _phase: str | None = None
    _step: tuple[int, int | None] | None = None
    _since: float = 0.0
    _cpu_since: float = 0.0

    def count_received(self, kind: str, size: int) -> None:
        """A message of this type and encoded size came in."""
        phase = PHASE_OF.get(kind, OTHER)
        self.received[phase] = self.received.get(phase, 0) + size

    def count_sent(self, kind: str, size: int) -> None:
        """A message of this type and encoded size went out to one client."""
        phase = PHASE_OF.get(kind, OTHER)
        self.sent[phase] = self.sent.get(phase, 0) + size

    def enter(self, phase: str | None, step: tuple[int, int | None] | None = None) -> None:
        """The clock runs for another phase from now on (None: for none).

        In a session ``step`` is (round, step), and the step is None in its key setup; in another
        round, and between rounds, there is none.
        """
        now, cpu = self.clock(), self.cpu_clock()
        if self._phase is not None:
            spent = now - self._since
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + spent
            match self._step:
                case (_, None):
                    self.setup += spent
                case (_, _):
                    parts = self.steps[-1]
                    parts[self._phase] = parts.get(self._phase, 0.0) + spent
                    self.cpu_of_steps += cpu - self._cpu_since
        if step is not None and step[1] is not None and step != self._step:
            self.steps.append({})
        self._phase, self._step, self._since, self._cpu_since = phase, step, now, cpu

    def report(self) -> dict[str, object]:
        """JSON-ready totals."""
        return {
            "bytes_received_per_phase": dict(self.received),
            "bytes_sent_per_phase": dict(self.sent),
            "seconds_per_phase": {k: round(v, 3) for k, v in self.seconds.items()},
            "seconds_of_key_setup": round(self.setup, 3),
            "seconds_per_step": [{k: round(v, 5) for k, v in step.items()} for step in self.steps],
            "cpu_seconds_of_steps": round(self.cpu_of_steps, 3),
        }


@dataclass
class Stopwatch:
    """What a client spends itself: seconds by activity, of all rounds, and the processor seconds
    between the first training of a round that sums updates and its end, with how many steps these
    were.

    An activity belongs to one thread; different ones may run at the same time.
    """

    clock: Callable[[], float] = time.monotonic
    cpu_clock: Callable[[], float] = time.process_time
    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    cpu_of_steps: float = 0.0
    _cpu_since: float | None = None

    @contextmanager
    def running(self, activity: str) -> Iterator[None]:
        """Count the block, whether it raises or not."""
        started = self.clock()
        try:
            yield
        finally:
            spent = self.clock() - started
            self.seconds[activity] = self.seconds.get(activity, 0.0) + spent

    def trains(self, step: int) -> None:
        """Training for a step (from 0) begins."""
        self.steps += 1
        if step == 0:
            self._cpu_since = self.cpu_clock()

    def ends(self) -> None:
        """The round is over."""
        if self._cpu_since is not None:
            self.cpu_of_steps += self.cpu_clock() - self._cpu_since
            self._cpu_since = None

    def report(self) -> dict[str, object]:
        """JSON-ready totals."""
        return {
            "seconds_per_activity": {k: round(v, 3) for k, v in self.seconds.items()},
            "steps": self.steps,
            "cpu_seconds_of_steps": round(self.cpu_of_steps, 3),
        }
