"""The robustness matrix made short: one line an attack, rule and Dirichlet alpha, and the minimax.

A line stands for all doses and seeds that were measured; what matters beside the mean is the worst
of them. Where a federation was measured both ways its encrypted row counts, the plain one is the
same but for the rounding of scores.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.results import Row, markdown_table
from benchmarks.robust_table import exclusions, lifespan, percent

COLUMNS = (
    "attack", "rule", "alpha", "doses", "seeds", "encrypted", "ASR, mean", "ASR, worst",
    "ASR at the end", "lifespan", "accuracy beside honest alone", "worst", "attackers excluded",
    "honest excluded",
)  # fmt: skip

Cell = tuple[str, float, float, int]
"""(attack, dose, alpha, seed)"""


@dataclass(frozen=True, slots=True)
class Summary:
    """All doses and seeds of an attack against a rule; shares, None where there is no such figure.

    ``mean``, ``worst``, ``at_end`` and ``lifespan`` are of attack success, ``difference`` and
    ``least`` of the accuracy minus that of the honest clients alone with the same seed.
    """

    attack: str
    rule: str
    alpha: float
    doses: tuple[float, ...]
    seeds: tuple[int, ...]
    cases: int
    encrypted: int
    mean: float | None
    worst: float | None
    at_end: float | None
    lifespan: float | None
    difference: float | None
    least: float | None
    caught: float | None
    wrongly: float


def cell_of(row: Row) -> Cell:
    """What was attacked how; the rule left out."""
    return row["attack"], row["dose"], row["alpha"], row["seed"]


def preferred(rows: Iterable[Row]) -> list[Row]:
    """One row of each case, the encrypted one where there are two, in their order."""
    chosen: dict[tuple[Cell, str], Row] = {}
    for row in rows:
        key = cell_of(row), row["rule"]
        if key not in chosen or row["scoring"] == "encrypted":
            chosen[key] = row
    return list(chosen.values())


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """One for each attack, rule and alpha: by rule and alpha, then by attack as the rows come."""
    rows = preferred(rows)
    alone = {
        (row["alpha"], row["seed"]): row["accuracy"]
        for row in rows
        if row["attack"] == row["rule"] == "none"
    }
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["rule"], row["alpha"], row["attack"]), []).append(row)
    order = sorted(groups, key=lambda key: (key[0] != "none", key[0], -key[1]))
    return [_summary(*key, groups[key], alone) for key in order]


def _summary(
    rule: str, alpha: float, attack: str, rows: list[Row], alone: dict[tuple[float, int], float]
) -> Summary:
    backdoors = [row for row in rows if row["asr"] is not None]
    success = [row["asr"] for row in backdoors]
    differences = [
        row["accuracy"] - alone[alpha, row["seed"]] for row in rows if (alpha, row["seed"]) in alone
    ]
    caught, attacking, wrongly, honest = (
        sum(column) for column in zip(*map(exclusions, rows), strict=True)
    )
    return Summary(
        attack,
        rule,
        alpha,
        doses=tuple(sorted({row["dose"] for row in rows})),
        seeds=tuple(sorted({row["seed"] for row in rows})),
        cases=len(rows),
        encrypted=sum(row["scoring"] == "encrypted" for row in rows),
        mean=statistics.mean(success) if success else None,
        worst=max(success, default=None),
        at_end=max((row["per_round"][-1]["asr"] for row in backdoors), default=None),
        lifespan=max(map(lifespan, backdoors), default=None),
        difference=statistics.mean(differences) if differences else None,
        least=min(differences, default=None),
        caught=caught / attacking if attacking else None,
        wrongly=wrongly / honest,
    )


def summary_table(found: Sequence[Summary]) -> str:
    """The lines as Markdown, percentages; of the ends and lifespans the worst."""
    return markdown_table(
        COLUMNS,
        [
            (
                s.attack, s.rule, f"{s.alpha:g}",
                ", ".join(f"{dose:g}" for dose in s.doses), len(s.seeds),
                f"{s.encrypted}/{s.cases}",
                percent(s.mean), percent(s.worst), percent(s.at_end),
                "-" if s.lifespan is None else f"{s.lifespan:g}",
                percent(s.difference), percent(s.least), percent(s.caught), percent(s.wrongly),
            )
            for s in found
        ],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Minimax:
    """The cells that all rules met, each rule's worst of them, least first."""

    cells: tuple[Cell, ...]
    worst: tuple[tuple[str, float, Cell], ...]

    def to_text(self) -> str:
        """A sentence, and a line for each rule."""
        attacks = sorted({cell[0] for cell in self.cells})
        lines = [
            f"Minimax over {len(self.cells)} cells that {len(self.worst)} rules met "
            f"({', '.join(attacks)}): **{self.worst[0][0]}**.",
            "",
            markdown_table(
                ("rule", "worst ASR", "by"),
                [
                    (rule, percent(asr), f"{attack} x{dose:g}, alpha {alpha:g}, seed {seed}")
                    for rule, asr, (attack, dose, alpha, seed) in self.worst
                ],
            ),
        ]
        return "\n".join(lines)


def minimax(rows: Sequence[Row], rules: Sequence[str] | None = None) -> Minimax | None:
    """The rule whose worst attack succeeds least, over the cells that all rules were tried on.

    Args:
        rows: of all rules; attacks on accuracy alone play no part.
        rules: only these; all that there are, if not given.
    """
    tried: dict[str, dict[Cell, float]] = {}
    for row in preferred(rows):
        if row["asr"] is not None and (rules is None or row["rule"] in rules):
            tried.setdefault(row["rule"], {})[cell_of(row)] = row["asr"]
    if not tried:
        return None
    common = set.intersection(*(set(cells) for cells in tried.values()))
    if not common:
        return None
    worst = []
    for rule, cells in tried.items():
        cell = max(sorted(common), key=lambda one: cells[one])
        worst.append((rule, cells[cell], cell))
    return Minimax(tuple(sorted(common)), tuple(sorted(worst, key=lambda one: one[1:2])))
