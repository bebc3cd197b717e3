"""The authenticator: a ZAP handler (ZeroMQ RFC 27) over an allow-list, failing closed.

libzmq asks inproc://zeromq.zap.01 of the server's own context about every CURVE handshake and
waits for the answer. The answers here are 200 with the enrolled name as User-Id and the key as
metadata, or 400. Anything unexpected ends the handler with its socket; from then on
ZAP_ENFORCE_DOMAIN makes libzmq refuse every handshake (sockets.secure_server), and whoever
supervises run() stops the server. There is no catch-all that would keep a broken authenticator
answering.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from types import MappingProxyType

import zmq
import zmq.asyncio

from secure_fedfm.transport.curve import check_curve_public
from secure_fedfm.transport.errors import CurveKeyError
from secure_fedfm.transport.events import EventKind, EventReporter
from secure_fedfm.transport.sockets import ZAP_DOMAIN

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
KEY_PROPERTY = "X-Curve-Key"
_VERSION = b"1.0"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_allow_list(allowed: Mapping[bytes, str]) -> Mapping[bytes, str]:
    """Return an immutable copy of public key -> name.

    Raises:
        CurveKeyError: an unusable key, a name outside the pattern, one name with two keys.
    """
    owners: dict[str, bytes] = {}
    for key, name in allowed.items():
        check_curve_public(key)
        if not _NAME.fullmatch(name):
            raise CurveKeyError(f"{name!r} is no participant name; expected {_NAME.pattern}")
        if owners.setdefault(name, key) != key:
            raise CurveKeyError(f"{name} is listed with two transport keys; keep one")
    return MappingProxyType(dict(allowed))


class ZapHandler:
    """Answers the handshakes of one context; build it, then run() it as a supervised task."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        allowed: Mapping[bytes, str],
        reporter: EventReporter,
    ) -> None:
        self._allowed = check_allow_list(allowed)
        self._reporter = reporter
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ZAP_ENDPOINT)

    @property
    def allowed(self) -> Mapping[bytes, str]:
        """The list in force."""
        return self._allowed

    def update_allowed(self, allowed: Mapping[bytes, str]) -> None:
        """Replace the list for handshakes from now on.

        Raises:
            CurveKeyError: the new list is unusable; the old one stays.
        """
        self._allowed = check_allow_list(allowed)

    def admits(self, name: str, key: bytes) -> bool:
        """Whether that pair is on the list now (it may have been revoked since the handshake)."""
        return self._allowed.get(key) == name

    async def run(self) -> None:
        """Answer until cancelled; any exit, by whatever cause, closes the endpoint."""
        try:
            while True:
                request: list[bytes] = await self._socket.recv_multipart()
                await self._socket.send_multipart(self._answer(request))
        finally:
            self.close()

    def close(self) -> None:
        """Take the endpoint away: every handshake from now on is refused."""
        self._socket.close(linger=0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        request_id = request[1] if len(request) > 1 else b""
        # version, request id, domain, address, routing id, mechanism, credentials
        if len(request) != 7 or request[0] != _VERSION or request[5] != b"CURVE":
            self._reporter.report(
                EventKind.UNAUTHENTICATED, None, "a handshake that is not CURVE over ZAP 1.0"
            )
            return _refusal(request_id, b"CURVE only")
        domain, address, key = request[2], request[3], request[6]
        origin = address.decode("ascii", "replace")
        if domain != ZAP_DOMAIN.encode("ascii"):
            self._reporter.report(
                EventKind.WRONG_DOMAIN, None, f"handshake from {origin} for another domain"
            )
            return _refusal(request_id, b"unknown domain")
        name = self._allowed.get(key)
        if name is None:
            self._reporter.report(
                EventKind.UNKNOWN_KEY,
                None,
                f"refused transport key {key.hex()} from {origin}: not enrolled; "
                "if it should be, put it into the charter",
            )
            return _refusal(request_id, b"key not enrolled")
        return [
            _VERSION,
            request_id,
            b"200",
            b"OK",
            name.encode("ascii"),
            _property(KEY_PROPERTY, key.hex().encode("ascii")),
        ]


def authenticated_peer(frames: list[zmq.Frame]) -> tuple[str, bytes] | None:
    """The (name, public key) that the authenticator attached to every one of these frames.

    None if any frame lacks them: it did not come through a handshake that we answered.
    """
    found: set[tuple[str, str]] = set()
    for frame in frames:
        try:
            found.add((str(frame.get("User-Id")), str(frame.get(KEY_PROPERTY))))
        except zmq.ZMQError:
            return None
    if len(found) != 1:
        return None
    name, key_hex = found.pop()
    try:
        return name, bytes.fromhex(key_hex)
    except ValueError:
        return None


def _refusal(request_id: bytes, reason: bytes) -> list[bytes]:
    return [_VERSION, request_id, b"400", reason, b"", b""]


def _property(name: str, value: bytes) -> bytes:
    """One metadata property as in ZMTP 3.1: U8 length, name, U32 length, value."""
    encoded = name.encode("ascii")
    return struct.pack(">B", len(encoded)) + encoded + struct.pack(">I", len(value)) + value
