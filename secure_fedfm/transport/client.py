"""A site's end: one DEALER under CURVE, bound to exactly one server key, that reconnects.

connections() yields once for every connection that the server has welcomed; the service greets
and resends on each. A connection counts when the server's Welcome came, not when the handshake
succeeded: only then can the server send to this name.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from fedfm_crypto.random_source import RandomSource
from secure_fedfm.transport.curve import CurveKeyPair, check_curve_public
from secure_fedfm.transport.errors import (
    BindError,
    DuplicateIdentityError,
    FramingError,
    HandshakeRefusedError,
    MalformedFrameError,
    NotConnectedError,
    QuotaError,
    SpoolError,
    TransportError,
    TransportStoppedError,
)
from secure_fedfm.transport.events import EventCallback, EventKind, EventReporter
from secure_fedfm.transport.framing import (
    INSTANCE_BYTES,
    Chunk,
    Hello,
    Ping,
    Reassembler,
    Replaced,
    Welcome,
    parse_frame,
    plan_message,
)
from secure_fedfm.transport.limits import MIB, TransportLimits
from secure_fedfm.transport.quota import SenderQuota
from secure_fedfm.transport.sockets import secure_client, send_frame
from secure_fedfm.transport.spool import Spool, Stored

_SERVER = "the server"
_HASH_IN_THREAD_BYTES = 4 * MIB
_GREETING_INTERVAL = 2.0
_COUNTER_BITS = 32
_REFUSED = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: (
        "the server refused this transport key: it is not enrolled there, or enrolled with "
        "another key; compare with the charter (`secure-fedfm charter show`)"
    ),
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: (
        "the server answered, but not as the expected CURVE server; check its address and "
        "public key against the charter"
    ),
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: (
        "the server closed the connection during the handshake: it holds another key than the "
        "charter says, or its authenticator is down"
    ),
}
_ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_UNREACHABLE = zmq.EVENT_CONNECT_RETRIED


class ClientTransport:
    """Keeps one connection to one server. One start() and one stop() per object.

    Args:
        endpoint: tcp://HOST:PORT.
        server_public: the server's CURVE key, 32 bytes; nobody else is accepted.
        keys: this site's transport key; the server knows its name from it.
        limits: what the server may cost this side.
        on_event: called with every TransportEvent, in the event loop; must be quick.
        random: 16 bytes that tell this process from another one with the same key.
        spool_folder: where large messages lie until they are taken (spool.py); None for the
            system's folder for temporary files, which may itself be memory.
    """

    def __init__(
        self,
        endpoint: str,
        server_public: bytes,
        keys: CurveKeyPair,
        limits: TransportLimits | None = None,
        on_event: EventCallback | None = None,
        *,
        random: RandomSource = os.urandom,
        spool_folder: Path | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._server_public = check_curve_public(server_public)
        self._keys = keys
        self._limits = limits or TransportLimits()
        self._on_event = on_event
        self._instance = random(INSTANCE_BYTES)
        self._reassembler = Reassembler(self._limits, Spool(self._limits, spool_folder))
        self._inbox: asyncio.Queue[Stored | None] = asyncio.Queue()
        self._waiting = 0
        self._taken = asyncio.Event()
        self._send_lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._handshakes = 0  # this connection's number; rises with every handshake
        self._welcomed = 0  # the connection that the server has welcomed, 0 for none
        self._sent = 0
        self._refusal: str | None = None
        self._unreachable = False
        self._failure: TransportError | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], str] = {}

    async def start(self) -> None:
        """Begin to connect, and to reconnect whenever the connection ends. Does not wait.

        Raises:
            BindError: the endpoint is no address.
        """
        if self._supervisor is not None or self._failure is not None:
            raise TransportStoppedError("a ClientTransport starts once; build a new one")
        self._clock = asyncio.get_running_loop().time
        self._reporter = EventReporter(self._on_event, self._clock)
        self._quota = SenderQuota(self._limits, self._clock())
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        secure_client(self._socket, self._server_public, self._keys, self._limits)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | _ENDED | _UNREACHABLE | sum(_REFUSED)
        )
        try:
            if self._endpoint.startswith("tcp://["):
                self._socket.setsockopt(zmq.IPV6, 1)
            self._socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise BindError(
                f"{self._endpoint!r} is no address: {error.strerror}; expected tcp://HOST:PORT"
            ) from error
        parts = {
            "receiver": self._receive_frames(),
            "monitor": self._watch_connection(),
            "greeter": self._greet(),
        }
        self._tasks = {asyncio.create_task(part): name for name, part in parts.items()}
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Close within the linger time; waiting calls raise TransportStoppedError."""
        if self._supervisor is None:
            return
        if self._failure is None:
            self._supervisor.cancel()
        await asyncio.wait([self._supervisor])  # it may be closing everything at this moment
        await self._close(TransportStoppedError("the client transport was stopped"))

    @property
    def connected(self) -> bool:
        """Whether the server has welcomed the present connection."""
        return self._welcomed > 0

    async def connections(self) -> AsyncIterator[int]:
        """Yield the number of each welcomed connection, the present one first, rising.

        Connections that came and went while the caller was busy are skipped.

        Raises:
            DuplicateIdentityError, TransportStoppedError: there will be no more.
        """
        seen = 0
        while True:
            self._require_running()
            if self._welcomed > seen:
                seen = self._welcomed
                yield seen
            else:
                await self._changed.wait()

    async def wait_connected(self, timeout: float) -> None:
        """Return when the server has welcomed this client.

        Raises:
            HandshakeRefusedError: it answered and refused; says which key to check.
            NotConnectedError: nobody answered at the endpoint.
            TransportError: stopped, or replaced by another process.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self.connected:
                    self._require_running()
                    await self._changed.wait()
        except TimeoutError:
            where = f"no connection to {self._endpoint} after {timeout:g} s"
            if self._refusal is not None:
                raise HandshakeRefusedError(f"{where}: {self._refusal}") from None
            if self._unreachable:
                raise NotConnectedError(
                    f"{where}: nobody listens there; start the coordinator or check the address"
                ) from None
            raise NotConnectedError(
                f"{where}: the server does not answer; check the address, the network between, "
                "and the coordinator's log"
            ) from None

    async def receive(self) -> Stored:
        """The next whole message from the server; take() reads it, and makes room for others.

        Raises:
            DuplicateIdentityError: another process took over with the same key.
            SpoolError: the disk could not take a message.
            TransportStoppedError: stopped.
        """
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)
            raise self._stopped()
        return message

    async def send(self, payload: bytes) -> None:
        """Queue `payload` for the server on the present connection; at most once.

        Raises:
            NotConnectedError: not connected, lost during the send, or stuck for stall_timeout.
            MessageTooLargeError: over max_message_bytes.
            TransportError: stopped, or replaced by another process.
        """
        self._require_running()
        if len(payload) > _HASH_IN_THREAD_BYTES:
            plan = await asyncio.to_thread(plan_message, payload, self._limits)
        else:
            plan = plan_message(payload, self._limits)
        async with self._send_lock:
            connection = self._welcomed
            if connection == 0:
                self._require_running()
                raise NotConnectedError(
                    f"not connected to {self._endpoint}; wait for the next connection and resend"
                )
            self._sent += 1
            message_id = (connection << _COUNTER_BITS) | self._sent
            try:
                for chunk in plan.chunks(message_id):
                    await self._send_on(connection, chunk.encode())
            except NotConnectedError:
                self._require_running()
                raise

    async def _send_on(self, connection: int, frame: bytes) -> None:
        await send_frame(
            self._socket,
            [frame],
            alive=lambda: self._welcomed == connection and self._failure is None,
            stall_timeout=self._limits.stall_timeout,
        )

    async def _watch_connection(self) -> None:
        while True:
            event = await recv_monitor_message(self._monitor)
            kind = zmq.Event(event["event"])
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._handshakes += 1
                self._refusal, self._unreachable = None, False
                self._set_welcomed(0)
            elif kind in _REFUSED:
                self._refusal = _REFUSED[kind]
                self._reporter.report(EventKind.UNAUTHENTICATED, _SERVER, self._refusal)
            elif kind == _UNREACHABLE:
                self._unreachable = not self.connected
            elif self.connected:
                self._reporter.report(EventKind.DISCONNECTED, _SERVER, "connection lost")
                self._set_welcomed(0)

    async def _greet(self) -> None:
        """Say Hello on every connection, again if no Welcome comes (the server may be busy)."""
        greeted, deadline = 0, 0.0
        while True:
            changed = self._changed
            connection = self._handshakes
            pending = connection > 0 and self._welcomed != connection
            if pending and (greeted != connection or self._clock() >= deadline):
                hello = Hello(self._instance, connection)
                try:
                    await self._socket.send(hello.encode(), flags=zmq.NOBLOCK)
                    greeted, deadline = connection, self._clock() + _GREETING_INTERVAL
                except zmq.Again:  # the pipe is not there yet, or gone already
                    greeted, deadline = connection, self._clock() + 0.05
            try:
                async with asyncio.timeout(
                    max(0.01, deadline - self._clock()) if pending else None
                ):
                    await changed.wait()
            except TimeoutError:
                pass

    async def _receive_frames(self) -> None:
        while True:
            frames: list[zmq.Frame] = await self._socket.recv_multipart(copy=False)
            try:
                if len(frames) != 1:
                    raise MalformedFrameError(f"{len(frames)} parts in one message, expected 1")
                await self._take(frames[0])
            except (FramingError, QuotaError) as error:
                self._reporter.report(EventKind.MALFORMED, _SERVER, str(error))
            await asyncio.sleep(0)

    async def _take(self, raw: zmq.Frame) -> None:
        frame = parse_frame(raw.buffer)
        if isinstance(frame, Chunk):
            await self._take_chunk(frame)
        elif isinstance(frame, Welcome):
            # An old connection's Welcome may still be queued; it welcomes nobody.
            if frame.connection == self._handshakes and not self.connected:
                self._reporter.report(EventKind.CONNECTED, _SERVER, "connected")
                self._set_welcomed(frame.connection)
        elif isinstance(frame, Replaced):
            raise DuplicateIdentityError(
                "another process connected with this site's transport key and took over; two "
                "clients share one identity. Stop one of them, or give each its own key"
            )
        elif not isinstance(frame, Ping):
            raise MalformedFrameError(f"{type(frame).__name__} is for servers only")

    async def _take_chunk(self, chunk: Chunk) -> None:
        self._reassembler.expire(self._clock())
        while True:
            try:
                self._quota.check_bytes(self._reassembler.pending_bytes, len(chunk.payload))
                self._reassembler.check_room(chunk)
                break
            except QuotaError:
                if self._waiting == 0:
                    self._reassembler.drop(chunk.message_id)
                    raise
                # One peer only, so not reading on is back-pressure and harms nobody else.
                self._taken.clear()
                await self._taken.wait()
        message = self._reassembler.feed(chunk, self._clock())
        if message is not None:
            self._waiting += 1
            self._quota.message_waits(message.size)
            message.when_freed(self._message_freed)
            self._inbox.put_nowait(message)

    def _message_freed(self, size: int) -> None:
        self._waiting -= 1
        self._quota.message_taken(size)
        self._taken.set()

    def _set_welcomed(self, connection: int) -> None:
        self._welcomed = connection
        self._changed.set()
        self._changed = asyncio.Event()

    async def _supervise(self) -> None:
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        cause = None if task.cancelled() else task.exception()
        if isinstance(cause, DuplicateIdentityError):
            # Not reconnecting is the point: two processes would take the name from each other.
            failure: TransportError = cause
            self._reporter.report(EventKind.DUPLICATE_IDENTITY, None, str(cause))
        elif isinstance(cause, SpoolError):
            # The result of a round may be lost with it, and the next would be too.
            failure = cause
            self._reporter.report(EventKind.NOT_SPOOLED, None, str(cause))
        else:
            reason = f"{type(cause).__name__}: {cause}" if cause else "cancelled or returned"
            failure = TransportStoppedError(
                f"the transport's {self._tasks[task]} ended ({reason}); restart this process"
            )
            failure.__cause__ = cause
            self._reporter.report(EventKind.STOPPED, None, str(failure))
        await self._close(failure)

    async def _close(self, failure: TransportError) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.disable_monitor()
        self._monitor.close(
            linger=0
        )  # disabling leaves this end open, and term() would wait for it
        self._socket.close()
        self._set_welcomed(0)
        self._reassembler.clear()
        while not self._inbox.empty():
            waiting = self._inbox.get_nowait()
            if waiting is not None:
                waiting.close()
        self._inbox.put_nowait(None)
        await asyncio.to_thread(self._context.term)

    def _require_running(self) -> None:
        if self._supervisor is None or self._failure is not None:
            raise self._stopped()

    def _stopped(self) -> TransportError:
        if self._failure is None:
            return TransportStoppedError("the client transport is not started; call start() first")
        return type(self._failure)(str(self._failure))
