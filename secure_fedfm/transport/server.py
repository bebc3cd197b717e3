"""The coordinator's end: one ROUTER under CURVE, names from the authenticator.

Delivery is at most once; whoever needs more resends (the protocol's envelopes are byte-identical
and carry sequence numbers). One bad peer costs the others nothing: what it sends wrongly is
dropped and reported, its memory and rate are its own quota, and a send to it waits alone.
"""

from __future__ import annotations

import asyncio
import errno
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from secure_fedfm.transport.backlog import POLL_INTERVAL, BacklogWatch
from secure_fedfm.transport.curve import CurveKeyPair
from secure_fedfm.transport.errors import (
    AuthenticatorError,
    FramingError,
    NotConnectedError,
    QuotaError,
    SpoolError,
    TransportError,
    TransportStoppedError,
)
from secure_fedfm.transport.events import EventCallback, EventKind, EventReporter
from secure_fedfm.transport.framing import (
    Chunk,
    Frame,
    MessagePlan,
    Ping,
    Replaced,
    Welcome,
    plan_message,
)
from secure_fedfm.transport.limits import MIB, TransportLimits
from secure_fedfm.transport.reception import Greeting, Inbound, Reception
from secure_fedfm.transport.routes import Route
from secure_fedfm.transport.sockets import (
    bind_server,
    check_bind_address,
    secure_server,
    send_frame,
)
from secure_fedfm.transport.zap import ZapHandler, authenticated_peer

_HANDSHAKE_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_HASH_IN_THREAD_BYTES = 4 * MIB


