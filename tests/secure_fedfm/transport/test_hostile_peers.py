"""An enrolled peer that misbehaves: it is refused by name, and everybody else goes on."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import zmq
import zmq.asyncio

from secure_fedfm.transport.errors import NotConnectedError
from secure_fedfm.transport.events import EventKind
from secure_fedfm.transport.framing import Chunk, Hello, Welcome, parse_frame, plan_message
from secure_fedfm.transport.limits import MIB, TransportLimits
from secure_fedfm.transport.server import ServerTransport

if TYPE_CHECKING:
    from tests.secure_fedfm.transport.conftest import Loopback, Run

TIGHT = TransportLimits(
    max_frame_bytes=256 * 1024,
    chunk_bytes=64 * 1024,
    min_chunk_bytes=16,
    max_message_bytes=MIB,
    max_bytes_in_flight=2 * MIB,
    high_water_mark=16,
    message_burst=50,
    messages_per_second=20,
    heartbeat_interval=0.2,
    heartbeat_timeout=2.0,
    linger=0.2,
)
SENDER = dataclasses.replace(TIGHT, chunk_bytes=32)
GREETING = Hello(b"m" * 16, 1).encode()


def chunks(payload: bytes, number: int = 1) -> list[Chunk]:
    return list(plan_message(payload, SENDER).chunks(number))


class Scene:
    """A server, honest alice, and hostile bob on a raw socket that has greeted properly."""

    def __init__(self, loopback: Loopback, server: ServerTransport, bob: zmq.asyncio.Socket):
        self.loopback, self.server, self.bob = loopback, server, bob

    async def refused(self, kind: EventKind, words: str) -> None:
        assert words in await self.loopback.event(kind, "bob")

    async def others_go_on(self) -> None:
        async with self.loopback.client("alice", self.server.endpoint, TIGHT) as alice:
            await alice.send(b"alice is unharmed")
            assert (await self.server.receive()).message.take() == b"alice is unharmed"
            await self.server.send("alice", b"answered")
            assert (await alice.receive()).take() == b"answered"


@asynccontextmanager
async def scene(loopback: Loopback, limits: TransportLimits = TIGHT) -> AsyncIterator[Scene]:
    async with (
        loopback.server(limits) as server,
        loopback.raw("bob", server.endpoint) as bob,
    ):
        await bob.send(GREETING)
        assert parse_frame(await bob.recv()) == Welcome(1)
        yield Scene(loopback, server, bob)


def _garbage() -> list[list[bytes]]:
    first, second, *_ = chunks(bytes(100))
    return [
        [b""],
        [b"\xff" * 500],
        [b"\x01\x00" + b"\xff" * 300],
        [b"\x01\x63"],
        [b"many", b"parts", b"in one"],
        [first.encode(), second.encode()],
        [Welcome(1).encode()],
        [Hello(b"other instance..", 1).encode()],
        [second.encode()],
    ]


def test_garbage_with_a_valid_key(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with scene(loopback) as here:
            for parts in _garbage():
                loopback.events.clear()
                await here.bob.send_multipart(parts)
                await here.refused(EventKind.MALFORMED, "")
                await asyncio.sleep(0.25)  # below the rate at which events are thinned out
            await here.bob.send(chunks(b"bob is himself again", 9)[0].encode())
            inbound = await here.server.receive()
            assert (inbound.sender, inbound.message.take()) == ("bob", b"bob is himself again")
            await here.others_go_on()

    run(scenario())


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda c: [c[0], c[1], c[1]], "repeated"),
        (lambda c: [c[0], c[2]], "skipped"),
        (lambda c: [*c, c[0]], "was used before"),
        (lambda c: [dataclasses.replace(c[0], payload=bytes(31) + b"!")], "SHA-256"),
        (
            lambda c: [dataclasses.replace(x, message_digest=bytes(32)) for x in c],
            "does not match its digest",
        ),
        (lambda c: [dataclasses.replace(c[0], total=2**40, count=2**31)], "the limit is"),
        (lambda c: [dataclasses.replace(c[0], total=MIB + 1)], "the limit is"),
    ],
    ids=["duplicated", "skipped", "replayed", "chunk-hash", "digest", "terabyte", "total"],
)
def test_chunks_that_break_the_rules(
    loopback: Loopback, run: Run, attack: Callable[[list[Chunk]], list[Chunk]], words: str
) -> None:
    async def scenario() -> None:
        async with scene(loopback) as here:
            for chunk in attack(chunks(bytes(range(100)))):
                await here.bob.send(chunk.encode())
            await here.refused(EventKind.MALFORMED, words)
            if "was used before" in words:  # the original arrived, its replay did not
                assert (await here.server.receive()).message.take() == bytes(range(100))
            await here.others_go_on()

    run(scenario())


def test_oversized_frame_costs_the_connection(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with scene(loopback) as here:
            await here.bob.send(bytes(TIGHT.max_frame_bytes + 1))
            await here.refused(EventKind.DISCONNECTED, "connection lost")
            with pytest.raises(NotConnectedError):
                await here.server.send("bob", b"gone")
            await here.others_go_on()

    run(scenario())


def test_an_endless_message_is_cut_and_its_memory_freed(loopback: Loopback, run: Run) -> None:
    """libzmq buffers all frames of one message before it delivers the first (backlog.py)."""
    frame = bytes(200 * 1024)
    allowance = TIGHT.high_water_mark * TIGHT.max_frame_bytes + 16 * MIB

    async def scenario() -> None:
        async with scene(loopback) as here:
            # Long enough that several looks at the backlog fall into its transfer; the sender's
            # own library starts only when it has the last frame.
            await here.bob.send_multipart([frame] * (8 * allowance // len(frame)))
            await here.refused(EventKind.OVER_QUOTA, "unfinished message")
            assert not any("parts in one message" in event.detail for event in loopback.events)
            await here.others_go_on()

    run(scenario())


def test_a_flood_from_one_sender_does_not_block_another(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with scene(loopback) as here:
            flooding = True

            async def flood() -> None:
                number = 0
                while flooding:
                    number += 1
                    await here.bob.send(chunks(b"flood", number)[0].encode())
                    await asyncio.sleep(0)

            task = asyncio.create_task(flood())
            await here.refused(EventKind.OVER_QUOTA, "messages a second")
            started = asyncio.get_running_loop().time()
            async with loopback.client("alice", here.server.endpoint, TIGHT) as alice:
                await alice.send(b"through the flood")
                while (inbound := await here.server.receive()).sender != "alice":
                    pass
                assert inbound.message.take() == b"through the flood"
                await here.server.send("alice", b"back")
                assert (await alice.receive()).take() == b"back"
            assert asyncio.get_running_loop().time() - started < 5
            flooding = False
            await task

    run(scenario())


def test_unread_bytes_of_one_sender_are_bounded(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with scene(loopback) as here:
            whole = plan_message(bytes(MIB), TIGHT)
            for number in (1, 2, 3):  # two fit into 2 MiB in flight, nobody reads them
                for chunk in whole.chunks(number):
                    await here.bob.send(chunk.encode())
            await here.refused(EventKind.OVER_QUOTA, "bytes in flight")
            assert [(await here.server.receive()).sender for _ in range(2)] == ["bob", "bob"]
            await here.others_go_on()

    run(scenario())


def test_a_peer_that_never_reads_holds_up_only_itself(loopback: Loopback, run: Run) -> None:
    limits = dataclasses.replace(TIGHT, stall_timeout=1.0)

    async def scenario() -> None:
        async with scene(loopback, limits) as here:

            async def fill() -> None:
                while True:
                    await here.server.send("bob", bytes(MIB))

            stuck = asyncio.create_task(fill())
            await asyncio.sleep(0.2)
            await here.others_go_on()
            # More than a thousand frames fit into bob's own library before it stops reading.
            done, _ = await asyncio.wait([stuck], timeout=10)
            assert done
            with pytest.raises(NotConnectedError, match="bob"):
                stuck.result()

    run(scenario())


@pytest.mark.parametrize("identity", [b"alice", b"\0abcd"])
def test_the_name_comes_from_the_key_not_from_the_identity(
    loopback: Loopback, run: Run, identity: bytes
) -> None:
    async def scenario() -> None:
        async with (
            loopback.server(TIGHT) as server,
            loopback.raw("bob", server.endpoint, identity) as bob,
        ):
            await bob.send(GREETING)
            await bob.send(chunks(b"who am I")[0].encode())
            if identity == b"alice":
                detail = await loopback.event(EventKind.MALFORMED, "bob")
                assert "identity" in detail
                assert server.connected() == frozenset()
            else:
                assert (await server.receive()).sender == "bob"
                assert server.connected() == {"bob"}

    run(scenario())


def test_a_copied_identity_does_not_divert_messages(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with (
            loopback.server(TIGHT) as server,
            loopback.client("alice", server.endpoint, TIGHT) as alice,
        ):
            route = server._routes.of("alice")
            assert route is not None
            async with loopback.raw("bob", server.endpoint, route.identity) as bob:
                await bob.send(GREETING)
                await bob.send(chunks(b"I am alice")[0].encode())
                await asyncio.sleep(0.3)
                assert server.connected() == {"alice"}
                await server.send("alice", b"for alice")
                assert (await alice.receive()).take() == b"for alice"
                await alice.send(b"the real one")
                assert (await server.receive()).message.take() == b"the real one"

    run(scenario())
