"""A robust federation of real processes: one client attacks, the validator is killed again and
again, and the evidence shows who was excluded and why."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec
from tests.integration.federation_processes import (
    COORDINATOR,
    VALIDATOR,
    Exited,
    Launcher,
    TestFederation,
    build_federation,
)

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
    ) as federation:
        deaths = [{**death, "once": str(root / f"death-{i}")} for i, death in enumerate(DEATHS)]
        faults: dict[str, dict[str, Any]] = {
            ATTACKER: {"scale_update": 40.0},
            VALIDATOR: {"validator_dies": {"said": str(root / "said"), "deaths": deaths}},
        }

        def bury(ended: Exited) -> None:
            assert ended.party == VALIDATOR, f"{ended}{federation.tail()}"
            federation.start(VALIDATOR, faults=faults[VALIDATOR])

        federation.start_all(faults)
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
    report = verify_bundle(finished.bundle)
    assert report.ok, report.to_text()
    assert report.steps[7].status is Status.VERIFIED, report.to_text()
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
