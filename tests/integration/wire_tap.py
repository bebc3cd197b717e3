"""A TCP relay that keeps every byte that passes: what somebody on the network sees of a run."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field


@dataclass
class Tapped:
    """One connection: all bytes from the client and all bytes to it."""

    from_client: bytearray = field(default_factory=bytearray)
    to_client: bytearray = field(default_factory=bytearray)


class WireTap:
    """Listens on a port of its own and forwards to ``target``; a context manager."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.connections: list[Tapped] = []
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> WireTap:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # the coordinator does not listen yet; the client tries again
                    client.close()
                    continue
                self._open += [client, server]
                tapped = Tapped()
                self.connections.append(tapped)
                for ends in (
                    (client, server, tapped.from_client),
                    (server, client, tapped.to_client),
                ):
                    threading.Thread(target=_copy, args=ends, daemon=True).start()


def _copy(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            kept += data
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
