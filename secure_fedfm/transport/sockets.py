"""How our sockets are set up: one place for the options, addresses and waiting sends."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

import zmq
import zmq.asyncio
from zmq.utils import z85

from secure_fedfm.transport.curve import CurveKeyPair
from secure_fedfm.transport.errors import BindError, NotConnectedError, RemoteBindError
from secure_fedfm.transport.limits import MIB, TransportLimits

ZAP_DOMAIN = "secure-fedfm"
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.02


def apply_limits(socket: zmq.asyncio.Socket, limits: TransportLimits) -> None:
    """Replace libzmq's unlimited defaults; must come before bind or connect."""
    socket.setsockopt(zmq.MAXMSGSIZE, limits.max_frame_bytes)
    socket.setsockopt(zmq.SNDHWM, limits.high_water_mark)
    socket.setsockopt(zmq.RCVHWM, limits.high_water_mark)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _milliseconds(limits.handshake_interval))
    socket.setsockopt(zmq.HEARTBEAT_IVL, _milliseconds(limits.heartbeat_interval))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _milliseconds(limits.heartbeat_timeout))
    socket.setsockopt(zmq.LINGER, _milliseconds(limits.linger))


def secure_server(socket: zmq.asyncio.Socket, keys: CurveKeyPair, limits: TransportLimits) -> None:
    """Make a ROUTER a CURVE server that admits nobody without the ZAP handler's word.

    With CURVE alone libzmq accepts every client when no handler is there (RFC 27's "Stonehouse"
    pattern); the domain and its enforcement are what turn that into a refusal.
    """
    apply_limits(socket, limits)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(keys.secret.reveal()))
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN.encode("ascii"))
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    # Without MANDATORY a message to a peer that left would vanish without a word.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)


def secure_client(
    socket: zmq.asyncio.Socket, server_public: bytes, keys: CurveKeyPair, limits: TransportLimits
) -> None:
    """Make a DEALER a CURVE client of exactly one server key."""
    apply_limits(socket, limits)
    socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(server_public))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(keys.public))
    socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(keys.secret.reveal()))
    # Nothing is queued for a server that is not there: stale halves of messages would arrive
    # after the reconnect. The service resends instead.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)


def check_bind_address(bind: str, *, allow_remote: bool) -> str:
    """Return `bind` if it is tcp://HOST:PORT and HOST is this machine, or remote is allowed.

    Raises:
        BindError: not an address of this form.
        RemoteBindError: reachable from other machines without leave.
    """
    host = _split_address(bind)
    if host == "localhost":
        return bind
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not allow_remote:
        raise RemoteBindError(
            f"{bind} can be reached from other machines; bind to tcp://127.0.0.1:PORT, or allow "
            "remote clients explicitly (allow_remote) if that is what you want"
        )
    return bind


def bind_server(socket: zmq.asyncio.Socket, bind: str) -> str:
    """Bind and return the endpoint with its real port.

    Raises:
        BindError: port in use, no such address, no permission; says what to do.
    """
    if bind.startswith("tcp://["):
        socket.setsockopt(zmq.IPV6, 1)
    try:
        socket.bind(bind)
    except zmq.ZMQError as error:
        advice = {
            errno.EADDRINUSE: "another process listens there (a coordinator still running?); "
            "stop it, or choose another port (0 takes any free one)",
            errno.EADDRNOTAVAIL: "this machine has no such address; bind to one of its own",
            errno.ENODEV: "this machine has no such address; bind to one of its own",
            errno.EACCES: "ports below 1024 need privileges; choose a higher one",
        }.get(error.errno or 0, "expected tcp://HOST:PORT")
        raise BindError(f"cannot listen on {bind}: {error.strerror}; {advice}") from error
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    return bytes(endpoint).rstrip(b"\0").decode("ascii")


async def send_frame(
    socket: zmq.asyncio.Socket,
    parts: list[bytes],
    *,
    alive: Callable[[], bool],
    stall_timeout: float,
) -> None:
    """Send one frame without ever waiting inside the socket.

    pyzmq queues waiting sends first in, first out, so one peer that reads nothing would hold up
    the frames for all the others; here each sender waits for itself.

    Raises:
        NotConnectedError: the route is gone, or took nothing for `stall_timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + stall_timeout
    pause = _FIRST_PAUSE
    while True:
        if not alive():
            raise NotConnectedError("the connection was lost during a send; resend it")
        try:
            await socket.send_multipart(parts, flags=zmq.NOBLOCK, copy=len(parts[-1]) < MIB // 16)
        except zmq.Again:
            if loop.time() > deadline:
                raise NotConnectedError(
                    f"the peer took nothing for {stall_timeout:g} s; it is stuck or very slow"
                ) from None
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            raise NotConnectedError("the peer has disconnected; resend when it is back") from error
        else:
            await asyncio.sleep(0)  # a send that succeeds at once never lets other tasks run
            return


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _split_address(address: str) -> str:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    wildcard_port = address.startswith("tcp://") and address.endswith(":*")
    if not host or (port is None and not wildcard_port) or not address.startswith("tcp://"):
        raise BindError(f"{address!r} is no address; expected tcp://HOST:PORT")
    return host
