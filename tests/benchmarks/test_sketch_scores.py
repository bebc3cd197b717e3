"""The benchmark of robust scores at the smallest size: its rows, its bars, its resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import sketch_scores
from benchmarks.results import Budget, RowFile


@pytest.fixture(autouse=True)
def no_rotation_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """TenSEAL's keys take a second to make and are not what is tested."""
    monkeypatch.setattr(sketch_scores, "tenseal_dots", lambda sketches: (0.015, 35_000_000))


def test_a_row_has_every_figure_and_is_exact() -> None:
    row = sketch_scores.measure(3, 65_536)
    assert set(row) == {*sketch_scores.MEASURED, "exact"}
    assert row["exact"] is True
    assert row["client_bytes"] == 327_748
    assert row["score_bytes"] == 6 * 40_965 + 213_032


def test_rows_are_resumed_and_bars_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = dict.fromkeys(sketch_scores.MEASURED, 0.1) | {"exact": True}
    monkeypatch.setattr(sketch_scores, "measure", lambda count, values: dict(measured))
    monkeypatch.setattr(sketch_scores, "_warm_up", lambda: None)
    arguments = ["--clients", "3,5", "--repeat", "2", "--rows", str(tmp_path / "rows"), "--json"]
    assert sketch_scores.main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["clients"] for row in printed["results"]] == [3, 5]
    file = RowFile(tmp_path / "rows")
    assert len(file.rows) == 4
    sketch_scores.measure_all((3,), 1_000_000, repeat=2, file=file, budget=Budget(None))
    assert len(file.rows) == 4
    measured["client_cpu_s"] = 0.3
    assert sketch_scores.main(["--clients", "3", "--repeat", "1", "--json"]) == 1
