"""Step 4, second half: the state machine of every round, replayed from its transcript.

The checks follow the messages of protocols/README.md; each compares what the coordinator claims
with what the clients signed.  A round that was aborted is held to the same rules as far as it
got: whatever is present must be consistent, and nothing may be present whose basis is missing.
This module holds what rounds of every kind have in common; ``shape`` says which messages a round
and its steps have, ``training_round`` and ``keys_round`` replay the two kinds
(marks are summed like updates), ``close`` their end.
"""

from __future__ import annotations

from fedfm_audit.charter_view import CharterView
from fedfm_audit.errors import TranscriptError
from fedfm_audit.messages import KEYS, TRAIN, WATERMARK
from fedfm_audit.steps.close import check_close, check_steps_stated, check_train_result
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.epochs import wrong_epoch
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.keys_round import check_keys_round
from fedfm_audit.steps.round_checks import RoundChecks
from fedfm_audit.steps.shape import check_shape
from fedfm_audit.steps.training_round import TrainingRound
from fedfm_audit.transcript import count_round
from fedfm_crypto.errors import CodecError


def replay_round(evidence: RoundEvidence, charter: CharterView, findings: Findings) -> None:
    """Check one round; every failure names the round's leaf and transcript."""
    try:
        _replay(RoundChecks(evidence, charter, findings))
    except (TranscriptError, CodecError) as error:
        findings.fail(evidence.place, error)


def _replay(checks: RoundChecks) -> None:
    evidence = checks.evidence
    check_shape(checks)
    _check_opening(checks)
    _check_roster(checks)
    if evidence.opened.kind == KEYS:
        check_keys_round(checks)
        good = int(evidence.predicate.outcome == "completed")
        check_steps_stated(checks, good)
        check_close(checks, good)
    else:
        check_train_result(checks, TrainingRound(checks).run())
    said, counted = evidence.predicate.counts, count_round(evidence.transcript)
    checks.expect(said == counted, f"the statement counts {said}, the transcript {counted}")


def _check_opening(checks: RoundChecks) -> None:
    opened, predicate = checks.evidence.opened, checks.evidence.predicate
    invited = list(opened.invited)
    checks.expect(
        opened.round == predicate.round and opened.kind == predicate.kind,
        f"RoundOpen is of round {opened.round}, kind {opened.kind!r}",
    )
    known = (TRAIN, KEYS, WATERMARK) if checks.charter.marked else (TRAIN, KEYS)
    checks.expect(opened.kind in known, f"unknown kind {opened.kind!r}")
    agreed = checks.charter.steps_of(opened.kind)
    checks.expect(
        opened.steps == agreed, f"RoundOpen plans {opened.steps} steps, the charter {agreed}"
    )
    for reason in wrong_epoch(opened, predicate, checks.evidence.history, checks.charter):
        checks.expect(False, reason)
    checks.expect(
        invited == sorted(set(invited)) and set(invited) <= set(checks.charter.clients),
        "invites names that are unsorted, repeated or not on the roster",
    )
    checks.expect(
        opened.config_hash == checks.charter.config_hash,
        "RoundOpen names a training configuration that is not the charter's",
    )
    checks.expect_within("KeyOffer", invited, "the invited")


def _check_roster(checks: RoundChecks) -> None:
    roster = checks.one("KeyRoster")
    if roster is None:
        return
    checks.expect(
        roster.header.body_hash == checks.evidence.roster_hash,
        "KeyRoster is not made of exactly these KeyOffers",
    )
    checks.at_least(len(checks.offerers), checks.thresholds.vote_quorum, "key offers")
