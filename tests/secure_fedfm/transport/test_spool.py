"""The spool: what goes to disk, what the disk may refuse, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import io
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedfm.transport.errors import (
    FramingError,
    NotConnectedError,
    QuotaError,
    SpoolError,
)
from secure_fedfm.transport.events import EventKind
from secure_fedfm.transport.framing import Chunk, Hello, Reassembler, plan_message
from secure_fedfm.transport.limits import MIB, TransportLimits
from secure_fedfm.transport.reception import Inbound, Reception
from secure_fedfm.transport.spool import Spool, Stored

if TYPE_CHECKING:
    from tests.secure_fedfm.transport.conftest import Loopback, Run

LIMITS = TransportLimits(
    chunk_bytes=10,
    min_chunk_bytes=4,
    max_message_bytes=1000,
    max_bytes_in_flight=2000,
    spool_above_bytes=50,
    max_memory_bytes=100,
    max_spooled=3,
)
KEY = bytes(range(32))
ROUTES = {"alice": b"\0\0\0\0\1", "bob": b"\0\0\0\0\2"}


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def file_of(stored: Stored) -> io.FileIO:
    assert stored._file is not None
    return stored._file


def descriptor_of(stored: Stored) -> int:
    return file_of(stored).fileno()


def keep(spool: Spool, payload: bytes) -> Stored:
    stored = spool.begin(len(payload))
    for start in range(0, len(payload), 7):
        stored.append(memoryview(payload)[start : start + 7])
    return stored


def greeted(folder: Path, limits: TransportLimits = LIMITS) -> Reception:
    reception = Reception(limits, folder)
    for name, route in ROUTES.items():
        reception.take(route, name, KEY, [Hello(b"i" * 16, 1).encode()], 0.0)
    return reception


def send(reception: Reception, payload: bytes, number: int, name: str = "alice") -> Inbound | None:
    taken = None
    for chunk in plan_message(payload, LIMITS).chunks(number):
        taken = reception.take(ROUTES[name], name, KEY, [chunk.encode()], 0.0)
    assert taken is None or isinstance(taken, Inbound)
    return taken


def spool_of(reception: Reception, name: str = "alice") -> Spool:
    return reception.routes._spool_of(name)


# ---------------------------------------------------------------- where messages lie


@given(payload=st.binary(max_size=200))
def test_what_is_kept_comes_back_whole_from_memory_or_disk(payload: bytes) -> None:
    spool = Spool(LIMITS)
    stored = keep(spool, payload)
    assert stored.on_disk == (len(payload) > LIMITS.spool_above_bytes)
    assert stored.size == len(payload)
    assert stored.take() == payload
    assert (spool.memory_bytes, spool.files) == (0, 0)


def test_the_file_has_no_name_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    stored = keep(Spool(LIMITS, tmp_path), bytes(60))
    status = os.fstat(descriptor_of(stored))
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_nlink == 0
    assert status.st_size == 60
    assert os.stat(tmp_path).st_dev == status.st_dev
    assert list(tmp_path.iterdir()) == []
    stored.close()


def test_without_a_folder_it_is_the_systems() -> None:
    assert Spool(LIMITS).folder == Path(tempfile.gettempdir())


def test_many_small_messages_go_to_disk_too(tmp_path: Path) -> None:
    spool = Spool(LIMITS, tmp_path)
    small = [keep(spool, b"%d" % i * 40) for i in range(4)]
    assert [stored.on_disk for stored in small] == [False, False, True, True]
    assert spool.memory_bytes <= LIMITS.max_memory_bytes
    assert [stored.take() for stored in small] == [b"%d" % i * 40 for i in range(4)]
    assert not keep(spool, bytes(40)).on_disk  # what was taken makes room again


def test_a_message_is_taken_once(tmp_path: Path) -> None:
    for size in (10, 60):
        stored = keep(Spool(LIMITS, tmp_path), bytes(size))
        stored.take()
        for call in (stored.take, lambda stored=stored: stored.append(b"more")):
            with pytest.raises(ValueError, match="already"):
                call()
        stored.close()


def test_who_waits_for_the_room_is_told_once(tmp_path: Path) -> None:
    spool, told = Spool(LIMITS, tmp_path), list[int]()
    for end in (Stored.take, Stored.close):
        stored = keep(spool, bytes(60))
        stored.when_freed(told.append)
        end(stored)
        stored.close()
    assert told == [60, 60]


# ---------------------------------------------------------------- limits


def test_files_of_one_sender_are_few_and_his_alone(tmp_path: Path) -> None:
    reception = greeted(tmp_path)
    held = [send(reception, bytes(60), number) for number in (1, 2, 3)]
    with pytest.raises(QuotaError, match="3 messages lie on disk, the limit is 3"):
        send(reception, bytes(60), 4)
    assert send(reception, bytes(20), 5) is not None  # a small one still fits memory
    assert send(reception, bytes(60), 1, "bob") is not None
    assert held[0] is not None
    held[0].message.take()
    assert send(reception, bytes(60), 6) is not None


def test_bytes_on_disk_count_as_in_flight_until_taken(tmp_path: Path) -> None:
    limits = dataclasses.replace(LIMITS, max_message_bytes=100, max_bytes_in_flight=150)
    reception = greeted(tmp_path, limits)
    waiting = send(reception, bytes(100), 1)
    assert waiting is not None
    assert waiting.message.on_disk
    with pytest.raises(QuotaError, match="bytes in flight"):
        send(reception, bytes(60), 2)
    assert spool_of(reception).files == 1
    waiting.message.take()
    assert send(reception, bytes(60), 3) is not None


def test_a_declared_size_takes_neither_memory_nor_disk(tmp_path: Path) -> None:
    limits = TransportLimits()
    first = next(plan_message(bytes(64 * 1024 + 1), limits).chunks(1))
    huge = dataclasses.replace(first, total=2**30, count=-(-(2**30) // len(first.payload)))
    spool = Spool(limits, tmp_path)
    reassembler = Reassembler(limits, spool)
    assert reassembler.feed(huge, 0.0) is None
    stored = reassembler._partials[1].stored
    assert os.fstat(descriptor_of(stored)).st_size == 64 * 1024 + 1
    assert os.fstat(descriptor_of(stored)).st_blocks * 512 <= MIB
    reassembler.clear()
    assert spool.files == 0


def _honest(chunks: list[Chunk]) -> list[Chunk]:
    return chunks


def _without_the_end(chunks: list[Chunk]) -> list[Chunk]:
    return chunks[:-1]


def _repeated(chunks: list[Chunk]) -> list[Chunk]:
    return [*chunks[:3], chunks[2]]


def _false_hash(chunks: list[Chunk]) -> list[Chunk]:
    return [*chunks[:3], dataclasses.replace(chunks[3], payload=b"0123456789")]


def _false_digest(chunks: list[Chunk]) -> list[Chunk]:
    return [dataclasses.replace(chunk, message_digest=bytes(32)) for chunk in chunks]


def _longer_than_declared(chunks: list[Chunk]) -> list[Chunk]:
    return [*chunks[:-1], dataclasses.replace(chunks[-1], payload=bytes(11))]


@pytest.mark.parametrize(
    "spoil",
    [_honest, _without_the_end, _repeated, _false_hash, _false_digest, _longer_than_declared],
)
def test_nothing_stays_open_however_a_message_ends(
    tmp_path: Path, spoil: Callable[[list[Chunk]], list[Chunk]]
) -> None:
    reception = greeted(tmp_path)
    spool, before = spool_of(reception), open_descriptors()
    for number in range(1, 6):
        inbound = None
        try:
            for chunk in spoil(list(plan_message(bytes(range(95)), LIMITS).chunks(number))):
                inbound = reception.take(ROUTES["alice"], "alice", KEY, [chunk.encode()], 0.0)
        except FramingError:
            pass
        if isinstance(inbound, Inbound):
            inbound.message.take()
        route = reception.routes.of("alice")
        assert route is not None
        route.reassembler.expire(LIMITS.incomplete_timeout + 1.0)
    assert (open_descriptors(), spool.files, spool.memory_bytes) == (before, 0, 0)


def test_a_lost_connection_frees_what_had_come(tmp_path: Path) -> None:
    reception = greeted(tmp_path)
    before = open_descriptors()
    for connection in range(2, 8):
        for chunk in list(plan_message(bytes(90), LIMITS).chunks(connection << 32))[:-1]:
            reception.take(ROUTES["alice"], "alice", KEY, [chunk.encode()], 0.0)
        assert (open_descriptors(), spool_of(reception).files) == (before + 1, 1)
        # The same name on another connection: the old route goes with all it had in progress.
        elsewhere = b"\0\0\0\1" + bytes([connection])
        hello = Hello(b"i" * 16, connection).encode()
        reception.take(elsewhere, "alice", KEY, [hello], 0.0)
        assert (open_descriptors(), spool_of(reception).files) == (before, 0)
        reception.take(ROUTES["alice"], "alice", KEY, [hello], 0.0)


# ---------------------------------------------------------------- the disk says no


def test_too_little_free_space_is_one_clear_error_before_the_bytes_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = dataclasses.replace(LIMITS, disk_reserve_bytes=4096)
    spool, before = Spool(limits, tmp_path), open_descriptors()
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096 + 59))
    with pytest.raises(SpoolError, match="No space left") as caught:
        spool.begin(60)
    for words in ("60 bytes", str(tmp_path), "free disk space"):
        assert words in str(caught.value)
    assert (open_descriptors(), spool.files) == (before, 0)
    assert not spool.begin(50).on_disk  # small messages need no disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up_on_the_way_drops_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    reception, before = greeted(tmp_path), open_descriptors()
    chunks = [chunk.encode() for chunk in plan_message(bytes(95), LIMITS).chunks(1)]
    reception.take(ROUTES["alice"], "alice", KEY, [chunks[0]], 0.0)
    route = reception.routes.of("alice")
    assert route is not None
    stored = route.reassembler._partials[1].stored

    class FullDisk:
        def __init__(self, file: object) -> None:
            self.close = file.close  # type: ignore[attr-defined]

        def write(self, _: bytes) -> int:
            raise OSError(code, os.strerror(code))

    stored._file = FullDisk(stored._file)  # type: ignore[assignment]
    with pytest.raises(SpoolError, match=os.strerror(code)):
        reception.take(ROUTES["alice"], "alice", KEY, [chunks[1]], 0.0)
    assert (open_descriptors(), spool_of(reception).files) == (before, 0)
    assert send(reception, bytes(95), 2) is not None


def test_a_really_full_disk(tmp_path: Path) -> None:
    """Linux has one: every write to /dev/full is refused."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    spool = Spool(LIMITS, tmp_path)
    stored = spool.begin(60)
    file_of(stored).close()
    stored._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(SpoolError, match="No space left on device; free disk space"):
        stored.append(bytes(60))
    stored.close()


