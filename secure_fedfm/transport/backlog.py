"""Cuts a connection that makes libzmq hold more than the limits allow.

MAXMSGSIZE bounds a frame and the high-water mark counts whole messages, but a message may have
any number of frames, and libzmq buffers them all before anyone sees the first: an enrolled peer
could fill this machine's memory with one endless message (600 MiB in two seconds when tried with
libzmq 4.3.5). So for every accepted connection the bytes that the kernel received (TCP_INFO) are
compared with the bytes that came out of the socket; a connection whose difference exceeds what
honest queues can hold is shut down, and libzmq frees what it had.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from dataclasses import dataclass

from secure_fedfm.transport.limits import MIB, TransportLimits

POLL_INTERVAL = 0.1
_KERNEL_BUFFERS_BYTES = 16 * MIB
# Heartbeats and CURVE's boxes are received and never come out as frames.
_UNSEEN_BYTES_PER_SECOND = 1024
_UNSEEN_BYTES_PER_FRAME = 128
_BYTES_RECEIVED_AT = 128  # tcpi_bytes_received in Linux's struct tcp_info, since 4.1
_Peer = tuple[str, int]


@dataclass(slots=True)
class _Connection:
    peer: _Peer
    since: float
    name: str | None = None
    delivered: int = 0


class BacklogWatch:
    """Follows accepted connections by the file descriptor that libzmq reports for each."""

    def __init__(self, limits: TransportLimits) -> None:
        self._allowance = limits.high_water_mark * limits.max_frame_bytes + _KERNEL_BUFFERS_BYTES
        self._connections: dict[int, _Connection] = {}

    def accepted(self, descriptor: int, now: float) -> None:
        """A connection was accepted (socket monitor)."""
        if sys.platform != "linux":
            return
        try:
            with _borrow(descriptor) as connection:
                self._connections[descriptor] = _Connection(connection.getpeername()[:2], now)
        except OSError:
            self._connections.pop(descriptor, None)  # gone again already

    def ended(self, descriptor: int) -> None:
        """The connection ended (socket monitor)."""
        self._connections.pop(descriptor, None)

    def delivered(self, descriptor: int, name: str, sizes: list[int]) -> None:
        """Frames of these sizes came out of the socket."""
        connection = self._connections.get(descriptor)
        if connection is not None:
            connection.name = name
            connection.delivered += sum(sizes) + _UNSEEN_BYTES_PER_FRAME * len(sizes)

    def cut_excessive(self, now: float) -> list[tuple[str | None, int]]:
        """Shut down every connection over the allowance; returns (name if known, bytes held)."""
        cut = []
        for descriptor, state in list(self._connections.items()):
            allowed = self._allowance + (now - state.since) * _UNSEEN_BYTES_PER_SECOND
            try:
                with _borrow(descriptor) as connection:
                    if connection.getpeername()[:2] != state.peer:
                        raise OSError("the descriptor belongs to another connection by now")
                    held = _bytes_received(connection) - state.delivered
                    if held > allowed:
                        cut.append((state.name, held))
                        self.ended(descriptor)
                        connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                self.ended(descriptor)
        return cut


def _borrow(descriptor: int) -> socket.socket:
    """A duplicate to look at; closing it leaves libzmq's own descriptor open."""
    return socket.socket(fileno=os.dup(descriptor))


def _bytes_received(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED_AT + 8)
    if len(info) < _BYTES_RECEIVED_AT + 8:
        return 0  # a kernel that does not count cannot be asked
    (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)
    return int(received)
