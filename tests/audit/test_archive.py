"""Writing a replay archive: whole rounds, nothing else, for the owner alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fedfm_audit.archive import ArchiveWriter
from fedfm_audit.errors import ArchiveError


def put_all(writer: ArchiveWriter, number: int, names: Sequence[str]) -> None:
    for name in names:
        writer.put(number, 0, "Upload", name, name.encode())


def test_a_round_is_in_the_archive_whole_or_not_at_all(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, 0)
    put_all(writer, 1, ["a", "b"])
    assert writer.rounds() == ()
    with pytest.raises(ArchiveError, match="0000/Upload/c was never put"):
        writer.close_round(1, {0: [("Upload", "a"), ("Upload", "c")]})
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_asked_for_stays(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, 0)
    put_all(writer, 1, ["a", "b"])
    assert writer.close_round(1, {0: [("Upload", "b")], 1: []})
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [
        "000001/0000/Upload/b"
    ]
    assert not writer.close_round(2, {})


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "archive", 0)
    put_all(writer, 1, ["a"])
    writer.close_round(1, {0: [("Upload", "a")]})
    assert (tmp_path / "archive").stat().st_mode & 0o077 == 0
    assert (tmp_path / "archive/000001/0000/Upload/a").stat().st_mode & 0o077 == 0


def test_a_crash_leaves_nothing_that_the_log_does_not_state(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path, 0)
    for number in (1, 2):
        put_all(writer, number, ["a"])
        writer.close_round(number, {0: [("Upload", "a")]})
    put_all(writer, 3, ["a"])
    assert ArchiveWriter(tmp_path, 1).rounds() == (1,)
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]
