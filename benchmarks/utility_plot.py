"""The picture of the privacy utility benchmark: accuracy against epsilon, as an SVG file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.results import Row, RowFile
from benchmarks.utility_recipes import EPSILONS, epsilon_text

# Mode and institutions -> how it is called and drawn. Where a row was measured both ways, the
# encrypted one counts.
LINES = {
    ("shared-all", 5): ("shared noise, 5 institutions, made for all", "#1b6ca8", "-", "o"),
    ("shared-all", 20): ("shared noise, 20, made for all", "#1b6ca8", "--", "s"),
    ("shared-honest", 5): ("shared noise, 5, made for the honest 3", "#2e8b57", "-", "o"),
    ("shared-honest", 20): ("shared noise, 20, made for the honest 14", "#2e8b57", "--", "s"),
    ("local", 5): ("every institution its own noise, 5", "#b3471d", "-", "o"),
    ("local", 20): ("every institution its own noise, 20", "#b3471d", "--", "s"),
}


def points(
    file: RowFile, adapter: str, mode: str, institutions: int, rates: Mapping[str, float]
) -> dict[str, list[float]]:
    """Epsilon -> test accuracies in per cent, of all seeds, at the head's rate that was chosen for
    this epsilon."""
    found: dict[str, dict[int, tuple[bool, float]]] = {}
    for row in file.rows:
        if not _fits(row, adapter, mode, institutions):
            continue
        if row["head_rate"] != rates[str(row["epsilon"])]:
            continue
        encrypted = str(row["mode"]).endswith("-encrypted")
        seeds = found.setdefault(str(row["epsilon"]), {})
        if encrypted or int(row["seed"]) not in seeds:
            seeds[int(row["seed"])] = (encrypted, 100 * float(row["accuracy"]))
    return {epsilon: [one for _, one in seeds.values()] for epsilon, seeds in found.items()}


def _fits(row: Row, adapter: str, mode: str, institutions: int) -> bool:
    return (
        row.get("adapter") == adapter
        and row.get("mode", "local") in (mode, f"{mode}-encrypted")
        and row.get("institutions") == institutions
        and not row.get("held_out")
    )


def draw(
    file: RowFile, destination: Path, chosen: Callable[[float, int, str], float]
) -> Sequence[str]:
    """Write the picture for the head; returns which lines it has.

    ``chosen`` gives the head's rate for an epsilon, a number of institutions and a mode.

    Raises
    ------
    ImportError
        if matplotlib is not there (extra ``bench``).
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - only for this

    order = [epsilon_text(epsilon) for epsilon in reversed(EPSILONS)]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    drawn = []
    for (mode, institutions), (name, colour, dashes, marker) in LINES.items():
        rates = {epsilon_text(e): chosen(e, institutions, mode) for e in EPSILONS}
        measured = points(file, "head", mode, institutions, rates)
        at = [place for place, epsilon in enumerate(order) if epsilon in measured]
        if not at:
            continue
        values = [measured[order[place]] for place in at]
        means = [statistics.mean(value) for value in values]
        spread = [
            [mean - min(value) for mean, value in zip(means, values, strict=True)],
            [max(value) - mean for mean, value in zip(means, values, strict=True)],
        ]
        axes.errorbar(
            at, means, yerr=spread, color=colour, linestyle=dashes, marker=marker, capsize=3,
            label=name,
        )  # fmt: skip
        drawn.append(name)
    axes.set_xticks(range(len(order)), ["no noise" if e == "inf" else e for e in order])
    axes.set_xlabel("epsilon (delta 1e-5, example level)")
    axes.set_ylabel("test accuracy, per cent")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    # Without a date and with fixed names of its parts: the same rows give the same file.
    figure.savefig(destination, format="svg", metadata={"Date": None})
    return drawn
