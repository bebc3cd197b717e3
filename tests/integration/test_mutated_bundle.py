"""500 random single changes to the evidence of a real run: each is found, with step and place."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from fedfm_audit.bundle import read_bundle
from fedfm_audit.log import Log
from fedfm_audit.verify import verify_files
from tests.integration.bundle_mutations import Evidence, mutate
from tests.integration.capture import Capture
from tests.integration.federation_processes import COORDINATOR

CHANGES = 500
SAMPLE = 40  # twice through the kinds
SEED = int(os.environ.get("SOAK_SEED", "7"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evidence(captured: Capture, captured_masked: Capture) -> Evidence:
    """The bundle with the log's and the witnesses' keys, and the bundle of another federation."""
    federation = captured.federation
    charter = federation.charter
    return Evidence(
        files=dict(read_bundle(federation.bundle)),
        leaves=leaves_of(captured),
        origin=charter.log.origin,
        log_key=federation.sites[COORDINATOR].log_key(),
        witnesses={
            f"{charter.federation}/{name}": federation.sites[name].identity()
            for name in federation.clients
        },
        other_files=dict(read_bundle(captured_masked.federation.bundle)),
        other_leaves=leaves_of(captured_masked),
    )


def leaves_of(captured: Capture) -> tuple[bytes, ...]:
    federation = captured.federation
    folder = federation.sites[COORDINATOR].log_folder
    log = Log.open(folder, federation.charter.log.origin)
    try:
        return tuple(log.leaves)
    finally:
        log.close()


def check_changes(evidence: Evidence, count: int) -> None:
    assert verify_files(evidence.files, name="untouched").ok
    complaints = []
    for number in range(count):
        change = mutate(evidence, number, SEED)
        complaints.append(change.complaint(verify_files(change.files, name="changed")))
    assert list(filter(None, complaints)) == []


def test_a_sample_of_random_changes(evidence: Evidence) -> None:
    check_changes(evidence, SAMPLE)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_random_changes(evidence: Evidence) -> None:
    check_changes(evidence, CHANGES)


def test_the_check_can_fail(evidence: Evidence) -> None:
    """An untouched bundle, the wrong step and the wrong place are complaints."""
    untouched = verify_files(evidence.files, name="untouched")
    for number in range(SAMPLE // 2):
        assert "not detected" in mutate(evidence, number, SEED).complaint(untouched)
    change = mutate(evidence, 0, SEED)
    report = verify_files(change.files, name="changed")
    assert change.complaint(report) == ""
    assert "failed first" in replace(change, step=5).complaint(report)
    assert "is not named" in replace(change, place="leaf 10000").complaint(report)
