"""The secure_sum benchmark at tiny sizes: what it reports, and that its sums are checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import rounds, secure_sum
from benchmarks.measure import Measurement, example_update
from benchmarks.results import Budget, RowFile
from fedfm_crypto.lanes import from_lanes

OURS = ["--only", "clear", "--only", "masked", "--only", "masked-24"]
TINY = ["--values", "4000", "--clients", "4", "--repeat", "2", "--json"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    """Results of a command line by system; the command must succeed."""
    assert secure_sum.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert isinstance(report, dict)
    return {row["system"]: row for row in report["results"]}


def updates(clients: int = 4, values: int = 2000) -> list[rounds.Update]:
    return [example_update(i, values) for i in range(clients)]


def test_json_has_a_result_per_system_with_the_agreed_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = run(capsys, *TINY, *OURS)
    assert set(results) == {"clear", "masked", "masked-24"}
    for row in results.values():
        assert row["values"] == 4000
        assert row["clients"] == 4
        assert row["repeat"] == 2
        assert row["exact"] is True
        assert row["client_cpu_s"] > 0
        assert row["server_cpu_s"] > 0
    # Lanes, and no more than a few kilobytes for keys, shares, votes and signatures.
    assert 4.0 < results["clear"]["bytes_per_value"] < results["masked"]["bytes_per_value"] < 6
    saved = results["masked"]["bytes_per_value"] - results["masked-24"]["bytes_per_value"]
    assert saved == pytest.approx(1.0)


def test_dropped_clients_leave_an_exact_sum_of_the_others() -> None:
    measured = rounds.run_round("masked", 32, updates(clients=5), dropped=1)
    assert measured.exact


def test_more_dropouts_than_the_federation_tolerates_are_one_clear_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert secure_sum.main([*TINY, "--only", "masked", "--dropped", "3"]) == 2
    assert "dropouts is 3" in capsys.readouterr().err


def test_a_sum_that_is_wrong_by_one_step_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_off(words: Any, lane_bits: int) -> Any:
        values = from_lanes(words, lane_bits)
        values[-1] += 1
        return values

    monkeypatch.setattr(rounds, "from_lanes", one_off)
    assert not rounds.run_round("masked", 32, updates()).exact


def test_an_inexact_repetition_makes_the_command_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Measurement(0.1, 0.1, bytes_up=10, bytes_down=10, exact=False)
    monkeypatch.setattr(secure_sum, "SYSTEMS", {"masked": lambda updates, dropped: wrong})
    assert secure_sum.main([*TINY, "--only", "masked"]) == 1
    assert json.loads(capsys.readouterr().out)["results"][0]["exact"] is False


def test_rows_are_appended_and_a_second_run_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    fake = Measurement(0.2, 0.3, bytes_up=400, bytes_down=100, exact=True)

    def counted(updates: Any, dropped: int) -> Measurement:
        calls.append(len(updates[0]))
        return dataclasses.replace(fake, client_cpu_s=float(len(calls)))

    monkeypatch.setattr(secure_sum, "SYSTEMS", {"masked": counted})

    def measure(repeat: int) -> list[dict[str, Any]]:
        return secure_sum.measure_all(
            ["masked"],
            values=100,
            clients=3,
            dropped=0,
            repeat=repeat,
            file=RowFile(tmp_path / "rows.jsonl"),
            budget=Budget(None),
        )

    assert measure(2)[0]["repeat"] == 2
    assert calls == [secure_sum.WARM_UP_VALUES, 100, 100]
    assert measure(2)[0]["client_cpu_s"] == 2.5
    assert len(calls) == 3
    assert measure(3)[0]["repeat"] == 3
    assert calls[3:] == [secure_sum.WARM_UP_VALUES, 100]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


def test_nothing_is_started_once_the_budget_is_spent(capsys: pytest.CaptureFixture[str]) -> None:
    assert secure_sum.main([*TINY, "--only", "clear", "--budget-minutes", "0"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["results"] == []
    assert "0 of 2 repetitions" in captured.err


def test_a_broken_row_file_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"system": "clear"}\nnot json\n')
    assert secure_sum.main([*TINY, "--only", "clear", "--out", str(path)]) == 2
    assert "line 2" in capsys.readouterr().err


class TestFlower:
    """Flower's own SecAgg+; skipped where the installed flwr has no such thing."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip(
            "flwr", reason="flwr is not installed; pip install -e '.[bench]' to compare with it"
        )

    def test_opens_the_exact_sum_of_its_own_quantised_values(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        results = run(capsys, *TINY, "--only", secure_sum.FLOWER)
        row = results[secure_sum.FLOWER]
        assert row["exact"] is True
        assert row["client_cpu_s"] > 0
        assert row["bytes_per_value"] > 8  # it sends 64-bit integers

    def test_survives_a_dropped_client(self) -> None:
        from benchmarks.peers import flower_secagg

        measured = flower_secagg.run_round(updates(clients=5), threshold=4, dropped=1)
        assert measured.exact

    def test_a_sum_that_is_wrong_by_one_step_is_not_exact(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from benchmarks.peers import flower_secagg

        honest = flower_secagg.workflow.parameters_mod
        monkeypatch.setattr(
            flower_secagg.workflow,
            "parameters_mod",
            lambda vectors, divisor: [v + np.int64(1) for v in honest(vectors, divisor)],
        )
        assert not flower_secagg.run_round(updates(), threshold=3).exact
