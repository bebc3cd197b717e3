"""The protection benchmark at tiny sizes: what it reports, and that its sums are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import protected_sums, protection, protection_case
from benchmarks.federation import SCALE
from benchmarks.measure import ProtectedSum, Stages
from benchmarks.memory import peak_rss_bytes, stream_seconds
from benchmarks.protection_case import SYSTEMS, System, check, measure_case
from benchmarks.results import Budget, Row, RowFile
from tests.conftest import REPOSITORY

VALUES, CLIENTS = 20_000, 3
LATTICE = ("sealed", "sealed-24", "layered", "layered-24")


def costs(**changed: Any) -> Row:
    """A row as a measuring process returns it."""
    row: Row = dict.fromkeys(protection.MEASURED, 1.0)
    row |= {"exact": True, "server_stages_s": {"add": 1.0}, "open_stages_s": {"decrypt": 1.0}}
    return row | changed


def measure_all(file: RowFile, measure: Any, repeat: int = 2, **options: Any) -> list[Row]:
    arguments = {"clients": 10, "budget": Budget(None), "measure": measure} | options
    return protection.measure_all(["layered"], [100], repeat=repeat, file=file, **arguments)


class TestSystems:
    @pytest.mark.parametrize("name", ["masked", *LATTICE])
    def test_ours_open_the_exact_sum(self, name: str) -> None:
        system = SYSTEMS[name]
        result = system.run(VALUES, CLIENTS)
        exact, error = check(result, system.lane_bits, VALUES, CLIENTS)
        assert exact
        # One step of rounding a client.
        assert 0 < error < 1 / SCALE
        assert len(result.clients) == len(result.adds) == CLIENTS

    @pytest.mark.parametrize("name", LATTICE)
    def test_a_lattice_upload_is_whole_polynomials_and_one_wrapped_key(self, name: str) -> None:
        lanes = 96 // SYSTEMS[name].lane_bits
        result = SYSTEMS[name].run(VALUES, CLIENTS)
        polynomials = -(-VALUES // (lanes * 4096))
        assert result.bytes_up == polynomials * 55_296 + 262_257
        assert result.bytes_down == polynomials * 55_296 + 2 * 131_072

    def test_layered_masks_and_sealed_does_not(self) -> None:
        masked = [
            [bool(client.seconds.get("mask")) for client in SYSTEMS[name].run(VALUES, 2).clients]
            for name in ("layered", "sealed")
        ]
        assert masked == [[True, True], [False, False]]

    def test_a_mask_that_is_left_in_the_sum_is_not_exact(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protected_sums.MaskKeys, "remaining", lambda self, sign: [])
        result = SYSTEMS["layered"].run(VALUES, CLIENTS)
        assert not check(result, 32, VALUES, CLIENTS)[0]

    def test_a_sum_that_is_wrong_by_one_step_is_not_exact(self) -> None:
        result = SYSTEMS["masked"].run(VALUES, CLIENTS)
        result.opened[-1] += 1 / SCALE
        assert not check(result, 32, VALUES, CLIENTS)[0]

    def test_plain_values_are_as_long_as_they_are_and_never_called_exact(self) -> None:
        result = SYSTEMS["plain-float32"].run(VALUES, CLIENTS)
        assert result.bytes_up == result.bytes_down == 4 * VALUES
        exact, error = check(result, 32, VALUES, CLIENTS)
        assert not exact
        assert error < 1e-6

    def test_the_masks_of_all_clients_add_up_to_the_self_masks(self) -> None:
        keys = protected_sums.MaskKeys(4)
        signs: dict[bytes, int] = {}
        for client in range(4):
            assert len(keys.of(client)) == 4
            for key, sign in keys.of(client):
                signs[key.reveal()] = signs.get(key.reveal(), 0) + sign
        left = {key: sign for key, sign in signs.items() if sign}
        assert left == {key.reveal(): 1 for key, _ in keys.remaining(1)}


class TestCkks:
    @pytest.mark.parametrize(
        ("name", "bytes_per_value"), [("nvflare-ckks", 58), ("fedml-he-ckks", 81)]
    )
    def test_peers_are_close_and_large(
        self, name: str, bytes_per_value: float, capfd: pytest.CaptureFixture[str]
    ) -> None:
        values = 8192  # two full ciphertexts
        result = SYSTEMS[name].run(values, CLIENTS)
        capfd.readouterr()  # TenSEAL remarks on vectors longer than a ciphertext
        exact, error = check(result, 32, values, CLIENTS)
        assert not exact
        assert error < 1e-5
        assert result.bytes_up / values == pytest.approx(bytes_per_value, rel=0.02)

    def test_layers_are_vectors_of_their_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from benchmarks.peers import ckks_sums

        monkeypatch.setattr(ckks_sums, "LAYER", 1500)
        result = ckks_sums.ckks_sum(ckks_sums.NVFLARE, 4000, 2)
        assert result.running_sum_bytes == 3 * 2 * 2 * 8192 * 8
        assert check(result, 32, 4000, 2)[1] < 1e-5


class TestRows:
    def test_a_fresh_process_reports_all_fields_and_nothing_else_on_its_output(self) -> None:
        row = protection_case.measure_fresh("nvflare-ckks", 5000, 2)
        assert set(protection.MEASURED) <= set(row)
        assert row["peak_rss_bytes"] >= row["base_rss_bytes"] > 1 << 20
        assert row["client_cpu_s"] >= row["encrypt_s"] > 0

    def test_a_process_that_fails_is_named_with_what_it_said(self) -> None:
        with pytest.raises(RuntimeError, match=r"0 values: status 1: .*CryptoError: a sum of 0"):
            protection_case.measure_fresh("layered", 0, 2)

    def test_a_case_has_its_stages_and_roofs(self) -> None:
        row = measure_case(SYSTEMS["layered"], VALUES, CLIENTS)
        assert row["exact"] is True
        stages = sum(row[name] for name in ("quantise_s", "mask_s", "encrypt_s", "serialise_s"))
        assert stages == pytest.approx(row["client_cpu_s"], rel=0.5)
        assert row["encrypt_s"] > row["wrap_s"] > 0
        assert row["bytes_over_limit"] == row["bytes_per_value"] / 4
        assert row["add_of_bandwidth"] == row["add_roof_s"] / row["add_s"]
        assert set(row["open_stages_s"]) == {"share", "key_sum", "decrypt"}
        assert set(row["server_stages_s"]) == {"add", "wraps", "unmask", "serialise"}

    def test_rows_are_resumed_and_medians_reported(self, tmp_path: Path) -> None:
        calls: list[str] = []

        def measure(name: str, values: int, clients: int) -> Row:
            calls.append(name)
            return costs(client_cpu_s=float(len(calls)), open_stages_s={"decrypt": len(calls)})

        path = tmp_path / "rows.jsonl"
        assert measure_all(RowFile(path), measure)[0]["client_cpu_s"] == 1.5
        assert len(calls) == 2
        (result,) = measure_all(RowFile(path), measure, repeat=3)
        assert len(calls) == 3
        assert (result["repeat"], result["dropped"]) == (3, 0)
        assert result["open_stages_s"] == {"decrypt": 2}

    def test_a_case_that_fails_is_left_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        def fails(name: str, values: int, clients: int) -> Row:
            raise RuntimeError("no memory")

        assert measure_all(RowFile(None), fails) == []
        assert "no memory" in capsys.readouterr().err

    def test_nothing_is_started_once_the_budget_is_spent(self) -> None:
        assert measure_all(RowFile(None), lambda *_: costs(), budget=Budget(0)) == []


class TestComparison:
    def rows(self, values: int = 1_000_000, **ours: Any) -> list[Row]:
        case = {"values": values, "clients": 10, "versions": {}, "repeat": 1}
        theirs = costs(bytes_per_value=50.0, encrypt_s=14.0, serialise_s=1.5, client_cpu_s=16.0)
        mine = costs(bytes_per_value=4.9, encrypt_s=0.5, serialise_s=0.5, client_cpu_s=5.0) | ours
        return [
            {**case, "system": "nvflare-ckks", **theirs},
            {**case, "system": "layered", **mine},
        ]

    @pytest.mark.parametrize(
        ("ours", "met"),
        [
            ({}, [True, True, True, True]),
            ({"bytes_per_value": 5.1}, [False, False, True, True]),
            ({"encrypt_s": 0.6}, [True, True, False, True]),
            ({"client_cpu_s": 5.4}, [True, True, True, False]),
        ],
    )
    def test_each_bar_is_on_the_right_side(self, ours: dict[str, Any], met: list[bool]) -> None:
        rows = self.rows(**ours)
        figures = protection.compare(rows, rows)
        assert [row["met"] for row in figures] == met
        assert all(row["worst"] == row["median"] for row in figures)

    def test_there_is_no_bar_for_a_small_update(self) -> None:
        rows = self.rows(values=1000)
        assert [row["met"] for row in protection.compare(rows, rows)] == [None] * 4

    def test_the_worst_repetition_is_shown(self) -> None:
        rows = [*self.rows(), *self.rows(client_cpu_s=8.0)]
        results = [row | {"repeat": 2} for row in self.rows()]
        assert protection.compare(results, rows)[-1]["worst"] == 2.0

    def test_missing_systems_are_left_out(self) -> None:
        rows = self.rows()[1:]
        assert [row["figure"] for row in protection.compare(rows, rows)] == [
            "bytes a value, 32-bit lanes"
        ]

    def test_the_table_has_every_column(self) -> None:
        rows = self.rows()
        table = protection.as_table(rows, protection.compare(rows, rows)).splitlines()
        heading = table.index("") + 1
        for part in (table[: heading - 1], table[heading:]):
            assert len({line.count("|") for line in part}) == 1


class TestCommand:
    @pytest.fixture(autouse=True)
    def _here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Measure in this process."""

        def here(name: str, values: int, clients: int) -> Row:
            return measure_case(SYSTEMS[name], values, clients)

        monkeypatch.setattr(protection, "measure_fresh", here)

    def test_json_has_a_result_for_each_size(self, capsys: pytest.CaptureFixture[str]) -> None:
        sizes = ["--values", "3000,2000", "--clients", "2", "--repeat", "1"]
        assert protection.main([*sizes, "--only", "masked", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["benchmark"] == "protection"
        assert [row["values"] for row in report["results"]] == [2000, 3000]

    def test_a_sum_of_ours_that_is_not_exact_makes_the_command_fail(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def wrong(values: int, clients: int) -> ProtectedSum:
            result = protected_sums.masked_sum(values, clients)
            result.opened[0] += 1.0
            return result

        monkeypatch.setattr(protection_case, "SYSTEMS", {"masked": System(wrong)})
        monkeypatch.setattr(
            protection, "measure_fresh", lambda n, v, c: measure_case(System(wrong), v, c)
        )
        arguments = ["--values", "2000", "--clients", "2", "--repeat", "1", "--only", "masked"]
        assert protection.main(arguments) == 1
        assert " no |" in capsys.readouterr().out


class TestMemory:
    def test_the_peak_is_the_process_own_and_stays(self) -> None:
        """A child has its own peak, whatever this process has held, and keeps it."""
        held = np.ones(32 << 20, np.uint64)
        code = (
            "import numpy; from benchmarks.memory import peak_rss_bytes as peak; print(peak());"
            "held = numpy.ones(8 << 20, numpy.uint64); print(peak()); del held; print(peak())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, check=True
        )
        before, full, after = map(int, done.stdout.split())
        assert before < held.nbytes < peak_rss_bytes()
        # The kernel counts pages in batches.
        assert before + (60 << 20) < full < after + (1 << 20)

    def test_more_traffic_takes_longer_and_none_is_refused(self) -> None:
        assert 0 < stream_seconds(1 << 16) < stream_seconds(1 << 24)
        with pytest.raises(ValueError, match="0 bytes"):
            stream_seconds(0)


def test_stages_add_up_and_hand_out_their_own_clock() -> None:
    stages = Stages()
    for _ in range(2):
        with stages.running("work") as clock:
            sum(range(20_000))
    assert 0 < clock.seconds < stages.seconds["work"] == stages.total
