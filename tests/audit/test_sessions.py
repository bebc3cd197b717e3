"""Rounds of several steps: honest sessions, whole and cut short, and what their statements say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from fedfm_audit.errors import TranscriptError
from fedfm_audit.report import Report, Status
from fedfm_audit.statements import RoundPredicate, open_leaf
from fedfm_audit.steps_summary import prove_step, summarise_steps, verify_step
from fedfm_audit.transcript import Transcript, count_round
from fedfm_audit.verify import verify_files
from fedfm_crypto.errors import MerkleError
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_crypto.merkle import EMPTY_ROOT, leaf_hash, node_hash
from tests.audit.played_round import MAKE_KEYS, PlayedRound, Script
from tests.audit.synthetic import Federation, names, play_federation

STEPS = 3
STOPS = ["UploadSet", "Cohort", "CohortProof", "Aggregate"]


def assert_verified(report: Report) -> None:
    """Steps 0 to 5; the ledgers that this privacy mode needs are none of these tests' business."""
    assert all(step.status is Status.VERIFIED for step in report.steps[:6]), report.to_text()


def played(*scripts: Script, suite: str = "masked", steps: int = STEPS) -> Federation:
    federation = play_federation(*scripts, suite=suite, steps=steps)
    assert_verified(verify_files(federation.files(), name="bundle"))
    return federation


def predicate_of(federation: Federation, number: int = 1) -> RoundPredicate:
    keys: dict[str, IdentityPublicKey] = {
        key.public.hex: key.public for key in (*federation.keys.values(), federation.coordinator)
    }
    found = [open_leaf(leaf, keys).statement.predicate for leaf in federation.leaves]
    (predicate,) = (p for p in found if isinstance(p, RoundPredicate) and p.round == number)
    return predicate


def transcript_of(federation: Federation, number: int = 1) -> Transcript:
    return Transcript.decode(federation.transcripts[number])


def adapter_after(federation: Federation, step: int, number: int = 1) -> str:
    return PlayedRound(federation, Script(), number).new_adapter(step).hex()


@pytest.mark.parametrize("suite", ["masked", "layered"])
def test_whole_sessions_are_verified(suite: str) -> None:
    first = [MAKE_KEYS] if suite == "layered" else []
    federation = played(*first, Script(), Script(), suite=suite)
    number = len(first) + 1
    predicate = predicate_of(federation, number)
    steps = predicate.steps
    assert (steps.planned, steps.good, steps.recorded) == (STEPS, STEPS, STEPS)
    assert (predicate.outcome, predicate.reason) == ("completed", "")
    assert predicate.adapter_out == adapter_after(federation, STEPS - 1, number)
    assert predicate_of(federation, number + 1).adapter_in == predicate.adapter_out
    counts = predicate.counts
    assert (counts.offers, counts.dealers, counts.accepted, counts.removed) == (5, 5, 5, 0)
    assert (counts.uploads, counts.votes, counts.unmasked, counts.acks) == (15,) * 4
    if first:
        made = predicate_of(federation, 1).steps
        assert (made.planned, made.good, made.recorded) == (1, 1, 1)


