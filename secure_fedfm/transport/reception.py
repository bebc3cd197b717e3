"""What the server does with a frame, without a socket: greet, reassemble, or refuse.

Everything hostile ends here in a named error, so that it can be tried with any bytes at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from secure_fedfm.transport.errors import MalformedFrameError, QuotaError
from secure_fedfm.transport.framing import Chunk, Hello, Ping, parse_frame
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.transport.quota import SenderQuota
from secure_fedfm.transport.routes import Route, RouteTable
from secure_fedfm.transport.spool import Stored


@dataclass(frozen=True, slots=True)
class Inbound:
    """A whole message; `sender` is the enrolled name of the connection's CURVE key.

    It counts against the sender, and is not in memory if it is large, until somebody takes it.
    """

    sender: str
    message: Stored = field(repr=False)


@dataclass(frozen=True, slots=True)
class Greeting:
    """A client greeted: welcome `route`, and tell `replaced` that it lost the name."""

    route: Route
    replaced: Route | None

    @property
    def by_another_process(self) -> bool:
        """Whether this is a second process with the key, not the first one reconnecting."""
        replaced = self.replaced
        return replaced is not None and replaced.hello.instance != self.route.hello.instance


class Reception:
    """Takes frames of authenticated names; holds the routes and every sender's quota."""

    def __init__(self, limits: TransportLimits, spool_folder: Path | None = None) -> None:
        self._limits = limits
        self._quotas: dict[str, SenderQuota] = {}
        self.routes = RouteTable(limits, spool_folder)

    def take(
        self, identity: bytes, name: str, key: bytes, frames: list[bytes | memoryview], now: float
    ) -> Inbound | Greeting | None:
        """Take one ZeroMQ message (without the identity frame) of `name` at time `now`.

        Raises:
            FramingError, QuotaError, SpoolError: dropped; whatever it belonged to is dropped
                with it.
        """
        quota = self._quota(name, now)
        if len(frames) != 1:
            quota.admit_message(now)
            raise MalformedFrameError(f"{len(frames)} parts in one message, expected 1")
        try:
            frame = parse_frame(frames[0])
        except MalformedFrameError:
            quota.admit_message(now)
            raise
        if not isinstance(frame, Chunk) or frame.index == 0:
            quota.admit_message(now)
        if isinstance(frame, Hello):
            return Greeting(*self.routes.greet(identity, name, key, frame))
        route = self.routes.at(identity, name)
        if route is None:
            raise MalformedFrameError(
                "a frame on a connection that did not greet first, or was replaced by a newer one"
            )
        if isinstance(frame, Chunk):
            return self._take_chunk(route, frame, quota, now)
        if not isinstance(frame, Ping):
            raise MalformedFrameError(f"{type(frame).__name__} is for clients only")
        return None

    def _take_chunk(
        self, route: Route, chunk: Chunk, quota: SenderQuota, now: float
    ) -> Inbound | None:
        try:
            quota.check_bytes(route.reassembler.pending_bytes, len(chunk.payload))
        except QuotaError:
            route.reassembler.drop(chunk.message_id)
            raise
        message = route.reassembler.feed(chunk, now)
        if message is None:
            return None
        quota.message_waits(message.size)
        message.when_freed(quota.message_taken)
        return Inbound(route.name, message)

    def _quota(self, name: str, now: float) -> SenderQuota:
        if name not in self._quotas:
            self._quotas[name] = SenderQuota(self._limits, now)
        return self._quotas[name]
