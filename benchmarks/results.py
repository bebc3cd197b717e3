"""Result rows: appended as they are measured, resumed after a break, summarised by medians.

One row is one repetition of one case, as a JSON object on a line of its own.  A case is named by
its ``key`` fields; rows of other package versions are left in the file and not used.  The options
that follow from this, and how results are printed, are the same for every benchmark with rows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import median

Row = dict[str, Any]


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@dataclass
class RowFile:
    """Rows of one benchmark, kept in memory and, where ``path`` is given, in a JSONL file.

    Raises
    ------
    ValueError
        if a line of the file is not a JSON object; names the line.
    """

    path: Path | None
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{self.path}, line {number}: not JSON ({error}); remove the line to resume"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{self.path}, line {number}: expected a JSON object")
            self.rows.append(row)

    def append(self, row: Row) -> None:
        """Keep a row; it is in the file when this returns."""
        self.rows.append(row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, sort_keys=True) + "\n")

    def of(self, key: Mapping[str, Any]) -> list[Row]:
        """The rows whose fields equal those of ``key``."""
        return [row for row in self.rows if all(row.get(k) == v for k, v in key.items())]


@dataclass
class Budget:
    """Minutes of wall time that a benchmark may start new measurements in; None is no limit."""

    minutes: float | None
    started: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> bool:
        """Whether nothing new may be started."""
        return self.minutes is not None and time.monotonic() - self.started > 60 * self.minutes


def summarise(rows: Sequence[Row], key: Mapping[str, Any], medians: Sequence[str]) -> Row:
    """One result from the repetitions of a case.

    Medians of the fields ``medians``; ``exact`` only if every repetition was; ``repeat`` is how
    many there are.  ``rows`` must not be empty.
    """
    summary: Row = dict(key)
    for name in medians:
        summary[name] = median(float(row[name]) for row in rows)
    summary["exact"] = all(row["exact"] is True for row in rows)
    summary["repeat"] = len(rows)
    return summary


def sizes(least: int) -> Callable[[str], tuple[int, ...]]:
    """The type of an option that takes sizes with commas between: ascending, each once."""

    def parse(text: str) -> tuple[int, ...]:
        found = tuple(sorted({int(part) for part in text.split(",")}))
        if found[0] < least:
            raise argparse.ArgumentTypeError(f"{found[0]} found, expected at least {least}")
        return found

    parse.__name__ = "sizes"  # argparse names the type when int() refuses
    return parse


def add_row_options(parser: argparse.ArgumentParser, *, repeat: int | None = None) -> None:
    """The options of every benchmark with rows; ``repeat`` is the default, None for no such one."""
    if repeat is not None:
        parser.add_argument(
            "--repeat", type=int, default=repeat, help="repetitions; medians are reported"
        )
    parser.add_argument(
        "--budget-minutes", type=float, help="start no new measurement after so many minutes"
    )
    parser.add_argument(
        "--rows", "--out", type=Path, help="JSONL file that rows are appended to and resumed from"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def parse_at_least(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, least: Mapping[str, int]
) -> argparse.Namespace:
    """Parse ``argv``; exits with a usage error where an option is below its bound in ``least``."""
    arguments = parser.parse_args(argv)
    for name, bound in least.items():
        value = getattr(arguments, name)
        if value < bound:
            parser.error(f"--{name} is {value}, expected at least {bound}")
    return arguments


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; every row has one cell for each column."""
    lines = [_line(columns), "|---" * len(columns) + "|"]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(columns)} columns")
        lines.append(_line(row))
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def report(arguments: argparse.Namespace, results: Row, table: Callable[[], str]) -> None:
    """Print the results as asked: one JSON object, or the table."""
    print(json.dumps(results, indent=2) if arguments.json else table())