def test_a_short_write_is_finished(tmp_path: Path) -> None:
    stored = Spool(LIMITS, tmp_path).begin(90)
    file = file_of(stored)

    class Hesitant:
        fileno, close = file.fileno, file.close
        _write = file.write

        def write(self, data: memoryview) -> int:
            return type(self)._write(data[:7])

    stored._file = Hesitant()  # type: ignore[assignment]
    stored.append(bytes(range(90)))
    assert stored.take() == bytes(range(90))


def test_a_file_that_shrank_is_no_message(tmp_path: Path) -> None:
    spool = Spool(LIMITS, tmp_path)
    stored = keep(spool, bytes(60))
    os.ftruncate(descriptor_of(stored), 59)
    with pytest.raises(SpoolError, match="59 of 60 bytes"):
        stored.take()
    assert spool.files == 0


def test_a_folder_that_is_not_there_and_no_descriptors_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpoolError, match="that folder must exist"):
        Spool(LIMITS, tmp_path / "gone").begin(60)

    def refuse(**_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(SpoolError, match="ulimit -n"):
        Spool(LIMITS, tmp_path).begin(60)


# ---------------------------------------------------------------- over sockets


def test_large_messages_wait_on_disk_and_small_ones_in_memory(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with (
            loopback.server() as server,
            loopback.client("alice", server.endpoint) as alice,
            loopback.client("bob", server.endpoint) as bob,
        ):
            plan = await server.plan(b"a" * (3 * MIB))
            for name in ("alice", "bob"):
                await server.send(name, plan)
            await alice.send(b"b" * (2 * MIB))
            await bob.send(b"c")
            received = {m.sender: m.message for m in [await server.receive() for _ in range(2)]}
            assert {name: m.on_disk for name, m in received.items()} == {
                "alice": True,
                "bob": False,
            }
            assert received["alice"].take() == b"b" * (2 * MIB)
            for client in (alice, bob):
                stored = await client.receive()
                assert stored.on_disk
                assert stored.take() == b"a" * (3 * MIB)

    run(scenario())


def test_a_full_disk_is_reported_and_others_go_on(
    loopback: Loopback, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with (
            loopback.server() as server,
            loopback.client("alice", server.endpoint) as alice,
            loopback.client("bob", server.endpoint) as bob,
        ):
            full = SimpleNamespace(f_bavail=0, f_frsize=4096)
            monkeypatch.setattr(os, "statvfs", lambda _: full)
            await alice.send(bytes(2 * MIB))
            detail = await loopback.event(EventKind.NOT_SPOOLED, "alice")
            assert "No space left" in detail
            await bob.send(b"small")
            assert (await server.receive()).sender == "bob"
            # A client that cannot take the round's result says so and stops at once.
            with contextlib.suppress(NotConnectedError):
                await server.send("bob", bytes(2 * MIB))
            with pytest.raises(SpoolError, match="free disk space"):
                await bob.receive()

    run(scenario())


def test_a_client_that_reads_slowly_gets_every_large_message(loopback: Loopback, run: Run) -> None:
    """More than may lie on its disk: it stops reading until there is room."""
    limits = dataclasses.replace(
        TransportLimits(), spool_above_bytes=1024, max_memory_bytes=1024, max_spooled=2
    )

    async def scenario() -> None:
        async with (
            loopback.server() as server,
            loopback.client("alice", server.endpoint, limits) as alice,
        ):
            for number in range(12):
                await server.send("alice", b"%02d" % number * 1000)
            await asyncio.sleep(0.5)  # time enough to read, and drop, what there is no room for
            received = [(await alice.receive()).take() for _ in range(12)]
            assert received == [b"%02d" % number * 1000 for number in range(12)]
            assert not loopback.client_events[1:]

    run(scenario())


def test_a_stopped_server_drops_what_nobody_took(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        server = loopback.new_server()
        await server.start()
        async with loopback.client("alice", server.endpoint) as alice:
            await alice.send(bytes(2 * MIB))
            while spool_of(server._reception).files == 0 or server._inbox.empty():
                await asyncio.sleep(0.01)
            await server.stop()
            assert spool_of(server._reception).files == 0

    run(scenario())
