"""What the transport tells its operator: one structured event per refusal or change of state."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass

_LOGGER = logging.getLogger("secure_fedfm.transport")


class EventKind(enum.Enum):
    """Why the event was raised; the value is the name used in logs."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    UNKNOWN_KEY = "unknown-key"
    WRONG_DOMAIN = "wrong-domain"
    UNAUTHENTICATED = "unauthenticated"
    MALFORMED = "malformed"
    OVER_QUOTA = "over-quota"
    NOT_SPOOLED = "not-spooled"
    DUPLICATE_IDENTITY = "duplicate-identity"
    REVOKED = "revoked"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class TransportEvent:
    """`peer` is the enrolled name, or None when nobody enrolled is concerned."""

    kind: EventKind
    peer: str | None
    detail: str


EVENTS_PER_SECOND = 5
# Both are this machine's own trouble; everything else is a peer's.
_LEVELS = {EventKind.STOPPED: logging.CRITICAL, EventKind.NOT_SPOOLED: logging.ERROR}
EventCallback = Callable[[TransportEvent], None]


@dataclass(slots=True)
class _Window:
    opened: float
    reported: int = 0
    suppressed: int = 0


class EventReporter:
    """Hands events on: never raises, and a flood of one kind from one peer is five lines a second.

    Memory is bounded: peers are enrolled names or None, kinds an enumeration.
    """

    def __init__(self, callback: EventCallback | None, clock: Callable[[], float]) -> None:
        self._callback = callback
        self._clock = clock
        self._windows: dict[tuple[EventKind, str | None], _Window] = {}

    def report(self, kind: EventKind, peer: str | None, detail: str) -> None:
        """Report, or only count it if this peer had many of the kind within the last second."""
        now = self._clock()
        window = self._windows.setdefault((kind, peer), _Window(now))
        if now - window.opened >= 1.0:
            window.opened, window.reported = now, 0
        if window.reported >= EVENTS_PER_SECOND:
            window.suppressed += 1
            return
        window.reported += 1
        if window.suppressed:
            detail = f"{detail} (and {window.suppressed} more before it)"
            window.suppressed = 0
        _LOGGER.log(
            _LEVELS.get(kind, logging.INFO), "%s peer=%s: %s", kind.value, peer or "-", detail
        )
        if self._callback is None:
            return
        try:
            self._callback(TransportEvent(kind, peer, detail))
        except Exception:  # an observer's fault must not take the server down
            _LOGGER.exception("the transport's event callback failed on %s", kind.value)
