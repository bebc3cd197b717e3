"""Verification reads the bundle, the roots it is given and its own code; it fetches nothing.

An audit hook of the interpreter watches a process of its own: every socket, name look-up, process
and library, and every file that is opened or listed.  Unlike a monkeypatch it sees C code too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedfm_audit.bundle import write_files
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import dsse_read_unverified, dsse_sign
from tests.audit.synthetic import Federation

# What runs behind it has the hook in force: a forbidden event raises.
GUARD = """
import sys
from pathlib import Path
from importlib.util import find_spec
from fedfm_audit.verify import verify_bundle

bundle = str(Path(sys.argv[1]).resolve())
readable = [bundle, sys.prefix, sys.base_prefix, sys.exec_prefix]
for package in ("fedfm_audit", "fedfm_crypto", "fedfm_protocols", "secure_fedfm"):
    readable.append(str(Path(find_spec(package).origin).resolve().parent))
readable.append(str(Path(sys.modules["os"].__file__).resolve().parent))
sys.dont_write_bytecode = True

def inside(path):
    whole = str(Path(path if isinstance(path, str) else path.decode()).absolute())
    return any(whole == root or whole.startswith(root + "/") for root in readable)

FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork",
             "urllib.", "http.", "ftplib.", "smtplib.", "os.remove", "os.rename", "os.mkdir",
             "os.link", "os.symlink", "shutil.", "tempfile.", "ctypes.dlopen")

def hook(event, arguments):
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"GUARD: {event} {arguments!r}")
    if event in ("open", "os.listdir", "os.scandir"):
        path = arguments[0]
        if isinstance(path, int) or path is None:
            return
        # Below the bundle, names are relative to an open folder; so is nothing else.
        flags = arguments[2] if event == "open" else 0
        relative = not str(path).startswith("/")
        if flags & 3 or not (inside(path) or (relative and ".." not in str(path))):
            raise PermissionError(f"GUARD: {event} {path!r} {flags:o}")

sys.addaudithook(hook)
"""
VERIFY = """
for name in sys.argv[1:]:
    readable[0] = str(Path(name).resolve())
    print(verify_bundle(Path(name), full=True).to_text())
"""
COMMAND = """
import secure_fedfm.cli.main
sys.argv = ["secure-fedfm", "audit", "verify", sys.argv[1], "--json"]
secure_fedfm.cli.main.app(standalone_mode=False)
"""


def guarded(what: str, *bundles: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GUARD + what, *map(str, bundles)],
        cwd=bundles[0].parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(bundle: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(bundle, tmp_path_factory.mktemp("guarded") / "bundle")


def test_a_whole_verification_opens_nothing_else(folder: Path) -> None:
    done = guarded(VERIFY, folder)
    assert done.stdout.startswith("VERIFIED"), done.stdout + done.stderr
    assert "GUARD" not in done.stdout + done.stderr


def test_a_zip_is_not_unpacked(bundle: dict[str, bytes], tmp_path: Path) -> None:
    path = write_files(bundle, tmp_path / "bundle.zip")
    done = guarded(VERIFY, path)
    assert done.stdout.startswith("VERIFIED"), done.stdout + done.stderr


def test_the_command_opens_nothing_else(folder: Path) -> None:
    done = guarded(COMMAND, folder)
    assert "GUARD" not in done.stdout + done.stderr, done.stderr
    assert json.loads(done.stdout)["verdict"] == "verified"


HOSTILE: list[tuple[str, Any]] = [
    ("predicateType", "https://slsa.example/provenance/v1"),
    ("_type", "https://in-toto.example/Statement/v2"),
    ("$ref", "https://schemas.example/round.json"),
    ("$schema", "https://schemas.example/2020-12"),
    ("$dynamicRef", "file:///etc/hostname"),
]


def test_addresses_in_statements_are_refused_unread(federation: Federation, tmp_path: Path) -> None:
    """Signed by the coordinator and cosigned by everybody: what is wrong is the address."""
    place = len(federation.names) + 2  # round 1
    opened = dsse_read_unverified(federation.leaves[place])
    signer = [(federation.coordinator.public.hex, federation.coordinator)]
    bundles: list[Path] = []
    for field, value in HOSTILE:
        for inner in (False, True):
            statement = json.loads(opened.payload)
            (statement["predicate"] if inner else statement)[field] = value
            leaves = list(federation.leaves)
            leaves[place] = dsse_sign(canonical_encode(statement), opened.payload_type, signer)
            path = tmp_path / str(len(bundles))
            bundles.append(write_files(federation.files(leaves=leaves), path))
    done = guarded(VERIFY, *bundles)
    assert "GUARD" not in done.stdout + done.stderr
    reports = done.stdout.split("FAILED  ")[1:]
    assert len(reports) == len(bundles), done.stdout + done.stderr
    assert all(f"leaf {place}: " in report for report in reports)


ATTEMPTS = [
    "import socket; socket.socket()",
    "import socket; socket.getaddrinfo('example.org', 443)",
    "import urllib.request; urllib.request.urlopen('http://example.org')",
    "import subprocess; subprocess.run(['true'])",
    "open('/etc/hostname')",
    "Path('../elsewhere').read_bytes()",
    "Path(bundle, 'checkpoint').open('r+')",
    "import os; os.listdir('/')",
]


def test_the_guard_itself(folder: Path) -> None:
    """Each of these is stopped, as a bundle that brings one of them about would be."""
    tries = """
for attempt in ATTEMPTS:
    try:
        exec(attempt)
    except Exception as error:
        print(error)
    else:
        print("done:", attempt)
"""
    done = guarded(f"ATTEMPTS = {ATTEMPTS!r}\n{tries}", folder)
    lines = done.stdout.splitlines()
    assert len(lines) == len(ATTEMPTS), done.stdout + done.stderr
    assert all("GUARD" in line for line in lines), done.stdout
