"""Step 6 on sessions of mode `shared-noise`: charges, noise that is left, and settlements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedfm_audit.privacy.events import CompletedRound, CompletedSession
from fedfm_audit.report import Report, Status
from fedfm_audit.verify import verify_files
from tests.audit.played_round import Script
from tests.audit.privacy_ledgers import HASH, PrivateFederation
from tests.audit.synthetic import SHARED_NOISE

VICTIM = "client-03"


def verified(files: dict[str, bytes]) -> Report:
    return verify_files(files, name="bundle")


def reasons(report: Report) -> str:
    step = report.step(6)
    assert step.status is Status.FAILED, report.to_text()
    return "\n".join(f"{failure.place}: {failure.reason}" for failure in step.failures)


def test_sessions_that_are_charged_and_settled_are_verified() -> None:
    played = PrivateFederation(SHARED_NOISE)
    played.play()
    played.settle_session(3)
    # One drops out at the second step: the smallest sum is what is settled.
    played.play(Script(silent={VICTIM: (1, "Upload")}))
    played.settle_session(3, accepted=4)
    played.federation.conclude()
    report = verified(played.files())
    assert report.ok, report.to_text()
    assert report.step(6).status is Status.VERIFIED
    assert "of 8 at delta 1e-05" in report.step(6).detail


def test_a_session_without_a_charge_of_all_its_steps_is_found() -> None:
    played = PrivateFederation(SHARED_NOISE)
    played.play(silent=[VICTIM])
    assert f"{VICTIM} committed to an update in round 1 without a charge" in reasons(
        verified(played.files())
    )
    less = PrivateFederation(SHARED_NOISE)
    event: Any = less.event
    less.event = replace(event, steps=1)
    less.play()
    assert "charges a number of steps of 1; the charter says 3" in reasons(verified(less.files()))


def test_noise_counted_on_more_shares_than_are_left_is_found() -> None:
    played = PrivateFederation(SHARED_NOISE)
    event: Any = played.event
    played.event = replace(event, honest_shares=4, share_variance=event.share_variance * 3 / 4)
    played.play(Script(silent={VICTIM: (1, "Upload")}))
    found = reasons(verified(played.files()))
    assert "counts on 4 honest shares of noise; the charter's limits leave 3" in found
    assert "4 updates were accepted, so 3 may be honest" in found


@pytest.mark.parametrize(
    ("steps", "accepted", "message"),
    [
        (2, 4, "says 2 steps of round 1 gave a result; 3 did"),
        (3, 5, "says 5 updates were accepted in round 1; the cohort has 4"),
        (4, 4, "says 4 steps of round 1 gave a result; 3 are charged"),
    ],
)
def test_a_settlement_that_the_transcript_does_not_show_is_found(
    steps: int, accepted: int, message: str
) -> None:
    played = PrivateFederation(SHARED_NOISE)
    played.play(Script(silent={VICTIM: (1, "Upload")}))
    ledger = played.ledgers[VICTIM]
    said = CompletedSession(charge=0, steps=steps, accepted=accepted, aggregate=HASH)
    played.federation.leaves.append(ledger.settle(said))
    assert message in reasons(verified(played.files()))


def test_a_session_that_ended_early_is_settled_by_its_good_steps() -> None:
    played = PrivateFederation(SHARED_NOISE)
    played.play(Script(stop_before=(2, "Cohort")))
    good = 2
    played.settle_session(good)
    report = verified(played.files())
    assert report.step(6).status is Status.VERIFIED, report.to_text()
    other = PrivateFederation(SHARED_NOISE)
    other.play(Script(stop_before=(2, "Cohort")))
    other.settle_session(3)
    assert "says 3 steps of round 1 gave a result; 2 did" in reasons(verified(other.files()))


def test_a_session_may_not_be_settled_as_a_round() -> None:
    played = PrivateFederation(SHARED_NOISE)
    played.play()
    ledger = played.ledgers[VICTIM]
    played.federation.leaves.append(
        ledger.settle(CompletedRound(charge=0, accepted=5, aggregate=HASH))
    )
    assert "settles by completed-round, which is not for mode shared-noise" in reasons(
        verified(played.files())
    )