def test_a_session_of_one_step_is_a_round() -> None:
    federation = played(Script(), steps=1)
    assert predicate_of(federation).steps.planned == 1
    ordinary = play_federation(Script())
    kinds = [
        [entry.header.type for entry in transcript_of(each).entries]
        for each in (federation, ordinary)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("kind", STOPS)
@pytest.mark.parametrize("step", [1, 2])
def test_a_session_ends_at_its_last_good_step(step: int, kind: str) -> None:
    federation = played(Script(stop_before=(step, kind), reason="time is up"), Script())
    predicate = predicate_of(federation)
    assert (predicate.steps.good, predicate.steps.recorded) == (step, step + 1)
    assert predicate.outcome == "completed"
    assert predicate.reason == f"ended after {step} of {STEPS} steps: time is up"
    assert predicate.adapter_out == adapter_after(federation, step - 1)


@pytest.mark.parametrize("kind", STOPS)
def test_a_session_without_a_good_step_is_aborted(kind: str) -> None:
    federation = played(Script(stop_before=kind, reason="stopped"), Script())
    predicate = predicate_of(federation)
    assert (predicate.outcome, predicate.steps.good, predicate.steps.recorded) == ("aborted", 0, 1)
    assert predicate.adapter_out == predicate.adapter_in


def test_a_session_may_fail_before_its_steps() -> None:
    steps = predicate_of(played(Script(stop_before="ShareDelivery", reason="stopped"))).steps
    assert (steps.good, steps.recorded, steps.root) == (0, 0, EMPTY_ROOT.hex())


def test_who_is_removed_stays_out() -> None:
    script = Script(silent={"client-05": (1, "Upload")})
    federation = played(script)
    counts = predicate_of(federation).counts
    assert (counts.dealers, counts.accepted, counts.removed) == (5, 4, 1)
    # Two steps of all five, but for the one upload; then four.
    assert (counts.uploads, counts.votes) == (5 + 4 + 4, 5 + 4 + 4)
    last = {entry.header.sender for entry in transcript_of(federation).steps[2]}
    assert last == {"coordinator", *names(1, 2, 3, 4)}


def test_who_loses_one_upload_still_finishes_that_step() -> None:
    federation = played(Script(lost=[(0, "Upload", "client-03")]))
    first, second = (
        {e.header.sender for e in transcript_of(federation).steps[step] if e.header.type == kind}
        for step, kind in ((0, "RoundAck"), (1, "UploadHash"))
    )
    assert "client-03" in first
    assert "client-03" not in second
    assert predicate_of(federation).counts.removed == 1


@pytest.mark.parametrize(
    "script",
    [
        Script(lost=[(0, "RoundAck", "client-05")]),
        Script(acknowledged={(0, "client-05"): b"\x05" * 32}),
    ],
    ids=["no acknowledgement", "another adapter"],
)
def test_who_does_not_hold_the_adapter_is_not_taken_into_the_next_set(script: Script) -> None:
    """Its upload hash may have come, and counts for nothing."""
    federation = played(script)
    second = transcript_of(federation).steps[1]
    assert [e.header.sender for e in second if e.header.type == "Upload"] == list(names(1, 2, 3, 4))
    assert "client-05" in [e.header.sender for e in second if e.header.type == "UploadHash"]
    assert predicate_of(federation).counts.removed == 1


def test_a_step_that_no_quorum_acknowledges_does_not_count() -> None:
    """Two steps were begun after the last good one: the clients train ahead."""
    lost = [(1, "RoundAck", name) for name in names(1, 2)]
    federation = played(Script(lost=lost, reason="3 acknowledgements"), Script())
    predicate = predicate_of(federation)
    assert (predicate.steps.good, predicate.steps.recorded) == (1, 3)
    assert predicate.adapter_out == adapter_after(federation, 0)


def test_the_last_step_may_fail_too() -> None:
    lost = [(2, "RoundAck", name) for name in names(1, 2)]
    predicate = predicate_of(played(Script(lost=lost, reason="3 acknowledgements")))
    assert (predicate.steps.good, predicate.steps.recorded) == (2, 3)
    assert predicate.reason == "ended after 2 of 3 steps: 3 acknowledgements"


def test_a_first_step_without_a_quorum_makes_the_session_void() -> None:
    lost = [(0, "RoundAck", name) for name in names(1, 2)]
    predicate = predicate_of(played(Script(lost=lost, reason="3 acknowledgements"), Script()))
    assert (predicate.outcome, predicate.steps.good, predicate.steps.recorded) == ("void", 0, 2)


def test_every_step_may_ask_two_active_sets() -> None:
    sets: Sequence[Sequence[str]] = (names(1, 2), names(1, 4))
    federation = played(MAKE_KEYS, Script(active=sets, absent=names(2)), suite="layered")
    assert count_round(transcript_of(federation, 2)).openings == 3 * STEPS


# ---- the tree over the steps


def test_the_root_is_that_of_rfc_6962() -> None:
    federation = played(Script())
    transcript, root = transcript_of(federation), predicate_of(federation).steps.root
    first, second, third = (leaf_hash(prove_step(transcript, step).leaf) for step in range(3))
    assert root == node_hash(node_hash(first, second), third).hex()
    for step in range(3):
        assert prove_step(transcript, step).leaf in federation.transcripts[1]


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_one_step_is_shown_without_the_others(steps: int) -> None:
    federation = played(Script(), steps=steps)
    transcript, said = transcript_of(federation), predicate_of(federation).steps
    for step in range(steps):
        proof = prove_step(transcript, step)
        verify_step(proof, said)
        assert proof.entries() == transcript.steps[step]
        for other in {0, steps - 1} - {step}:
            with pytest.raises(MerkleError):
                verify_step(replace(proof, step=other), said)
        with pytest.raises(MerkleError):
            verify_step(replace(proof, leaf=proof.leaf + b" "), said)
        with pytest.raises(MerkleError):
            verify_step(proof, replace(said, root="00" * 32))
    with pytest.raises(TranscriptError, match=f"recorded {steps} steps.* no step {steps}"):
        prove_step(transcript, steps)


def test_a_summary_says_what_it_is_told() -> None:
    transcript = transcript_of(played(Script(stop_before=(1, "Cohort"))))
    summary = summarise_steps(transcript, planned=3, good=1)
    assert (summary.planned, summary.good, summary.recorded) == (3, 1, 2)
