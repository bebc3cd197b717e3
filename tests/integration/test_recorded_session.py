"""Sessions of many steps in real processes, undisturbed and recorded whole: privacy mode
`shared-noise` in suite `layered`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fedfm_audit.privacy.events import CompletedSession, DiscreteGaussianSteps
from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes
from fedfm_crypto.shamir import Share, reconstruct
from fedfm_protocols.catchup import verify_catch_up
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.messages import CatchUp, Unmask, read_body
from secure_fedfm.cli.main import main
from secure_fedfm.learning.specs import ModelSpec
from secure_fedfm.services.evidence import catch_up_records
from tests.integration.capture import Capture, capture_run, open_upload, read_without_key
from tests.integration.federation_processes import COORDINATOR
from tests.integration.forked_processes import Launcher
from tests.integration.session_checks import (
    charges_of,
    check_evidence,
    check_spending,
    cohorts,
    settlements_of,
)
from tests.integration.session_terms import CLIENTS, LONG, STEPS

TERMS = "tests.integration.session_terms"
# 93,571 values: chance keeps a correlation within 0.0033, one standard deviation.
UNCORRELATED = 0.02
UNCORRELATED_MEAN = 0.003  # of all 48 uploads with what their own clients trained: 0.0005

pytestmark = pytest.mark.slow

RECORDED = (2, 3)  # rounds; the first makes the collective key
SUMS = range(1, len(RECORDED) * STEPS + 1)


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, long_model: ModelSpec
) -> Capture:
    launcher.load(TERMS, "LONG.warm_up")
    return capture_run(
        tmp_path_factory.mktemp("sessions"),
        launcher,
        long_model,
        rounds=len(RECORDED),
        suite="layered",
        clients=CLIENTS,
        adapter=LONG.adapter,
        privacy=LONG.request,
    )


def test_every_step_of_both_sessions_is_good(recorded: Capture) -> None:
    assert recorded.federation.charter.quantiser.values == LONG.values
    assert recorded.federation.charter.privacy.mode == "shared-noise"
    found = recorded.federation.statements()
    assert {n: s.outcome for n, s in found.items()} == dict.fromkeys((1, *RECORDED), "completed")
    for number in RECORDED:
        steps = found[number].steps
        assert (steps.planned, steps.good, steps.recorded) == (STEPS, STEPS, STEPS)
        assert found[number].reason == ""
        assert cohorts(recorded.federation, number) == [recorded.clients] * STEPS
    check_evidence(recorded.federation)


def test_every_step_of_both_is_repeated_from_the_archive(recorded: Capture) -> None:
    archive = recorded.federation.sites[COORDINATOR].archive_folder
    step = verify_bundle(recorded.federation.bundle, replay=archive).step(9)
    assert step.status is Status.VERIFIED, step.failures
    uploads = len(RECORDED) * STEPS * CLIENTS
    assert step.detail == f"{len(SUMS)} sums of {uploads} uploads repeated, bit for bit"


def test_all_steps_are_charged_before_the_first_is_trained(recorded: Capture) -> None:
    for name in recorded.clients:
        trained = check_spending(recorded.federation, name)
        assert trained == [(n, step) for n in RECORDED for step in range(STEPS)]
        entries = recorded.federation.ledger(name)
        charged = charges_of(entries)
        assert {n: event.steps for n, event in charged.items()} == dict.fromkeys(RECORDED, STEPS)
        assert all(isinstance(event, DiscreteGaussianSteps) for event in charged.values())
        for event in settlements_of(entries).values():
            assert isinstance(event, CompletedSession)
            assert (event.steps, event.accepted) == (STEPS, CLIENTS)


def test_status_tells_how_it_ended(recorded: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    for party in (COORDINATOR, "clinic-1"):
        root = recorded.federation.sites[party].root
        assert main(["status", "--site", str(root), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["running"] is False
        assert (told["status"]["state"], told["status"]["completed"]) == ("finished", 2)


def test_nothing_is_said_twice_in_a_session(recorded: Capture) -> None:
    """One offer for all steps, and one of everything else in each; nothing of it comes again."""
    kinds = ("UploadHash", "WrappedKey", "Upload", "CohortVote", "Unmask", "RoundAck")
    for name in recorded.clients:
        assert len(recorded.frames("from", "KeyOffer", name)) == 1 + len(RECORDED)
        for kind in kinds:
            sums = [Envelope.decode(frame) for frame in recorded.frames("from", kind, name)]
            sums = [e for e in sums if kind != "RoundAck" or e.header.context != first(recorded)]
            assert [e.header.step for e in sums] == [*range(STEPS)] * len(RECORDED), kind
            assert len({e.body for e in sums}) >= len(SUMS) or kind == "RoundAck"


def first(recorded: Capture) -> bytes:
    """Context of the round that made the key."""
    return recorded.received("clinic-1", "KeyDealing").header.context


def opened_seeds(recorded: Capture, number: int) -> dict[str, bytes]:
    """Self-mask seeds of a sum that the coordinator rebuilds from the shares that it was sent."""
    shares: dict[str, list[Share]] = {name: [] for name in recorded.clients}
    for holder in recorded.clients:
        reveal = read_body(recorded.received(holder, "Unmask", number), Unmask)
        assert reveal.key_shares == ()  # nobody was removed: no mask key may ever be opened
        for entry in reveal.seed_shares:
            point = recorded.terms.share_index[holder]
            shares[entry.dealer].append(Share.from_bytes(point, entry.value))
    threshold = recorded.terms.thresholds.share_threshold
    return {name: reconstruct(found, threshold).reveal() for name, found in shares.items()}


def rows(values: list[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values as rows of length one, less their mean."""
    stacked = np.asarray(values, np.float64)
    stacked -= stacked.mean(axis=1, keepdims=True)
    stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
    return stacked.astype(np.float32)


