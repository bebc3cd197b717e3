"""The log on disk: proofs, durability, recovery, forks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedfm_audit.errors import LogCorruptError, LogError, LogForkError, LogLockedError
from fedfm_audit.log import Log
from fedfm_audit.tiles import render_tiles
from fedfm_crypto.errors import NoteError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import leaf_hash, tree_root, verify_consistency, verify_inclusion
from fedfm_crypto.note import (
    NoteAlgorithm,
    cosign,
    format_vkey,
    open_note,
)
from fedfm_crypto.random_source import SeededRandom

ORIGIN = "log.example/test"
KEY = IdentityKey.generate(SeededRandom(b"log"))
WITNESSES = {name: IdentityKey.generate(SeededRandom(name.encode())) for name in ("w1", "w2")}
VKEYS = [
    format_vkey(ORIGIN, KEY.public),
    *(
        format_vkey(name, key.public, NoteAlgorithm.COSIGNATURE_V1)
        for name, key in WITNESSES.items()
    ),
]


def leaf(number: int) -> bytes:
    return b"leaf %d" % number


def tile_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / "tile").rglob("*")
        if path.is_file()
    }


def seed(folder: Path, size: int) -> None:
    """A folder as a log of ``size`` leaves leaves it, without the time of as many appends."""
    for name, data in render_tiles([leaf(number) for number in range(size)]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_appends_survive_closing(tmp_path: Path) -> None:
    with Log.open(tmp_path / "log", ORIGIN) as log:
        assert [log.append(leaf(number)) for number in range(5)] == [0, 1, 2, 3, 4]
        root = log.root()
    with Log.open(tmp_path / "log", ORIGIN) as log:
        assert log.leaves == tuple(leaf(number) for number in range(5))
        assert log.root() == root == tree_root([leaf_hash(leaf(number)) for number in range(5)])


@pytest.mark.parametrize("before", [0, 254])
def test_the_folder_holds_exactly_the_tiles_of_its_size(tmp_path: Path, before: int) -> None:
    seed(tmp_path, before)
    with Log.open(tmp_path, ORIGIN) as log:
        for number in range(before, before + 4):
            log.append(leaf(number))
            assert tile_files(tmp_path) == render_tiles(log.leaves)


def test_appending_a_leaf_again_returns_its_index(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        assert log.append(b"a") == 0
        assert log.append(b"b") == 1
        assert log.append(b"a") == 0
        assert log.size == 2


@pytest.mark.parametrize("bad", [b"", bytes(65536)], ids=["empty", "too large"])
def test_leaves_that_do_not_fit_are_refused(tmp_path: Path, bad: bytes) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        with pytest.raises(LogError, match="1 to 65535"):
            log.append(bad)
        assert log.append(bytes(65535)) == 0


def test_proofs_verify(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        for number in range(11):
            log.append(leaf(number))
        for size in range(1, 12):
            verify_consistency(size, 11, log.root(size), log.root(), log.consistency_proof(size))
            for index in range(size):
                proof = log.inclusion_proof(index, size)
                verify_inclusion(index, size, leaf_hash(leaf(index)), proof, log.root(size))
        with pytest.raises(LogError, match="no tree of size 12"):
            log.root(12)


def test_checkpoints_are_stored_before_they_are_returned(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        assert log.checkpoint is None
        log.append(b"a")
        note = log.sign_checkpoint(KEY)
        assert (tmp_path / "checkpoint").read_bytes() == note == log.checkpoint
        assert open_note(note, VKEYS).checkpoint.root == log.root()


def test_cosignatures_are_attached_once_and_kept(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        log.append(b"a")
        note = log.sign_checkpoint(KEY)
        lines = [cosign(note, name, key, 7) for name, key in WITNESSES.items()]
        log.attach_cosignatures(lines[:1], VKEYS)
        cosigned = log.attach_cosignatures(lines, VKEYS)
        again = cosign(note, "w1", WITNESSES["w1"], 8)
        assert log.attach_cosignatures([again], VKEYS) == cosigned
        assert log.sign_checkpoint(KEY) == cosigned
    with Log.open(tmp_path, ORIGIN) as log:
        assert log.checkpoint == cosigned
        assert set(open_note(cosigned, VKEYS).cosignatures) == {"w1", "w2"}


def test_a_cosignature_of_another_head_is_refused(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        log.append(b"a")
        old = log.sign_checkpoint(KEY)
        log.append(b"b")
        new = log.sign_checkpoint(KEY)
        with pytest.raises(NoteError):
            log.attach_cosignatures([cosign(old, "w1", WITNESSES["w1"], 7)], VKEYS)
        assert (tmp_path / "checkpoint").read_bytes() == new


def test_hostile_cosignature_lines_are_refused(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        log.append(b"a")
        note = log.sign_checkpoint(KEY)
        one, two = (cosign(note, name, key, 7) for name, key in WITNESSES.items())
        for line in (b"", b"\n", b"x", one[:-1], one + two, b"\n" + one, one + b"\n" + two):
            with pytest.raises(NoteError):
                log.attach_cosignatures([line], VKEYS)
        assert log.checkpoint == note


def test_cosignatures_need_a_checkpoint(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN) as log, pytest.raises(LogError, match="sign_checkpoint first"):
        log.attach_cosignatures([], VKEYS)


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN), pytest.raises(LogLockedError, match="another process"):
        Log.open(tmp_path, ORIGIN)
    Log.open(tmp_path, ORIGIN).close()


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = Log.open(tmp_path, ORIGIN)
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.append(b"a")


class Crash(BaseException):
    """The machine dies: nothing above may catch and tidy up."""


def crash_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Die at the n-th system call that makes something durable."""
    left = [call]

    def dying(function: object) -> object:
        def wrapper(*args: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise Crash
            return function(*args)  # type: ignore[operator]

        return wrapper

    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(os, "fsync", dying(os.fsync))


@pytest.mark.parametrize("before", [0, 3, 255, 256])
def test_no_crash_loses_an_acknowledged_leaf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Crash at every durable call of an append and of a checkpoint; reopen each time."""
    crashes = 0
    for call in range(1, 100):
        folder = tmp_path / f"crash-{call}"
        seed(folder, before)
        acknowledged = before
        log = Log.open(folder, ORIGIN)
        with monkeypatch.context() as patch:
            crash_at(patch, call)
            try:
                log.append(b"new")
                acknowledged += 1
                published = log.sign_checkpoint(KEY)
                crashed = False
            except Crash:
                published, crashed = None, True
        log.close()
        with Log.open(folder, ORIGIN) as log:
            assert acknowledged <= log.size <= before + 1
            assert log.leaves[:before] == tuple(leaf(number) for number in range(before))
            assert published is None or log.checkpoint == published
            assert log.append(b"new") == before
            assert tile_files(folder) == render_tiles(log.leaves)
        if not crashed:
            break
        crashes += 1
    assert crashes >= 6


def test_a_narrower_leftover_is_tidied_away(tmp_path: Path) -> None:
    with Log.open(tmp_path, ORIGIN) as log:
        log.append(b"a")
        leftovers = tile_files(tmp_path)
        log.append(b"b")
    for name, data in leftovers.items():
        (tmp_path / name).write_bytes(data)
    with Log.open(tmp_path, ORIGIN) as log:
        assert log.size == 2
        assert tile_files(tmp_path) == render_tiles([b"a", b"b"])


def filled(folder: Path) -> None:
    with Log.open(folder, ORIGIN) as log:
        for number in range(3):
            log.append(leaf(number))
        log.sign_checkpoint(KEY)


@pytest.mark.parametrize("name", ["tile/entries/000.p/3", "tile/0/000.p/3", "checkpoint"])
def test_an_altered_file_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[len(ORIGIN) + 9 if name == "checkpoint" else -1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogCorruptError):
        Log.open(tmp_path, ORIGIN)
    assert path.read_bytes() == bytes(data)


def test_lost_entries_are_noticed(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "tile/entries/000.p/3").unlink()
    with pytest.raises(LogCorruptError):
        Log.open(tmp_path, ORIGIN)


def test_another_origin_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(LogCorruptError, match=r"log\.example/test"):
        Log.open(tmp_path, "log.example/other")


def test_a_restored_backup_is_a_fork(tmp_path: Path) -> None:
    filled(tmp_path)
    with Log.open(tmp_path, ORIGIN) as log:
        log.check_head(3, log.root())
        with pytest.raises(LogForkError, match="restored from an old copy"):
            log.check_head(4, bytes(32))
        with pytest.raises(LogForkError, match="a witness holds root"):
            log.check_head(2, bytes(32))
