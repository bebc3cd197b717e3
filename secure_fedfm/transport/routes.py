"""Which connection belongs to whom. A route is trusted for its key, never for its ROUTER identity.

A name has at most one route. A Hello from another connection of the same key takes the name
over: the newest wins, since the older may be a dead process whose end nobody saw yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from secure_fedfm.transport.errors import MalformedFrameError
from secure_fedfm.transport.framing import Hello, Reassembler
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.transport.spool import Spool

_AUTOMATIC_IDENTITY_BYTES = 5
_COUNTER_BITS = 32


@dataclass(slots=True, eq=False)
class Route:
    """One live connection of an enrolled name."""

    identity: bytes = field(repr=False)
    name: str
    key: bytes
    hello: Hello
    reassembler: Reassembler = field(repr=False)
    unreachable_since: float | None = None
    _sent: int = 0

    def next_message_id(self) -> int:
        """Ids rise over the client's reconnects too: its connection number is the upper half.

        A frame left over from an earlier connection can then never pass for a new one.
        """
        self._sent += 1
        return (self.hello.connection << _COUNTER_BITS) | self._sent


class RouteTable:
    """Routes by ROUTER identity and by name; in step by construction."""

    def __init__(self, limits: TransportLimits, spool_folder: Path | None = None) -> None:
        self._limits = limits
        self._spool_folder = spool_folder
        self._spools: dict[str, Spool] = {}
        self._by_identity: dict[bytes, Route] = {}
        self._by_name: dict[str, Route] = {}

    def at(self, identity: bytes, name: str) -> Route | None:
        """The route on that connection, if it greeted under that name and was not replaced."""
        route = self._by_identity.get(identity)
        return route if route is not None and route.name == name else None

    def of(self, name: str) -> Route | None:
        """The live route of a name."""
        return self._by_name.get(name)

    def names(self) -> frozenset[str]:
        """Names with a live route."""
        return frozenset(self._by_name)

    def all(self) -> tuple[Route, ...]:
        """Every live route."""
        return tuple(self._by_name.values())

    def greet(
        self, identity: bytes, name: str, key: bytes, hello: Hello
    ) -> tuple[Route, Route | None]:
        """Register the connection; returns its route and the one it took the name from.

        Raises:
            MalformedFrameError: an identity that the peer chose itself (ours never do; a chosen
                one could be aimed at another peer's), or a second, different greeting.
        """
        if len(identity) != _AUTOMATIC_IDENTITY_BYTES or identity[0] != 0:
            raise MalformedFrameError(
                "the connection chose its own ROUTER identity; leave it to the server"
            )
        present = self._by_identity.get(identity)
        if present is not None and present.name == name:
            if present.hello == hello:
                return present, None
            if not _corrects(hello, present.hello):
                raise MalformedFrameError("a second, different greeting on one connection")
        if present is not None:
            # Corrected, or that connection ended and its identity was given out again.
            self.remove(present)
        replaced = self._by_name.get(name)
        if replaced is not None:
            self.remove(replaced)
        reassembler = Reassembler(self._limits, self._spool_of(name))
        route = Route(identity, name, key, hello, reassembler)
        self._by_identity[identity] = route
        self._by_name[name] = route
        return route, replaced

    def remove(self, route: Route) -> None:
        """Forget a route with all that it had in progress; twice is fine."""
        route.reassembler.clear()
        if self._by_identity.get(route.identity) is route:
            del self._by_identity[route.identity]
        if self._by_name.get(route.name) is route:
            del self._by_name[route.name]

    def _spool_of(self, name: str) -> Spool:
        """One for each name, over all its connections: reconnecting gains nobody room."""
        if name not in self._spools:
            self._spools[name] = Spool(self._limits, self._spool_folder)
        return self._spools[name]


def _corrects(hello: Hello, earlier: Hello) -> bool:
    """Whether a client that was still greeting for its last connection, when this one was there
    already, has noticed: the same process, a higher number.  Refused, it could never connect."""
    return hello.instance == earlier.instance and hello.connection > earlier.connection
