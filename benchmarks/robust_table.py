"""Figures of the robustness benchmark's rows: what an attack reaches against a rule.

*Attack success rate* (ASR) is the largest over the attacked rounds: one round with a backdoor is
enough for whoever uses it. *Lifespan* is how many rounds after the attackers stopped still have a
backdoor that works every other time. *Accuracy* is that of the last round, beside a federation of
the honest clients alone (attack ``none`` without a rule). *TPR* is the share of attackers'
attacking rounds in which they were excluded, *FPR* the share of honest clients' rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results import Row, markdown_table

COLUMNS = (
    "attack", "dose", "rule", "scoring", "alpha", "seeds", "ASR, worst round", "ASR at the end",
    "lifespan", "accuracy", "honest alone", "difference", "TPR", "FPR",
)  # fmt: skip


LIVING = 0.5
"""ASR at which a backdoor counts as alive."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the seeds of one cell; None where an attack has no such figure."""

    attack: str
    dose: float
    rule: str
    scoring: str
    alpha: float
    seeds: int
    asr: float | None
    asr_at_end: float | None
    lifespan: float | None
    accuracy: float
    alone: float | None
    caught: float | None
    wrongly: float

    @property
    def difference(self) -> float | None:
        """Accuracy minus that of the honest clients alone."""
        return None if self.alone is None else self.accuracy - self.alone


def exclusions(row: Row) -> tuple[int, int, int, int]:
    """(attackers excluded, of how many, honest clients excluded, of how many), client rounds."""
    caught = attacking = wrongly = honest = 0
    malicious = [f"malicious-{i + 1}" for i in range(row["malicious"])]
    for entry in row["per_round"]:
        accepted = set(entry["accepted"])
        honest += row["honest"]
        wrongly += sum(f"honest-{i + 1}" not in accepted for i in range(row["honest"]))
        if entry["round"] in row["attacked"]:
            attacking += len(malicious)
            caught += sum(name not in accepted for name in malicious)
    return caught, attacking, wrongly, honest


def lifespan(row: Row) -> int:
    """Rounds without an attack after the last attacked one, in which the backdoor worked at least
    ``LIVING`` of the time, before the first in which it did not."""
    alive = 0
    for entry in row["per_round"]:
        if entry["round"] > max(row["attacked"]):
            if entry["asr"] < LIVING:
                break
            alive += 1
    return alive


def figures(rows: Sequence[Row]) -> list[Figures]:
    """One entry for each attack, dose, rule, scoring and alpha, in the order of the rows."""
    cells: dict[tuple[str, float, str, str, float], list[Row]] = {}
    alone: dict[tuple[float, int], float] = {}
    for row in rows:
        key = (row["attack"], row["dose"], row["rule"], row["scoring"], row["alpha"])
        cells.setdefault(key, []).append(row)
        if row["attack"] == row["rule"] == "none":
            alone[row["alpha"], row["seed"]] = row["accuracy"]
    found = []
    for (attack, dose, rule, scoring, alpha), cell in cells.items():
        beside = [alone[alpha, row["seed"]] for row in cell if (alpha, row["seed"]) in alone]
        counts = [sum(column) for column in zip(*map(exclusions, cell), strict=True)]
        backdoors = [row for row in cell if row["asr"] is not None]
        success = [row["asr"] for row in backdoors]
        last = [row["per_round"][-1]["asr"] for row in backdoors]
        found.append(
            Figures(
                attack, dose, rule, scoring, alpha,
                seeds=len(cell),
                asr=statistics.mean(success) if success else None,
                asr_at_end=statistics.mean(last) if last else None,
                lifespan=statistics.mean(map(lifespan, backdoors)) if backdoors else None,
                accuracy=statistics.mean(row["accuracy"] for row in cell),
                alone=statistics.mean(beside) if len(beside) == len(cell) else None,
                caught=counts[0] / counts[1] if counts[1] else None,
                wrongly=counts[2] / counts[3],
            )
        )  # fmt: skip
    return found


def table(found: Sequence[Figures]) -> str:
    """All cells as Markdown, percentages."""
    return markdown_table(
        COLUMNS,
        [
            (
                f.attack, f"{f.dose:g}", f.rule, f.scoring, f"{f.alpha:g}", f.seeds,
                percent(f.asr), percent(f.asr_at_end),
                "-" if f.lifespan is None else f"{f.lifespan:.1f}",
                percent(f.accuracy), percent(f.alone), percent(f.difference),
                percent(f.caught), percent(f.wrongly),
            )
            for f in found
        ],
    )  # fmt: skip


def percent(share: float | None) -> str:
    """A share in per cent, or a dash."""
    return "-" if share is None else f"{100 * share:.1f}"
