"""audit report, diff and inclusion: files, exit codes and JSON; what they judge by is tested in
tests/audit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.audit.played_round import DROPOUT, Script
from tests.audit.synthetic import play_federation
from tests.secure_fedfm.cli.conftest import Run


def _write(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid bundle on disk."""
    return _write(play_federation().files(), tmp_path_factory.mktemp("bundles") / "bundle")


# ---- report


def test_a_report_of_a_valid_bundle(bundle: Path, tmp_path: Path, run: Run) -> None:
    page = tmp_path / "page.html"
    ran = run("audit", "report", bundle, "--out", page, "--policy", bundle / "policy")
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert ran.err.startswith("VERIFIED")
    assert ran.err.splitlines()[-1] == f"report: {page}"
    text = page.read_text(encoding="utf-8")
    assert "<h1>VERIFIED: federation ward-notes</h1>" in text
    assert "came from the bundle itself" not in text


def test_a_report_of_a_failed_bundle_is_written_too(bundle: Path, tmp_path: Path, run: Run) -> None:
    copy = _write(
        {str(p.relative_to(bundle)): p.read_bytes() for p in bundle.rglob("*") if p.is_file()},
        tmp_path / "copy",
    )
    (copy / "extra").write_text("x")
    ran = run("audit", "report", copy, "--charter-hash", "00" * 32)
    assert ran.code == 1
    text = (tmp_path / "copy-report.html").read_text(encoding="utf-8")
    assert "<h1>FAILED" in text
    assert "a bundle holds no such file" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "copy-report.html"]


def test_a_report_does_not_go_into_the_bundle(bundle: Path, run: Run) -> None:
    for place in (bundle / "report.html", bundle / "tile" / "report.html"):
        assert run("audit", "report", bundle, "--out", place).code == 2
        assert not place.exists()


def test_a_folder_that_is_not_there_is_one_error_line(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    ran = run("audit", "report", bundle, "--out", tmp_path / "no" / "page.html")
    assert ran.code == 6
    assert "check the path" in ran.error()


# ---- diff


def test_diff_of_an_earlier_and_a_later_bundle(bundle: Path, tmp_path: Path, run: Run) -> None:
    earlier = _write(play_federation(Script(), conclude=False).files(), tmp_path / "earlier")
    ran = run("audit", "diff", earlier, bundle, "--json")
    assert (ran.code, ran.json()["relation"]) == (0, "B extends A")
    assert ran.err.startswith("ONE HISTORY")
    assert run("audit", "diff", bundle, bundle, "--policy", bundle / "policy").code == 0


def test_diff_of_two_histories(bundle: Path, tmp_path: Path, run: Run) -> None:
    other = _write(play_federation(Script(), DROPOUT).files(), tmp_path / "other")
    ran = run("audit", "diff", bundle, other, "--json")
    assert (ran.code, ran.json()["first_difference"]["leaf"]) == (1, 8)
    assert "leaf 8" in ran.err
    (tmp_path / "no.zip").write_bytes(b"no zip")
    ran = run("audit", "diff", bundle, tmp_path / "no.zip")
    assert (ran.code, ran.out) == (1, "")
    assert "not a readable zip" in ran.err


# ---- inclusion


def test_a_document_is_verified_without_the_bundle(bundle: Path, tmp_path: Path, run: Run) -> None:
    document, proof = tmp_path / "leaf.json", tmp_path / "leaf.tlog-proof"
    made = run(
        *("audit", "inclusion", bundle, "round:1", "--step", 0),
        *("--out", document, "--tlog-proof", proof),
    )
    assert (made.code, made.out) == (0, ""), made.err
    assert proof.read_text(encoding="utf-8").startswith("c2sp.org/tlog-proof@v1\nindex 7\n")
    assert json.loads(Path(f"{proof}.leaf").read_bytes())["payloadType"]
    policy = _write({"policy": (bundle / "policy").read_bytes()}, tmp_path / "own") / "policy"
    ran = run("audit", "inclusion", "--verify", document, "--policy", policy, "--json")
    assert ran.code == 0, ran.err
    assert ran.json()["statement"]["predicate"]["round"] == 1
    assert ran.json()["step"] == 0
    assert "note:" not in ran.err


def test_the_document_goes_to_stdout_and_back(bundle: Path, tmp_path: Path, run: Run) -> None:
    made = run("audit", "inclusion", bundle, 0)
    assert made.json()["index"] == 0
    (tmp_path / "leaf.json").write_text(made.out)
    assert run("audit", "inclusion", "--verify", tmp_path / "leaf.json").code == 0


def test_what_does_not_hold_ends_with_1_and_writes_nothing(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "leaf.json"
    for arguments in (
        [bundle, "99"],
        [bundle, "round:1", "--step", 5],
        [bundle, "0", "--step", 0],
        [bundle, "round:1", "--charter-hash", "00" * 32],
    ):
        ran = run("audit", "inclusion", *arguments, "--out", out)
        assert ran.code == 1, arguments
        assert ran.err.startswith("FAILED  ")
        assert not out.exists()
    assert run("audit", "inclusion", bundle, "round:1", "--out", out).code == 0
    out.write_bytes(out.read_bytes().replace(b'"index":7', b'"index":6'))
    assert run("audit", "inclusion", "--verify", out).code == 1


def test_inclusion_makes_or_verifies(bundle: Path, tmp_path: Path, run: Run) -> None:
    document = _write({"d": b"{}"}, tmp_path / "x") / "d"
    for arguments in (
        [],
        [bundle],
        [bundle, "0", "--verify", document],
        ["--verify", document, "--step", 0],
        ["--verify", document, "--out", tmp_path / "y"],
        [bundle, "0", "--json"],
    ):
        assert run("audit", "inclusion", *arguments).code == 2, arguments