def test_no_individual_sum_is_open_to_the_coordinator_at_any_step(recorded: Capture) -> None:
    """With its whole state: uploads as received, less the self-masks whose seeds it rebuilds; and
    even with the key of every upload, which no coalition below the threshold can open."""
    bits, keys = recorded.lane_bits, [(name, n) for n in SUMS for name in recorded.clients]
    seeds = {n: opened_seeds(recorded, n) for n in SUMS}
    for name, n in keys:
        assert seeds[n][name] == recorded.step_keys(name, n).seed  # it does have them
    uploads = recorded.uploads()
    bulk = {key: recorded.kept("bulk", *key).astype(np.int64) for key in keys}
    seen = {
        "as received": [read_without_key(recorded, uploads[key]) for key in keys],
        "without self-mask": [
            open_upload(recorded, *key, seed=seeds[key[1]][key[0]]) for key in keys
        ],
        "decrypted": [
            open_upload(recorded, *key, bulk_key=bulk[key], seed=seeds[key[1]][key[0]])
            for key in keys
        ],
    }
    true = rows([recorded.kept("update", *key) for key in keys])
    sent = rows([from_lanes(recorded.kept("words", *key).astype(np.uint32), bits) for key in keys])
    for what, words in seen.items():
        read = rows([from_lanes(found, bits) for found in words])
        assert float(np.abs(read @ true.T).max()) < UNCORRELATED, what
        assert float(np.abs(read @ sent.T).max()) < UNCORRELATED, what
        assert abs(float(np.einsum("ij,ij->i", read, true).mean())) < UNCORRELATED_MEAN, what
    # The statistics see what is hidden: without masks the noise alone would not be enough.
    assert float(np.einsum("ij,ij->i", sent, true).mean()) > 4 * UNCORRELATED_MEAN
    last = keys[-1]
    bare = open_upload(recorded, *last, bulk_key=bulk[last], step_keys=recorded.step_keys(*last))
    np.testing.assert_array_equal(bare, recorded.kept("words", *last))


def test_every_client_opens_the_very_sums_and_nothing_else_of_the_noise(recorded: Capture) -> None:
    """Opened: the sum of what was sent, which is the true sum and the sum of the noise."""
    records = tuple(catch_up_records(recorded.federation.sites[COORDINATOR]))
    opened = list(
        verify_catch_up(
            recorded.terms,
            CatchUp(records),
            last_applied=0,
            adapter_hash=bytes.fromhex(recorded.federation.charter.initial_adapter),
            keys=recorded.key_ring("clinic-3"),
            encryption=LatticeEncryption(),
        )
    )
    sums = [one for missed in opened for one in missed.sums]
    assert [one.accepted for one in sums] == [CLIENTS] * len(SUMS)
    privacy = recorded.federation.charter.privacy
    assert privacy.mode == "shared-noise"
    # Every client adds a share for itself; h of them would be all of the noise.
    variance = CLIENTS / privacy.honest_shares * (privacy.noise_multiplier * privacy.clip) ** 2
    for number, one in zip(SUMS, sums, strict=True):
        expected = recorded.terms.lanes.dequantise(recorded.total(number))
        np.testing.assert_array_equal(one.total, expected)
        true = sum(recorded.kept("update", name, number) for name in recorded.clients)
        noise = one.total - np.asarray(true)
        # Five standard deviations of a variance that is estimated from so many values.
        assert abs(noise.var() / variance - 1) < 5 * (2 / LONG.values) ** 0.5
