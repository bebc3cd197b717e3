"""Sessions at a client: candidates of the steps, the ledger's charge, the charter read for both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfm_audit.errors import BudgetExceededError
from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.events import (
    AbortedRound,
    CompletedRound,
    CompletedSession,
    DiscreteGaussianSteps,
)
from fedfm_audit.privacy.shared_noise import SharedNoise
from fedfm_protocols.charter import make_charter
from fedfm_protocols.federation import Federation
from secure_fedfm.errors import ConfigurationError, ServiceError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import AdapterUpdater, ServerOptimiserSpec
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
from secure_fedfm.privacy.plan import PrivateTraining, SharedNoisePlan
from secure_fedfm.services.adapter_keeper import AdapterKeeper
from secure_fedfm.services.learning_specs import LearningSpecs
from secure_fedfm.services.privacy import RoundLedger, privacy_terms
from secure_fedfm.storage.database import Database
from tests.protocols.federations import charter_fields, make_keys

LAYOUT = TensorLayout.of({"head.weight": np.zeros((2, 5), np.float32)})
SPEC = StepOptimiserSpec(head_learning_rate=1.0, schedule_steps=6)
SECTION: dict[str, Any] = {
    "mode": "shared-noise",
    "epsilon": 9.0,
    "delta": 1e-5,
    "noise_multiplier": 1.05,
    "sampling_rate": 0.1,
    "steps_per_round": 50,
    "clip": 1.0,
    "mechanism": "discrete-gaussian",
    "honest_shares": 3,
    "batch": 200.0,
}
AGGREGATE = b"\xab" * 32


def federation(**changes: Any) -> Federation:
    fields: dict[str, Any] = {
        "privacy": SECTION,
        "quantiser": {"values": 10, "clip": 200.0, "scale": 1 << 16, "lane_bits": 32},
        "suite": "layered",
        "adapter": AdapterSpec(targets=HEAD_ONLY).to_json(),
        "training": TrainingPlan().to_json(),
        "server_optimiser": SPEC.to_json(),
        **changes,
    }
    return Federation.of(make_charter(charter_fields(make_keys(5), **fields)))


class Disk:
    """Counts what is written."""

    def __init__(self) -> None:
        self.written: list[Path] = []

    def write(self, path: Path, data: bytes) -> None:
        self.written.append(path)
        path.write_bytes(data)


def keeper(folder: Path, disk: Disk, batch: float | None = 10.0) -> AdapterKeeper:
    updater = AdapterUpdater(LAYOUT, SPEC, batch)
    initial = Adapter({"head.weight": np.zeros((2, 5), np.float32)})
    return AdapterKeeper(folder, updater, initial, disk.write)


def totals(steps: int) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    random = np.random.default_rng(1)
    return [random.normal(0, 10, LAYOUT.size) for _ in range(steps)]


def test_each_step_builds_on_the_one_before_and_disk_waits_for_the_end(tmp_path: Path) -> None:
    disk = Disk()
    kept = keeper(tmp_path, disk)
    updater = AdapterUpdater(LAYOUT, SPEC, 10.0)
    expected, state = kept.adapter, updater.initial_state()
    for step, total in enumerate(totals(4)):
        assert kept.base(step).hash() == expected.hash()
        expected, state = updater.advance(expected, state, total, 5)
        assert kept.compute(total, 5, step) == expected.hash()
        assert kept.adapter.hash() == kept.initial_hash
    assert not disk.written
    kept.adopt(expected.hash())
    assert len(disk.written) == 2
    assert kept.adapter.hash() == expected.hash()
    again = keeper(tmp_path, disk)
    assert again.restore(expected.hash())
    following = kept.compute(totals(1)[0], 5)
    assert again.compute(totals(1)[0], 5) == following  # momentum and count came back too


def test_the_step_before_the_last_can_be_adopted_and_no_earlier_one(tmp_path: Path) -> None:
    kept = keeper(tmp_path, Disk())
    hashes = [kept.compute(total, 5, step) for step, total in enumerate(totals(4))]
    for early in hashes[:2]:
        with pytest.raises(ServiceError, match="not computed here"):
            kept.adopt(early)
    kept.adopt(hashes[2])
    assert kept.adapter.hash() == hashes[2]
    with pytest.raises(ServiceError):
        kept.adopt(hashes[3])
    # A session that starts over begins at the adapter in force, without what was rolled back.
    other = keeper(tmp_path / "none", Disk())
    for step, total in enumerate(totals(3)):
        other.compute(total, 5, step)
    assert kept.compute(totals(4)[3], 5, 0) == other.compute(totals(4)[3], 5, 3)


def test_dropped_candidates_leave_the_adapter_in_force(tmp_path: Path) -> None:
    kept = keeper(tmp_path, Disk())
    kept.compute(totals(1)[0], 5, 0)
    kept.drop()
    assert kept.base(0).hash() == kept.initial_hash
    with pytest.raises(ServiceError, match="step 1 builds on step 0"):
        kept.compute(totals(1)[0], 5, 1)
    with pytest.raises(ServiceError, match="rejoins"):
        kept.base(3)


def test_a_charter_gives_both_halves_of_the_plan() -> None:
    specs = LearningSpecs.of(federation())
    assert isinstance(specs.private, SharedNoisePlan)
    assert specs.private.optimiser == specs.optimiser == SPEC
    assert (specs.private.scale, specs.private.bound) == (1 << 16, 200.0)
    assert specs.updater(LAYOUT).batch == 200.0
    plain = federation(
        privacy={"mode": "none"},
        server_optimiser=ServerOptimiserSpec().to_json(),
        quantiser={"values": 10, "clip": 4.0, "scale": 64, "lane_bits": 24},
    )
    assert LearningSpecs.of(plain).updater(LAYOUT).batch is None


def test_sections_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="take sgd or adam"):
        LearningSpecs.of(federation(server_optimiser=ServerOptimiserSpec().to_json()))
    private = PrivateTraining(expected_rows=10).to_json()
    both = federation(training={**TrainingPlan().to_json(), "private": private})
    with pytest.raises(ConfigurationError, match=r"training\.private is for privacy mode local"):
        LearningSpecs.of(both)


def ledger(path: Path, agreed: Federation | None = None) -> tuple[Database, RoundLedger]:
    database = Database(path / "state.sqlite")
    agreed = agreed or federation()
    key = make_keys(5).clients["client-01"]
    specs = LearningSpecs.of(agreed)
    return database, RoundLedger(
        agreed, key, "client-01", database, LAYOUT, specs.private, b"\x01" * 32
    )


def charge(found: RoundLedger, number: int) -> None:
    found.enter(found.prepare(number))


def test_a_session_is_charged_before_its_first_step_and_nothing_comes_back(tmp_path: Path) -> None:
    database, found = ledger(tmp_path)
    agreed = federation()
    terms = privacy_terms(agreed)
    assert terms is not None
    charge(found, 1)
    event = found._ledger.state.events[0]
    assert event == terms.planned_event()
    assert isinstance(event, DiscreteGaussianSteps)
    assert (event.steps, event.honest_shares, event.rounding) == (50, 3, "sum")
    expected = SharedNoise(
        mechanism="discrete-gaussian", clip=1.0, scale=1 << 16, dimension=10, honest_shares=3,
        sampling_rate=0.1, steps=50,
    ).event(1.05)  # fmt: skip
    assert event == expected
    before = found._ledger.state.spent(pld=False)
    assert before == spent([event], 1e-5, pld=False)
    found.settle(1, accepted=4, aggregate=AGGREGATE, steps=3)
    assert found._ledger.state.events[1] == CompletedSession(
        charge=0, steps=3, accepted=4, aggregate=AGGREGATE.hex()
    )
    assert found._ledger.state.spent(pld=False) == before
    entry = found._ledger.state.entries[0]
    assert terms.problems(entry) == []
    assert (entry.unit, entry.adversary.colluding) == ("example", 1)
    assert entry.participants.least_honest == 3
    assert not any(isinstance(event, CompletedRound) for event in found._ledger.state.events)
    database.close()


@pytest.mark.parametrize("killed_in", ["charge", "training", "after three steps", "settling"])
def test_whatever_step_it_dies_in_the_whole_session_stays_charged(
    tmp_path: Path, killed_in: str
) -> None:
    """The process is gone and the state file is opened again: never less than was sent out."""
    database, found = ledger(tmp_path)
    entry = found.prepare(1)
    if killed_in != "charge":  # the entry was made but not stored, so nothing was trained
        found.enter(entry)
    if killed_in == "settling":
        found.settle(1, accepted=5, aggregate=AGGREGATE, steps=50)
    database.close()
    database, again = ledger(tmp_path)
    charges = [e for e in again._ledger.state.events if isinstance(e, DiscreteGaussianSteps)]
    assert len(charges) == (0 if killed_in == "charge" else 1)
    assert not again._ledger.state.open_charges
    settled = [e for e in again._ledger.state.events if not isinstance(e, DiscreteGaussianSteps)]
    if killed_in in ("training", "after three steps"):
        assert isinstance(settled[0], AbortedRound)
    if charges:
        paid = again._ledger.state.spent(pld=False).epsilon
        assert paid == spent([replace(charges[0], steps=50)], 1e-5, pld=False).epsilon
    # The round is charged again if it is tried again.
    charge(again, 1 if killed_in == "charge" else 2)
    assert len(again._ledger.state.events) == (1 if killed_in == "charge" else 3)
    database.close()


def test_a_session_that_does_not_fit_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    database, found = ledger(tmp_path, federation(privacy={**SECTION, "epsilon": 5.0}))
    assert found.objection() == ""
    charge(found, 1)
    found.settle(1, accepted=4, aggregate=b"", steps=0)
    assert "5" in found.objection()
    with pytest.raises(BudgetExceededError):
        found.prepare(2)
    database.close()
