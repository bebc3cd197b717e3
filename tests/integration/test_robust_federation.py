"""A robust federation of real processes that vote: one client attacks, the validator is killed
again and again, and the evidence shows who was excluded and why."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle
from secure_fedfm.cli.main import main
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec
from secure_fedfm.learning.votes import VoteSpec
from tests.integration.federation_processes import (
    COORDINATOR,
    VALIDATOR,
    TestFederation,
    build_federation,
)
from tests.integration.forked_processes import Exited, Launcher

ATTACKER = "clinic-2"
ROUNDS = 3
# After the death in round 2 the validator made a new key: its second round, as the charter says.
DEATHS = [
    {"round": 1, "effect": "JudgeScores", "when": "after"},
    {"round": 1, "effect": "Persist judged", "when": "before"},
    {"round": 2, "effect": "Verdict", "when": "before"},
    {"round": 2, "effect": "Persist sketch-key", "when": "after"},
    {"round": 3, "effect": "Verdict", "when": "after"},
    {"round": 3, "effect": "Persist bound", "when": "after"},
]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, long_model: ModelSpec
) -> Iterator[TestFederation]:
    root = tmp_path_factory.mktemp("robust")
    with build_federation(
        root,
        launcher,
        long_model,
        clients=4,
        rounds=ROUNDS,
        adapter=AdapterSpec(rank=40, alpha=40),
        suite="masked",
        timeouts={"connect": 30.0, "rejoin": 30.0, "cosignatures": 5.0},
        rule={"rule": "norm-bound", "parameters": {"multiple": 4}, "key_rounds": 2},
        optimiser=VoteSpec(schedule_rounds=ROUNDS),
    ) as federation:
        deaths = [{**death, "once": str(root / f"death-{i}")} for i, death in enumerate(DEATHS)]
        faults: dict[str, dict[str, Any]] = {
            ATTACKER: {"scale_update": 40.0},
            VALIDATOR: {"validator_dies": {"said": str(root / "said"), "deaths": deaths}},
        }

        def bury(ended: Exited) -> None:
            assert ended.party == VALIDATOR, f"{ended}{federation.tail()}"
            federation.start(VALIDATOR, faults=faults[VALIDATOR])

        for party in (COORDINATOR, VALIDATOR, *federation.clients):
            flags = ("--set", "archive.enabled=true") if party == COORDINATOR else ()
            federation.start(party, faults=faults.get(party), flags=flags)
        federation.run_to_end(bury)
        yield federation


def test_the_attacker_is_excluded_in_every_round(finished: TestFederation) -> None:
    assert finished.outcomes() == dict.fromkeys(range(1, ROUNDS + 1), "completed")
    for name in finished.clients:
        seen = [(e["own"], e["reason"]) for e in finished.events(name, "verdict")]
        expected = ("removed", "norm") if name == ATTACKER else ("accepted", "")
        assert seen == [expected] * ROUNDS, name


def test_a_validator_that_was_killed_says_nothing_else(finished: TestFederation) -> None:
    assert all((finished.root / f"death-{i}").exists() for i in range(len(DEATHS)))
    said = defaultdict(list)
    for line in (finished.root / "said").read_text("ascii").splitlines():
        number, name, digest = line.split()
        said[number, name].append(digest)
    verdicts = [said[str(number), "Verdict"] for number in range(1, ROUNDS + 1)]
    assert all(len(set(found)) == 1 for found in verdicts), verdicts
    assert len(verdicts[-1]) >= 2  # asked again after it had answered
    assert len(set(said[str(ROUNDS), "BindingResult"])) == 1
    epochs = [e["epoch"] for e in finished.events(COORDINATOR, "sketch-key")]
    assert epochs == [1, 2]


def test_the_evidence_tells_who_and_why(finished: TestFederation) -> None:
    archive = finished.sites[COORDINATOR].archive_folder
    report = verify_bundle(finished.bundle, replay=archive)
    assert report.ok, report.to_text()
    for number in (7, 9):  # verdicts, and the sums of exactly those whom they accept
        assert report.steps[number].status is Status.VERIFIED, report.to_text()
    assert report.robust is not None
    (excluded,) = report.robust.exclusions
    assert (excluded.client, excluded.code) == (ATTACKER, "norm")
    assert excluded.rounds == tuple(range(1, ROUNDS + 1))


def test_what_opens_the_commitments_stays_with_the_validator(finished: TestFederation) -> None:
    state = finished.sites[VALIDATOR].root / "state.sqlite"
    assert state.stat().st_mode & 0o077 == 0
    connection = sqlite3.connect(state)
    try:
        rows = connection.execute("SELECT round, client, salt, scores FROM score_openings")
        openings = list(rows)
    finally:
        connection.close()
    assert len(openings) == ROUNDS * len(finished.clients)
    everywhere = _files(finished.root, VALIDATOR)
    assert everywhere
    for _, _, salt, scores in openings:
        assert len(salt) == 32
        assert not any(salt in data or scores in data for data in everywhere)


def _files(root: Path, but: str) -> list[bytes]:
    return [
        path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and but not in path.relative_to(root).parts
    ]


def test_rounds_show_says_who_when_and_why(
    finished: TestFederation, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*arguments: str) -> dict[str, Any]:
        assert main(["rounds", "show", *arguments, "--json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert document["rule"] == "norm-bound"
        places = [(e["round"], e["client"], e["code"]) for e in document["exclusions"]]
        assert places == [(number, ATTACKER, "norm") for number in range(1, ROUNDS + 1)]
        return document

    shown(str(finished.bundle))
    shown("--site", str(finished.sites[COORDINATOR].root))
    own = shown("--site", str(finished.sites[ATTACKER].root))["own_verdicts"]
    assert [verdict["own"] for verdict in own] == ["removed"] * ROUNDS
    figures = shown("--site", str(finished.sites[VALIDATOR].root))["exclusions"]
    assert all("times the median, allowed 4" in one["reason"] for one in figures)


def test_status_tells_the_excluded_and_the_validator(
    finished: TestFederation, capsys: pytest.CaptureFixture[str]
) -> None:
    for party, expected in (
        (ATTACKER, "removed"),
        ("clinic-1", "accepted"),
        (VALIDATOR, "removed"),
    ):
        assert main(["status", "--site", str(finished.sites[party].root), "--json"]) == 0
        status = json.loads(capsys.readouterr().out)["status"]
        assert status["verdict"].startswith(f"round {ROUNDS}: {expected}"), party
        assert f"{ATTACKER} (norm)" in status["verdict"]
    assert status["completed"] == ROUNDS


@pytest.mark.soak
@pytest.mark.parametrize("phase", ["sketches", "scores", "verdict", "votes", "binding"])
def test_a_coordinator_that_was_killed_goes_on_with_the_same_validator(
    tmp_path: Path, launcher: Launcher, long_model: ModelSpec, phase: str
) -> None:
    """Its round is aborted in the log; the next ones are judged, under the key of before."""
    with build_federation(
        tmp_path,
        launcher,
        long_model,
        clients=4,
        rounds=2,
        adapter=AdapterSpec(rank=40, alpha=40),
        timeouts={"connect": 30.0, "rejoin": 30.0, "cosignatures": 5.0},
        rule={"rule": "norm-bound", "parameters": {"multiple": 4}},
    ) as federation:

        def revive(ended: Exited) -> None:
            assert ended.party == COORDINATOR, f"{ended}{federation.tail()}"
            federation.start(COORDINATOR)

        death = {"coordinator_dies": {"round": 2, "at": phase}}
        federation.start_all({COORDINATOR: death, ATTACKER: {"scale_update": 40.0}})
        federation.run_to_end(revive)
        assert federation.outcomes() == {1: "completed", 3: "completed", 4: "completed"}
        assert federation.statements()[2].outcome == "aborted"
        report = verify_bundle(federation.bundle)
        assert report.ok, report.to_text()
        assert report.robust is not None
        assert [one.client for one in report.robust.exclusions] == [ATTACKER]


@pytest.mark.soak
def test_rounds_wait_for_a_validator_and_go_on_without_its_verdict(
    tmp_path: Path, launcher: Launcher, long_model: ModelSpec
) -> None:
    """It comes late; later it is away for longer than a verdict may take: that round is aborted."""
    with build_federation(
        tmp_path,
        launcher,
        long_model,
        clients=4,
        rounds=2,
        adapter=AdapterSpec(rank=40, alpha=40),
        suite="masked",
        timeouts={"connect": 30.0, "rejoin": 5.0, "cosignatures": 5.0, "verdict": 3.0},
        rule={"rule": "norm-bound", "parameters": {"multiple": 4}},
    ) as federation:
        for party in (COORDINATOR, *federation.clients):
            federation.start(party)
        federation.run_until(lambda: bool(federation.events(COORDINATOR, "no-validator")))
        once = str(tmp_path / "death")
        death = {"round": 2, "effect": "JudgeScores", "when": "before", "once": once}
        plan = {"said": str(tmp_path / "said"), "deaths": [death]}
        federation.start(VALIDATOR, faults={"validator_dies": plan})

        def come_back_late(ended: Exited) -> None:
            assert ended.party == VALIDATOR, f"{ended}{federation.tail()}"
            federation.run_until(lambda: federation.outcomes().get(2) is not None)
            federation.start(VALIDATOR)

        federation.run_to_end(come_back_late)
        assert federation.outcomes() == {1: "completed", 2: "aborted", 3: "completed"}
        assert "gave no verdict" in federation.statements()[2].reason
        assert verify_bundle(federation.bundle).ok
