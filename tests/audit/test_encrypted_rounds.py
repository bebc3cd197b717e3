"""Suites sealed and layered: honest rounds that make a key, and that sum under one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedfm_audit.charter_view import open_charter
from fedfm_audit.errors import CharterViewError
from fedfm_audit.messages import KEYS
from fedfm_audit.transcript import PUBLIC_BODIES, Transcript, count_round
from fedfm_audit.verify import verify_files
from tests.audit.lies import only, reasons
from tests.audit.played_round import ABORTED, DROPOUT, MAKE_KEYS, Change, Script
from tests.audit.synthetic import Federation, judge, names, play_federation

ENCRYPTED = ["sealed", "layered"]
LARGE: dict[str, Any] = {"clients": 70, "colluding": 5, "dropouts": 5}


@pytest.mark.parametrize("suite", ENCRYPTED)
def test_honest_rounds_are_verified(suite: str) -> None:
    report = judge(MAKE_KEYS, Script(), ABORTED, DROPOUT, MAKE_KEYS, Script(), suite=suite)
    assert report.ok, report.to_text()
    assert report.summary is not None
    assert (report.summary.rounds_completed, report.summary.rounds_aborted) == (3, 1)
    assert report.summary.keys_made == 2
    assert "2 collective keys made" in report.to_text()


@pytest.mark.parametrize("suite", ENCRYPTED)
@pytest.mark.parametrize("stop", ["UploadSet", "Cohort", "CohortProof", "KeyRequest", "Aggregate"])
def test_a_round_may_be_aborted_at_any_point(suite: str, stop: str) -> None:
    report = judge(MAKE_KEYS, Script(stop_before=stop, reason="stopped"), Script(), suite=suite)
    assert report.ok, report.to_text()


@pytest.mark.parametrize("kind", ["WrappedKey", "Upload", "CohortVote", "Unmask", "RoundAck"])
def test_one_client_may_drop_at_any_point(kind: str) -> None:
    report = judge(MAKE_KEYS, Script(silent={"client-02": kind}), Script(), suite="layered")
    assert report.ok, report.to_text()


@pytest.mark.parametrize("stop", ["KeyRoster", "KeyDelivery"])
def test_a_key_generation_may_be_aborted_and_repeated(stop: str) -> None:
    """Nobody stored the epoch that failed, so the next one may have its number."""
    report = judge(Script(kind=KEYS, stop_before=stop, reason="stopped"), MAKE_KEYS, suite="sealed")
    assert report.ok, report.to_text()


@pytest.mark.parametrize("outcome", ["aborted", "void"])
def test_a_key_that_too_few_store_is_none(outcome: str) -> None:
    silent = dict.fromkeys(names(1, 2), "RoundAck")
    unstored = Script(kind=KEYS, silent=silent, outcome=outcome, reason="3 hold the key")
    report = judge(unstored, MAKE_KEYS, Script(), suite="sealed")
    assert report.ok, report.to_text()
    assert report.summary is not None
    assert report.summary.keys_made == 1


def test_who_did_not_deal_holds_nothing_and_still_takes_part() -> None:
    keys = Script(kind=KEYS, silent={"client-05": "KeyDealing"})
    federation = play_federation(keys, Script(), suite="layered")
    assert federation.key is not None
    assert federation.key.holders == names(1, 2, 3, 4)
    report = verify_files(federation.files(), name="bundle")
    assert report.ok, report.to_text()


def test_a_second_active_set_may_be_asked() -> None:
    script = Script(active=(names(1, 2), names(1, 4)), absent=names(2))
    federation = play_federation(MAKE_KEYS, script, suite="layered")
    report = verify_files(federation.files(), name="bundle")
    assert report.ok, report.to_text()
    assert count_round(Transcript.decode(federation.transcripts[2])).openings == 3


def test_key_generations_are_none_of_the_charters_rounds() -> None:
    federation = play_federation(
        MAKE_KEYS,
        Script(),
        MAKE_KEYS,
        suite="sealed",
        change_charter=lambda fields: fields.update(rounds=1),
    )
    report = verify_files(federation.files(), name="bundle")
    assert report.ok, report.to_text()


def test_a_conclusion_that_counts_key_generations_fails() -> None:
    federation = play_federation(MAKE_KEYS, Script(), suite="sealed", conclude=False)
    federation.conclude(lambda said: replace(said, completed=2))
    report = verify_files(federation.files(), name="bundle")
    assert "says (2, 0, 0) rounds completed" in reasons(report, 4)


def test_only_public_bodies_are_kept() -> None:
    federation = play_federation(MAKE_KEYS, Script(), suite="layered")
    for number, secret in (
        (1, {"KeyRoster", "KeyDealing", "KeyDelivery"}),
        (2, {"WrappedKey", "Upload", "KeyRequest", "KeyOpening", "Aggregate"}),
    ):
        entries = Transcript.decode(federation.transcripts[number]).entries
        hidden = {entry.header.type for entry in entries if entry.body is None}
        assert secret <= hidden
        assert not hidden & PUBLIC_BODIES


def test_a_large_federation_has_few_holders_and_no_nonces() -> None:
    federation = play_federation(MAKE_KEYS, Script(), suite="sealed", **LARGE)
    assert federation.key is not None
    assert federation.key.holders == names(*range(1, 17))
    report = verify_files(federation.files(), name="bundle")
    assert report.ok, report.to_text()


def outsider() -> Change:
    return only("KeyDealing", lambda m: replace(m, sender="client-17"), "client-16")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            Script(kind=KEYS, change=outsider()),
            "KeyDealing of client-17, not among those who may hold the key",
        ),
        (
            Script(kind=KEYS, silent=dict.fromkeys(names(*range(1, 7)), "KeyDealing")),
            "10 dealers of the key, the charter needs 11",
        ),
    ],
    ids=["a dealer too many", "too few dealers"],
)
def test_a_large_federation_whose_key_is_dealt_by_others(script: Script, reason: str) -> None:
    federation = play_federation(script, suite="sealed", **LARGE)
    report = verify_files(federation.files(), name="bundle")
    assert reason in reasons(report, 4)


@pytest.mark.parametrize("limit", ["MAX_ENCRYPTED_CLIENTS", "MAX_KEY_THRESHOLD"])
def test_encrypted_suites_have_limits(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    federations = {suite: Federation(suite=suite) for suite in ("masked", "sealed", "layered")}
    monkeypatch.setattr(f"fedfm_audit.charter_view.{limit}", 1)
    open_charter(federations["masked"].charter)
    for suite in ENCRYPTED:
        with pytest.raises(CharterViewError, match="suites with encryption take 1"):
            open_charter(federations[suite].charter)
