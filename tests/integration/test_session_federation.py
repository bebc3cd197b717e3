"""Sessions of many steps in real processes: privacy mode `shared-noise` in suite `layered`.

The federation loses a client, the coordinator and twice half of its clients in the middle of
sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.events import AbortedRound, CompletedSession
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import COORDINATOR, TestFederation, build_federation
from tests.integration.forked_processes import Exited, Launcher
from tests.integration.session_checks import (
    charges_of,
    check_evidence,
    check_journals,
    check_secrets,
    check_spending,
    cohorts,
    settlements_of,
)
from tests.integration.session_terms import CLIENTS, DISTURBED, STEPS, SessionTerms

TERMS = "tests.integration.session_terms"
KILLED = -9

pytestmark = pytest.mark.slow

# Rounds; the first makes the collective key.
LEFT_OUT, INTERRUPTED, SHORT, ROLLED_BACK, LAST = 2, 3, 4, 5, 6
VICTIM, PAIR = "clinic-1", ("clinic-2", "clinic-3")
STAYS = "clinic-4"
DEATHS = {
    VICTIM: [{"round": LEFT_OUT, "step": 2, "effect": "UploadHash", "when": "after"}],
    # Too few for a vote on the cohort of step 3: the session ends with step 2.
    PAIR[0]: [
        {"round": SHORT, "step": 3, "effect": "UploadHash", "when": "after"},
        {"round": ROLLED_BACK, "step": 4, "effect": "RoundAck", "when": "before"},
    ],
    # Step 4 has a sum that two clients apply, and no quorum: it ends with step 3.
    PAIR[1]: [
        {"round": SHORT, "step": 3, "effect": "Upload", "when": "after"},
        {"round": ROLLED_BACK, "step": 4, "effect": "RoundAck", "when": "before"},
    ],
}
COORDINATOR_DIES = {"round": INTERRUPTED, "step": 3, "at": "unmasking"}
GOOD = {LEFT_OUT: STEPS, INTERRUPTED: 0, SHORT: 3, ROLLED_BACK: 4, LAST: STEPS}


class Disturbed:
    """The federation's whole run."""

    def __init__(self, federation: TestFederation) -> None:
        self.federation = federation
        self.deaths: Counter[str] = Counter()

    def faults(self, party: str) -> dict[str, Any]:
        if party == COORDINATOR:
            return {} if self.deaths[party] else {"coordinator_dies": COORDINATOR_DIES}
        root = self.federation.sites[party].root
        due = DEATHS.get(party, [])[self.deaths[party] :]
        return {
            "client_dies": due,
            "record_drawn": str(root / "drawn"),
            "record_protected": str(root / "protected"),
            "record_spending": str(root / "spending"),
        }

    def bury(self, ended: Exited) -> None:
        assert ended.code == KILLED, f"{ended}{self.federation.tail()}"
        self.deaths[ended.party] += 1
        self.federation.start(ended.party, faults=self.faults(ended.party))

    def run(self) -> None:
        for party in (COORDINATOR, *self.federation.clients):
            self.federation.start(party, faults=self.faults(party))
        self.federation.run_to_end(self.bury)


@pytest.fixture(scope="module")
def disturbed(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, tiny_model: ModelSpec
) -> Iterator[Disturbed]:
    launcher.load(TERMS, "DISTURBED.warm_up")
    with session_federation(
        tmp_path_factory.mktemp("disturbed"), launcher, tiny_model, DISTURBED
    ) as federation:
        run = Disturbed(federation)
        run.run()
        yield run


def session_federation(
    root: Path, launcher: Launcher, model: ModelSpec, terms: SessionTerms
) -> TestFederation:
    """Clients and coordinator that wait for whoever was killed before the next session."""
    federation = build_federation(
        root,
        launcher,
        model,
        clients=CLIENTS,
        rounds=terms.request.rounds,
        adapter=terms.adapter,
        privacy=terms.request,
        timeouts={"connect": 30.0, "rejoin": 60.0},
    )
    assert federation.charter.quantiser.values == terms.values
    return federation


def test_all_died_as_planned(disturbed: Disturbed) -> None:
    assert disturbed.deaths == {COORDINATOR: 1, **{name: len(d) for name, d in DEATHS.items()}}


