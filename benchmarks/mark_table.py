"""Tables of the benchmark of marks, from its rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from benchmarks.mark_plot import LINES, curve, left_at
from benchmarks.results import Row, markdown_table

GIVEN_UP = (1.0, 2.0, 5.0, 10.0)
# Two-sided 95 % quantiles of Student's t, by degrees of freedom.
_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}


_WITH = {"attack": ("fine-tuning",)}
"""Kinds of rows that stand in the table of another."""


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half of its 95 % interval (Student's t); None for one value or more than nine."""
    mean, degrees = statistics.mean(values), len(values) - 1
    if degrees not in _STUDENT:
        return mean, None
    return mean, _STUDENT[degrees] * statistics.stdev(values) / math.sqrt(len(values))


def tables(rows: Sequence[Row]) -> str:
    """All tables that there are rows for, as Markdown."""
    parts: dict[str, Callable[[Sequence[Row]], str]] = {
        "marking": _marking,
        "attack": _attacks,
        "erasing": _erasing,
        "retraining": _retraining,
        "clients": _clients,
        "colluders": _colluders,
        "false positives": _false_positives,
        "private": _private,
        "black box": _black_box,
    }
    found = []
    for kind, table in parts.items():
        kinds = {kind, *_WITH.get(kind, ())}
        some = [row for row in rows if row["kind"] in kinds]
        if some:
            found.append(table(some))
    return "\n\n".join(found)


def _marking(rows: Sequence[Row]) -> str:
    shown = [
        (
            row["seed"], _t(row["consortium"]), _t(row["worst"]),
            f"{row['norms'][0]:.2f} to {row['norms'][-1]:.2f}", f"{row['sum_norm']:.2f}",
            f"{row['relative'][0]:.3f} to {row['relative'][-1]:.3f}",
            _percent(row["accuracy_before"]), _percent(row["accuracy"]),
        )
        for row in rows
    ]  # fmt: skip
    columns = ("seed", "T consortium", "T worst client", "norms of single marks", "norm of all",
               "relative change of each", "accuracy before", "after")  # fmt: skip
    mean, half = interval([100 * (row["accuracy"] - row["accuracy_before"]) for row in rows])
    spread = "" if half is None else f", 95 % interval {mean - half:+.2f} to {mean + half:+.2f}"
    return (
        markdown_table(columns, shown)
        + f"\n\nAccuracy changed by {mean:+.2f} points on average{spread}."
    )


def _attacks(rows: Sequence[Row]) -> str:
    found = []
    for what in dict.fromkeys(row["what"] for row in rows):
        some = [row for row in rows if row["what"] == what]
        taken = [row["accuracy"] for row in some if row["accuracy"] is not None]
        found.append(
            (
                what, len(some), _mean(some, "consortium"), _mean(some, "worst"),
                _t(min(row["worst"] for row in some)),
                f"{statistics.mean(row['worst_bits'] for row in some):.0f}",
                f"{sum(row['lost'] for row in some)} of {6 * len(some)}",
                f"{statistics.mean(row['sign_consortium_bits'] for row in some):.0f}",
                f"{statistics.mean(row['sign_worst_bits'] for row in some):.0f}",
                _percent(statistics.mean(taken)) if taken else "-",
            )
        )  # fmt: skip
    columns = ("attack", "seeds", "T consortium", "T worst client", "lowest T", "its bits, mean",
               "marks lost", "sign marks: bits, consortium", "worst client",
               "accuracy")  # fmt: skip
    return markdown_table(columns, found)


def _erasing(rows: Sequence[Row]) -> str:
    columns = ("way to erase", *(f"T at {points:g} points" for points in GIVEN_UP), "doses tried")
    found = []
    for method, (name, *_) in LINES.items():
        points = curve(rows, method)
        if points:
            left = [left_at(points, given_up) for given_up in GIVEN_UP]
            doses = ", ".join(f"{dose:g}: {x:.1f} points, T {t:.1f}" for dose, x, t in points)
            found.append((name, *("-" if one is None else _t(one) for one in left), doses))
    return markdown_table(columns, found)


