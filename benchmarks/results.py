"""Result rows: appended as they are measured, resumed after a break, summarised by medians.

One row is one repetition of one case, as a JSON object on a line of its own.  A case is named by
its ``key`` fields; rows of other package versions are left in the file and not used.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
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
