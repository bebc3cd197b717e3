"""audit verify on a whole synthetic federation; the verifier itself is tested in tests/audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.synthetic import play_federation
from tests.secure_fedfm.cli.conftest import Run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle on disk."""
    folder = tmp_path_factory.mktemp("bundle")
    for name, data in play_federation().files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_valid_bundle(bundle: Path, run: Run) -> None:
    ran = run("audit", "verify", bundle, "--json")
    assert ran.code == 0, ran.err
    assert ran.json()["verdict"] == "verified"
    assert ran.err.startswith("VERIFIED")


def test_the_auditors_own_roots(bundle: Path, run: Run) -> None:
    policy = bundle / "policy"
    charter = run("audit", "verify", bundle, "--json").json()["federation"]["charter"]
    ran = run("audit", "verify", bundle, "--policy", policy, "--charter-hash", charter, "--json")
    assert ran.code == 0
    assert "bundle" not in ran.json()["trust_roots"].values()
    other = run("audit", "verify", bundle, "--charter-hash", "00" * 32, "--json")
    assert (other.code, other.json()["verdict"]) == (1, "failed")


def test_a_flipped_bit_fails_and_is_named(bundle: Path, run: Run) -> None:
    target = next(iter(sorted((bundle / "transcripts").iterdir())))
    data = target.read_bytes()
    target.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    try:
        ran = run("audit", "verify", bundle)
    finally:
        target.write_bytes(data)
    assert (ran.code, ran.out) == (1, "")
    assert target.name in ran.err


def test_a_bundle_that_is_not_there(tmp_path: Path, run: Run) -> None:
    assert run("audit", "verify", tmp_path / "nowhere").code == 2


def test_an_archive_that_lacks_rounds_is_no_success(bundle: Path, tmp_path: Path, run: Run) -> None:
    ran = run("audit", "verify", bundle, "--replay", tmp_path, "--json")
    step = ran.json()["steps"][9]
    assert (ran.code, step["status"]) == (1, "not checkable")
    assert "not in the archive" in step["detail"]
    page = tmp_path / "page.html"
    assert run("audit", "report", bundle, "--replay", tmp_path, "--out", page).code == 1


@pytest.mark.parametrize("text", ["0", "2-1", "1-", "-3", "all", "1-2-3"])
def test_rounds_to_repeat_are_a_range(bundle: Path, tmp_path: Path, run: Run, text: str) -> None:
    ran = run("audit", "verify", bundle, "--replay", tmp_path, f"--replay-rounds={text}")
    assert ran.code == 2
    assert "expected a round or A-B" in ran.err
