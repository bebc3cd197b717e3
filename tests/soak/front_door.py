"""Targets: frames.  Parsed alone, taken by the server's judge, and sent to a live server by an
enrolled key on a raw socket."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import zmq.asyncio

from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.errors import FramingError, MalformedFrameError, QuotaError
from secure_fedfm.transport.framing import (
    Chunk,
    Hello,
    Ping,
    Replaced,
    Welcome,
    message_digest,
    parse_frame,
    plan_message,
)
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.transport.reception import Reception
from secure_fedfm.transport.server import ServerTransport
from tests.secure_fedfm.transport.conftest import Loopback
from tests.soak.damage import EDGES, damage_bytes
from tests.soak.engine import Attempt, OracleError, Target

LIMITS = TransportLimits(
    chunk_bytes=4096,
    min_chunk_bytes=16,
    max_message_bytes=65536,
    max_bytes_in_flight=131072,
    max_frame_bytes=65536,
    high_water_mark=16,
    messages_per_second=1e6,
    message_burst=1_000_000,
    heartbeat_interval=0.2,
    heartbeat_timeout=2.0,
    linger=0.1,
)
SMALL = dataclasses.replace(LIMITS, chunk_bytes=32)
INSTANCE = b"i" * 16
KEY = bytes(range(32))
ROUTE = b"\0\0\0\0\1"


def frame_targets() -> list[Target]:
    """The pure ones; :class:`FrontDoor` makes the one with a live server."""
    return [Target("frame", _frame), Target("reception", _reception)]


def hostile_frames(rng: random.Random) -> list[bytes]:
    """Frames of one or two messages, some damaged, in some order."""
    frames: list[bytes] = []
    for number in rng.sample(range(1, 40), rng.choice((1, 1, 2))):
        payload = rng.randbytes(rng.choice((0, 1, 31, 32, 33, 100, 500)))
        chunks = list(plan_message(payload, SMALL).chunks(number))
        if rng.random() < 0.6:
            place = rng.randrange(len(chunks))
            chunks[place] = _damaged_chunk(rng, chunks[place], chunks)
        frames += [chunk.encode() for chunk in chunks]
    extra = [
        Hello(rng.choice((INSTANCE, rng.randbytes(16))), rng.choice(EDGES) % 2**32).encode(),
        Welcome(1).encode(),
        Ping().encode(),
        Replaced().encode(),
        b"",
        rng.randbytes(rng.choice((1, 2, 89, 90, 91, 300))),
    ]
    frames += rng.sample(extra, rng.choice((0, 0, 1, 2)))
    if rng.random() < 0.4:
        rng.shuffle(frames)
    if rng.random() < 0.5:
        place = rng.randrange(len(frames))
        frames[place] = damage_bytes(rng, frames[place], frames)
    return frames


def _damaged_chunk(rng: random.Random, chunk: Chunk, others: list[Chunk]) -> Chunk:
    name = rng.choice([field.name for field in dataclasses.fields(Chunk)])
    value: Any = getattr(rng.choice(others), name)
    if isinstance(value, int):
        value = rng.choice((*EDGES, value + 1)) % 2 ** (
            64 if name in ("message_id", "total") else 32
        )
    elif rng.random() < 0.5:
        value = rng.randbytes(len(value))
    changed = dataclasses.replace(chunk, **{name: value})
    if rng.random() < 0.3:  # consistent lies get further
        digest = message_digest(changed.total, changed.chunk_hash)
        changed = dataclasses.replace(changed, message_digest=digest)
    return changed


def _frame(rng: random.Random) -> Attempt:
    data = rng.choice(hostile_frames(rng))

    def run() -> str:
        frame = parse_frame(data)
        if frame.encode() != data:
            raise OracleError("a frame with two encodings")
        return type(frame).__name__

    return Attempt(data, run, (MalformedFrameError,))


def _reception(rng: random.Random) -> Attempt:
    frames = hostile_frames(rng) + hostile_frames(rng)
    several = rng.random() < 0.1
    names = [rng.choice(("alice", "bob")) for _ in frames]
    routes = [rng.choice((ROUTE, ROUTE, b"\0\0\0\0\2", b"alice")) for _ in frames]
    limits = dataclasses.replace(LIMITS, message_burst=rng.choice((3, 1000)))

    def run() -> str:
        reception, taken, refused = Reception(limits), 0, 0
        reception.take(ROUTE, "alice", KEY, [Hello(INSTANCE, 1).encode()], 0.0)
        for number, frame in enumerate(frames):
            parts: list[bytes | memoryview] = [frame, frame] if several else [frame]
            name, route = names[number], routes[number]
            try:
                reception.take(route, name, KEY, parts, number / 1000)
                taken += 1
            except (FramingError, QuotaError):
                refused += 1
            for held in reception.routes.all():
                if held.reassembler.pending_bytes > limits.max_bytes_in_flight:
                    raise OracleError("more bytes held than the limit")
                if held.reassembler.incomplete > limits.max_incomplete:
                    raise OracleError("more messages held than the limit")
        return "some refused" if refused else "all taken"

    return Attempt(b"".join(frames), run, allowed=())


class FrontDoor:
    """A live server with an honest client, alice, and bob's raw socket with bob's valid key.

    After the frames of each case the server must still exchange a message with alice.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self.loopback = Loopback()
        self.server: ServerTransport
        self.alice: ClientTransport
        self.bob: zmq.asyncio.Socket

    def __enter__(self) -> FrontDoor:
        self._wait(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._stack.aclose())
        self._loop.close()

    def target(self) -> Target:
        """Cases against this server."""
        return Target("front-door", self._case)

    async def _open(self) -> None:
        enter = self._stack.enter_async_context
        self.server = await enter(self.loopback.server(LIMITS))
        self.alice = await enter(self.loopback.client("alice", self.server.endpoint, LIMITS))
        self.bob = await enter(self.loopback.raw("bob", self.server.endpoint))
        await self.bob.send(Hello(INSTANCE, 1).encode())
        await self.bob.recv()

    def _wait(self, coroutine: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await coroutine

        self._loop.run_until_complete(bounded())

    def _case(self, rng: random.Random) -> Attempt:
        frames = hostile_frames(rng)
        one_message = rng.random() < 0.1
        question = rng.randbytes(8)

        def run() -> str:
            self.loopback.events.clear()
            self._wait(self._exchange(frames, question, one_message))
            return "alice is served"

        return Attempt(b"".join(frames), run, allowed=())

    async def _exchange(self, frames: list[bytes], question: bytes, one_message: bool) -> None:
        if one_message:
            await self.bob.send_multipart(frames)
        else:
            for frame in frames:
                await self.bob.send(frame)
        await self.alice.send(question)
        while (inbound := await self.server.receive()).sender != "alice":
            pass
        if inbound.message.take() != question:
            raise OracleError("alice's message was changed")
        await self.server.send("alice", question[::-1])
        if (await self.alice.receive()).take() != question[::-1]:
            raise OracleError("the answer to alice was changed")
