"""Step 4, messages 11b: who opened the key sum of a step of an encrypted round.

A KeyOpening refers to the hash of the active set that it answers, and the set can be rebuilt from
those who answered.  So an auditor sees that at most two sets were ever asked, that the one that
opened the sum was of exactly ``key_threshold`` holders who had voted for this cohort, and that
nobody answered under more than two.  Source: protocols/README.md, step 11b.
"""

from __future__ import annotations

from fedfm_audit.messages import active_hash
from fedfm_audit.steps.round_checks import StepChecks, senders
from fedfm_audit.steps.shape import MAX_ACTIVE_SETS


def check_key_opening(checks: StepChecks) -> None:
    """Requests, openings and the active sets behind them, of a cohort that was put to the vote."""
    requests, openings = checks.of("KeyRequest"), checks.of("KeyOpening")
    if requests:
        checks.at_least(
            len(checks.of("Unmask")),
            checks.thresholds.vote_quorum,
            "clients unmasked before the key was asked for",
        )
    asked = [entry.header.refers_to for entry in requests]
    checks.expect(len(set(asked)) == len(asked), "two KeyRequests for one active set")
    answered: dict[bytes, list[str]] = {}
    for entry in openings:
        answered.setdefault(entry.header.refers_to, []).append(entry.header.sender)
    checks.expect(
        len(answered) <= MAX_ACTIVE_SETS,
        f"the key sum was opened for {len(answered)} active sets, at most {MAX_ACTIVE_SETS} "
        "may be asked",
    )
    _check_answerers(checks)
    full = []
    for reference, names in answered.items():
        checks.expect(
            reference in asked, f"{', '.join(names)} answered a KeyRequest that was never made"
        )
        full.append(_check_set(checks, reference, names))
    if checks.one("Aggregate") is not None:
        checks.expect(
            any(full),
            f"no active set of {checks.thresholds.key_threshold} answered in full, though there "
            "is an Aggregate",
        )


def _check_answerers(checks: StepChecks) -> None:
    key = checks.evidence.history.latest
    holders = () if key is None else key.holders
    checks.expect_within("KeyOpening", holders, "the holders of the key")
    checks.expect_within("KeyOpening", senders(checks.of("CohortVote")), "those who voted")


def _check_set(checks: StepChecks, reference: bytes, names: list[str]) -> bool:
    """Whether these who answered one request are the whole active set that it names."""
    context, proposal = checks.evidence.context1, checks.one("Cohort")
    repeated = sorted({name for name in names if names.count(name) > 1})
    checks.expect(not repeated, f"{', '.join(repeated)} answered one KeyRequest twice")
    active, needed = sorted(set(names)), checks.thresholds.key_threshold
    if len(active) < needed or context is None or proposal is None:
        return False
    checks.expect(
        len(active) == needed,
        f"{len(active)} clients answered one KeyRequest, an active set has {needed}",
    )
    expected = active_hash(context, proposal.header.body_hash, checks.step, tuple(active))
    checks.expect(
        reference == expected,
        f"{', '.join(active)} answered a KeyRequest for another active set or cohort",
    )
    return len(active) == needed and reference == expected
