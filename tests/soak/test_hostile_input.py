"""Hostile input to every parser, every client state, every phase of the coordinator, both services
and the ZeroMQ front door.

``make test`` runs a sample of :data:`SAMPLE` cases a target (:data:`LAYERED_SAMPLE` where a case
opens ciphertexts: they take ten times as long), ``make soak`` 10,000, resumable
(engine.py says how to repeat a failure, CONTRIBUTING.md how to run more).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import get_args

import pytest

from fedfm_protocols.scenario.suites import missing_for
from tests.soak.engine import Campaign, Target, wanted_cases
from tests.soak.targets import all_targets, close_all, quiet

SAMPLE = 60
LAYERED_SAMPLE = 15
SOAK = 10_000
TARGETS = all_targets()
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    level = quiet()
    yield
    close_all()
    logging.getLogger("secure_fedfm").setLevel(level)


@each_target
def test_a_sample(target: Target) -> None:
    cases = wanted_cases(LAYERED_SAMPLE if target.name.startswith("layered/") else SAMPLE)
    report = Campaign(target, cases).run()
    assert not report.failures, report.failures
    assert report.cases == cases


@pytest.mark.soak
@pytest.mark.timeout(3600)
@each_target
def test_many(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    report = Campaign(target, wanted_cases(SOAK), resume=True).run()
    with capsys.disabled():
        print(f"\n{report.line()}")
    assert not report.failures, report.failures


def test_every_state_and_phase_has_a_target() -> None:
    """A new state without a target fails here."""
    from fedfm_protocols.client_states import ClientState
    from fedfm_protocols.coordinator_states import RunningRound
    from fedfm_protocols.validator_states import ValidatorState

    if missing_for("layered"):
        pytest.skip(missing_for("layered"))
    names = {target.name for target in TARGETS}
    assert {f"client/{state.__name__}" for state in ClientState.__args__} <= names
    assert {f"coordinator/{phase.__name__}" for phase in get_args(RunningRound)} <= names
    assert {f"validator/{state.__name__}" for state in get_args(ValidatorState)} <= names
