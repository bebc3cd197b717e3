"""The verdict: what a scenario expected beside what was found, line by line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_protocols.context import KEYS
from fedfm_protocols.key_epoch import holders_of
from fedfm_protocols.scenario.form import HONEST, OTHERS, Expectation, RoundForm, Scenario
from fedfm_protocols.scenario.observations import ErrorSeen, RoundFacts
from fedfm_protocols.scenario.stage import Stage

# What follows from a quorum that was faster, or from having left the round; needs no listing.
LATE = re.compile(r"^(CohortVote|Unmask|RoundAck) from \S+ is of step \d+, expected \d+$")
AFTERMATH = re.compile(
    r"while in no round$|^the round is over$"
    r"|^CohortVote from \S+ while waiting for "
    r"(unmasking|(second )?decryption|sum sketches|binding|acknowledgements)$"
    r"|^Unmask from \S+ while waiting for "
    r"((second )?decryption|sum sketches|binding|acknowledgements)$"
)
# "{3}" in the text of an error or a reason stands for the number of the scenario's third round.
PLACE = re.compile(r"\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison; ``round`` is 0 for what concerns the whole run."""

    round: int
    what: str
    expected: Any
    found: Any
    ok: bool


@dataclass
class Verdict:
    """All comparisons of a run."""

    lines: list[Line] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was as expected."""
        return all(line.ok for line in self.lines)

    @property
    def failures(self) -> tuple[Line, ...]:
        """What was not."""
        return tuple(line for line in self.lines if not line.ok)

    def add(self, round: int, what: str, expected: Any, found: Any, ok: bool | None = None) -> None:
        """Compare; equality decides unless ``ok`` says."""
        self.lines.append(
            Line(round, what, expected, found, expected == found if ok is None else ok)
        )


def judge_round(stage: Stage, form: RoundForm, facts: RoundFacts, verdict: Verdict) -> None:
    """Compare one finished round with its expectation."""
    expect, number = form.expect, facts.index
    finished = facts.finished
    outcome = "lost" if finished is None else finished.outcome
    verdict.add(number, "outcome", expect.outcome, outcome)
    if finished is not None:
        verdict.add(
            number, "reason", expect.reason, finished.reason, expect.reason in finished.reason
        )
        if expect.outcome == "completed":
            absent = {*expect.removed, *expect.absent}
            accepted = expect.accepted or [n for n in facts.invited if n not in absent]
            if finished.key is not None:
                federation = stage.coordinator.site.federation
                holders = expect.accepted or holders_of(federation, accepted)
                verdict.add(number, "holders", list(holders), list(finished.key.holders))
            else:
                verdict.add(number, "accepted", list(accepted), list(finished.accepted))
            if facts.kind != KEYS:
                steps = stage.federation.steps_of(facts.kind)
                wanted = steps if expect.good_steps is None else expect.good_steps
                verdict.add(number, "good steps", wanted, facts.good_steps())
                ended = f"ended after {wanted} of {steps} steps: "
                early = finished.reason.startswith(ended)
                verdict.add(number, "ended early", wanted < steps, early)
            verdict.add(number, "removed", expect.removed, list(finished.removed))
            verdict.add(number, "dissenters", expect.dissenters, list(finished.dissenters))
    _judge_errors(stage, expect, facts, verdict)
    _judge_notes(stage.scenario, expect, facts, verdict)
    released = facts.released_by(stage.scenario.honest)
    if expect.released_shares is not None:
        verdict.add(number, "shares released by honest clients", expect.released_shares, released)
    for name in expect.named:
        said = _everything_said(stage.scenario, facts)
        verdict.add(number, "named", name, name if any(name in text for text in said) else "nobody")
    for name, kinds in sorted(expect.sent.items()):
        verdict.add(number, f"messages of {name}", kinds, facts.sent.get(name, []))
    verdict.add(number, "honest clients left behind", expect.behind, list(facts.behind))
    if facts.kind == KEYS:
        verdict.add(number, "honest clients without the key", expect.keyless, list(facts.keyless))
    exact = expect.sum_exact
    adopted = any(name not in facts.behind for name in stage.scenario.honest)
    if exact is None and expect.outcome == "completed" and facts.kind != KEYS and adopted:
        exact = True
    verdict.add(number, "sum exact", exact, sum_exact(stage, facts))


def _everything_said(scenario: Scenario, facts: RoundFacts) -> list[str]:
    said = [e.text for e in facts.errors if e.by not in scenario.malicious]
    said += [text for name, text in facts.notes if name not in scenario.malicious]
    return said + ([facts.finished.reason] if facts.finished is not None else [])


def _speakers(
    names: Sequence[str], scenario: Scenario, facts: RoundFacts, listed: frozenset[str]
) -> list[str]:
    honest = [name for name in scenario.honest if name in facts.invited]
    if HONEST in names:
        return [*honest, *(name for name in names if name != HONEST)]
    if OTHERS in names:
        return [name for name in honest if name not in listed]
    return list(names)


def _judge_errors(stage: Stage, expect: Expectation, facts: RoundFacts, verdict: Verdict) -> None:
    """Every expected error occurs, and every error of an honest party is expected."""
    scenario = stage.scenario
    left: list[ErrorSeen] = [e for e in facts.errors if e.by not in scenario.malicious]
    listed = frozenset(name for form in expect.errors for name in form.by)
    for form in expect.errors:
        wanted = PLACE.sub(lambda found: str(stage.number_of(int(found[1]))), form.text)
        for name in _speakers(form.by, scenario, facts, listed):
            fitting = [
                seen
                for seen in facts.errors
                if (seen.by, seen.error) == (name, form.error) and wanted in seen.text
            ]
            left = [seen for seen in left if seen not in fitting]
            what = f"{form.error} at {name}"
            if form.times is not None:
                verdict.add(facts.index, what, form.times, len(fitting))
            else:
                found = fitting[0].text if fitting else "none"
                verdict.add(facts.index, what, wanted, found, bool(fitting))
    for seen in left:
        if seen.error == "OutOfOrder" and AFTERMATH.search(seen.text):
            continue
        if seen.error == "WrongContext" and LATE.search(seen.text):
            continue
        found = f"{seen.error}: {seen.text}"
        verdict.add(facts.index, f"no other error at {seen.by}", "none", found)


def _judge_notes(
    scenario: Scenario, expect: Expectation, facts: RoundFacts, verdict: Verdict
) -> None:
    left = [(name, text) for name, text in facts.notes if name not in scenario.malicious]
    listed = frozenset(name for form in expect.notes for name in form.by)
    for form in expect.notes:
        for name in _speakers(form.by, scenario, facts, listed):
            fitting = [(n, text) for n, text in left if n == name and form.text in text]
            left = [note for note in left if note not in fitting]
            found = fitting[0][1] if fitting else "none"
            verdict.add(facts.index, f"note of {name}", form.text, found, bool(fitting))
    for name, text in left:
        verdict.add(facts.index, f"no other note of {name}", "none", text)


def sum_exact(stage: Stage, facts: RoundFacts) -> bool | None:
    """Whether the sums of all good steps that an honest client adopted are the plaintext sums of
    the accepted updates, in integers; ``None`` where nobody adopted any or updates are no whole
    steps."""
    finished = facts.finished
    if finished is None or finished.outcome != "completed":
        return None
    scale, expected = stage.federation.charter.quantiser.scale, []
    for step in range(facts.good_steps()):
        total = _plain_sum(stage, facts, step)
        if total is None:
            return None
        expected.append(total)
    adopted = [
        client.totals[facts.opened_before[name] :]
        for name, client in stage.clients.items()
        if name in stage.scenario.honest
        and len(client.totals) > facts.opened_before[name]
        and client.state.memory.adapter_hash == finished.adapter_hash
    ]
    if not adopted or not expected:
        return None
    return all(
        len(totals) >= len(expected)
        and all(
            np.array_equal(total * scale, plain)
            for total, plain in zip(totals, expected, strict=False)
        )
        for totals in adopted
    )


def _plain_sum(stage: Stage, facts: RoundFacts, step: int) -> NDArray[np.int64] | None:
    section = stage.federation.charter.quantiser
    total = np.zeros(section.values, np.int64)
    for name in facts.accepted_in(step):
        update = np.clip(stage.update_of(name, facts.number, step), -section.clip, section.clip)
        scaled = update * section.scale
        integers = np.rint(scaled).astype(np.int64)
        if not np.array_equal(integers, scaled):
            return None
        total += integers
    return total
