"""Honest peers over real sockets: delivery, names, reconnects, addresses."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
from typing import TYPE_CHECKING

import pytest
import zmq

from secure_fedfm.transport.client import ClientTransport
from secure_fedfm.transport.errors import (
    BindError,
    DuplicateIdentityError,
    HandshakeRefusedError,
    NotConnectedError,
    TransportStoppedError,
)
from secure_fedfm.transport.events import EventKind
from secure_fedfm.transport.limits import MIB, TransportLimits
from secure_fedfm.transport.server import ServerTransport

if TYPE_CHECKING:
    from tests.secure_fedfm.transport.conftest import Loopback, Run

QUICK = TransportLimits(heartbeat_interval=0.2, heartbeat_timeout=1.0, linger=0.2)


def test_small_messages_both_ways_between_several(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with loopback.server() as server:
            endpoint = server.endpoint
            async with (
                loopback.client("alice", endpoint) as alice,
                loopback.client("bob", endpoint) as bob,
            ):
                await server.wait_connected(["alice", "bob"], 5)
                assert server.connected() == {"alice", "bob"}
                await alice.send(b"from alice")
                await bob.send(b"")
                received = [await server.receive(), await server.receive()]
                assert {(m.sender, m.message.take()) for m in received} == {
                    ("alice", b"from alice"),
                    ("bob", b""),
                }
                await server.send("bob", b"to bob")
                await server.send("alice", b"to alice")
                assert (await bob.receive()).take() == b"to bob"
                assert (await alice.receive()).take() == b"to alice"
                with pytest.raises(NotConnectedError, match="carol is not connected"):
                    await server.send("carol", b"nobody")
                with pytest.raises(NotConnectedError, match="carol"):
                    await server.wait_connected(["alice", "carol"], 0.1)

    run(scenario())


def test_40_mib_in_chunks_both_ways_at_once(loopback: Loopback, run: Run) -> None:
    payload = random.Random(1).randbytes(40 * MIB + 17)  # noqa: S311
    expected = hashlib.sha256(payload).digest()

    async def scenario() -> None:
        async with (
            loopback.server() as server,
            loopback.client("alice", server.endpoint) as alice,
        ):
            async with asyncio.TaskGroup() as group:
                group.create_task(alice.send(payload))
                group.create_task(server.send("alice", payload))
                up = group.create_task(server.receive())
                down = group.create_task(alice.receive())
            assert hashlib.sha256(up.result().message.take()).digest() == expected
            assert hashlib.sha256(down.result().take()).digest() == expected

    run(scenario())


def test_unknown_key_is_refused_while_others_go_on(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with (
            loopback.server() as server,
            loopback.client("alice", server.endpoint) as alice,
            loopback.client("stranger", server.endpoint, wait=False) as stranger,
        ):
            with pytest.raises(HandshakeRefusedError, match="not enrolled"):
                await stranger.wait_connected(1)
            with pytest.raises(NotConnectedError):
                await stranger.send(b"let me in")
            detail = await loopback.event(EventKind.UNKNOWN_KEY, None)
            assert loopback.keys["stranger"].public_hex in detail
            await alice.send(b"still here")
            assert (await server.receive()).sender == "alice"
            assert server.connected() == {"alice"}

    run(scenario())


def test_wrong_server_key_and_silent_address_have_their_own_errors(
    loopback: Loopback, run: Run
) -> None:
    async def scenario() -> None:
        async with loopback.server() as server:
            endpoint = server.endpoint
            wrong = loopback.keys["bob"].public
            async with loopback.client("alice", endpoint, server_public=wrong, wait=False) as alice:
                with pytest.raises(HandshakeRefusedError, match="another key than the charter"):
                    await alice.wait_connected(1)
        async with loopback.client("alice", endpoint, wait=False) as alice:
            with pytest.raises(NotConnectedError, match="nobody listens") as caught:
                await alice.wait_connected(0.5)
            assert not isinstance(caught.value, HandshakeRefusedError)

    run(scenario())


def test_reconnect_after_server_restart_on_the_same_port(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        first = loopback.new_server(QUICK)
        await first.start()
        endpoint = first.endpoint
        async with loopback.client("alice", endpoint, QUICK) as alice:
            connections = alice.connections()
            assert await anext(connections) == 1
            await alice.send(b"one")
            assert (await first.receive()).message.take() == b"one"
            await first.stop()
            with pytest.raises(TransportStoppedError):
                await first.receive()
            while alice.connected:
                await asyncio.sleep(0.01)
            with pytest.raises(NotConnectedError, match="wait for the next connection"):
                await alice.send(b"lost")
            async with loopback.server(QUICK, endpoint) as second:
                assert await anext(connections) >= 2
                await alice.send(b"two")
                assert (await second.receive()).message.take() == b"two"
                await second.send("alice", b"three")
                assert (await alice.receive()).take() == b"three"

    run(scenario())


def test_a_connection_lost_in_mid_message_fails_the_send(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        server = loopback.new_server(QUICK)
        await server.start()
        async with loopback.client("alice", server.endpoint, QUICK) as alice:
            sending = asyncio.create_task(alice.send(bytes(200 * MIB)))
            await asyncio.sleep(0.15)
            await server.stop()
            with pytest.raises(NotConnectedError):
                await sending

    run(scenario())


def test_a_peer_that_left_is_noticed(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with loopback.server() as server:
            async with loopback.client("alice", server.endpoint):
                assert server.connected() == {"alice"}
            await loopback.event(EventKind.DISCONNECTED, "alice", seconds=2)
            assert server.connected() == frozenset()
            with pytest.raises(NotConnectedError):
                await server.send("alice", b"too late")

    run(scenario())


def test_the_last_words_of_a_peer_that_left_are_heard(loopback: Loopback, run: Run) -> None:
    """A busy server reads them after the connection has ended; only then is the peer gone."""

    async def scenario() -> None:
        async with loopback.server() as server:
            take = server._take

            async def take_slowly(frames: list[zmq.Frame]) -> None:
                await asyncio.sleep(0.1)
                await take(frames)

            server._take = take_slowly  # type: ignore[method-assign]
            async with loopback.client("alice", server.endpoint) as alice:
                for number in range(10):
                    await alice.send(b"%d" % number)
            received = [(await server.receive()).message.take() for _ in range(10)]
            assert received == [b"%d" % number for number in range(10)]
            await loopback.event(EventKind.DISCONNECTED, "alice", seconds=2)
            assert server.connected() == frozenset()

    run(scenario())


def test_two_processes_with_one_key(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with (
            loopback.server() as server,
            loopback.client("alice", server.endpoint) as older,
            loopback.client("alice", server.endpoint) as newer,
        ):
            with pytest.raises(DuplicateIdentityError, match="share one identity"):
                await older.receive()
            with pytest.raises(DuplicateIdentityError):
                await older.send(b"me too")
            assert "two processes" in await loopback.event(EventKind.DUPLICATE_IDENTITY, "alice")
            await newer.send(b"the newest wins")
            assert (await server.receive()).message.take() == b"the newest wins"
            await server.send("alice", b"to the newest")
            assert (await newer.receive()).take() == b"to the newest"

    run(scenario())


def test_port_in_use_says_what_to_do(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        async with loopback.server() as server:
            second = loopback.new_server(bind=server.endpoint)
            with pytest.raises(BindError, match="choose another port"):
                await second.start()
            async with loopback.client("alice", server.endpoint) as alice:
                await alice.send(b"the first still serves")
                assert (await server.receive()).sender == "alice"

    run(scenario())


def test_a_revoked_key_is_cut_off_at_once_and_a_new_one_let_in(
    loopback: Loopback, run: Run
) -> None:
    async def scenario() -> None:
        async with (
            loopback.server() as server,
            loopback.client("alice", server.endpoint) as alice,
            loopback.client("bob", server.endpoint) as bob,
        ):
            server.update_allowed(
                {
                    loopback.keys["bob"].public: "bob",
                    loopback.keys["stranger"].public: "alice",  # a rotated key
                }
            )
            assert server.connected() == {"bob"}
            await alice.send(b"with the old key")
            await bob.send(b"unchanged")
            assert (await server.receive()).sender == "bob"
            async with loopback.client("stranger", server.endpoint) as rotated:
                await rotated.send(b"with the new key")
                inbound = await server.receive()
                assert (inbound.sender, inbound.message.take()) == ("alice", b"with the new key")

    run(scenario())


def test_nothing_works_before_start_or_after_stop(loopback: Loopback, run: Run) -> None:
    async def scenario() -> None:
        server = loopback.new_server()
        with pytest.raises(TransportStoppedError, match="start"):
            _ = server.endpoint
        with pytest.raises(TransportStoppedError, match="start"):
            await server.send("alice", b"")
        await server.start()
        waiting = asyncio.create_task(server.receive())
        await asyncio.sleep(0)
        await server.stop()
        await server.stop()
        with pytest.raises(TransportStoppedError):
            await waiting
        with pytest.raises(TransportStoppedError):
            await server.start()
        client = ClientTransport(
            "not an address", loopback.server_keys.public, loopback.keys["bob"]
        )
        with pytest.raises(BindError):
            await client.start()

    run(scenario())


def test_remote_bind_is_refused_before_any_socket_opens(loopback: Loopback) -> None:
    with pytest.raises(BindError, match="allow_remote"):
        ServerTransport("tcp://0.0.0.0:0", loopback.server_keys, loopback.allowed)


def test_a_slow_reader_gets_everything(loopback: Loopback, run: Run) -> None:
    """Back-pressure: a client that holds few messages loses none while it is slow."""
    tight = dataclasses.replace(QUICK, max_waiting_messages=2)

    async def scenario() -> None:
        async with (
            loopback.server(QUICK) as server,
            loopback.client("alice", server.endpoint, tight) as alice,
        ):

            async def send_all() -> None:
                for i in range(60):
                    await server.send("alice", b"%d" % i)

            sending = asyncio.create_task(send_all())
            await asyncio.sleep(0.3)
            received = [(await alice.receive()).take() for _ in range(60)]
            assert received == [b"%d" % i for i in range(60)]
            await sending

    run(scenario())
