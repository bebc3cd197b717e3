"""Step 4, what a validator adds to a step: a beacon that nobody chose, a verdict, a cohort that is
the verdict's, and the check of the opened sum.

Nothing here opens a sketch: whether scores were computed honestly, and a rule applied rightly, no
transcript shows.  Source: protocols/README.md, "Robust rounds".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fedfm_audit.messages import Cohort, KeyOffer
from fedfm_audit.robust_messages import BeaconNonce, BindingResult, Verdict, beacon_commitment
from fedfm_audit.steps.round_checks import StepChecks, senders, sha256
from fedfm_audit.transcript import Entry, read_body, rebuild_beacon_nonces


def check_judgement(checks: StepChecks, committed: Collection[str], upload_set: bytes) -> None:
    """From the nonces of the beacon to the verdict; ``committed`` are those on the upload set.

    Raises
    ------
    TranscriptError
        if a public body does not decode.
    """
    candidates = _check_nonces(checks, committed, upload_set)
    published = checks.one("BeaconNonces")
    if published is None:
        return
    checks.expect(
        published.header.refers_to == upload_set, "BeaconNonces refers to another upload set"
    )
    checks.expect(
        published.header.body_hash == sha256(rebuild_beacon_nonces(candidates)),
        "BeaconNonces is not made of exactly the nonces of those who have uploaded",
    )
    least = checks.thresholds.min_accepted
    checks.at_least(len(candidates), least, "clients uploaded and opened their nonces")
    fixed = published.header.body_hash
    _check_sketches(checks, senders(candidates), fixed)
    request, verdict = checks.one("ScoreRequest"), checks.one("Verdict")
    if request is not None:
        checks.at_least(len(checks.of("Sketch")), least, "sketches to judge")
        checks.expect(
            request.header.refers_to == fixed, "ScoreRequest refers to other nonces of the beacon"
        )
    if request is not None and verdict is not None:
        checks.expect(
            verdict.header.refers_to == request.header.body_hash,
            "the verdict is on another request than the coordinator's",
        )


def _check_nonces(
    checks: StepChecks, committed: Collection[str], upload_set: bytes
) -> Sequence[Entry]:
    """Nonces are those of the key offers; returns the ones of clients that have uploaded."""
    checks.expect_within("BeaconNonce", committed, "those on the upload set")
    offers = {
        entry.header.sender: read_body(entry, KeyOffer)
        for entry in checks.evidence.transcript.of("KeyOffer")
    }
    nonces = checks.of("BeaconNonce")
    for entry in nonces:
        name = entry.header.sender
        opened = beacon_commitment(
            checks.evidence.context0, name, read_body(entry, BeaconNonce).nonce
        )
        checks.expect(
            name in offers and offers[name].nonce_commitment == opened,
            f"{name} opened another nonce of the beacon than it committed to",
        )
        checks.expect(
            entry.header.refers_to == upload_set,
            f"{name} opened its nonce of the beacon for another upload set",
        )
    uploaded = set(senders(checks.of("Upload")))
    return [entry for entry in nonces if entry.header.sender in uploaded]


def _check_sketches(checks: StepChecks, candidates: Collection[str], fixed: bytes) -> None:
    checks.expect_within("Sketch", candidates, "the candidates")
    sketches = checks.of("Sketch")
    for entry in sketches:
        checks.expect(
            entry.header.refers_to == fixed,
            f"the sketch of {entry.header.sender} is under another beacon",
        )
    hashes = {entry.header.body_hash for entry in sketches}
    checks.expect(len(hashes) == len(sketches), "two clients sent one sketch")


def check_judged_cohort(checks: StepChecks, proposal: Entry, cohort: Cohort) -> None:
    """The cohort is the verdict's, to the name."""
    entry = checks.one("Verdict")
    if entry is None:  # the shape of the step says that it is missing
        return
    checks.expect(
        proposal.header.refers_to == entry.header.body_hash, "Cohort refers to another verdict"
    )
    verdict = read_body(entry, Verdict)
    checks.expect(
        cohort.accepted == verdict.accepted,
        f"Cohort accepts {list(cohort.accepted)}; the verdict accepts {list(verdict.accepted)}",
    )
    kept = sorted(verdict.reasons.keys() - set(cohort.removed))
    checks.expect(not kept, f"{', '.join(kept)} removed by the verdict, not by Cohort")


def check_binding(checks: StepChecks, dealers: Collection[str]) -> None:
    """The opened sum was found to be that of the accepted sketches before anybody applied it.

    Raises
    ------
    TranscriptError
        if the validator's result does not decode.
    """
    aggregate, request = checks.one("Aggregate"), checks.one("BindingRequest")
    reports, entry = checks.of("SumSketch"), checks.one("BindingResult")
    checks.expect_within("SumSketch", dealers, "the dealers")
    if aggregate is not None:
        for report in (*reports, *checks.of("BindingResult")):
            checks.expect(
                report.header.refers_to == aggregate.header.body_hash,
                f"{report.header.type} of {report.header.sender} is of another aggregate",
            )
    verdict = checks.one("Verdict")
    if request is not None:
        checks.at_least(len(reports), checks.thresholds.vote_quorum, "reports of the opened sum")
        checks.expect(
            verdict is not None and request.header.refers_to == verdict.header.body_hash,
            "BindingRequest refers to another verdict",
        )
    outcome, acks = checks.evidence.predicate.outcome, checks.of("RoundAck")
    result = None if entry is None else read_body(entry, BindingResult)
    passed = result is not None and result.passed
    checks.expect(
        passed or not acks,
        f"{len(acks)} clients acknowledge a sum that the validator did not find bound",
    )
    checks.expect(passed or outcome != "completed", "completed without a binding check that passed")
    if result is not None:
        _check_result(checks, result, reports)
        checks.expect(
            result.passed or outcome == "void",
            f"the binding check failed ({result.reason}), yet the round is {outcome}",
        )


def _check_result(checks: StepChecks, result: BindingResult, reports: Sequence[Entry]) -> None:
    deviators = list(result.deviators)
    checks.expect(
        deviators == sorted(set(deviators)) and set(deviators) <= set(senders(reports)),
        "BindingResult names deviators unsorted, twice, or without a report",
    )
    checks.expect(
        bool(result.reason) != result.passed,
        "BindingResult passed with a reason against it, or failed without one",
    )
    if result.passed:
        checks.at_least(
            len(reports) - len(deviators),
            checks.thresholds.vote_quorum,
            "clients report one sum, which passed",
        )
