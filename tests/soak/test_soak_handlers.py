"""Hostile messages to every client state and every phase of the coordinator.

A stated sample of :data:`SAMPLE` cases a target here; ``make soak`` runs 10,000 of each.
"""

from __future__ import annotations

import pytest

from tests.soak.engine import Campaign, Target, wanted_cases
from tests.soak.handlers import client_targets, coordinator_targets

SAMPLE = 300
SOAK = 10_000
TARGETS = [*client_targets(), *coordinator_targets()]
by_name = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@by_name
def test_a_sample(target: Target) -> None:
    report = Campaign(target, SAMPLE).run()
    assert not report.failures, report.failures
    assert report.cases == SAMPLE
