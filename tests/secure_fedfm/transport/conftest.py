"""A small federation on loopback, and raw sockets for what an honest client never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import zmq
import zmq.asyncio
from zmq.utils import z85

from fedfm_crypto.random_source import SeededRandom
from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.curve import CurveKeyPair
from secure_fedfm.transport.events import EventKind, TransportEvent
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.transport.server import ServerTransport

NAMES = ("alice", "bob", "carol")
TEST_SECONDS = 25.0


class Loopback:
    """Keys for a server, three enrolled clients and a stranger; every event is recorded."""

    def __init__(self) -> None:
        random = SeededRandom(b"transport tests")
        self.server_keys = CurveKeyPair.generate(random)
        self.keys = {name: CurveKeyPair.generate(random) for name in (*NAMES, "stranger")}
        self.allowed: Mapping[bytes, str] = {self.keys[name].public: name for name in NAMES}
        self.events: list[TransportEvent] = []
        self.client_events: list[TransportEvent] = []

    def new_server(
        self, limits: TransportLimits | None = None, bind: str = "tcp://127.0.0.1:0"
    ) -> ServerTransport:
        return ServerTransport(bind, self.server_keys, self.allowed, limits, self.events.append)

    @asynccontextmanager
    async def server(
        self, limits: TransportLimits | None = None, bind: str = "tcp://127.0.0.1:0"
    ) -> AsyncIterator[ServerTransport]:
        server = self.new_server(limits, bind)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()

    @asynccontextmanager
    async def client(
        self,
        name: str,
        endpoint: str,
        limits: TransportLimits | None = None,
        *,
        server_public: bytes | None = None,
        wait: bool = True,
    ) -> AsyncIterator[ClientTransport]:
        client = ClientTransport(
            endpoint,
            server_public or self.server_keys.public,
            self.keys[name],
            limits,
            self.client_events.append,
        )
        await client.start()
        try:
            if wait:
                await client.wait_connected(5)
            yield client
        finally:
            await client.stop()

    @asynccontextmanager
    async def raw(
        self, name: str, endpoint: str, identity: bytes | None = None
    ) -> AsyncIterator[zmq.asyncio.Socket]:
        """A plain DEALER with that name's valid key and none of our manners."""
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(self.server_keys.public))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(self.keys[name].public))
        socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(self.keys[name].secret.reveal()))
        if identity is not None:
            socket.setsockopt(zmq.ROUTING_ID, identity)
        socket.connect(endpoint)
        try:
            yield socket
        finally:
            context.destroy(linger=0)

    async def event(self, kind: EventKind, peer: str | None, seconds: float = 5.0) -> str:
        """Wait for an event of the server; returns its detail."""
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events:
                    if (event.kind, event.peer) == (kind, peer):
                        return event.detail
                await asyncio.sleep(0.01)


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def loopback() -> Loopback:
    return Loopback()


@pytest.fixture
def run() -> Run:
    """Run one coroutine to its end, or fail after TEST_SECONDS: no test may hang."""

    def runner(coroutine: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(TEST_SECONDS):
                await coroutine

        asyncio.run(bounded())

    return runner
