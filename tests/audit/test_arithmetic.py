"""Step 9: sums repeated from a replay archive; whatever is wrong with the archive is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedfm_audit.archive import ArchiveWriter
from fedfm_audit.report import Status
from tests.audit.archives import Archived, archived
from tests.audit.lies import reasons
from tests.audit.simulated import Losses, played
from tests.audit.test_sessions_against_protocol import session

# The second sum is of four updates, the third of five, opened by four clients' shares.
DROPOUTS: Losses = {
    2: {"Upload": ["client-02"]},
    3: {"Unmask": ["client-03"], "RoundAck": ["client-05"]},
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    """Three masked rounds; tests that damage the archive take a copy."""
    return archived(tmp_path_factory.mktemp("kept") / "archive", "masked", 3, DROPOUTS)


@pytest.fixture
def copied(kept: Archived, tmp_path: Path) -> Archived:
    """The same with an archive of its own."""
    return Archived(kept.evidence, Path(shutil.copytree(kept.root, tmp_path / "archive")))


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    """A key, and one sum under it of four updates."""
    root = tmp_path_factory.mktemp("layered") / "archive"
    return archived(root, "layered", 1, {1: {"Upload": ["client-02"]}})


# ---------------------------------------------------------------- honest archives


def test_an_honest_archive_of_masked_sums_verifies(kept: Archived) -> None:
    report = kept.verify()
    assert report.ok, report.to_text()
    step = report.step(9)
    assert (step.status, step.detail) == (
        Status.VERIFIED,
        "3 sums of 14 uploads repeated, bit for bit",
    )


@pytest.mark.parametrize("lane_bits", [24, 32])
def test_sums_in_clear_are_repeated(tmp_path: Path, lane_bits: int) -> None:
    changed = {"values": 50, "clip": 1.0, "scale": 1 << 12, "lane_bits": lane_bits}
    run = archived(tmp_path / "archive", "clear", 2, DROPOUTS, quantiser=changed)
    assert run.verify().step(9).status is Status.VERIFIED
    assert not list(run.root.rglob("Unmask"))


def test_ciphertext_sums_are_repeated(layered: Archived) -> None:
    report = layered.verify()
    assert report.ok, report.to_text()
    assert report.step(9).detail == "1 sum of 4 uploads repeated, bit for bit"


@pytest.mark.slow
def test_ciphertext_sums_without_masks_are_repeated(tmp_path: Path) -> None:
    report = archived(tmp_path / "archive", "sealed", 1).verify()
    assert report.step(9).status is Status.VERIFIED, report.to_text()


@pytest.mark.parametrize(("suite", "values"), [("masked", 140_000), ("layered", 100_000)])
def test_long_sums_are_repeated_in_pieces(tmp_path: Path, suite: str, values: int) -> None:
    changed = {"values": values, "clip": 1.0, "scale": 1 << 12, "lane_bits": 32}
    run = archived(tmp_path, suite, 1, {1: {"Upload": ["client-02"]}}, quantiser=changed)
    report = run.verify()
    assert report.step(9).status is Status.VERIFIED, report.to_text()


def test_every_step_of_a_session_is_repeated(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, 0)
    losses = {"Upload 1": ["client-02"]}
    evidence = session(losses, steps=3, archive=writer)
    step = evidence.verify(replay=tmp_path).step(9)
    assert (step.status, step.detail) == (
        Status.VERIFIED,
        "3 sums of 13 uploads repeated, bit for bit",
    )


def test_sums_on_a_sparse_graph_are_repeated(tmp_path: Path) -> None:
    losses: Losses = {1: {"GraphNonce": ["client-31"], "Upload": ["client-54"]}}
    limits, writer = {"colluding": 5, "dropouts": 5}, ArchiveWriter(tmp_path, 0)
    evidence = played(70, 1, losses, limits=limits, archive=writer)
    report = evidence.verify(replay=tmp_path)
    assert report.step(9).status is Status.VERIFIED, report.to_text()


def test_a_void_round_published_a_sum_too(tmp_path: Path) -> None:
    losses: Losses = {1: {"RoundAck": ["client-02", "client-03"]}}
    run = archived(tmp_path / "archive", "masked", 1, losses)
    assert run.evidence.outcomes == ["void"]
    assert run.verify().step(9).detail == "1 sum of 5 uploads repeated, bit for bit"


def test_an_aborted_round_leaves_nothing(tmp_path: Path) -> None:
    losses: Losses = {1: {"CohortVote": ["client-02", "client-03"]}}
    run = archived(tmp_path / "archive", "masked", 2, losses)
    assert run.evidence.outcomes == ["aborted", "completed"]
    assert [path.name for path in run.root.iterdir()] == ["000002"]
    assert run.verify().ok


def test_an_upload_that_was_not_accepted_is_not_kept(tmp_path: Path) -> None:
    run = archived(tmp_path / "archive", "masked", 1, {1: {"Upload": ["client-02"]}})
    assert sorted(path.name for path in run.file("000001/0000/Upload").iterdir()) == [
        *("client-01", "client-03", "client-04", "client-05")
    ]


# ---------------------------------------------------------------- archives that are not whole


def test_without_an_archive_the_step_is_not_checkable(kept: Archived) -> None:
    report = kept.evidence.verify()
    assert report.ok
    step = report.step(9)
    assert (step.status, step.detail) == (Status.NOT_CHECKABLE, "no replay archive was given")


def test_a_round_that_retention_removed_is_named(copied: Archived) -> None:
    assert ArchiveWriter(copied.root, 3).keep_last(2) == (1,)
    report = copied.verify()
    assert not report.ok
    step = report.step(9)
    assert step.status is Status.NOT_CHECKABLE
    assert step.detail.endswith("bit for bit; not checkable: round 1 not in the archive")
    asked = copied.verify(replay_rounds=range(2, 4))
    assert asked.ok, asked.to_text()
    assert asked.step(9).detail.endswith("; 1 other rounds with sums were not asked for")


def test_an_empty_archive_repeats_nothing(kept: Archived, tmp_path: Path) -> None:
    report = kept.evidence.verify(replay=tmp_path)
    assert not report.ok
    assert report.step(9).detail.endswith("rounds 1, 2, 3 not in the archive")


def test_an_archive_that_is_no_folder_fails(kept: Archived, tmp_path: Path) -> None:
    report = kept.evidence.verify(replay=tmp_path / "nowhere")
    assert "cannot read the archive" in reasons(report, 9)


Damage = Callable[[Archived], None]


def flipped(place: str, at: int) -> Damage:
    def damage(run: Archived) -> None:
        data = bytearray(run.file(place).read_bytes())
        data[at] ^= 1
        run.file(place).write_bytes(data)

    return damage


def removed(place: str) -> Damage:
    return lambda run: run.file(place).unlink()


def swapped(place: str, other: str) -> Damage:
    def damage(run: Archived) -> None:
        shutil.copy(run.file(other), run.file(place))

    return damage


def shortened(place: str) -> Damage:
    def damage(run: Archived) -> None:
        run.file(place).write_bytes(run.file(place).read_bytes()[:-3])

    return damage


def added(place: str) -> Damage:
    def damage(run: Archived) -> None:
        run.file(place).parent.mkdir(parents=True, exist_ok=True)
        run.file(place).write_bytes(b"more")

    return damage


def linked(place: str) -> Damage:
    def damage(run: Archived) -> None:
        path = run.file(place)
        path.rename(path.with_suffix(".elsewhere"))
        path.symlink_to(path.with_suffix(".elsewhere"))

    return damage


UPLOAD, OTHER = "000002/0000/Upload/client-03", "000003/0000/Upload/client-03"
UNMASK, AGGREGATE = "000002/0000/Unmask/client-01", "000002/0000/Aggregate/coordinator"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "one bit of an upload": (flipped(UPLOAD, 77), "Upload of client-03: is not what client-03"),
    "an upload's length": (flipped(UPLOAD, 3), "Upload of client-03: announces 201 bytes"),
    "one bit of the aggregate": (
        flipped(AGGREGATE, 77),
        "Aggregate of coordinator: is not what coordinator signed",
    ),
    "the aggregate's salt": (
        flipped(AGGREGATE, 0),
        "Aggregate of coordinator: is not what coordinator signed",
    ),
    "one bit of a share": (flipped(UNMASK, 40), "Unmask of client-01: is not what client-01"),
    "another round's upload": (swapped(UPLOAD, OTHER), "Upload of client-03: is not what"),
    "another client's upload": (
        swapped(UPLOAD, "000002/0000/Upload/client-04"),
        "Upload of client-03: is not what client-03 signed",
    ),
    "another round's shares": (
        swapped(UNMASK, "000001/0000/Unmask/client-01"),
        "Unmask of client-01: ",
    ),
    "a missing upload": (removed(UPLOAD), "Upload of client-03: missing from the archive"),
    "a missing aggregate": (removed(AGGREGATE), "Aggregate of coordinator: missing from"),
    "missing shares": (removed(UNMASK), "Unmask of client-01: missing from the archive"),
    "a truncated upload": (shortened(UPLOAD), "Upload of client-03: has 201 bytes, this charter"),
    "a truncated aggregate": (shortened(AGGREGATE), "Aggregate of coordinator: is not what"),
    "a file too many": (added("000002/0000/Upload/client-02"), "holds 0000/Upload/client-02"),
    "a link": (linked(UPLOAD), "Upload of client-03: is a link or a special file"),
    "a round too many": (added("000009/0000/Upload/client-02"), "holds round 9, which the log"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_archive_fails_by_name(copied: Archived, name: str) -> None:
    damage, reason = DAMAGES[name]
    damage(copied)
    report = copied.verify()
    assert not report.ok
    assert reason in reasons(report, 9), report.to_text()
    if "round" not in name:
        assert "leaf 8 (transcripts/000002.json)" in reasons(report, 9)


LAYERED: dict[str, tuple[Damage, str]] = {
    "a wrapped key": (
        flipped("000002/0000/WrappedKey/client-03", 5000),
        "key sum: WrappedKey of client-03: is not what client-03 signed",
    ),
    "a residue": (
        flipped("000002/0000/Upload/client-03", 5000),
        "Upload of client-03: is not what client-03 signed",
    ),
    "an opening": (
        flipped("000002/0000/Aggregate/coordinator", 100_000),
        "Aggregate of coordinator: is not what coordinator signed",
    ),
}


@pytest.mark.parametrize("name", LAYERED)
def test_a_damaged_archive_of_ciphertexts_fails(
    layered: Archived, tmp_path: Path, name: str
) -> None:
    run = Archived(layered.evidence, Path(shutil.copytree(layered.root, tmp_path / "archive")))
    damage, reason = LAYERED[name]
    damage(run)
    assert reason in reasons(run.verify(), 9)
