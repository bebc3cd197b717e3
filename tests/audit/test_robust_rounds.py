"""Robust rounds that the real state machines played verify, with the exclusions and their reasons;
and every lie about a verdict, a beacon or the opened sum fails at its step."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from fedfm_audit.archive import ArchiveWriter
from fedfm_audit.compare import compare_bundles
from fedfm_audit.html_report.page import render_report
from fedfm_audit.messages import Cohort
from fedfm_audit.report import Report, Status
from fedfm_audit.robust_messages import BindingResult, Verdict, beacon
from fedfm_crypto.secret import Secret
from fedfm_protocols.beacon import beacon as protocol_beacon
from fedfm_protocols.scenario.open_sketches import OpenSketches
from fedfm_protocols.sketching import Judgement, Question
from tests.audit.robust_evidence import (
    OUTLIER,
    Lie,
    edited,
    failed_at,
    messages_of,
    retold,
    rewritten,
    robust_evidence,
)
from tests.audit.robust_lies import LIES, accepting_everybody
from tests.audit.simulated import Evidence, Losses, played

# Rounds 1 and 2 have an outlier; whom rounds lose in the others, the transcript must explain.
LOSSES: Losses = {
    3: {"Sketch": ["client-02"]},
    4: {"BeaconNonce": ["client-05"]},
    5: {"Upload": ["client-01"]},
    6: {"SumSketch": ["client-04"]},
    7: {"Verdict": ["validator"]},
    8: {"BindingResult": ["validator"]},
    9: {"Sketch": ["client-01", "client-02"]},
}
NO_UPLOAD = {1: {"Upload": [f"client-0{i}" for i in range(1, 6)]}}


@cache
def honest() -> Evidence:
    return robust_evidence(9, LOSSES)


@cache
def one_round() -> Evidence:
    return robust_evidence(1)


def test_robust_rounds_verify_with_their_exclusions() -> None:
    evidence = honest()
    done = "completed"
    assert evidence.outcomes == [*[done] * 6, "aborted", "void", "aborted"]
    report = evidence.verify()
    assert report.ok, report.to_text()
    assert report.step(7).status is Status.VERIFIED
    assert report.robust is not None
    said = {(e.client, e.code): (e.reason, e.rounds) for e in report.robust.exclusions}
    assert said == {
        (OUTLIER, "norm"): ("removed by the verdict of rule norm-bound: norm", (1, 2)),
        ("client-01", ""): (
            "its upload did not come, came too late or was not the one committed to",
            (5,),
        ),
        ("client-02", ""): ("sent no sketch", (3,)),
        ("client-05", ""): ("did not open its nonce of the beacon", (4,)),
    }
    bindings = [judged.binding for judged in report.robust.judged]
    assert bindings == [*["passed"] * 6, "none"]


@pytest.mark.parametrize("suite", ["masked"])
def test_robust_rounds_of_masked_updates_verify(suite: str) -> None:
    report = robust_evidence(1, suite=suite).verify()
    assert report.ok, report.to_text()
    assert report.step(7).status is Status.VERIFIED


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["sealed", "layered"])
def test_robust_rounds_under_collective_keys_verify(suite: str) -> None:
    evidence = robust_evidence(2, key_rounds=(1,), suite=suite)
    assert evidence.outcomes == ["keys completed", "completed"]
    report = evidence.verify()
    assert report.ok, report.to_text()
    assert report.robust is not None
    assert [judged.removed for judged in report.robust.judged] == [((OUTLIER, "norm"),)]


def test_a_round_whose_uploads_never_came_verifies() -> None:
    evidence = robust_evidence(1, NO_UPLOAD)
    report = evidence.verify()
    assert report.ok, report.to_text()
    assert report.step(7).status is Status.NOT_CHECKABLE
    assert "no round came to a verdict" in report.step(7).detail


def test_a_replay_repeats_the_sum_of_those_whom_the_verdict_accepts(tmp_path: Path) -> None:
    evidence = robust_evidence(1, suite="masked", archive=ArchiveWriter(tmp_path, 0))
    report = evidence.verify(replay=tmp_path)
    assert report.ok, report.to_text()
    assert "1 sum of 4 uploads" in report.step(9).detail


def test_new_sketch_keys_are_followed() -> None:
    report = robust_evidence(3, rule={"key_rounds": 2}).verify()
    assert report.ok, report.to_text()


def test_the_report_names_reasons_as_text_json_and_page() -> None:
    report = honest().verify()
    assert f"left out: {OUTLIER}, 2 rounds, 1, 2: removed by the verdict" in report.to_text()
    document = report.to_json()["robust"]
    assert document["rule"] == "norm-bound"
    assert document["judged"][0]["removed"] == [{"client": OUTLIER, "code": "norm"}]
    assert {"client-02", OUTLIER} <= {said["client"] for said in document["exclusions"]}
    page = render_report(report, honest().files()).decode()
    assert "Exclusions with reasons" in page
    assert "removed by the verdict of rule norm-bound: norm" in page
    assert "did not open its nonce of the beacon" in page
    assert "validator" in page


def test_both_readers_draw_one_beacon() -> None:
    nonces = {"client-02": b"\x02" * 32, "client-01": b"\x01" * 32}
    mine = beacon(b"c" * 32, 3, b"u" * 32, nonces)
    assert mine == protocol_beacon(b"c" * 32, 3, b"u" * 32, nonces)
    assert mine != beacon(b"c" * 32, 2, b"u" * 32, nonces)


# ---------------------------------------------------------------- lies


def _told(lie: Lie, **predicate: object) -> Report:
    """The verdict on one round about which somebody lies."""
    evidence = one_round()
    messages = lie(evidence.keys, messages_of(evidence, 1))
    return rewritten(evidence, 1, messages, **predicate)


def test_the_round_told_as_it_was_verifies() -> None:
    report = _told(lambda keys, messages: messages)
    assert report.ok, report.to_text()


@pytest.mark.parametrize("name", LIES)
def test_every_lie_fails_at_its_step(name: str) -> None:
    lie, step, text = LIES[name]
    report = _told(lie)
    assert not report.ok
    assert text in failed_at(report, step), report.to_text()
    assert "leaf 8 (transcripts/000001.json)" in failed_at(report, step) or step == 3


def _cohort_with_everybody(cohort: Cohort) -> tuple[str, ...]:
    return tuple(sorted((*cohort.accepted, *cohort.removed)))


def test_a_cohort_against_the_verdict_names_whom() -> None:
    report = _told(edited("Cohort", Cohort, accepted=_cohort_with_everybody, removed=()))
    assert f"{OUTLIER} is in the sum, though the verdict removed it: norm" in failed_at(report, 7)
    assert "Cohort accepts" in failed_at(report, 4)
    assert f"{OUTLIER} removed by the verdict, not by Cohort" in failed_at(report, 4)


def test_a_bound_round_may_not_be_called_void_for_its_binding() -> None:
    failed = edited("BindingResult", BindingResult, passed=False, reason="another sum")
    report = _told(failed, outcome="aborted", adapter_out=one_round().predicates[1].adapter_in)
    assert "the binding check failed (another sum), yet the round is aborted" in failed_at(
        report, 4
    )


def test_a_failed_binding_makes_a_void_round_that_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenSketches, "matches", lambda *_: False)
    evidence = robust_evidence(1)
    assert evidence.outcomes == ["void"]
    report = evidence.verify()
    assert report.ok, report.to_text()
    assert report.robust is not None
    assert [judged.binding for judged in report.robust.judged] == ["failed"]


def test_a_round_that_nobody_could_judge_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validator's answer where its rule cannot judge, its root client missing say."""

    def unjudged(
        self: OpenSketches, secret: Secret, scores: bytes, question: Question
    ) -> Judgement:
        rows = tuple(bytes([place]) for place in range(len(question.names)))
        everybody = tuple((name, "unjudged") for name in question.names)
        return Judgement((), everybody, rows, question.memory)

    monkeypatch.setattr(OpenSketches, "judge", unjudged)
    evidence = robust_evidence(1, rule={"root": "client-01"})
    assert evidence.outcomes == ["aborted"]
    report = evidence.verify()
    assert report.ok, report.to_text()
    assert report.robust is not None
    assert {e.code for e in report.robust.exclusions} <= {"unjudged"}


