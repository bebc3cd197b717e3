"""The replay benchmark at tiny sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import replay

TINY = ["--values", "500", "--clients", "5"]


def test_every_suite_is_repeated_and_sized(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([*TINY, "--suite", "layered,masked,clear", "--json"]) == 0
    rows = {row["suite"]: row for row in json.loads(capsys.readouterr().out)["results"]}
    assert {suite: row["uploads"] for suite, row in rows.items()} == dict.fromkeys(rows, 4)
    # Four words for each value, and four bytes for their length.
    assert rows["clear"]["bytes"]["Upload"] == rows["masked"]["bytes"]["Upload"] == 4 * 2004
    assert rows["clear"]["bytes"]["Unmask"] == 0 < rows["masked"]["bytes"]["Unmask"]
    assert rows["layered"]["bytes_per_upload"] == 55_296 + 262_257 + 8


def test_a_replay_that_fails_is_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = replay.archive_round

    def damaged(root: Any, *rest: Any) -> Any:
        archived = original(root, *rest)
        next(root.rglob("Upload/*")).write_bytes(b"")
        return archived

    monkeypatch.setattr(replay, "archive_round", damaged)
    assert replay.main([*TINY, "--suite", "clear"]) == 1
    assert "the replay failed" in capsys.readouterr().err
