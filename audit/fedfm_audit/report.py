"""What a verification found: one result per numbered step, as JSON and as text.

A step is ``verified``, ``failed`` (with the place and the reason of every failure) or ``not
checkable`` (with the reason); it is never silently absent.  Names and reasons may come from a
hostile bundle, so the text rendering escapes everything that is not printable.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

REPORT_VERSION = 1
MAX_ROUNDS_SHOWN = 10
MAX_FAILURES = 100  # per step; a ruined bundle must not make a report of millions of lines

STEP_TITLES = {
    0: "policy and charter signatures",
    1: "checkpoint signature and witness quorum",
    2: "tree rebuilt from leaves",
    3: "every envelope: signature, enrolled key, context, sequence",
    4: "state machine of every round replayed",
    5: "adapter hash chain",
    6: "privacy ledger recomputed",
    7: "robust verdicts consistent",
    8: "watermark commitments and claims",
    9: "coordinator's arithmetic replayed",
}
"""The steps of the verification, numbered as in audit/README.md and in the code."""

REQUIRED_STEPS = range(6)
"""Steps that every bundle must pass."""


class Status(Enum):
    """How a step ended."""

    VERIFIED = "verified"
    FAILED = "failed"
    NOT_CHECKABLE = "not checkable"


@dataclass(frozen=True, slots=True)
class Failure:
    """Where something is wrong (a file, a leaf, a message) and what."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step: its number, status, what was checked or why not, and every failure."""

    number: int
    status: Status
    detail: str
    failures: tuple[Failure, ...] = ()

    @property
    def title(self) -> str:
        """What the step checks."""
        return STEP_TITLES[self.number]


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """Where the keys that everything hangs on came from: ``auditor``, ``policy`` (vouched for by
    the auditor's policy) or ``bundle`` (nobody independent)."""

    charter: str
    policy: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What the bundle is about, as far as it could be read."""

    federation: str
    charter: str
    leaves: int
    root: str
    rounds_completed: int
    rounds_void: int
    rounds_aborted: int
    keys_made: int
    concluded: bool
    adapter: str


@dataclass(frozen=True, slots=True)
class JudgedRound:
    """A verdict: its round and step, the beacon (hex) that fixed the sketches, how many it accepts,
    whom it removes and why (name, code), and how the check of the opened sum ended (``passed``,
    ``failed`` or ``none``)."""

    round: int
    step: int
    beacon: str
    accepted: int
    removed: tuple[tuple[str, str], ...]
    binding: str


@dataclass(frozen=True, slots=True)
class ClientExclusions:
    """The rounds in which a client was left out of the sum for one ``reason``; ``code`` is the
    rule's, empty where no verdict removed it (something that it sends did not come)."""

    client: str
    code: str
    reason: str
    rounds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RobustSummary:
    """The verdicts of a robust federation, of so many rounds that were to sum updates."""

    rule: str
    rounds: int
    judged: tuple[JudgedRound, ...]
    exclusions: tuple[ClientExclusions, ...]


