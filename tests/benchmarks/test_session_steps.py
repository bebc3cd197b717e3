"""The benchmark of a session's steps: its figures are of what it says, and add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import session_steps
from benchmarks.session_federation import labels_for, training_rows
from benchmarks.session_simulation import PARTS, PREPARING, simulate
from secure_fedfm.services.metering import Meter, Stopwatch

CLIENTS, VALUES, STEPS = 4, 800, 2
WRAP_BYTES = 200_000  # a wrapped key is far larger than a sum of so few values


def test_every_part_of_a_simulated_step_is_counted() -> None:
    row = simulate(clients=CLIENTS, values=VALUES, steps=STEPS)
    parts = row["client_parts_s"]
    assert set(parts) == {*PARTS, PREPARING}
    assert all(spent > 0 for spent in parts.values())
    # Preparing is work, but nobody waits for it.
    assert row["client_cpu_s"] > parts[PREPARING]
    assert 0 < row["coordinator_cpu_s"] < row["critical_path_s"]
    assert WRAP_BYTES < row["bytes_up"] < 2 * WRAP_BYTES
    assert row["coordinator_setup_s"] > 0
    assert row["client_setup_s"] > 0


def test_rows_are_resumed_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def once(**shape: int) -> dict[str, object]:
        measured.append(shape["clients"])
        return simulate(**shape)

    monkeypatch.setattr(session_steps, "simulate", once)
    rows = tmp_path / "rows.jsonl"
    asked = ["--clients", "4", "--values", "800", "--only", "simulation"]
    asked += ["--simulated-steps", "1", "--rows", str(rows)]
    assert session_steps.main(asked) == 0
    table = capsys.readouterr().out
    assert "critical path, estimate" in table
    assert "| 4 | 800 |" in table
    assert session_steps.main([*asked, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["kind"] == "simulation"
    assert measured == [4]
    assert len(rows.read_text().splitlines()) == 1


def test_large_federations_are_simulated_and_small_ones_are_real() -> None:
    asked = ["--clients", "5,20", "--values", "30000,1000000"]
    kinds = {
        (case["clients"], case["values"]): (case["kind"], case["steps"])
        for case in session_steps.cases(session_steps._arguments(asked))
    }
    assert kinds[5, 30_000] == ("processes", 100)
    assert [kinds[n, v][0] for n, v in ((5, 10**6), (20, 30_000), (20, 10**6))] == 3 * [
        "simulation"
    ]


def test_the_head_has_about_as_many_values_as_asked_for() -> None:
    assert [labels_for(values) for values in (30_000, 29_645, 1)] == [78, 77, 2]
    assert len(training_rows(None, 77).label_names()) == 77
    assert training_rows(None, 13) == training_rows(None, 12)  # near enough: its own labels


def test_a_meter_tells_steps_and_key_setup_apart() -> None:
    now = iter(range(100))
    meter = Meter(clock=lambda: float(next(now)), cpu_clock=lambda: 0.0)
    meter.enter("offers")  # of a round that makes a key
    meter.enter("offers", (2, None))
    meter.enter("shares", (2, None))
    for step in range(3):
        meter.enter("training", (2, step))
        meter.enter("uploads", (2, step))
    meter.enter("cosignatures")
    meter.enter(None)
    report = meter.report()
    assert report["seconds_of_key_setup"] == 2.0
    assert report["seconds_per_step"] == 3 * [{"training": 1.0, "uploads": 1.0}]
    assert report["seconds_per_phase"] == {
        "offers": 2.0, "shares": 1.0, "training": 3.0, "uploads": 3.0, "cosignatures": 1.0
    }  # fmt: skip


def test_a_stopwatch_counts_processor_time_of_steps_only() -> None:
    cpu = iter((10.0, 14.0, 90.0, 95.0))
    watch = Stopwatch(cpu_clock=lambda: next(cpu))
    for step in range(3):
        watch.trains(step)
    watch.ends()
    watch.ends()  # a round that made a key
    watch.trains(0)
    watch.ends()
    assert watch.report()["cpu_seconds_of_steps"] == 9.0
    assert watch.report()["steps"] == 4
