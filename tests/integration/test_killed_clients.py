"""SIGKILL at every step of the protocol: the round goes on without the dead, who come back.

One federation, one round per step; in each round another client dies, is restarted at once,
catches up and takes part again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fedfm_audit.verify import verify_bundle
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import (
    COORDINATOR,
    Exited,
    Launcher,
    TestFederation,
    build_federation,
)

CLIENTS = 5
EFFECTS = (
    "Persist opened",
    "KeyOffer",
    "ShareBundle",
    "UploadHash",
    "Upload",
    "CohortVote",
    "Unmask",
    "RoundAck",
)
STEPS = [(effect, when) for effect in EFFECTS for when in ("before", "after")]
# After the steps: a client that is back while its round still runs, then two dead in one round.
BACK_EARLY = len(STEPS) + 1
TWO_DEAD = BACK_EARLY + 1
LAST = TWO_DEAD + 1
KILLED = -9


def victim(number: int) -> str:
    return f"clinic-{number % CLIENTS + 1}"


def planned_deaths() -> dict[str, list[dict[str, Any]]]:
    """Client -> its deaths."""
    plan: dict[str, list[dict[str, Any]]] = {f"clinic-{n}": [] for n in range(1, CLIENTS + 1)}
    for number, (effect, when) in enumerate(STEPS, start=1):
        plan[victim(number)].append({"round": number, "effect": effect, "when": when})
    plan[victim(BACK_EARLY)].append({"round": BACK_EARLY, "effect": "ShareBundle", "when": "after"})
    plan[victim(1)].append({"round": TWO_DEAD, "effect": "ShareBundle", "when": "after"})
    plan[victim(2)].append({"round": TWO_DEAD, "effect": "UploadHash", "when": "before"})
    return plan


class Killed:
    """The federation's whole run, and who died when."""

    def __init__(self, federation: TestFederation) -> None:
        self.federation = federation
        self.deaths: Counter[str] = Counter()

    def faults(self, party: str) -> dict[str, Any]:
        if party == COORDINATOR:
            return {}
        slow = {str(BACK_EARLY): 6.0} if party == victim(BACK_EARLY + 1) else {}
        return {"client_dies": self.plan[party][self.deaths[party] :], "train_slowly": slow}

    def bury(self, ended: Exited) -> None:
        assert ended.code == KILLED, f"{ended}{self.federation.tail()}"
        self.deaths[ended.party] += 1
        self.federation.start(ended.party, faults=self.faults(ended.party))

    def run(self) -> None:
        self.plan = planned_deaths()
        for party in (COORDINATOR, *self.federation.clients):
            self.federation.start(party, faults=self.faults(party))
        self.federation.run_to_end(self.bury)


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, tiny_model: ModelSpec
) -> Killed:
    root = tmp_path_factory.mktemp("killed")
    federation = build_federation(
        root, launcher, tiny_model, clients=CLIENTS, rounds=LAST - 1, timeouts={"rejoin": 60.0}
    )
    with federation:
        run = Killed(federation)
        run.run()
        return run


pytestmark = pytest.mark.slow


def test_everyone_planned_died(killed: Killed) -> None:
    assert killed.deaths == {name: len(deaths) for name, deaths in killed.plan.items()}


def test_each_round_completes_without_the_dead(killed: Killed) -> None:
    outcomes = killed.federation.outcomes()
    assert outcomes == {
        **dict.fromkeys(range(1, LAST + 1), "completed"),
        TWO_DEAD: "aborted",
    }


def test_a_death_before_the_upload_costs_the_update_and_a_later_one_does_not(
    killed: Killed,
) -> None:
    accepted = {
        event["round"]: int(event["event"].split(" with ")[1].split()[0])
        for event in killed.federation.events(COORDINATOR, "round-ended")
    }
    for number, (effect, when) in enumerate(STEPS, start=1):
        before_upload = EFFECTS.index(effect) < EFFECTS.index("Upload")
        lost = before_upload or (effect, when) == ("Upload", "before")
        assert accepted[number] == (CLIENTS - 1 if lost else CLIENTS), (effect, when)
    assert accepted[LAST] == CLIENTS


def test_a_client_back_within_its_round_does_not_hold_it_up(killed: Killed) -> None:
    """It is told once what it cannot take, and the round ends when the slowest has trained."""
    federation = killed.federation
    back = federation.log_of(victim(BACK_EARLY))
    assert back.count(f"round {BACK_EARLY} was opened before") <= 1
    assert federation.outcomes()[BACK_EARLY] == "completed"


def test_all_hold_the_same_adapter_and_the_evidence_verifies(killed: Killed) -> None:
    assert len(killed.federation.adapters()) == 1
    report = verify_bundle(
        killed.federation.bundle, adapter=killed.federation.sites["clinic-3"].export_folder
    )
    assert report.ok, report.to_text()


def test_no_client_opened_or_voted_twice(killed: Killed) -> None:
    for name in killed.federation.clients:
        records = Counter((n, record) for n, record, _ in killed.federation.journal(name))
        assert records
        assert max(records.values()) == 1
        opened = [n for n, record, _ in killed.federation.journal(name) if record == "opened"]
        assert opened == sorted(set(opened))


def test_the_restarted_caught_up(killed: Killed) -> None:
    for name in killed.federation.clients:
        assert killed.federation.events(name, "caught-up")
