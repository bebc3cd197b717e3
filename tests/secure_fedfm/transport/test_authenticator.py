"""The authenticator fails closed: without it nobody new gets in, and the server says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import zmq
import zmq.asyncio

from secure_fedfm.transport.errors import (
    AuthenticatorError,
    NotConnectedError,
)
from secure_fedfm.transport.events import EventKind, EventReporter
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.transport.sockets import ZAP_DOMAIN, secure_server
from secure_fedfm.transport.zap import ZAP_ENDPOINT, ZapHandler

if TYPE_CHECKING:
    from tests.secure_fedfm.transport.conftest import Loopback, Run

LIMITS = TransportLimits(handshake_interval=0.5, linger=0.0)


@contextmanager
def bare_router(loopback: Loopback, *, enforce: bool) -> Iterator[tuple[zmq.asyncio.Socket, str]]:
    """Our server's socket with no handler beside it; enforce=False is libzmq's own default."""
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    secure_server(router, loopback.server_keys, LIMITS)
    if not enforce:
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 0)
    router.bind("tcp://127.0.0.1:0")
    try:
        yield router, router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
    finally:
        context.destroy(linger=0)


async def bind_when_free(mute: zmq.asyncio.Socket) -> None:
    """Take the ZAP endpoint over; libzmq frees it a moment after the last owner closed."""
    while True:
        try:
            mute.bind(ZAP_ENDPOINT)
            return
        except zmq.ZMQError:
            await asyncio.sleep(0.01)


async def gets_in(loopback: Loopback, router: zmq.asyncio.Socket, endpoint: str, who: str) -> bool:
    async with loopback.raw(who, endpoint) as dealer:
        await dealer.send(b"knock")
        return bool(await router.poll(700))


def test_without_a_handler_nobody_gets_in(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        with bare_router(loopback, enforce=True) as (router, endpoint):
            assert not await gets_in(loopback, router, endpoint, "alice")
            assert not await gets_in(loopback, router, endpoint, "stranger")

    run(scenario())


def test_the_trap_is_real_without_enforcement(loopback: Loopback, run: Run) -> None:
    """The control: if libzmq ever stops admitting strangers here, the test above proves nothing."""

    async def scenario() -> None:
        with bare_router(loopback, enforce=False) as (router, endpoint):
            assert await gets_in(loopback, router, endpoint, "stranger")

    run(scenario())


@pytest.mark.parametrize("death", ["exception", "cancelled", "stuck"])
def test_a_dead_handler_admits_nobody(loopback: Loopback, run: Run, death: str) -> None:
    """The handler alone, with nobody to stop the server: the socket itself must refuse."""

    async def scenario() -> None:
        with bare_router(loopback, enforce=True) as (router, endpoint):
            clock = asyncio.get_running_loop().time
            context = router.context
            assert isinstance(context, zmq.asyncio.Context)
            handler = ZapHandler(context, loopback.allowed, EventReporter(None, clock))
            task = asyncio.create_task(handler.run())
            assert await gets_in(loopback, router, endpoint, "alice")
            await router.recv_multipart()
            if death == "exception":
                handler._allowed = None  # type: ignore[assignment]
                assert not await gets_in(loopback, router, endpoint, "bob")
                assert isinstance(task.exception(), AttributeError)
            else:
                task.cancel()
                await asyncio.wait([task])
            if death == "stuck":  # the endpoint stands, but nobody answers
                await bind_when_free(context.socket(zmq.REP))
            assert not await gets_in(loopback, router, endpoint, "alice")
            assert not await gets_in(loopback, router, endpoint, "stranger")

    run(scenario())


def test_the_server_stops_loudly_with_its_authenticator(
    loopback: Loopback, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with (
            loopback.server(LIMITS) as server,
            loopback.client("alice", server.endpoint, LIMITS) as alice,
        ):
            await alice.send(b"while it lives")
            assert (await server.receive()).sender == "alice"
            waiting = asyncio.create_task(server.receive())
            server._zap._allowed = None  # type: ignore[assignment]
            async with loopback.client("bob", server.endpoint, LIMITS, wait=False) as bob:
                with pytest.raises(AuthenticatorError, match="admits nobody"):
                    await waiting
                with pytest.raises(NotConnectedError):
                    await bob.wait_connected(0.7)
            for call in (server.receive(), server.send("alice", b"x")):
                with pytest.raises(AuthenticatorError, match="AttributeError"):
                    await call
            with pytest.raises(AuthenticatorError):
                await server.wait_connected(["carol"], 1)
            assert server.connected() == frozenset()
            assert "authenticator" in await loopback.event(EventKind.STOPPED, None)

    with caplog.at_level(logging.CRITICAL, "secure_fedfm.transport"):
        run(scenario())
    assert any("authenticator" in record.message for record in caplog.records)


def zap_request(loopback: Loopback, who: str, **changes: bytes) -> list[bytes]:
    fields = {
        "version": b"1.0",
        "request_id": b"7",
        "domain": ZAP_DOMAIN.encode(),
        "address": b"127.0.0.1",
        "identity": b"",
        "mechanism": b"CURVE",
        "key": loopback.keys[who].public,
    }
    return list({**fields, **changes}.values())


@pytest.mark.parametrize(
    ("who", "changes", "status"),
    [
        ("alice", {}, b"200"),
        ("stranger", {}, b"400"),
        ("alice", {"domain": b""}, b"400"),
        ("alice", {"domain": b"*"}, b"400"),
        ("alice", {"mechanism": b"NULL"}, b"400"),
        ("alice", {"mechanism": b"PLAIN"}, b"400"),
        ("alice", {"version": b"2.0"}, b"400"),
        ("alice", {"key": b""}, b"400"),
        ("alice", {"extra": b"frame"}, b"400"),
    ],
)
def test_answers_to_single_requests(
    loopback: Loopback, run: Run, who: str, changes: dict[str, bytes], status: bytes
) -> None:
    async def scenario() -> None:
        context = zmq.asyncio.Context()
        clock = asyncio.get_running_loop().time
        handler = ZapHandler(context, loopback.allowed, EventReporter(None, clock))
        task = asyncio.create_task(handler.run())
        asker = context.socket(zmq.REQ)
        asker.connect(ZAP_ENDPOINT)
        await asker.send_multipart(zap_request(loopback, who, **changes))
        reply = await asker.recv_multipart()
        assert reply[2] == status
        assert reply[1] == b"7"
        assert reply[4] == (b"alice" if status == b"200" else b"")
        task.cancel()
        await asyncio.wait([task])
        context.destroy(linger=0)

    run(scenario())


def test_no_plain_client_gets_in(loopback: Loopback, run: Run) -> None:
    """A client without CURVE never reaches the service, whatever the allow-list says."""

    async def scenario() -> None:
        async with loopback.server(LIMITS) as server:
            context = zmq.asyncio.Context()
            dealer = context.socket(zmq.DEALER)
            dealer.connect(server.endpoint)
            await dealer.send(b"in clear")
            await loopback.event(EventKind.UNAUTHENTICATED, None)
            assert server.connected() == frozenset()
            context.destroy(linger=0)

    run(scenario())


def test_wire_carries_no_plaintext(loopback: Loopback, run: Run) -> None:
    """Protection is really on: a relay between client and server sees no byte of the payload."""
    secret = b"THE-PAYLOAD-IN-CLEAR" * 50
    seen = bytearray()

    async def scenario() -> None:
        async with loopback.server(LIMITS) as server:
            port = int(server.endpoint.rpartition(":")[2])

            async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while data := await reader.read(65536):
                    seen.extend(data)
                    writer.write(data)
                writer.close()

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

            listener = await asyncio.start_server(relay, "127.0.0.1", 0)
            endpoint = f"tcp://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
            async with loopback.client("alice", endpoint, LIMITS) as alice:
                await alice.send(secret)
                assert (await server.receive()).message.take() == secret
                await server.send("alice", secret)
                assert (await alice.receive()).take() == secret
            listener.close()

    run(scenario())
    assert len(seen) > 2 * len(secret)
    assert b"PAYLOAD" not in seen
    assert b"alice" not in seen
