"""The bundle of a real run, altered: every flipped bit and every moved leaf is found and placed."""

from __future__ import annotations

import json
import random

import pytest

from fedfm_audit.bundle import read_bundle
from fedfm_audit.report import Report, Status
from fedfm_audit.tiles import render_tiles
from fedfm_audit.verify import verify_files
from tests.integration.capture import Capture
from tests.integration.federation_processes import COORDINATOR

FLIPS = 300
Files = dict[str, bytes]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(captured: Capture) -> Files:
    return dict(read_bundle(captured.federation.bundle))


def leaves_of(captured: Capture) -> list[bytes]:
    from fedfm_audit.log import Log

    federation = captured.federation
    folder = federation.sites[COORDINATOR].log_folder
    log = Log.open(folder, federation.charter.log.origin)
    try:
        return list(log.leaves)
    finally:
        log.close()


def places(report: Report) -> str:
    return "\n".join(
        f"{failure.place}: {failure.reason}" for step in report.steps for failure in step.failures
    )


def test_every_sampled_bit_flip_is_found_and_its_file_named(files: Files) -> None:
    assert verify_files(files, name="untouched").ok
    chance = random.Random(20240229)  # noqa: S311 - which bits are tried, nothing secret
    names = sorted(files)
    # Every file several times, the rest by size.
    chosen = [name for name in names for _ in range(6)]
    chosen += chance.choices(names, [len(files[name]) for name in names], k=FLIPS - len(chosen))
    assert len(chosen) >= FLIPS
    for name in chosen:
        position, bit = chance.randrange(len(files[name])), chance.randrange(8)
        altered = bytearray(files[name])
        altered[position] ^= 1 << bit
        report = verify_files({**files, name: bytes(altered)}, name="flipped")
        assert not report.ok, f"{name} byte {position} bit {bit} is not found"
        failed = [step for step in report.steps if step.status is Status.FAILED]
        assert failed[0].failures, f"{name} byte {position} bit {bit}: no place"
        assert all(failure.place and failure.reason for failure in failed[0].failures)
        named = name in places(report)
        assert named, f"{name} byte {position} bit {bit}: {places(report)[:300]}"


def test_a_missing_or_additional_file_is_found(files: Files) -> None:
    for name in files:
        rest = {other: data for other, data in files.items() if other != name}
        assert not verify_files(rest, name="dropped").ok, name
    for name in ("transcripts/000099.json", "tile/0/001", "notes.txt"):
        assert not verify_files({**files, name: b"{}"}, name="added").ok, name


def test_the_round_that_made_the_key_is_there_without_what_was_dealt(files: Files) -> None:
    """Its messages are evidence by their headers; shares, sealed or not, never are."""
    transcript = json.loads(files["transcripts/000001.json"])
    steps = (envelope for step in transcript["steps"] for envelope in step)
    envelopes = [*transcript["setup"], *steps, *transcript["close"]]
    kinds = [envelope["type"] for envelope in envelopes]
    assert kinds.count("KeyDealing") == kinds.count("KeyDelivery") == 3
    public = {envelope["type"] for envelope in envelopes if "body" in envelope}
    assert public == {"RoundOpen", "KeyOffer", "RoundAck", "RoundClose"}


@pytest.mark.parametrize("pair", [(1, 2), (2, 3)])
def test_swapped_transcripts_are_found(files: Files, pair: tuple[int, int]) -> None:
    """A round that makes a key with one that sums updates, and two of these."""
    first, second = (f"transcripts/{number:06d}.json" for number in pair)
    swapped = {**files, first: files[second], second: files[first]}
    report = verify_files(swapped, name="swapped")
    assert not report.ok
    assert f"{pair[0]:06d}" in places(report)


@pytest.mark.parametrize("change", ["drop", "drop the last", "reorder", "duplicate"])
def test_dropped_reordered_and_duplicated_leaves_are_found(
    captured: Capture, files: Files, change: str
) -> None:
    """With every tile recomputed to fit: only the signed checkpoint stands against it."""
    leaves = leaves_of(captured)
    rest = {name: data for name, data in files.items() if not name.startswith("tile/")}
    assert {**rest, **render_tiles(leaves)} == files  # the tiles below are made as real ones are
    for position in range(len(leaves) - 1):
        moved = list(leaves)
        if change == "drop":
            del moved[position]
        elif change == "drop the last":
            del moved[-1 - position :]
        elif change == "reorder":
            moved[position], moved[position + 1] = moved[position + 1], moved[position]
        else:
            moved.insert(position, moved[position])
        report = verify_files({**rest, **render_tiles(moved)}, name=change)
        assert not report.ok, (change, position)
        assert places(report), (change, position)
