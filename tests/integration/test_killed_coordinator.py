"""The coordinator killed in every phase and started again on the same port: nothing is done twice.

One federation of three clients, which run all the time but for one that misses the very end.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import (
    COORDINATOR,
    TestFederation,
    build_federation,
    key_ring,
)
from tests.integration.forked_processes import Exited, Launcher

KILLED = -9
ABORTED = 6  # exit code of a service that cannot go on
# The rounds that make the key, then the rounds that sum updates; dying in one aborts it.
KEY_ABORTING = ("opened", "offers", "key_shares", "key_acknowledgements", "before-log")
ABORTING = (
    "shares",
    "training",
    "uploads",
    "votes",
    "unmasking",
    "decryption",
    "acknowledgements",
    "before-log",
)
PLACES = (*KEY_ABORTING, "logged", *ABORTING, "logged")
DEATHS = [{"round": number, "at": at} for number, at in enumerate(PLACES, start=1)]
KEY_LOGGED = len(KEY_ABORTING) + 1  # dies when the key is in the log and nobody has been told
LOGGED = len(DEATHS)  # likewise with a sum
UNDISTURBED = LOGGED + 1
LAST = UNDISTURBED + 1  # dies likewise; nothing is left but to conclude
DEATHS.append({"round": LAST, "at": "logged"})
ROUNDS = 3
LATE = "clinic-2"


@pytest.fixture(scope="module")
def federation(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, tiny_model: ModelSpec
) -> TestFederation:
    root = tmp_path_factory.mktemp("coordinator-killed")
    federation = build_federation(
        root,
        launcher,
        tiny_model,
        clients=3,
        rounds=ROUNDS,
        timeouts={"connect": 20.0, "rejoin": 60.0},
    )
    with federation.sites[COORDINATOR].config_file.open("a", encoding="utf-8") as stream:
        stream.write("[archive]\nenabled = true\n")
    lives = iter(DEATHS)

    def coordinator_faults() -> dict[str, Any]:
        death = next(lives, None)
        return {} if death is None else {"coordinator_dies": death}

    def start_again(ended: Exited) -> None:
        assert (ended.party, ended.code) == (COORDINATOR, KILLED), federation.tail()
        federation.start(COORDINATOR, faults=coordinator_faults())

    with federation:
        federation.start(COORDINATOR, faults=coordinator_faults())
        for name in federation.clients:
            federation.start(name)
        federation.run_to_end(start_again)
        assert next(lives, None) is None, "the coordinator did not die as planned"
        return federation


pytestmark = pytest.mark.slow


def test_interrupted_rounds_are_logged_as_aborted_and_no_number_is_used_twice(
    federation: TestFederation,
) -> None:
    assert [(number, found.outcome) for number, found in federation.statements().items()] == [
        *((number, "aborted") for number in range(1, KEY_LOGGED)),
        (KEY_LOGGED, "completed"),
        *((number, "aborted") for number in range(KEY_LOGGED + 1, LOGGED)),
        (LOGGED, "completed"),
        (UNDISTURBED, "completed"),
        (LAST, "completed"),
    ]


def test_a_result_that_was_logged_but_not_told_is_caught_up_with(
    federation: TestFederation,
) -> None:
    for name in federation.clients:
        caught_up = [event["event"] for event in federation.events(name, "caught-up")]
        assert caught_up == [f"caught up with round {n}" for n in (LOGGED, LAST)]


def test_the_key_that_was_logged_but_not_told_is_in_force(federation: TestFederation) -> None:
    """Its holders had stored it before they acknowledged it; no other one was made."""
    rings = [key_ring(federation, name) for name in federation.clients]
    keys = [ring.current for ring in rings if ring.current is not None]
    assert [key.epoch for key in keys] == [KEY_LOGGED] * 3
    assert len({key.key_hash for key in keys}) == 1
    # What a client stored in the rounds before that were aborted is gone.
    assert not any(ring.pending or ring.earlier for ring in rings)


def test_all_hold_the_same_adapter_and_the_evidence_verifies(federation: TestFederation) -> None:
    assert len(federation.adapters()) == 1
    report = verify_bundle(federation.bundle, adapter=federation.sites["clinic-1"].export_folder)
    assert report.ok, report.to_text()


def test_the_archive_holds_the_sums_that_were_logged_and_no_others(
    federation: TestFederation,
) -> None:
    """Also of the round that was archived when the coordinator died before it was logged."""
    archive = federation.sites[COORDINATOR].archive_folder
    assert sorted(path.name for path in archive.iterdir()) == [
        f"{number:06d}" for number in (LOGGED, UNDISTURBED, LAST)
    ]
    step = verify_bundle(federation.bundle, replay=archive).step(9)
    assert step.status is Status.VERIFIED, step.failures
    assert step.detail == "3 sums of 9 uploads repeated, bit for bit"


def test_no_journal_opens_a_round_twice(federation: TestFederation) -> None:
    for name in (COORDINATOR, *federation.clients):
        opened = [n for n, record, _ in federation.journal(name) if record == "opened"]
        records = Counter((n, record) for n, record, _ in federation.journal(name))
        assert opened == sorted(set(opened))
        assert max(records.values()) == 1
    assert [n for n, r, _ in federation.journal(COORDINATOR) if r == "opened"] == list(
        range(1, LAST + 1)
    )


def test_one_who_misses_the_end_gets_it_when_the_coordinator_is_started_again(
    tmp_path: Path, launcher: Launcher, tiny_model: ModelSpec
) -> None:
    with build_federation(
        tmp_path, launcher, tiny_model, clients=3, rounds=1, timeouts={"connect": 2.0}
    ) as federation:
        death = {"round": 2, "effect": "RoundAck", "when": "after"}
        federation.start_all({LATE: {"client_dies": [death]}})
        federation.run_until(
            lambda: federation.processes[COORDINATOR].code is not None, lambda ended: None
        )
        # Two of three witnesses are no quorum, and evidence without one is no success.
        assert federation.processes[COORDINATOR].code == ABORTED
        assert "2 clients have cosigned the conclusion, 3 are needed" in federation.log_of(
            COORDINATOR
        )
        assert federation.processes[LATE].code == KILLED
        federation.start(COORDINATOR)
        federation.start(LATE)
        federation.run_to_end()
        assert len(federation.adapters()) == 1
        assert verify_bundle(federation.bundle).ok
