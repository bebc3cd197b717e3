"""A bundle read and altered by hand, for tests that give it to tools of other people.

Nothing here uses the project's readers: what these tests compare must not come from one side.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

GUIDE = REPOSITORY / "docs" / "for-auditors.md"


def entry_bundle(bundle: Path) -> Path:
    """The first file of leaves."""
    return next(p for p in sorted(bundle.glob("tile/entries/**/*")) if p.is_file())


def read_leaves(bundle: Path) -> list[bytes]:
    """Every leaf, in order: C2SP entry bundles, each leaf preceded by its length as uint16."""
    leaves: list[bytes] = []
    for path in sorted(p for p in bundle.glob("tile/entries/**/*") if p.is_file()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack(">H", data[:2])
            leaves.append(data[2 : 2 + length])
            data = data[2 + length :]
    return leaves


def signed_head(bundle: Path) -> tuple[int, bytes]:
    """Size and root that the checkpoint says."""
    _, size, root = (bundle / "checkpoint").read_text("utf-8").splitlines()[:3]
    return int(size), base64.b64decode(root)


def payload_of(dsse: bytes) -> Any:
    """The JSON inside a DSSE envelope, unverified."""
    return json.loads(base64.b64decode(json.loads(dsse)["payload"]))


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(bytes(data))


def copy_of(bundle: Path, destination: Path) -> Path:
    """A copy to alter; replaces an earlier one."""
    shutil.rmtree(destination, ignore_errors=True)
    return shutil.copytree(bundle, destination)


def documented(heading: str, language: str) -> str:
    """The last block of a language in a section of docs/for-auditors.md: what auditors type."""
    text = GUIDE.read_text("utf-8")
    section = re.search(rf"^### {heading}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"{GUIDE.name} has no section {heading!r}"
    found = re.findall(rf"^```{language}\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert found, f"{GUIDE.name}, {heading}: no block of {language}"
    return str(found[-1])


def leaf_hash(leaf: bytes) -> bytes:
    """RFC 6962."""
    return hashlib.sha256(b"\0" + leaf).digest()
