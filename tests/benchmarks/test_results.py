"""Options and tables that all benchmarks with rows share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.results import add_row_options, markdown_table, parse_at_least, sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=sizes(2), default=(3,))
    add_row_options(parser, repeat=5)
    return parser


def test_sizes_come_out_ascending_and_once() -> None:
    assert sizes(2)("30,2,30") == (2, 30)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--clients", "1,3"], "1 found, expected at least 2"),
        (["--clients", "three"], "invalid sizes value: 'three'"),
        (["--repeat", "0"], "--repeat is 0, expected at least 1"),
    ],
)
def test_what_is_out_of_range_is_a_usage_error(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        parse_at_least(_parser(), options, {"repeat": 1})
    assert exited.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--rows", "--out"])
def test_rows_have_a_file_by_either_name(option: str) -> None:
    arguments = parse_at_least(_parser(), [option, "a.jsonl"], {"repeat": 1})
    assert (arguments.rows, arguments.repeat, arguments.json) == (Path("a.jsonl"), 5, False)


def test_a_table_has_a_cell_for_every_column() -> None:
    assert markdown_table(("a", "b"), [(1, "x")]) == "| a | b |\n|---|---|\n| 1 | x |"
    with pytest.raises(ValueError, match="1 cells in a table of 2"):
        markdown_table(("a", "b"), [(1,)])