def test_each_session_ends_with_its_last_good_step(disturbed: Disturbed) -> None:
    found = disturbed.federation.statements()
    assert {n: statement.steps.good for n, statement in found.items() if n > 1} == GOOD
    outcomes = {n: statement.outcome for n, statement in found.items()}
    assert outcomes == {**dict.fromkeys(range(1, LAST + 1), "completed"), INTERRUPTED: "aborted"}
    assert "restarted" in found[INTERRUPTED].reason
    for number in (SHORT, ROLLED_BACK):
        reason = f"ended after {GOOD[number]} of {STEPS} steps"
        assert found[number].reason.startswith(reason)
        assert found[number].steps.recorded > GOOD[number]  # what was begun is evidence, too
    assert (found[LEFT_OUT].reason, found[LAST].reason) == ("", "")
    check_evidence(disturbed.federation)


def test_whoever_dies_is_left_out_until_the_next_session(disturbed: Disturbed) -> None:
    everyone = disturbed.federation.clients
    without = tuple(name for name in everyone if name != VICTIM)
    found = cohorts(disturbed.federation, LEFT_OUT)
    # Its death came after its commitment in step 2.
    assert found == [everyone] * 2 + [without] * (STEPS - 2)
    assert cohorts(disturbed.federation, SHORT)[0] == everyone
    assert cohorts(disturbed.federation, LAST) == [everyone] * STEPS


def test_the_dead_catch_up_with_all_sums_of_what_they_missed(disturbed: Disturbed) -> None:
    caught_up = {
        name: [event["event"] for event in disturbed.federation.events(name, "caught-up")]
        for name in disturbed.federation.clients
    }
    missed = [f"caught up with round {number}" for number in (SHORT, ROLLED_BACK)]
    assert caught_up == {
        VICTIM: [f"caught up with round {LEFT_OUT}"],
        PAIR[0]: missed,
        PAIR[1]: missed,
        STAYS: [],
    }


def test_nobody_keeps_a_step_of_an_interrupted_session(disturbed: Disturbed) -> None:
    found = disturbed.federation.statements()
    assert found[INTERRUPTED].adapter_out == found[INTERRUPTED].adapter_in
    assert found[SHORT].adapter_in == found[LEFT_OUT].adapter_out
    for name in disturbed.federation.clients:
        settled = settlements_of(disturbed.federation.ledger(name))
        assert isinstance(settled[INTERRUPTED], AbortedRound)


def test_survivors_go_back_to_the_step_that_the_quorum_has(disturbed: Disturbed) -> None:
    """They had applied step 4, and trained step 5, of a session that ended with step 3."""
    for name in (VICTIM, STAYS):
        assert (ROLLED_BACK, 5) in check_spending(disturbed.federation, name)
        event = settlements_of(disturbed.federation.ledger(name))[ROLLED_BACK]
        assert isinstance(event, CompletedSession)
        assert event.steps == GOOD[ROLLED_BACK]


def test_every_session_is_charged_whole_whatever_becomes_of_it(disturbed: Disturbed) -> None:
    federation = disturbed.federation
    privacy = federation.charter.privacy
    assert privacy.mode == "shared-noise"
    for name in federation.clients:
        entries = federation.ledger(name)
        charged, settled = charges_of(entries), settlements_of(entries)
        trained = check_spending(federation, name)
        assert {n: event.steps for n, event in charged.items()} == dict.fromkeys(GOOD, STEPS)
        assert {number for number, _ in trained} == set(GOOD)
        died = {death["round"] for death in DEATHS.get(name, [])} | {INTERRUPTED}
        for number, event in settled.items():
            if number in died:
                assert isinstance(event, AbortedRound), (name, number)
            else:
                assert isinstance(event, CompletedSession), (name, number)
                fewest = min(map(len, cohorts(federation, number)[: GOOD[number]]))
                assert (event.steps, event.accepted) == (GOOD[number], fewest)
        # The spare round paid for the interrupted one, and nothing is left.
        cost = [spent([*charged.values()][:1] * n, privacy.delta).epsilon for n in (5, 6)]
        assert cost[0] == spent(charged.values(), privacy.delta).epsilon
        assert cost[0] <= privacy.epsilon < cost[1]


def test_no_key_hides_two_vectors_over_all_lives(disturbed: Disturbed) -> None:
    for name in disturbed.federation.clients:
        drawn, used = check_secrets(disturbed.federation, name)
        assert drawn["mask-key"] == drawn["seed"] == 1 + STEPS * len(GOOD)  # 1 in the key's round
        assert used >= (STEPS + GOOD[SHORT] + GOOD[ROLLED_BACK]) * CLIENTS


def test_each_record_is_journalled_once_a_step(disturbed: Disturbed) -> None:
    check_journals(disturbed.federation)
    for name in disturbed.federation.clients:
        entries = disturbed.federation.journal_of_steps(name)
        assert {(LAST, step, "voted") for step in range(STEPS)} <= set(entries)