class ServerTransport:
    """Serves every enrolled key at one address. One start() and one stop() per object.

    Args:
        bind: tcp://HOST:PORT; port 0 takes a free one (see `endpoint`).
        keys: this server's transport key.
        allowed: enrolled CURVE public key -> name.
        limits: what each peer may cost.
        on_refused: called with every TransportEvent, in the event loop; must be quick.
        allow_remote: leave to bind to an address that other machines can reach.
        spool_folder: where large messages lie until they are taken (spool.py); None for the
            system's folder for temporary files, which may itself be memory.
    """

    def __init__(
        self,
        bind: str,
        keys: CurveKeyPair,
        allowed: Mapping[bytes, str],
        limits: TransportLimits | None = None,
        on_refused: EventCallback | None = None,
        *,
        allow_remote: bool = False,
        spool_folder: Path | None = None,
    ) -> None:
        self._bind = check_bind_address(bind, allow_remote=allow_remote)
        self._keys = keys
        self._limits = limits or TransportLimits()
        self._initially_allowed = dict(allowed)
        self._on_refused = on_refused
        self._reception = Reception(self._limits, spool_folder)
        self._routes = self._reception.routes
        self._backlog = BacklogWatch(self._limits)
        self._send_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._inbox: asyncio.Queue[Inbound | None] = asyncio.Queue()
        self._routes_changed = asyncio.Event()
        self._probe_now = asyncio.Event()
        self._taking = False
        self._endpoint: str | None = None
        self._failure: TransportError | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], str] = {}

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            BindError: the address cannot be had; says why and what to do.
            CurveKeyError: the allow-list holds an unusable key.
        """
        if self._supervisor is not None or self._failure is not None:
            raise TransportStoppedError("a ServerTransport starts once; build a new one")
        self._clock = asyncio.get_running_loop().time
        self._reporter = EventReporter(self._on_refused, self._clock)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            # The authenticator first: there is no moment at which the port is open without it.
            self._zap = ZapHandler(self._context, self._initially_allowed, self._reporter)
            secure_server(self._socket, self._keys, self._limits)
            self._monitor = self._socket.get_monitor_socket(
                zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _HANDSHAKE_FAILURES
            )
            self._endpoint = bind_server(self._socket, self._bind)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        parts = {
            "authenticator": self._zap.run(),
            "receiver": self._receive_frames(),
            "monitor": self._watch_connections(),
            "probe": self._probe_routes(),
            "backlog watch": self._watch_backlog(),
        }
        self._tasks = {asyncio.create_task(part): name for name, part in parts.items()}
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Close everything within the linger time; waiting calls raise TransportStoppedError."""
        if self._supervisor is None:
            return
        if self._failure is None:
            self._supervisor.cancel()
        await asyncio.wait([self._supervisor])  # it may be closing everything at this moment
        await self._close(TransportStoppedError("the server transport was stopped"))

    @property
    def endpoint(self) -> str:
        """Where clients connect, with the real port.

        Raises:
            TransportStoppedError: before start().
        """
        if self._endpoint is None:
            raise TransportStoppedError("the server transport is not started; call start() first")
        return self._endpoint

    def connected(self) -> frozenset[str]:
        """Names with a live route; a lost peer leaves within a heartbeat timeout."""
        return self._routes.names()

    async def wait_connected(self, names: Collection[str], timeout: float) -> None:
        """Return when all `names` are connected.

        Raises:
            NotConnectedError: after `timeout` seconds, naming who is missing.
            TransportError: the server stopped meanwhile.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self.connected().issuperset(names):
                    self._require_running()
                    await self._routes_changed.wait()
        except TimeoutError:
            missing = sorted(set(names) - self.connected())
            raise NotConnectedError(
                f"not connected after {timeout:g} s: {', '.join(missing)}; check that they run, "
                f"use this server's public key and reach {self.endpoint}"
            ) from None

    def update_allowed(self, allowed: Mapping[bytes, str]) -> None:
        """Replace the allow-list; connections of keys no longer on it are dropped at once.

        Raises:
            CurveKeyError: the new list is unusable; the old one stays.
            TransportError: not running.
        """
        self._require_running()
        self._zap.update_allowed(allowed)
        for route in self._routes.all():
            if not self._zap.admits(route.name, route.key):
                self._lose(route, EventKind.REVOKED, "its transport key left the allow-list")

    async def receive(self) -> Inbound:
        """The next whole message from anybody; it counts against its sender until it is taken.

        Raises:
            AuthenticatorError, TransportStoppedError: the server has stopped.
        """
        inbound = await self._inbox.get()
        if inbound is None:
            self._inbox.put_nowait(None)  # for every other call that waits
            raise self._stopped()
        return inbound

    async def plan(self, payload: bytes) -> MessagePlan:
        """Hash a message once, to send it to several.

        Raises:
            MessageTooLargeError: over max_message_bytes.
        """
        if len(payload) > _HASH_IN_THREAD_BYTES:
            return await asyncio.to_thread(plan_message, payload, self._limits)
        return plan_message(payload, self._limits)

    async def send(self, name: str, message: bytes | MessagePlan) -> None:
        """Queue a message for the latest live route of `name`; at most once.

        However large it is and however slow the peer, no more than `high_water_mark` chunks of
        it are copied for that peer.

        Raises:
            NotConnectedError: no route, lost during the send, or stuck for stall_timeout.
            MessageTooLargeError: over max_message_bytes.
            TransportError: the server has stopped.
        """
        self._require_running()
        plan = message if isinstance(message, MessagePlan) else await self.plan(message)
        async with self._send_locks[name]:
            route = self._routes.of(name)
            if route is None:
                raise NotConnectedError(
                    f"{name} is not connected; connected: "
                    f"{', '.join(sorted(self.connected())) or 'nobody'}"
                )
            try:
                for chunk in plan.chunks(route.next_message_id()):
                    await self._send_to(route, chunk)
            except NotConnectedError as error:
                self._require_running()
                raise NotConnectedError(f"sending to {name}: {error}") from error

    async def _send_to(self, route: Route, chunk: Chunk) -> None:
        await send_frame(
            self._socket,
            [route.identity, chunk.encode()],
            alive=lambda: self._routes.of(route.name) is route and self._failure is None,
            stall_timeout=self._limits.stall_timeout,
        )

    async def _try_send(self, route: Route, frame: Frame) -> bool:
        """Send a control frame if there is room; False when the route is gone."""
        try:
            await self._socket.send_multipart([route.identity, frame.encode()], flags=zmq.NOBLOCK)
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return False
        return True

    async def _receive_frames(self) -> None:
        while True:
            frames: list[zmq.Frame] = await self._socket.recv_multipart(copy=False)
            self._taking = True
            await self._take(frames)
            self._taking = False
            await asyncio.sleep(0)  # under a flood recv never waits, and others must run

    async def _take(self, frames: list[zmq.Frame]) -> None:
        identity, frames = bytes(frames[0].buffer), frames[1:]
        peer = authenticated_peer(frames)
        if peer is None or not self._zap.admits(*peer):
            self._reporter.report(
                EventKind.UNAUTHENTICATED if peer is None else EventKind.REVOKED,
                peer[0] if peer else None,
                "a message without an enrolled transport key was dropped",
            )
            return
        name, key = peer
        raw: list[bytes | memoryview] = [frame.buffer for frame in frames]
        self._backlog.delivered(int(frames[0].get(zmq.SRCFD)), name, [len(part) for part in raw])
        try:
            taken = self._reception.take(identity, name, key, raw, self._clock())
        except FramingError as error:
            self._reporter.report(EventKind.MALFORMED, name, str(error))
        except QuotaError as error:
            self._reporter.report(EventKind.OVER_QUOTA, name, str(error))
        except SpoolError as error:
            # Dropped like any other, and not fatal: one peer may have sent it to fill this disk.
            self._reporter.report(EventKind.NOT_SPOOLED, name, str(error))
        else:
            if isinstance(taken, Inbound):
                self._inbox.put_nowait(taken)
            elif isinstance(taken, Greeting):
                await self._greet(taken)

    async def _greet(self, greeting: Greeting) -> None:
        route, replaced = greeting.route, greeting.replaced
        if (
            replaced is not None
            and greeting.by_another_process
            and await self._try_send(replaced, Replaced())
        ):
            self._reporter.report(
                EventKind.DUPLICATE_IDENTITY,
                route.name,
                f"two processes use the transport key of {route.name}; the newest is served and "
                "the older was told. Stop one of them, or give each its own key",
            )
        if not await self._try_send(route, Welcome(route.hello.connection)):
            self._routes.remove(route)
            return
        self._reporter.report(EventKind.CONNECTED, route.name, "connected")
        self._announce_routes()

    async def _watch_connections(self) -> None:
        while True:
            event = await recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._backlog.accepted(event["value"], self._clock())
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self._backlog.ended(event["value"])
                self._probe_now.set()
            else:
                self._reporter.report(
                    EventKind.UNAUTHENTICATED,
                    None,
                    "a handshake failed: no CURVE, or a wrong public key of this server",
                )

    async def _watch_backlog(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            for name, held in self._backlog.cut_excessive(self._clock()):
                self._reporter.report(
                    EventKind.OVER_QUOTA,
                    name,
                    f"cut a connection that had {held} bytes queued in one unfinished message",
                )

    async def _probe_routes(self) -> None:
        """Find dead routes; libzmq tells of a lost peer only when something is sent to it."""
        while True:
            try:
                async with asyncio.timeout(self._limits.heartbeat_interval):
                    await self._probe_now.wait()
                self._probe_now.clear()
                await asyncio.sleep(0.05)  # the event comes just before the route is taken down
            except TimeoutError:
                pass
            for route in self._routes.all():
                expired = route.reassembler.expire(self._clock())
                if expired:
                    self._reporter.report(
                        EventKind.MALFORMED, route.name, f"{len(expired)} messages never finished"
                    )
                if not await self._try_send(route, Ping()) and await self._drained(route):
                    self._lose(route, EventKind.DISCONNECTED, "connection lost")

    async def _drained(self, route: Route) -> bool:
        """Whether what a peer said before it left has been read; looks again soon if it was not.

        Sending fails as soon as the peer is gone, while its last messages may still be queued
        here: a client that says its last word and leaves must be heard, however busy we are.
        """
        now = self._clock()
        if route.unreachable_since is None:
            route.unreachable_since = now
        if now - route.unreachable_since > self._limits.heartbeat_timeout:
            return True  # others keep the socket busy; they cannot keep the route alive
        if not int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            await asyncio.sleep(0)  # what was read a moment ago is now being taken
            if not self._taking:
                return True
        self._probe_now.set()
        return False

    def _lose(self, route: Route, kind: EventKind, detail: str) -> None:
        self._routes.remove(route)
        self._reporter.report(kind, route.name, detail)
        self._announce_routes()

    def _announce_routes(self) -> None:
        self._routes_changed.set()
        self._routes_changed = asyncio.Event()

    async def _supervise(self) -> None:
        """None of the parts ever ends by itself; when one does, the server ends with it."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        part = self._tasks[task]
        cause = None if task.cancelled() else task.exception()
        reason = f"{type(cause).__name__}: {cause}" if cause else "it was cancelled or returned"
        kind = AuthenticatorError if part == "authenticator" else TransportStoppedError
        failure = kind(
            f"the transport's {part} ended ({reason}); the server has stopped and admits nobody. "
            "Restart it; clients reconnect by themselves"
        )
        failure.__cause__ = cause
        self._reporter.report(EventKind.STOPPED, None, str(failure))
        await self._close(failure)

    async def _close(self, failure: TransportError) -> None:
        if self._failure is not None:
            return
        self._failure = failure
        for route in self._routes.all():
            self._routes.remove(route)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.disable_monitor()
        self._monitor.close(
            linger=0
        )  # disabling leaves this end open, and term() would wait for it
        self._socket.close()
        self._zap.close()
        self._announce_routes()
        while not self._inbox.empty():
            waiting = self._inbox.get_nowait()
            if waiting is not None:
                waiting.message.close()
        self._inbox.put_nowait(None)
        await asyncio.to_thread(self._context.term)

    def _require_running(self) -> None:
        if self._supervisor is None or self._failure is not None:
            raise self._stopped()

    def _stopped(self) -> TransportError:
        if self._failure is None:
            return TransportStoppedError("the server transport is not started; call start() first")
        # A fresh exception for each caller: one object raised twice would grow its traceback.
        return type(self._failure)(str(self._failure))
