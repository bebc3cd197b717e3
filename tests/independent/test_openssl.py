"""Statements' signatures by openssl, with the command of docs/for-auditors.md."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.independent.bundles import documented, flip, payload_of, read_leaves
from tests.independent.conftest import need

HEADING = "One statement, with openssl"


@pytest.fixture(autouse=True)
def _openssl() -> None:
    need("openssl", "openssl")


def verify(folder: Path, leaf: int) -> subprocess.CompletedProcess[str]:
    """What the documented commands say of a leaf."""
    return subprocess.run(
        ["bash", "-e", "-c", documented(HEADING, "sh")],
        cwd=folder, env={**os.environ, "LEAF": str(leaf)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def first_of_each_type(bundle: Path) -> list[int]:
    """One leaf of every predicate type in the bundle."""
    found: dict[str, int] = {}
    for number, leaf in enumerate(read_leaves(bundle)):
        found.setdefault(payload_of(leaf)["predicateType"], number)
    return list(found.values())


def test_one_statement_of_each_type(auditor: Path) -> None:
    leaves = first_of_each_type(auditor / "bundle")
    assert len(leaves) >= 4  # enrolment, federation, round, conclusion
    for leaf in leaves:
        done = verify(auditor, leaf)
        assert done.returncode == 0, done.stderr
        assert "Verified Successfully" in done.stdout


@pytest.mark.parametrize("name", ["statement.pae", "statement.sig", "key.der"])
def test_altered_bits(auditor: Path, name: str) -> None:
    """In what is signed, in the signature, in the key."""
    leaf = first_of_each_type(auditor / "bundle")[-1]
    assert verify(auditor, leaf).returncode == 0
    (command,) = (
        line.split("&&")[-1].strip()
        for line in documented(HEADING, "sh").replace("\\\n", " ").splitlines()
        if line.startswith("openssl")
    )
    size = (auditor / name).stat().st_size
    start = 12 if name == "key.der" else 0  # before it stands the algorithm
    for position in range(start, size, max(1, size // 20)):
        flip(auditor / name, position)
        done = subprocess.run(
            ["sh", "-c", command], cwd=auditor, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0, position
        flip(auditor / name, position)


def test_a_key_that_is_not_in_the_charter(auditor: Path) -> None:
    """The commands take keys from the charter, not from the statement."""
    charter = auditor / "bundle" / "charter.json"
    leaf = first_of_each_type(auditor / "bundle")[0]
    party = payload_of(read_leaves(auditor / "bundle")[leaf])["predicate"]["name"]
    data = payload_of(charter.read_bytes())
    for one in (data["coordinator"], *data["roster"]):
        if one["name"] == party:
            one["identity"] = "00" * 32
    payload = base64.b64encode(json.dumps(data).encode()).decode()
    charter.write_text(json.dumps({"payload": payload}), "utf-8")
    done = verify(auditor, leaf)
    assert done.returncode != 0
    assert "not in the charter" in done.stderr
