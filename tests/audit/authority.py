"""A time-stamping authority on this machine: certificates and `openssl ts`, behind HTTP on
loopback."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = Test time-stamping authority
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[leaf]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = this
[this]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
other_policies = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""


def _openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    ran = subprocess.run(
        ["openssl", *map(str, arguments)], input=data, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout


class Authority:
    """A root, a signer below it, and answers to requests."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.config = folder, folder / "openssl.cnf"
        self.config.write_text(_CONFIG.format(folder=folder))
        (folder / "serial").write_text("01\n")
        self.root = folder / "root.pem"
        name = ("-config", self.config, "-newkey", "rsa:2048", "-nodes")
        _openssl(
            *("req", "-x509", *name, "-extensions", "root", "-days", "30", "-subj", "/CN=Root"),
            *("-keyout", folder / "root.key", "-out", self.root),
        )
        _openssl("req", "-new", *name, "-keyout", folder / "tsa.key", "-out", folder / "tsa.csr")
        _openssl(
            *("x509", "-req", "-in", folder / "tsa.csr", "-CA", self.root),
            *("-CAkey", folder / "root.key", "-CAcreateserial", "-days", "30"),
            *("-extfile", self.config, "-extensions", "leaf", "-out", folder / "tsa.pem"),
        )

    def answer(self, query: bytes) -> bytes:
        """The response to a DER request."""
        request, reply = self.folder / "request.tsq", self.folder / "reply.tsr"
        request.write_bytes(query)
        _openssl(
            *("ts", "-reply", "-config", self.config, "-section", "this"),
            *("-queryfile", request, "-out", reply),
        )
        return reply.read_bytes()

    def stamp(self, text: bytes) -> bytes:
        """A response about the SHA-256 of ``text``, asked for as openssl asks."""
        data = self.folder / "text"
        data.write_bytes(text)
        return self.answer(_openssl("ts", "-query", "-data", data, "-sha256", "-cert"))

    @contextmanager
    def served(self) -> Iterator[str]:
        """Its address, while it answers on loopback."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                answer = authority.answer(query)
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def openssl_accepts(response: Path, text: Path, root: Path) -> bool:
    """What `openssl ts -verify` says."""
    ran = subprocess.run(
        ["openssl", "ts", "-verify", "-in", response, "-data", text, "-CAfile", root],
        capture_output=True,
        check=False,
    )
    return ran.returncode == 0