@dataclass(frozen=True, slots=True)
class MarkLine:
    """A mark that the charter names: whose, the leaf that commits to it, H(claim) in hex, how many
    directions and sub-keys it has, and the T that it takes.

    ``said`` and ``present`` are the owner's own word after the round of marks (None: it said
    nothing), ``measured`` is T as the auditor measured it with an opening.
    """

    client: str
    mark: str
    leaf: int
    claim: str
    size: int
    keys: int
    threshold: float
    said: float | None = None
    present: bool | None = None
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class MarkSummary:
    """The marks of a federation, the number of the round that wrote them (0: none yet), and how
    many clients signed the first completed round on a head that covers every commitment."""

    round: int
    witnessed: int
    marks: tuple[MarkLine, ...]

    @property
    def complaints(self) -> tuple[MarkLine, ...]:
        """Marks whose owner says that the adapter does not carry them."""
        return tuple(mark for mark in self.marks if mark.present is False)


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of verifying one bundle."""

    bundle: str
    roots: TrustRoots
    summary: Summary | None
    steps: tuple[StepResult, ...]
    asked: tuple[int, ...] = ()
    """Steps that the auditor asked for on top of those that every bundle must pass."""
    robust: RobustSummary | None = None
    """What step 7 found in a robust federation, whether it was verified or not."""
    marks: MarkSummary | None = None
    """What step 8 found where the charter names marks, whether it was verified or not."""

    @property
    def ok(self) -> bool:
        """Whether every step that is required or asked for was verified and no other failed."""
        needed = (*REQUIRED_STEPS, *self.asked)
        return all(
            step.status is Status.VERIFIED
            or (step.number not in needed and step.status is Status.NOT_CHECKABLE)
            for step in self.steps
        )

    def step(self, number: int) -> StepResult:
        """The result of one step."""
        return next(step for step in self.steps if step.number == number)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know even if every step is verified."""
        found = []
        if self.roots.policy == "bundle":
            found.append(
                "the log and witness keys came from the bundle itself; give your own copy of the "
                "policy to rule out a federation that was invented as a whole"
            )
        if self.roots.charter == "bundle":
            found.append(
                "nobody independent vouches for the charter; compare its SHA-256 with the one "
                "that an institution you trust holds"
            )
        if self.summary is not None and not self.summary.concluded:
            found.append("the log has no conclusion: the federation was still running")
        if self.marks is not None:
            found += [
                f"complaint: {mark.client} says that the adapter of round {self.marks.round} does "
                f"not carry its {mark.mark} mark (T {mark.said:.2f} of {mark.threshold:.2f})"
                for mark in self.marks.complaints[:MAX_FAILURES]
            ]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """One versioned JSON document."""
        return {
            "version": REPORT_VERSION,
            "verdict": "verified" if self.ok else "failed",
            "bundle": self.bundle,
            "trust_roots": asdict(self.roots),
            "warnings": list(self.warnings),
            "federation": None if self.summary is None else asdict(self.summary),
            "robust": None if self.robust is None else _robust_json(self.robust),
            **({} if self.marks is None else {"watermark": _marks_json(self.marks)}),
            "steps": [
                {
                    "number": step.number,
                    "title": step.title,
                    "status": step.status.value,
                    "detail": step.detail,
                    "failures": [asdict(failure) for failure in step.failures],
                }
                for step in self.steps
            ],
        }

    def to_text(self) -> str:
        """A few lines for a person; the verdict comes first."""
        lines = [f"{'VERIFIED' if self.ok else 'FAILED'}  {self.bundle}"]
        if self.summary is not None:
            lines += _summary_lines(self.summary)
        if self.robust is not None:
            lines += _exclusion_lines(self.robust)
        for step in self.steps:
            lines.append(f"{step.number}  {step.status.value:<13}  {step.title}: {step.detail}")
            lines += [f"     {failure.place}: {failure.reason}" for failure in step.failures]
        lines += [f"note: {warning}" for warning in self.warnings]
        return "\n".join(printable(line) for line in lines) + "\n"


def _summary_lines(summary: Summary) -> list[str]:
    keys = f"; {summary.keys_made} collective keys made" if summary.keys_made else ""
    return [
        f"federation {summary.federation}, charter {summary.charter}",
        f"{summary.leaves} leaves, root {summary.root}",
        f"rounds: {summary.rounds_completed} completed, {summary.rounds_void} void, "
        f"{summary.rounds_aborted} aborted{keys}; adapter {summary.adapter}",
    ]


def _marks_json(summary: MarkSummary) -> dict[str, Any]:
    return {
        "round": summary.round or None,
        "witnessed": summary.witnessed,
        "marks": [asdict(mark) for mark in summary.marks],
    }


def _robust_json(robust: RobustSummary) -> dict[str, Any]:
    judged = [
        {**asdict(said), "removed": [{"client": n, "code": code} for n, code in said.removed]}
        for said in robust.judged
    ]
    exclusions = [
        {**asdict(said), "code": said.code or None, "rounds": list(said.rounds)}
        for said in robust.exclusions
    ]
    return {
        "rule": robust.rule,
        "rounds": robust.rounds,
        "judged": judged,
        "exclusions": exclusions,
    }


def _exclusion_lines(robust: RobustSummary) -> list[str]:
    if not robust.exclusions:
        return [f"rule {robust.rule}: no client was left out of a sum"]
    lines = []
    for said in robust.exclusions[:MAX_FAILURES]:
        shown = ", ".join(str(number) for number in said.rounds[:MAX_ROUNDS_SHOWN])
        more = len(said.rounds) - MAX_ROUNDS_SHOWN
        rounds = "round" if len(said.rounds) == 1 else f"{len(said.rounds)} rounds,"
        also = f" and {more} more" if more > 0 else ""
        lines.append(f"left out: {said.client}, {rounds} {shown}{also}: {said.reason}")
    omitted = len(robust.exclusions) - MAX_FAILURES
    return [*lines, f"left out: {omitted} more are not listed"] if omitted > 0 else lines


def printable(line: str) -> str:
    """Escape control and invisible characters, so that no name in a bundle can drive a terminal."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
