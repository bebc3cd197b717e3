"""A run of real processes, recorded: what the coordinator gets to see, what it leaves behind."""

from __future__ import annotations

import base64
import csv
import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes, pack_lanes, unpack_lanes
from fedfm_protocols.catchup import MissedRound, verify_catch_up
from fedfm_protocols.errors import EquivocationError, RoundRefused
from fedfm_protocols.key_messages import GroupKey, KeyDelivery, KeyOpening
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.messages import CatchUp, read_body
from secure_fedfm.services.evidence import catch_up_records
from tests.integration.capture import (
    SIGMAS,
    UNCORRELATED,
    Array,
    Capture,
    correlation,
    read_without_key,
    uniform_sigmas,
)
from tests.integration.federation_processes import COORDINATOR, LABELS

MESSAGES = {
    *("Hello", "KeyOffer", "ShareBundle", "UploadHash", "Upload"),
    *("CohortVote", "Unmask", "RoundAck", "Cosignature"),
}
WITH_ENCRYPTION = {"KeyDealing", "WrappedKey", "KeyOpening"}


@pytest.fixture(params=["captured", "captured_masked"])
def run(request: pytest.FixtureRequest) -> Capture:
    """A run in suite layered (the default), and one in suite masked."""
    capture: Capture = request.getfixturevalue(request.param)
    return capture


def test_it_completes_with_one_adapter(run: Capture) -> None:
    federation, rounds = run.federation, run.sums + (1 if run.terms.encrypted else 0)
    assert federation.outcomes() == dict.fromkeys(range(1, rounds + 1), "completed")
    assert len(federation.adapters()) == 1
    report = verify_bundle(federation.bundle, adapter=federation.sites["clinic-2"].export_folder)
    assert report.ok, report.to_text()


def test_every_sum_is_repeated_from_the_archive(run: Capture) -> None:
    site = run.federation.sites[COORDINATOR]
    step = verify_bundle(run.federation.bundle, replay=site.archive_folder).step(9)
    sums, uploads = run.sums, run.sums * len(run.clients)
    assert step.status is Status.VERIFIED, step.failures
    assert step.detail == f"{sums} sums of {uploads} uploads repeated, bit for bit"


def test_the_archive_holds_what_passed_through_the_coordinator_and_no_more(run: Capture) -> None:
    """Bodies of four types of message, every one as it was received or sent."""
    root = run.federation.sites[COORDINATOR].archive_folder
    frames = [*run.frames("from"), *run.frames("to")]
    passed = {Envelope.decode(frame).header.type: set[bytes]() for frame in frames}
    for frame in frames:
        envelope = Envelope.decode(frame)
        passed[envelope.header.type].add(envelope.body)
    kinds = {"Upload", "Unmask", "Aggregate"} | ({"WrappedKey"} if run.terms.encrypted else set())
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == kinds
    for path in files:
        assert path.read_bytes() in passed[path.parent.name], path
        assert path.stat().st_mode & 0o077 == 0
    each = 2 if run.terms.encrypted else 1
    assert len([path for path in files if path.parent.name != "Unmask"]) == run.sums * (
        each * len(run.clients) + 1
    )


# ---------------------------------------------------------------- updates


def test_uploads_are_uniform(run: Capture) -> None:
    received, plain = run.uploads(), run.all_kept("words")
    assert len(received) == len(plain) == run.sums * len(run.clients)
    for key, words in received.items():
        assert len(words) > 300_000
        assert abs(uniform_sigmas(np.frombuffer(words, np.uint8))) < SIGMAS, key
        # The statistic sees what is hidden: the same words in clear are far from uniform.
        packed = pack_lanes(plain[key].astype(np.uint32), run.lane_bits)
        assert uniform_sigmas(np.frombuffer(packed, np.uint8)) > 1000


def test_uploads_correlate_with_nobodys_update(run: Capture) -> None:
    plain, updates = run.all_kept("words"), run.all_kept("update")
    read = {key: read_without_key(run, words) for key, words in run.uploads().items()}
    for (key, words), (whose, update) in itertools.product(read.items(), updates.items()):
        assert abs(correlation(words, update, run.lane_bits)) < UNCORRELATED, (key, whose)
    for key, update in updates.items():
        assert correlation(plain[key].astype(np.uint32), update, run.lane_bits) > 0.99


