"""The picture of the benchmark of marks: what is left of the weakest mark against the accuracy that
whoever erases it has given up, as an SVG file."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import Row
from fedfm_audit.watermark.statistic import Trials

LINES = {
    "noise": ("noise in B", "#1b6ca8", "o"),
    "pruning": ("pruning of B", "#2e8b57", "s"),
    "fewer ranks": ("ranks cut of 8", "#7a4fa3", "D"),
    "two ranks and noise": ("2 ranks left, then noise", "#c28f2c", "v"),
    "overwriting": ("marks under other keys", "#b3471d", "^"),
}
MARKS = 6


def curve(rows: Sequence[Row], method: str) -> list[tuple[float, float, float]]:
    """(strength, points of accuracy given up, T of the worst mark): means over seeds, by strength,
    from the copy as it was stolen (strength 0) on."""
    found: dict[float, list[Row]] = {}
    for row in rows:
        if row["kind"] == "erasing" and row["what"] == method:
            found.setdefault(row["strength"], []).append(row)
    if not found:
        return []
    stolen = [row["worst_before"] for some in found.values() for row in some]
    return [(0.0, 0.0, statistics.mean(stolen))] + [
        (
            strength,
            statistics.mean(100 * (row["accuracy_before"] - row["accuracy"]) for row in some),
            statistics.mean(min(row["worst"], row["consortium"]) for row in some),
        )
        for strength, some in sorted(found.items())
    ]


def left_at(points: Sequence[tuple[float, float, float]], given_up: float) -> float | None:
    """T of the worst mark where so many points have been given up: on the straight line between
    the two doses around it, None beyond the strongest one tried."""
    for (_, x0, t0), (_, x1, t1) in itertools.pairwise(points):
        if x0 <= given_up <= x1 and x1 > x0:
            return t0 + (t1 - t0) * (given_up - x0) / (x1 - x0)
    return None


def draw(rows: Sequence[Row], destination: Path) -> list[str]:
    """Write the picture; returns which lines it has.

    Raises:
        ImportError: matplotlib is not there (extra ``bench``).
    """
    import matplotlib as mpl  # noqa: PLC0415 - only for this
    from matplotlib.figure import Figure  # noqa: PLC0415

    drawn = []
    # Fixed names of its parts and no date: the same rows give the same file.
    with mpl.rc_context({"svg.hashsalt": "watermark"}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        for method, (name, colour, marker) in LINES.items():
            points = curve(rows, method)
            if points:
                axes.plot(
                    [x for _, x, _ in points], [t for *_, t in points],
                    color=colour, marker=marker, label=name,
                )  # fmt: skip
                drawn.append(name)
        needed = Trials(MARKS, 1).threshold
        axes.axhline(needed, color="grey", linestyle="--", linewidth=1)
        axes.text(0, needed, "what a logged claim needs", fontsize=8, va="bottom")
        axes.set_xlabel("accuracy given up, points")
        axes.set_ylabel("T of the weakest of six marks")
        axes.grid(visible=True, alpha=0.3)
        if drawn:
            axes.legend(fontsize=8)
        figure.savefig(destination, format="svg", metadata={"Date": None})
    return drawn