def _second(lie: Lie) -> Report:
    """The verdict on a log of two rounds, about whose second somebody lies."""
    evidence = honest()
    return rewritten(evidence, 2, lie(evidence.keys, messages_of(evidence, 2)))


def _first(kind: str) -> Lie:
    """The message of a kind as it was in round 1."""
    (old,) = (m for m in messages_of(honest(), 1) if m[0].header.type == kind)
    return lambda keys, messages: [old if m[0].header.type == kind else m for m in messages]


def test_the_second_round_told_as_it_was_verifies() -> None:
    assert _second(lambda keys, messages: messages).ok


@pytest.mark.parametrize(
    ("lie", "step", "text"),
    [
        (_first("Verdict"), 7, "the verdict is signed for another round"),
        (_first("Verdict"), 3, "the same envelope is part of transcripts/000001.json too"),
        (_first("Verdict"), 7, "a salted commitment to scores occurs twice"),
        (_first("BindingResult"), 7, "the binding result is signed for another round"),
        (
            edited("SketchKey", header={"sequence": 0}),
            7,
            "judged under the sketch key of epoch 0, after epoch 1",
        ),
        (
            edited("SketchKey", header={"body_hash": b"\x05" * 32}),
            7,
            "a second sketch key of epoch 1",
        ),
    ],
)
def test_lies_across_rounds_fail(lie: Lie, step: int, text: str) -> None:
    report = _second(lie)
    assert not report.ok
    assert text in failed_at(report, step), report.to_text()
    if step == 7:
        assert "(transcripts/000002.json)" in failed_at(report, 7)


