"""The benchmark of the verifier on a small federation: its bundle is verified, its row complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import audit_speed
from benchmarks.audit_bundle import make_bundle
from fedfm_audit.report import Status
from fedfm_audit.verify import verify_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("speed") / "bundle", clients=3, rounds=2)


def test_the_bundle_is_a_whole_federation(bundle: Path) -> None:
    report = verify_bundle(bundle)
    assert report.ok, report.to_text()
    assert report.step(6).status is Status.VERIFIED
    assert "12 entries of 3 institutions" in report.step(6).detail
    assert report.summary is not None
    assert report.summary.rounds_completed == 2


@pytest.mark.slow
def test_a_row_has_the_command_and_every_step(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    options = ["--bundle", str(bundle), "--clients", "3", "--rounds", "2", "--repeat", "1"]
    audit_speed.main([*options, "--json", "--rows", str(rows)])
    printed = json.loads(capsys.readouterr().out)
    (row,) = (json.loads(line) for line in rows.read_text("utf-8").splitlines())
    assert row["cpu_s"] > 0
    assert set(row["parts_cpu_s"]) == {"import", *(f"step {number}" for number in range(7))}
    assert printed["parts_cpu_s"] == row["parts_cpu_s"]
    assert "institutions recomputed" in row["details"]["6"]


def test_a_bundle_that_fails_is_not_measured(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bundle"
    broken.mkdir()
    (broken / "charter.json").write_bytes((bundle / "charter.json").read_bytes())
    with pytest.raises(RuntimeError, match="was not verified"):
        audit_speed.measure(broken, full=False)
