"""Ownership marks on real adapters: ``python -m benchmarks.watermark --data DIR``.

MiniLM, LoRA on all linear layers, trained on BANKING77 from five seeds; the consortium's mark and
five clients' marks in each. What marks cost in accuracy; T and the exact bound after every attack;
what accuracy an attacker who knows the scheme but no key gives up to erase them; false positives;
colluding recipients; more clients; marks under differential privacy and a robust rule; the
consortium's black-box mark; and FedIPR-style sign marks beside them.

Rows are appended to a file as they are measured; started again, the benchmark goes on where it was.
``--only`` picks kinds of rows, ``--budget-minutes`` stops starting new ones. With ``--cache`` an
adapter is trained once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.mark_adapters import Training, Workbench
from benchmarks.mark_plot import draw
from benchmarks.mark_runs import KINDS, Runs, cases
from benchmarks.mark_table import tables
from benchmarks.results import Budget, Row, RowFile, add_row_options, parse_at_least, report
from secure_fedfm.learning.data import load_data


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the budget allows; print the tables of all rows there are."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    file, budget = RowFile(arguments.rows), Budget(arguments.budget_minutes)
    training = Training(arguments.train_rows, arguments.epochs, arguments.fresh_rows)
    runs: Runs | None = None
    for case in cases(arguments.seeds, arguments.curves):
        if budget.spent:
            break
        if (arguments.only and case.kind not in arguments.only) or file.of(case.key()):
            continue
        if runs is None:
            bench = Workbench(load_data(arguments.data), training, arguments.cache)
            runs = Runs(bench, arguments.curves, accuracies=arguments.accuracies)
        row = runs.run(case)
        file.append(row)
        dose = f" x{case.strength:g}" if case.strength else ""
        figures = {k: round(v, 4) for k, v in row.items() if isinstance(v, float)}
        print(f"{case.kind}: {case.what}{dose}, seed {case.seed}: {figures}", file=sys.stderr)
    mine = [row for row in file.rows if row.get("benchmark") == "watermark"]
    if arguments.plot is not None:
        draw(mine, arguments.plot)
    results: Row = {"benchmark": "watermark", "rows": mine}
    report(arguments, results, lambda: tables(mine))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watermark", description="Ownership marks on real adapters."
    )
    parser.add_argument(
        "--data", default="../shared/data/banking77", help="folder with train, test"
    )
    parser.add_argument("--seeds", type=int, default=5, help="adapters, each trained by itself")
    parser.add_argument(
        "--curves", type=int, default=1, help="on how many of them erasing and triggers are tried"
    )
    parser.add_argument(
        "--accuracies", action="store_true", help="on these, measure accuracy after every attack"
    )
    parser.add_argument("--train-rows", type=int, default=Training.rows, help="of each adapter")
    parser.add_argument("--epochs", type=int, default=Training.epochs)
    parser.add_argument("--fresh-rows", type=int, default=Training.fresh, help="of a thief")
    parser.add_argument("--cache", type=Path, help="folder that keeps adapters between runs")
    parser.add_argument("--plot", type=Path, help="draw all rows there are into this SVG file")
    parser.add_argument("--only", action="append", choices=KINDS, help="may be repeated")
    add_row_options(parser)
    return parse_at_least(parser, argv, {"seeds": 1, "curves": 0, "epochs": 1})


if __name__ == "__main__":
    sys.exit(main())
