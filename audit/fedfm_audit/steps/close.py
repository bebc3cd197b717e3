"""Step 4, the end of a round: how many steps are good, and whether close and statement say so.

A step is good if a quorum acknowledges one adapter after it.  A round that has a good step ends
completed, with the adapter of the last one; else it is void or aborted and changes nothing.
Source: protocols/README.md, "Sessions".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from fedfm_audit.messages import RoundAck, RoundClose
from fedfm_audit.steps.round_checks import RoundChecks
from fedfm_audit.steps.training_step import StepOutcome
from fedfm_audit.steps_summary import summarise_steps
from fedfm_audit.transcript import Entry, read_body


def check_train_result(checks: RoundChecks, outcomes: Sequence[StepOutcome]) -> None:
    """Outcome, adapter and reason of a round of kind ``train`` follow from its steps."""
    good = sum(1 for _ in takewhile(lambda outcome: outcome.good, outcomes))
    predicate, planned = checks.evidence.predicate, checks.evidence.opened.steps
    check_steps_stated(checks, good)
    if predicate.outcome == "completed":
        acks, last = _last_acks(checks, good)
        held = [read_body(entry, RoundAck).adapter_hash.hex() for entry in acks]
        checks.at_least(
            held.count(predicate.adapter_out),
            checks.thresholds.vote_quorum,
            f"acknowledgements of adapter {predicate.adapter_out} after step {last}",
        )
        early = f"ended after {good} of {planned} steps"
        checks.expect(
            good == planned or predicate.reason.startswith(early),
            f"completed with {good} of {planned} steps good; the reason must begin with {early!r}, "
            f"it is {predicate.reason[:80]!r}",
        )
    elif good:
        most = len(outcomes[good - 1].agreeing)
        checks.expect(
            False,
            f"{predicate.outcome}, though {most} clients acknowledge one adapter after step "
            f"{good - 1}",
        )
    check_close(checks, good)


def check_steps_stated(checks: RoundChecks, good: int) -> None:
    """The statement's ``steps`` are those of RoundOpen and of the transcript."""
    said = checks.evidence.predicate.steps
    found = summarise_steps(
        checks.evidence.transcript, planned=checks.evidence.opened.steps, good=good
    )
    for what, stated, counted in (
        ("planned steps", said.planned, found.planned),
        ("good steps", said.good, found.good),
        ("recorded steps", said.recorded, found.recorded),
    ):
        checks.expect(
            stated == counted, f"the statement says {stated} {what}; this transcript has {counted}"
        )
    checks.expect(
        said.root == found.root,
        f"the statement has the root {said.root} over its steps; this transcript's steps give "
        f"{found.root}",
    )


def check_close(checks: RoundChecks, good: int) -> None:
    """RoundClose and statement say the same, on the acknowledgements that there are."""
    predicate = checks.evidence.predicate
    closing = checks.one("RoundClose")
    if closing is None:
        return
    close = read_body(closing, RoundClose)
    checks.expect(
        (close.outcome, close.reason, close.adapter_hash.hex())
        == (predicate.outcome, predicate.reason, predicate.adapter_out),
        "RoundClose says another outcome, reason or adapter than the statement",
    )
    acks, last = _last_acks(checks, good)
    checks.expect(
        list(close.acks) == [entry.envelope() for entry in acks],
        f"RoundClose does not hold exactly these acknowledgements, of step {last}",
    )
    reached = max(checks.recorded - 1, 0)
    # A step may have begun without leaving a message.
    further = min(reached + 1, checks.evidence.opened.steps - 1)
    allowed = {last} if predicate.outcome == "completed" else {reached, max(further, reached)}
    checks.expect(
        closing.header.step in allowed,
        f"RoundClose is of step {closing.header.step}, expected {' or '.join(map(str, allowed))}",
    )


def _last_acks(checks: RoundChecks, good: int) -> tuple[Sequence[Entry], int]:
    """The acknowledgements that a round ends with: of the last good step, else of the first."""
    last, steps = max(good, 1) - 1, checks.evidence.transcript.steps
    entries = steps[last] if last < len(steps) else ()
    return [entry for entry in entries if entry.header.type == "RoundAck"], last
