"""A run of real processes, recorded: what the coordinator gets to see, what it leaves behind."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_audit.verify import verify_bundle
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes, unpack_lanes
from fedfm_protocols.messages import Aggregate, Cohort, Upload, read_body
from tests.integration.federation_processes import COORDINATOR, LABELS, TestFederation

ROUNDS = (1, 2)
LANE_BITS = 32
MESSAGES = {
    *("Hello", "KeyOffer", "ShareBundle", "UploadHash", "Upload"),
    *("CohortVote", "Unmask", "RoundAck", "Cosignature"),
}
# Six standard deviations of the statistics below: about one false alarm in 10**8 runs.
SIGMAS = 6.0


def frames(federation: TestFederation, way: str, kind: str = "*", peer: str = "*") -> list[bytes]:
    """Recorded payloads in the order they passed."""
    folder = federation.sites[COORDINATOR].root / "traffic"
    return [path.read_bytes() for path in sorted(folder.glob(f"*.{way}.{peer}.{kind}"))]


def uploads(federation: TestFederation) -> dict[tuple[str, int], NDArray[np.uint32]]:
    """(client, round) -> the words that the coordinator received."""
    return {
        (name, number): unpack_lanes(read_body(Envelope.decode(frame), Upload).words, LANE_BITS)
        for name in federation.clients
        for number, frame in zip(ROUNDS, frames(federation, "from", "Upload", name), strict=True)
    }


def own(federation: TestFederation, what: str) -> dict[tuple[str, int], NDArray[np.generic]]:
    """(client, round) -> ``update`` or ``words`` as that client's process recorded them."""
    return {
        (name, number): np.load(federation.sites[name].root / "updates" / f"{what}-{number}.npy")
        for name in federation.clients
        for number in ROUNDS
    }


def chi_square_sigmas(words: NDArray[np.uint32]) -> float:
    """How far the bytes are from uniform: chi-square of 256 bins in standard deviations."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - 255) / float(np.sqrt(2 * 255))


def correlation(words: NDArray[np.uint32], update: NDArray[np.generic]) -> float:
    values = from_lanes(words, LANE_BITS).astype(np.float64)
    return float(np.corrcoef(values, update.astype(np.float64))[0, 1])


def test_it_completes_with_one_adapter(recorded: TestFederation) -> None:
    assert recorded.outcomes() == dict.fromkeys(ROUNDS, "completed")
    assert len(recorded.adapters()) == 1
    report = verify_bundle(recorded.bundle, adapter=recorded.sites["clinic-2"].export_folder)
    assert report.ok, report.to_text()


def test_uploads_are_uniform(recorded: TestFederation) -> None:
    received, plain = uploads(recorded), own(recorded, "words")
    assert len(received) == len(plain) == len(ROUNDS) * len(recorded.clients)
    for key, words in received.items():
        assert words.size > 100_000
        assert abs(chi_square_sigmas(words)) < SIGMAS, key
        # The statistic sees what masks hide: the same words before masking are far from uniform.
        assert chi_square_sigmas(plain[key].astype(np.uint32)) > 1000


def test_uploads_correlate_with_nobodys_update(recorded: TestFederation) -> None:
    received, plain = uploads(recorded), own(recorded, "words")
    updates = own(recorded, "update")
    for (key, words), (whose, update) in itertools.product(received.items(), updates.items()):
        assert abs(correlation(words, update)) < 0.01, (key, whose)
    for key, update in updates.items():
        assert correlation(plain[key].astype(np.uint32), update) > 0.99


def test_the_opened_sum_is_the_integer_sum_exactly(recorded: TestFederation) -> None:
    plain = own(recorded, "words")
    # To everyone alike; one copy each is enough.
    opened = frames(recorded, "to", "Aggregate", "clinic-1")
    cohorts = frames(recorded, "to", "Cohort", "clinic-1")
    for number, aggregate, cohort in zip(ROUNDS, opened, cohorts, strict=True):
        accepted = read_body(Envelope.decode(cohort), Cohort).accepted
        assert accepted == recorded.clients
        total = sum(plain[name, number].astype(np.uint64) for name in accepted)
        words = unpack_lanes(read_body(Envelope.decode(aggregate), Aggregate).words, LANE_BITS)
        np.testing.assert_array_equal(words, total % (1 << LANE_BITS))


def test_no_upload_is_received_in_clear(recorded: TestFederation) -> None:
    """Neither the words nor the floats of an update occur in anything that was received."""
    received = b"".join(frames(recorded, "from"))
    for what in ("words", "update"):
        for values in own(recorded, what).values():
            moved = np.flatnonzero(values)[:64]
            assert moved.size == 64
            start = int(moved[0])
            assert values[start : start + 8].tobytes() not in received


def test_nothing_tells_of_the_data(recorded: TestFederation) -> None:
    """No text, label or metric in any frame, and sizes are alike although the data are not."""
    both = b"".join(frames(recorded, "from") + frames(recorded, "to")).lower()
    rows: dict[str, list[list[str]]] = {}
    for name in recorded.clients:
        with (recorded.sites[name].root / "data.csv").open(newline="") as stream:
            rows[name] = list(csv.reader(stream))[1:]
    assert len({len(found) for found in rows.values()}) == len(recorded.clients)
    words = {row[0] for found in rows.values() for row in found} | set(LABELS)
    for word in words | {"accuracy", "data.csv", "num_samples", "num_examples"}:
        assert word.lower().encode() not in both, word
    for kind in sorted(MESSAGES):
        sizes = {
            name: [len(frame) for frame in frames(recorded, "from", kind, name)]
            for name in recorded.clients
        }
        assert sizes["clinic-1"]
        assert sizes["clinic-1"] == sizes["clinic-2"] == sizes["clinic-3"], kind


def test_only_the_protocols_messages_are_received(recorded: TestFederation) -> None:
    found = {Envelope.decode(frame).header.type for frame in frames(recorded, "from")}
    assert found == MESSAGES


def test_no_log_holds_texts_or_labels(recorded: TestFederation) -> None:
    logs = "".join(recorded.log_of(party) for party in recorded.sites)
    assert not [label for label in LABELS if label in logs]
    assert "card lost" not in logs


@pytest.mark.parametrize("party", [COORDINATOR, "clinic-1"])
def test_private_keys_and_state_are_for_the_owner_alone(
    recorded: TestFederation, party: str
) -> None:
    site = recorded.sites[party]
    for path in (*site.identity_file.parent.glob("*.pem"), site.root / "state.sqlite"):
        assert path.stat().st_mode & 0o077 == 0, path
