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
class Report:
    """The outcome of verifying one bundle."""

    bundle: str
    roots: TrustRoots
    summary: Summary | None
    steps: tuple[StepResult, ...]
    asked: tuple[int, ...] = ()
    """Steps that the auditor asked for on top of those that every bundle must pass."""

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


def printable(line: str) -> str:
    """Escape control and invisible characters, so that no name in a bundle can drive a terminal."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
