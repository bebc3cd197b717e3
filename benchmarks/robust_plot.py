"""The picture of the robustness benchmark: success of every attack against every rule, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.robust_table import Figures

BAR = 0.1
"""ASR that a rule must stay below."""


def cells(found: Sequence[Figures]) -> tuple[list[str], list[str], list[list[float | None]]]:
    """(names of rows, of columns, ASR or None): attacks and doses by rule and Dirichlet alpha.

    Where a cell was measured both ways the encrypted one counts. Attacks on accuracy alone have no
    success to draw.
    """
    values: dict[tuple[str, str], tuple[bool, float]] = {}
    rows: list[str] = []
    columns: list[str] = []
    for one in found:
        if one.asr is None:
            continue
        row = f"{one.attack} x{one.dose:g}"
        column = f"{one.rule}\nalpha {one.alpha:g}"
        encrypted = one.scoring == "encrypted"
        if encrypted or (row, column) not in values:
            values[row, column] = (encrypted, one.asr)
        if row not in rows:
            rows.append(row)
        if column not in columns:
            columns.append(column)
    rows.sort()
    return rows, columns, [[_value(values.get((r, c))) for c in columns] for r in rows]


def _value(found: tuple[bool, float] | None) -> float | None:
    return None if found is None else found[1]


def draw(found: Sequence[Figures], destination: Path) -> None:
    """Write the picture; empty cells were not measured.

    Raises:
        ImportError: matplotlib is not there (extra ``bench``).
    """
    import matplotlib as mpl  # noqa: PLC0415 - only for this
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows, columns, values = cells(found)
    # Fixed names of its parts and no date: the same rows give the same file.
    with mpl.rc_context({"svg.hashsalt": "robustness"}):
        size = (2.6 + 1.0 * len(columns), 1.2 + 0.28 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        shades = [[float("nan") if v is None else v for v in line] for line in values]
        axes.imshow(shades, cmap="RdYlGn_r", vmin=0, vmax=1, aspect="auto", alpha=0.7)
        for place, line in enumerate(values):
            for at, value in enumerate(line):
                if value is not None:
                    weight = "bold" if value > BAR else "normal"
                    text = f"{100 * value:.0f}"
                    axes.text(at, place, text, ha="center", va="center", fontsize=8, weight=weight)
        axes.set_xticks(range(len(columns)), columns, fontsize=7)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.set_title("attack success rate in the worst round, per cent", fontsize=9)
        figure.savefig(destination, format="svg", metadata={"Date": None})
