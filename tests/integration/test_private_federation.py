"""Privacy mode `local` in real processes: charged before training, spent whatever happens.

One client is killed right after it has charged a round; the budget has room for the charter's
rounds and that one, and not for another.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.entries import PrivacyPredicate
from fedfm_audit.privacy.events import AbortedRound, CompletedRound
from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle
from secure_fedfm.learning.specs import ModelSpec
from tests.integration.federation_processes import COORDINATOR, TestFederation, build_federation
from tests.integration.forked_processes import Launcher
from tests.integration.one_death import run_with_one_death
from tests.integration.private_terms import DELTA, ROUNDS, budget, sections

VICTIM = "clinic-1"
KILLED_IN = 3  # round 1 makes the collective key


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, private_launcher: Launcher, tiny_model: ModelSpec
) -> Iterator[TestFederation]:
    root = tmp_path_factory.mktemp("private")
    with build_federation(
        root,
        private_launcher,
        tiny_model,
        clients=4,
        rounds=ROUNDS,
        privacy=sections(ROUNDS + 1),
        timeouts={"connect": 10.0, "rejoin": 60.0, "cosignatures": 5.0},
    ) as federation:
        run_with_one_death(
            federation, VICTIM, {"round": KILLED_IN, "effect": "Charge", "when": "after"}
        )
        yield federation


def test_the_charge_of_a_killed_client_stands(finished: TestFederation) -> None:
    listed = finished.ledger(VICTIM)
    charged = [entry.round for entry in listed if not _settles(entry)]
    assert charged.count(KILLED_IN) == 1
    settled = {entry.round: entry.event for entry in listed if _settles(entry)}
    assert isinstance(settled[KILLED_IN], AbortedRound)
    # Rounds that it took part in, and the one it died in.
    others = [e.round for e in finished.ledger("clinic-2") if not _settles(e)]
    assert set(charged) == set(others)


def test_the_evidence_holds_every_ledger_and_they_add_up(finished: TestFederation) -> None:
    report = verify_bundle(finished.bundle)
    assert report.ok, report.to_text()
    step = report.steps[6]
    assert step.status is Status.VERIFIED
    assert "4 institutions" in report.to_text()


def test_no_budget_is_exceeded(finished: TestFederation) -> None:
    for party in finished.clients:
        events = [entry.event for entry in finished.ledger(party)]
        assert spent(events, DELTA).epsilon <= budget(ROUNDS + 1)
        completed = [e for e in events if isinstance(e, CompletedRound)]
        assert len(completed) >= ROUNDS - 1


def test_a_budget_that_is_spent_stops_the_next_round_by_name(
    tmp_path_factory: pytest.TempPathFactory, private_launcher: Launcher, tiny_model: ModelSpec
) -> None:
    root = tmp_path_factory.mktemp("spent")
    with build_federation(
        root,
        private_launcher,
        tiny_model,
        clients=3,
        rounds=2,
        suite="masked",
        privacy=sections(1),
        timeouts={"offers": 0.5},
    ) as federation:
        federation.start_all()
        federation.run_until(
            lambda: federation.processes[COORDINATOR].code is not None, lambda _: None
        )
        assert federation.processes[COORDINATOR].code == 6, federation.tail()
        log = federation.log_of("clinic-1")
        assert "the budget is" in log
        assert "left" in log
        charged = [e for e in entries_of_running(federation, "clinic-1") if not _settles(e)]
        assert len(charged) == 1


def entries_of_running(federation: TestFederation, party: str) -> list[PrivacyPredicate]:
    """After its process is gone: the state file of a running one is locked."""
    federation.processes[party].kill()
    federation.processes[party].wait()
    return federation.ledger(party)


def _settles(entry: PrivacyPredicate) -> bool:
    return isinstance(entry.event, CompletedRound | AbortedRound)
