"""The exactness benchmark at tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import exact_sums

TINY = ["--values", "20000", "--json"]


@pytest.mark.parametrize("lane_bits", ["24", "32"])
def test_every_active_set_opens_the_exact_sum_and_one_share_short_nothing(
    lane_bits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exact_sums.main([*TINY, "--clients", "20,3", "--lane-bits", lane_bits]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["clients"] for row in rows] == [3, 20]
    for row in rows:
        assert row["exact"]
        assert row["active_sets"] == 3
        assert row["one_short_matches"] < 0.001
        assert row["one_short_refused"]
        # The sums reach the ends of the lane: no room for another client.
        room = 2 ** (row["lane_bits"] - 1) - 1 - row["largest_sum"]
        assert 0 <= room < row["clients"]


def test_active_sets_are_different_and_of_the_threshold() -> None:
    for clients, threshold in ((3, 2), (20, 3), (1000, 101)):
        sets = exact_sums.active_sets(clients, threshold)
        assert len(set(sets)) == 3
        assert all(len(set(active)) == threshold for active in sets)
        assert all(set(active) <= set(range(1, clients + 1)) for active in sets)


def test_a_sum_that_differs_makes_the_command_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = exact_sums.open_lanes

    def one_off(*arguments: Any) -> Any:
        opened = honest(*arguments)
        return opened + np.eye(1, opened.size, dtype=np.int64)[0]

    monkeypatch.setattr(exact_sums, "open_lanes", one_off)
    assert exact_sums.main([*TINY, "--clients", "3"]) == 1
    assert json.loads(capsys.readouterr().out)["results"][0]["exact"] is False


def test_an_opening_with_all_shares_would_be_counted_as_a_match(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = exact_sums.open_wrapped

    def complete(*arguments: Any, missing: int = 0) -> Any:
        return honest(*arguments)

    monkeypatch.setattr(exact_sums, "open_wrapped", complete)
    row = exact_sums.measure(3, 5000, 32)
    assert row["one_short_matches"] == 1.0
    assert not row["one_short_refused"]


def test_rows_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = [*TINY, "--clients", "3", "--rows", str(path)]
    assert exact_sums.main(arguments) == 0
    monkeypatch.setattr(exact_sums, "measure", lambda *_: pytest.fail("measured again"))
    assert exact_sums.main(arguments) == 0
    assert len(path.read_text().splitlines()) == 1