def pieces(values: Array) -> Iterator[bytes]:
    """Some runs of eight values (or rows) that are not zero, as bytes."""
    moved = np.flatnonzero(values if values.ndim == 1 else values.any(axis=1))
    assert moved.size > 64
    for start in moved[:: moved.size // 8][:8]:
        yield values[int(start) : int(start) + 8].tobytes()


def test_no_upload_is_received_in_clear(run: Capture) -> None:
    """Neither the words, packed or not, nor the floats of an update occur in what was received."""
    received = b"".join(run.frames("from"))
    for update in run.all_kept("update").values():
        assert not [piece for piece in pieces(update) if piece in received]
    for words in run.all_kept("words").values():
        assert not [piece for piece in pieces(words) if piece in received]
        packed = np.frombuffer(pack_lanes(words.astype(np.uint32), run.lane_bits), np.uint8)
        assert not [piece for piece in pieces(packed.reshape(-1, 3)) if piece in received]


# ---------------------------------------------------------------- sums


def test_the_coordinator_opens_the_sum_without_encryption(captured_masked: Capture) -> None:
    ((_, aggregate),) = captured_masked.aggregates()
    assert captured_masked.cohorts() == [captured_masked.clients]
    words = unpack_lanes(aggregate.words, captured_masked.lane_bits)
    np.testing.assert_array_equal(words, captured_masked.total(1))


def guesses(run: Capture) -> dict[str, NDArray[np.uint32]]:
    """What somebody with all that the coordinator has could take for a sum or an update: every
    aggregate, every sum of ciphertexts, and their differences, read without a key."""
    aggregates = [read_without_key(run, aggregate.words) for _, aggregate in run.aggregates()]
    uploads = {key: read_without_key(run, words) for key, words in run.uploads().items()}
    found = {f"aggregate {n}": words for n, words in enumerate(aggregates, start=1)}
    modulus = 1 << run.lane_bits
    for number in range(1, run.sums + 1):
        mine = [words for (_, n), words in uploads.items() if n == number]
        added = sum(words.astype(np.uint64) for words in mine)
        found[f"uploads {number}"] = (np.asarray(added) % modulus).astype(np.uint32)
    first, second = aggregates
    difference = (second.astype(np.int64) - first.astype(np.int64)) % modulus
    found["difference"] = difference.astype(np.uint32)
    return found


def test_with_encryption_nothing_that_the_coordinator_has_tells_of_the_sum(
    captured: Capture,
) -> None:
    totals = [captured.total(number) for number in (1, 2)]
    bits = captured.lane_bits
    targets: list[Array] = [from_lanes(words, bits) for words in totals]
    targets += captured.all_kept("update").values()
    for what, words in guesses(captured).items():
        assert abs(uniform_sigmas(np.frombuffer(pack_lanes(words, bits), np.uint8))) < SIGMAS, what
        for target in targets:
            assert abs(correlation(words, target, bits)) < UNCORRELATED, what
    # The statistic would see it: an update of one client tells a lot about the sum of three.
    own = captured.kept("update", "clinic-1", 1)
    assert correlation(totals[0], own, bits) > 0.3


def opened(run: Capture, keys: KeyRing) -> list[MissedRound]:
    """The sums that the coordinator has on its disk, opened with a client's keys."""
    records = tuple(catch_up_records(run.federation.sites[COORDINATOR]))
    return list(
        verify_catch_up(
            run.terms,
            CatchUp(records),
            last_applied=0,
            adapter_hash=bytes.fromhex(run.federation.charter.initial_adapter),
            keys=keys,
            encryption=LatticeEncryption(),
        )
    )


def test_a_client_opens_the_very_sum_from_the_coordinators_record(captured: Capture) -> None:
    for name in captured.clients:
        sums = [one for missed in opened(captured, captured.key_ring(name)) for one in missed.sums]
        assert [one.accepted for one in sums] == [3, 3]
        for number, one in enumerate(sums, start=1):
            expected = captured.terms.lanes.dequantise(captured.total(number))
            np.testing.assert_array_equal(one.total, expected)


def test_no_other_key_opens_it(captured: Capture) -> None:
    ring = captured.key_ring("clinic-1")
    assert ring.current is not None
    group, key_hash = ring.current.group, ring.current.key_hash
    ((delivered, *_),) = [captured.frames("to", "KeyDelivery", "clinic-1")]
    commitments = read_body(Envelope.decode(delivered), KeyDelivery).group_commitments
    with pytest.raises(RoundRefused, match="no group key"):
        opened(captured, KeyRing())
    # One bit off, and whatever of 32 bytes the coordinator has that belongs to the key.
    for wrong in (bytes([group[0] ^ 1]) + group[1:], key_hash, *commitments):
        with pytest.raises(EquivocationError, match="do not open"):
            opened(captured, KeyRing(earlier=(GroupKey(1, wrong),)))
    assert len(opened(captured, KeyRing(earlier=(GroupKey(1, group),)))) == 2


def test_the_coordinator_has_no_share_no_group_key_no_opening_and_no_sum(captured: Capture) -> None:
    """Searched in its whole folder, logs and state included, and in all that it sent and got."""
    site = captured.federation.sites[COORDINATOR]
    files = [path for path in site.root.rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in files)
    assert len(everything) > 5_000_000
    needles: dict[str, list[bytes]] = {}
    for name in captured.clients:
        keys = captured.key_ring(name).current
        assert keys is not None
        assert len(keys.share) == 131_072
        needles[f"share of {name}"] = [keys.share[i : i + 32] for i in range(0, 131_072, 4096)]
        group = keys.group
        spelt = (
            group,
            group.hex().encode(),
            base64.b64encode(group),
            base64.urlsafe_b64encode(group),
        )
        needles[f"group key of {name}"] = [word.rstrip(b"=") for word in spelt]
        for number in (1, 2):
            keys_of_step = captured.step_keys(name, number)
            secret = (keys_of_step.share_key.secret, keys_of_step.mask_key.secret)
            needles[f"step keys of {name}, {number}"] = [key.reveal() for key in secret]
            bulk = captured.kept("bulk", name, number)
            needles[f"bulk key of {name}, {number}"] = [
                *pieces(bulk),
                *pieces(bulk.astype(np.int8).reshape(-1, 8)),
            ]
    for number in (1, 2):
        total = captured.total(number)
        floats = captured.terms.lanes.dequantise(total)
        packed = np.frombuffer(pack_lanes(total, captured.lane_bits), np.uint8)
        needles[f"sum {number}"] = [
            *pieces(total),
            *pieces(packed.reshape(-1, 3)),
            *pieces(floats),
            *pieces(floats.astype(np.float32)),
            *pieces((floats / 3).astype(np.float32)),
        ]
    adapter = (
        captured.federation.sites["clinic-1"].export_folder / "head.safetensors"
    ).read_bytes()
    needles["adapter"] = [adapter[-64:], adapter[-256:-192]]
    for what, words in needles.items():
        assert not [word for word in words if word in everything], what
    # What is there is found: the public key's parts, and the openings as they were sealed.
    frame = Envelope.decode(captured.frames("to", "KeyDelivery", "clinic-1")[0])
    assert read_body(frame, KeyDelivery).public_shares[0][4096:4128] in everything
    sealed = read_body(captured.received("clinic-1", "KeyOpening"), KeyOpening).sealed
    assert sealed[4096:4128] in everything


def test_openings_are_sealed_and_differ_for_every_sum(captured: Capture) -> None:
    frames = captured.frames("from", "KeyOpening")
    assert len(frames) == 4  # two holders open each of two sums
    sealed = [read_body(Envelope.decode(frame), KeyOpening).sealed for frame in frames]
    assert len(set(sealed)) == 4
    for data in sealed:
        assert abs(uniform_sigmas(np.frombuffer(data, np.uint8))) < SIGMAS


# ---------------------------------------------------------------- everything else


def test_nothing_tells_of_the_data(run: Capture) -> None:
    """No text, label or metric in any frame, and sizes are alike although the data are not."""
    both = b"".join(run.frames("from") + run.frames("to")).lower()
    rows: dict[str, list[list[str]]] = {}
    for name in run.clients:
        with (run.federation.sites[name].root / "data.csv").open(newline="") as stream:
            rows[name] = list(csv.reader(stream))[1:]
    assert len({len(found) for found in rows.values()}) == len(run.clients)
    words = {row[0] for found in rows.values() for row in found} | set(LABELS)
    for word in words | {"accuracy", "data.csv", "num_samples", "num_examples"}:
        assert word.lower().encode() not in both, word
    everybodys = MESSAGES | (WITH_ENCRYPTION - {"KeyOpening"} if run.terms.encrypted else set())
    for kind in sorted(everybodys):
        sizes = {name: list(map(len, run.frames("from", kind, name))) for name in run.clients}
        assert sizes["clinic-1"]
        assert sizes["clinic-1"] == sizes["clinic-2"] == sizes["clinic-3"], kind
    assert len({len(frame) for frame in run.frames("from", "KeyOpening")}) <= 1


def test_only_the_protocols_messages_are_received(run: Capture) -> None:
    found = {Envelope.decode(frame).header.type for frame in run.frames("from")}
    assert found == MESSAGES | (WITH_ENCRYPTION if run.terms.encrypted else set())


def test_no_log_holds_texts_or_labels(run: Capture) -> None:
    logs = "".join(run.federation.log_of(party) for party in run.federation.sites)
    assert not [label for label in LABELS if label in logs]
    assert "card lost" not in logs


@pytest.mark.parametrize("party", [COORDINATOR, "clinic-1"])
def test_private_keys_and_state_are_for_the_owner_alone(captured: Capture, party: str) -> None:
    site = captured.federation.sites[party]
    for path in (*site.identity_file.parent.glob("*.pem"), *site.root.glob("state.sqlite*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_client_keeps_one_share_of_one_key(captured: Capture) -> None:
    rings = [captured.key_ring(name) for name in captured.clients]
    assert len({replace(ring.current, share=b"") for ring in rings if ring.current}) == 1
    assert len({ring.current.share for ring in rings if ring.current}) == 3
    assert all(ring.pending is None and not ring.earlier for ring in rings)