def test_a_sketch_key_that_served_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_counting(kept: object, **fields: object) -> object:
        return replace(kept, **{n: v for n, v in fields.items() if n != "served"})  # type: ignore[type-var]

    monkeypatch.setattr("fedfm_protocols.validator.replace", without_counting)
    report = robust_evidence(2, rule={"key_rounds": 1}).verify()
    found = failed_at(report, 7)
    assert "verdict number 2 under the sketch key of epoch 1; the charter allows 1" in found
    assert "transcripts/000002.json" in found


def test_a_validator_that_no_leaf_enrols_fails() -> None:
    evidence = one_round()
    report = replace(
        evidence, leaves=[leaf for n, leaf in enumerate(evidence.leaves) if n != 6]
    ).verify()
    assert "validator is in the charter, but no leaf enrols it" in failed_at(report, 3)


def test_a_missing_transcript_leaves_its_verdict_unknown() -> None:
    report = replace(one_round(), transcripts={}).verify()
    assert "its verdict is unknown" in failed_at(report, 7)


def test_two_verdicts_on_one_round_are_found_by_comparing() -> None:
    evidence = one_round()
    lie = edited("Verdict", Verdict, accepted=accepting_everybody, removed=())
    other = retold(evidence, 1, lie(evidence.keys, messages_of(evidence, 1)))
    compared = compare_bundles(evidence.files(), other.files())
    assert any("validator signed two different Verdict" in said for said in compared.problems)
    same = compare_bundles(evidence.files(), evidence.files())
    assert same.ok, same.problems


def test_a_federation_without_a_validator_has_no_robust_messages() -> None:
    plain = played(5, 1, {}, suite="clear")
    (verdict,) = (m for m in messages_of(one_round(), 1) if m[0].header.type == "Verdict")
    report = rewritten(plain, 1, [*messages_of(plain, 1), verdict])
    assert "Verdict in a round of kind 'train'" in failed_at(report, 4)
    assert report.step(7).detail == "the charter names no robust rule"
