"""Step 8: marks that were committed to before round 1 and written after the last; every lie about
them fails at its step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fedfm_audit.charter_view import open_charter
from fedfm_audit.errors import ProofError
from fedfm_audit.html_report.page import render_report
from fedfm_audit.inclusion import prove_inclusion, verify_document
from fedfm_audit.inclusion_document import InclusionDocument
from fedfm_audit.report import Report, Status
from fedfm_audit.statements import open_leaf, round_statement
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.history import check_history
from fedfm_audit.steps.leaves import Leaf
from fedfm_audit.steps.privacy import uncharged
from fedfm_audit.verify import verify_files
from fedfm_protocols.federation import Federation
from secure_fedfm.watermark.embedding import embed, marked
from tests.audit.marked_evidence import (
    PLACES,
    THRESHOLD,
    claimed_for,
    honest_marks,
    honest_words,
    leaf_of,
    marked_evidence,
    owner_of,
    word,
)
from tests.audit.marks import host, write_adapter
from tests.audit.simulated import Evidence, played
from tests.protocols.federations import Keys

ANY = "client-01"


@cache
def honest() -> Evidence:
    return marked_evidence()


def heard(words: Callable[[Evidence], Sequence[bytes]]) -> Evidence:
    """The honest federation with other words of its owners."""
    evidence = honest()
    before, conclusion = evidence.leaves[: -len(PLACES) - 1], evidence.leaves[-1]
    return replace(evidence, leaves=[*before, *words(evidence), conclusion])


def failed(report: Report, step: int) -> str:
    return "\n".join(f"{f.place}: {f.reason}" for f in report.step(step).failures)


def test_honest_marks_verify_with_their_owners_words() -> None:
    report = honest().verify()
    assert report.ok, report.to_text()
    step = report.step(8)
    assert step.status is Status.VERIFIED
    assert "3 marks committed to before round 1; on a head that 5 clients signed" in step.detail
    assert "written in round 3, 3 found by their owners" in step.detail
    assert "not checkable without an adapter and an opening" in step.detail
    assert report.marks is not None
    assert report.marks.complaints == ()
    assert report.to_json()["watermark"]["marks"][0]["client"] == ANY
    assert report.summary is not None
    assert report.summary.rounds_completed == 2


@pytest.mark.parametrize("suite", ["masked"])
def test_marks_verify_in_other_suites(suite: str) -> None:
    assert marked_evidence(suite=suite).verify().ok


def test_a_charter_without_marks_is_not_checkable_and_says_so_as_before() -> None:
    report = played(5, 1, {}, suite="clear").verify()
    assert report.step(8).detail == "the charter names no watermark"
    assert "watermark" not in report.to_json()
    assert report.marks is None


def test_a_complaint_is_shown_and_fails_nothing() -> None:
    def words(evidence: Evidence) -> Sequence[bytes]:
        return [word(evidence, "client-01", "own", 1.5), *honest_words(evidence)[1:]]

    report = heard(words).verify()
    assert report.ok
    assert "complaints: client-01 (own)" in report.step(8).detail
    assert any("client-01 says that the adapter" in line for line in report.warnings)
    page = render_report(report, honest().files()).decode()
    assert "Complaints of a missing mark: client-01 (own)" in page


def test_silence_is_counted() -> None:
    report = heard(lambda evidence: honest_words(evidence)[:1]).verify()
    assert report.ok
    assert "nothing was said of 2" in report.step(8).detail


def _lies_of_leaves() -> dict[str, tuple[Callable[[Keys], Any], int, str]]:
    def but(place: tuple[str, str], **changes: Any) -> Callable[[Keys], Any]:
        return lambda keys: [
            leaf_of(keys, *one, **(changes if one == place else {})) for one in PLACES
        ]

    first = PLACES[0]
    return {
        "signed by another": (
            lambda keys: [
                leaf_of(keys, *first, key=keys.clients["client-05"]),
                *honest_marks(keys)[1:],
            ],
            3,
            "is about a mark of client-01, by another key",
        ),
        "another federation": (but(first, federation="other"), 8, "another federation"),
        "claim of another federation": (
            but(first, committed=claimed_for(*first, federation="other")),
            8,
            "another federation",
        ),
        "claim of another base model": (
            but(first, committed=claimed_for(*first, base_model="11" * 32)),
            8,
            "another base model",
        ),
        "a fingerprint": (
            but(first, committed=claimed_for(*first, purpose="fingerprint")),
            8,
            "another purpose",
        ),
        "somebody else's claim": (
            but(first, committed=owner_of("client-02", "own").committed),
            8,
            "another identity",
        ),
        "one key twice": (
            but(("client-02", "own"), committed=owner_of("client-02", "consortium").committed),
            8,
            "two marks have one key",
        ),
    }


@pytest.mark.parametrize("name", _lies_of_leaves())
def test_lies_in_commitments(name: str) -> None:
    lie, step, text = _lies_of_leaves()[name]
    report = marked_evidence(lie).verify()
    assert text in failed(report, step), report.to_text()


def test_an_edited_signature_is_refused() -> None:
    committed = owner_of(*PLACES[0]).committed
    forged = type(committed)(committed.claim, bytes(32), committed.signature)

    def lie(keys: Keys) -> Any:
        return [leaf_of(keys, *PLACES[0], committed=forged), *honest_marks(keys)[1:]]

    assert "is not signed by the identity" in failed(marked_evidence(lie).verify(), 8)


@pytest.mark.parametrize(
    ("change", "step", "text"),
    [
        (lambda w, e: [*w, w[0]], 8, "speaks again"),
        (lambda w, e: [word(e, "client-01", "own", claim="22" * 32)], 8, "another claim"),
        (lambda w, e: [word(e, "client-01", "own", round=2)], 8, "another round or adapter"),
        (lambda w, e: [word(e, "client-01", "own", adapter="22" * 32)], 8, "another round"),
        (lambda w, e: [word(e, "client-01", "own", threshold=1.0)], 8, "another threshold"),
        (lambda w, e: [word(e, "client-01", "own", present=False)], 3, "yet present is False"),
        (lambda w, e: [word(e, "client-01", "own", key=e.keys.coordinator)], 3, "by another key"),
        (lambda w, e: [word(e, "client-03", "own")], 8, "did not commit to"),
        (lambda w, e: [word(e, "client-01", "own", charter="33" * 32)], 4, "names charter"),
    ],
)
def test_lies_in_words(change: Any, step: int, text: str) -> None:
    report = heard(lambda e: change(honest_words(e), e)).verify()
    assert text in failed(report, step), report.to_text()


def test_a_commitment_that_is_missing_or_late_is_found() -> None:
    evidence = replace(honest())
    wanted = evidence.leaves[6]
    late = [leaf for leaf in evidence.leaves if leaf != wanted]
    evidence.leaves = late
    assert "lacks the commitment to the own mark of client-01" in failed(evidence.verify(), 8)
    evidence.leaves = [*late[:-1], wanted, late[-1]]
    report = evidence.verify()
    assert "was opened before the log held every commitment" in failed(report, 8)
    assert "mark:v1 after" in failed(report, 4)


def test_a_commitment_that_the_charter_does_not_name_is_found() -> None:
    extra = leaf_of(honest().keys, "client-04", "own")[2]
    evidence = replace(honest(), leaves=[*honest().leaves[:7], extra, *honest().leaves[7:]])
    assert "that no charter names" in failed(evidence.verify(), 8)


def test_a_commitment_can_be_shown_by_itself() -> None:
    evidence = honest()
    files = evidence.files()
    sent = InclusionDocument.decode(prove_inclusion(files, 6).encode())
    shown = verify_document(sent, policy=files["policy"])
    assert shown.statement.predicate.TYPE == "urn:secure-fedfm:mark:v1"
    assert shown.signer == "client-01"
    extra = leaf_of(evidence.keys, "client-04", "own")[2]
    lied = replace(evidence, leaves=[*evidence.leaves[:7], extra, *evidence.leaves[7:]]).files()
    with pytest.raises(ProofError, match="that the charter does not name"):
        verify_document(prove_inclusion(lied, 7))


def test_marks_where_the_charter_has_none_are_found() -> None:
    evidence = played(5, 1, {}, suite="clear")
    evidence.leaves.insert(6, leaf_of(evidence.keys, "client-04", "own")[2])
    assert "that no charter names" in failed(evidence.verify(), 8)
    said = word(evidence, "client-04", "own")
    evidence.leaves = [*evidence.leaves[:6], *evidence.leaves[7:-1], said, evidence.leaves[-1]]
    assert "of which the charter has none" in failed(evidence.verify(), 8)


@pytest.mark.parametrize(
    ("options", "step", "text"),
    [
        ({"mark_rounds": (), "words": lambda e: ()}, 8, "without a completed round of marks"),
        ({"agreed": 3}, 8, "without a completed round of marks"),
        (
            {"losses": {3: {"Upload": [f"client-0{i}" for i in range(1, 6)]}}},
            8,
            "without a completed round of marks",
        ),
    ],
)
def test_a_federation_that_ended_without_its_marks_says_so(
    options: dict[str, Any], step: int, text: str
) -> None:
    report = marked_evidence(**{"words": lambda e: (), **options}).verify()
    assert text in failed(report, step), report.to_text()


def _history(*rounds: tuple[str, str]) -> str:
    """What the history of these rounds (kind, outcome) is refused for; the charter has two."""
    evidence = honest()
    keys = {key.hex: key for key in Federation.of(evidence.charter).identities.values()}
    leaves = [
        Leaf(i, open_leaf(leaf, keys).statement, "") for i, leaf in enumerate(evidence.leaves)
    ]
    before = [leaf for leaf in leaves if leaf.index <= 9]
    said = evidence.predicates[1]
    played = [
        Leaf(10 + i, round_statement(replace(said, round=i + 1, kind=k, outcome=o), b""), "")
        for i, (k, o) in enumerate(rounds)
    ]
    findings = Findings()
    check_history([*before, *played], open_charter(evidence.envelope), findings)
    return "\n".join(failure.reason for failure in findings.failures)


def test_marks_have_one_place_in_the_history() -> None:
    done, train, mark = "completed", "train", "watermark"
    assert _history((train, done), (train, done), (mark, "void"), (mark, done)) == ""
    assert "after 1 rounds of training" in _history((train, done), (mark, done))
    assert "was marked before" in _history((train, done), (train, done), (mark, done), (mark, done))
    late = _history((train, done), (train, done), (mark, done), (train, "aborted"))
    assert "trains after the adapter was marked" in late


def test_a_mark_is_measured_where_it_is_shown(tmp_path: Path) -> None:
    owner = owner_of(*PLACES[0])
    released = host()
    written = marked(released, embed(released, owner.claim, [owner.opening().key]))
    folder = write_adapter(tmp_path / "adapter", written)
    shown = owner.opening().encode()
    files = honest().files()
    found = verify_marks(files, folder, [shown])
    assert found.step(8).status is Status.VERIFIED
    assert "client-01 (own) T 1" in found.step(8).detail
    plain = write_adapter(tmp_path / "plain", released)
    assert "is not in" in failed(verify_marks(files, plain, [shown]), 8)
    stranger = owner_of("client-05", "own").opening().encode()
    assert "nobody committed to" in failed(verify_marks(files, folder, [stranger]), 8)
    assert "give the adapter folder" in failed(verify_marks(files, None, [shown]), 8)
    assert failed(verify_marks(files, folder, [b"{}"]), 8)
    assert THRESHOLD > 7.45


def verify_marks(files: dict[str, bytes], adapter: Path | None, openings: list[bytes]) -> Report:
    return verify_files(files, name="marked", adapter=adapter, openings=openings)


@pytest.mark.parametrize("kinds", [("train", "train"), ("train", "watermark")])
def test_step_6_says_why_a_round_of_marks_is_in_no_ledger(kinds: tuple[str, ...]) -> None:
    rounds = [SimpleNamespace(opened=SimpleNamespace(kind=kind)) for kind in kinds]
    said = uncharged(cast(Any, rounds))
    if "watermark" in kinds:
        assert "costs nothing: what an owner adds is computed from the released adapter" in said
    else:
        assert said == ""
