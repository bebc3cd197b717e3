"""Who was away while a collective key was made, or lost it, comes back: in real processes.

Four clients, of which one is always gone: three are enough for a round.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm_audit.verify import verify_bundle
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import (
    COORDINATOR,
    TestFederation,
    build_federation,
    forget,
    key_ring,
)
from tests.integration.forked_processes import Exited, Launcher

KILLED, SERVICE = -9, 6
AWAY, FORGETFUL, TOO_LATE, GATE = "clinic-4", "clinic-3", "clinic-2", "clinic-1"
# Rounds: a key without AWAY; two sums without it; a key for it; a sum of all, in which FORGETFUL
# dies; the last sum, without it; a key for it, so that it can end with the others.
KEY_ROUNDS = (1, 4, 7)
SUMS = (2, 3, 5, 6)
BACK = {AWAY: 3, FORGETFUL: 6}

pytestmark = pytest.mark.slow


def run(federation: TestFederation) -> None:
    gates = {str(number): str(federation.root / f"gate-{number}") for number in BACK.values()}
    deaths = {
        AWAY: {"round": 1, "effect": "Persist keyed", "when": "before"},
        FORGETFUL: {"round": 5, "effect": "Upload", "when": "after"},
    }

    def bury(ended: Exited) -> None:
        assert (ended.party in deaths, ended.code) == (True, KILLED), federation.tail()

    def ready(name: str) -> int:
        return sum(event["peer"] == name for event in federation.events(COORDINATOR, "ready"))

    federation.start_all(
        {
            GATE: {"train_until": gates},
            **{name: {"client_dies": [death]} for name, death in deaths.items()},
        }
    )
    for name, number in BACK.items():
        # It returns while the round that it misses goes on, so that the next one is for it.
        federation.run_until(lambda n=number: federation.outcomes().get(n - 1) is not None, bury)  # type: ignore[misc]
        if name == FORGETFUL:
            forget(federation.sites[name])
        federation.start(name)
        federation.run_until(lambda n=name: ready(n) == 2, bury)  # type: ignore[misc]
        Path(gates[str(number)]).touch()
    federation.run_to_end()


@pytest.fixture(scope="module")
def federation(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, tiny_model: ModelSpec
) -> TestFederation:
    root = tmp_path_factory.mktemp("epochs")
    federation = build_federation(
        root,
        launcher,
        tiny_model,
        clients=4,
        rounds=len(SUMS),
        timeouts={"rejoin": 0.2, "connect": 30.0},
    )
    with federation:
        run(federation)
        return federation


def caught_up(federation: TestFederation, name: str) -> list[str]:
    return [event["event"] for event in federation.events(name, "caught-up")]


def test_a_key_is_made_for_each_of_them_once(federation: TestFederation) -> None:
    assert federation.outcomes() == dict.fromkeys(range(1, 8), "completed")
    events = federation.events(COORDINATOR, "round-ended")
    assert tuple(event["round"] for event in events if event["makes_key"]) == KEY_ROUNDS


def test_sums_under_a_key_that_one_never_held_are_repeated(federation: TestFederation) -> None:
    assert caught_up(federation, AWAY) == ["caught up with round 2", "caught up with round 3"]
    log = federation.log_of(AWAY)
    assert "it gets one with the next key generation" in log


def test_who_lost_all_state_repeats_the_sums_of_every_epoch(federation: TestFederation) -> None:
    """With the group keys of earlier epochs, which the others passed on sealed."""
    assert caught_up(federation, FORGETFUL) == [f"caught up with round {n}" for n in (2, 3, 5, 6)]
    rings = [key_ring(federation, name) for name in federation.clients]
    for epoch in KEY_ROUNDS:
        assert len({ring.group_keys(epoch) for ring in rings}) == 1
        assert all(len(ring.group_keys(epoch)) == 1 for ring in rings)


def test_only_the_last_epochs_share_is_left(federation: TestFederation) -> None:
    for name in federation.clients:
        ring = key_ring(federation, name)
        assert ring.current is not None
        assert (ring.current.epoch, ring.pending) == (KEY_ROUNDS[-1], None)
        assert {entry.epoch for entry in ring.earlier} == set(KEY_ROUNDS[:-1])


def test_all_hold_the_same_adapter_and_the_evidence_verifies(federation: TestFederation) -> None:
    assert len(federation.adapters()) == 1
    report = verify_bundle(federation.bundle, adapter=federation.sites[AWAY].export_folder)
    assert report.ok, report.to_text()


def test_who_loses_the_key_after_the_end_is_told_so(federation: TestFederation) -> None:
    """No key is made any more: one clear error instead of waiting for ever."""
    config = federation.sites[COORDINATOR].config_file
    text = config.read_text().replace("connect = 30.0", "connect = 3.0")  # the others are gone
    with federation:
        forget(federation.sites[TOO_LATE])
        config.write_text(text)
        federation.start(COORDINATOR)
        federation.start(TOO_LATE)
        assert federation.processes[TOO_LATE].wait() == SERVICE
        line = federation.log_of(TOO_LATE).splitlines()[-1]
        assert line.startswith("error: ")
        assert "ask another institution" in line
        assert federation.processes[COORDINATOR].wait() == 0
    assert verify_bundle(federation.bundle).ok