def _retraining(rows: Sequence[Row]) -> str:
    columns = ("attack", "seeds", "T consortium", "T worst client", "marks lost",
               "accuracy before", "after")  # fmt: skip
    found = []
    for what in dict.fromkeys(row["what"] for row in rows):
        some = [row for row in rows if row["what"] == what]
        shares = ("accuracy_before", "accuracy")
        found.append(
            (
                what, len(some), _mean(some, "consortium"), _mean(some, "worst"),
                f"{sum(row['lost'] for row in some)} of {6 * len(some)}",
                *(_percent(statistics.mean(row[name] for row in some)) for name in shares),
            )
        )  # fmt: skip
    return markdown_table(columns, found)


def _clients(rows: Sequence[Row]) -> str:
    columns = ("clients", "directions: consortium", "each client", "T consortium",
               "T worst client", "marks lost", "accuracy before", "after")  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                f"{row['strength']:.0f}", row["sizes"]["consortium"], row["sizes"].get("own", "-"),
                _t(row["consortium"]), _t(row["worst"]), row["lost"],
                _percent(row["accuracy_before"]), _percent(row["accuracy"]),
            )
            for row in rows
        ],
    )  # fmt: skip


def _colluders(rows: Sequence[Row]) -> str:
    columns = ("colluders", "sets of recipients", "somebody named", "innocent named",
               "highest T in the weakest set", "needed")  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                one["colluders"], one["sets"], one["named"], one["innocent"], _t(one["weakest"]),
                f"{row['needed']:.2f}",
            )
            for row in rows
            for one in row["sets"]
        ],
    )  # fmt: skip


def _false_positives(rows: Sequence[Row]) -> str:
    levels = [entry["level"] for entry in rows[0]["tail"]]
    columns = ("adapter", "keys", "mean", "deviation", "largest T", "believed",
               *(f"T >= {level:g}" for level in levels))  # fmt: skip
    found: list[Sequence[object]] = [
        (
            row["seed"], row["keys"], f"{row['mean']:.3f}", f"{row['deviation']:.3f}",
            f"{row['largest']:.2f}", row["believed"], *(f"{e['share']:.5f}" for e in row["tail"]),
        )
        for row in rows
    ]  # fmt: skip
    bounds = [f"{entry['bound']:.5f}" for entry in rows[0]["tail"]]
    found.append(("bound", "", "", "", "", "", *bounds))
    return markdown_table(columns, found)


def _private(rows: Sequence[Row]) -> str:
    columns = ("epsilon", "accuracy before", "after", "T consortium", "T worst client",
               "marks lost", "removed for length", "longest, of its bound")  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                row["epsilon"], _percent(row["accuracy_before"]), _percent(row["accuracy"]),
                _t(row["consortium"]), _t(row["worst"]), row["lost"], row["removed"],
                f"{row['longest']:.2f}",
            )
            for row in rows
        ],
    )  # fmt: skip


def _black_box(rows: Sequence[Row]) -> str:
    found = []
    for what in dict.fromkeys(row["what"] for row in rows):
        some = [row for row in rows if row["what"] == what]
        found.append(
            (
                what, len(some), f"{statistics.mean(row['hits'] for row in some):.1f}",
                min(row["hits"] for row in some), some[0]["needed"],
                f"{statistics.mean(row['bits'] for row in some):.0f}",
                _percent(statistics.mean(row["accuracy"] for row in some)),
            )
        )  # fmt: skip
    columns = ("adapter", "seeds", "hits of 128", "fewest", "needed", "bits, mean", "accuracy")
    return markdown_table(columns, found)


def _mean(rows: Sequence[Row], name: str) -> str:
    return _t(statistics.mean(row[name] for row in rows))


def _t(value: float) -> str:
    return f"{value:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
