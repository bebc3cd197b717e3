"""Accuracy under privacy: ``python -m benchmarks.privacy_utility --data DIR``.

BANKING77, example-level DP-SGD: the training rows are dealt to institutions, which train with the
noise of a privacy mode and a budget of epsilon each at delta 1e-5. In mode ``local`` each has its
own full noise and the deltas are averaged round by round. Three adapters: the linear head alone on
frozen mean-pooled embeddings, LoRA with frozen A and a head, LoRA and a head; the latter two train
the head first. Epsilon infinite (clipped, no noise), 8, 3 and 1.

Learning rates are chosen with ``--tune`` on a tenth of the TRAINING rows that those runs do not
train on, never on the test rows. In a real federation each trial costs privacy; here it is not
charged, and the table says so.

Rows are appended to a JSONL file as they are measured; started again, the benchmark goes on where
it was. ``--only`` picks adapters or epsilons, ``--budget-minutes`` stops starting new ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.results import Budget, Row, RowFile
from benchmarks.utility_recipes import (
    ADAPTERS,
    EPSILONS,
    HEAD_RATES,
    LORA_RATIOS,
    RECIPES,
    SHARED_HEAD_RATES,
    SHARED_LORA_RATIOS,
    SHARED_TRIED,
    SHARED_TUNED,
    TUNED_AT,
    Rates,
    epsilon_text,
)
from benchmarks.utility_runs import MODES, Bench, Case
from secure_fedfm.learning.data import load_data


def cases(
    adapters: Sequence[str],
    epsilons: Sequence[float],
    seeds: int,
    institutions: int,
    file: RowFile,
    mode: str = "local",
) -> Iterator[Case]:
    """The runs of the table with the rates that tuning chose: one seed of everything first, and
    the cheapest adapter first."""
    for seed in range(1, seeds + 1):
        for adapter in adapters:
            for epsilon in epsilons:
                rates = chosen_rates(adapter, epsilon, institutions, file, mode)
                yield Case(adapter, institutions, epsilon, seed, rates, mode=mode)


def tuning_cases(
    adapters: Sequence[str],
    epsilons: Sequence[float],
    institutions: int,
    file: RowFile,
    mode: str = "local",
) -> Iterator[Case]:
    """The runs that rates are chosen by; the head's come first, LoRA's build on them."""
    for adapter in adapters:
        recipe = RECIPES[adapter]
        tried: list[tuple[float, Rates]] = [
            (epsilon, (rate, 1.0))
            for epsilon in epsilons
            for rate in (recipe.head_rates if mode == "local" else SHARED_TRIED)
            if recipe.head_rates
        ]
        if recipe.lora_ratios and TUNED_AT in epsilons:
            rate = chosen_rates("head", TUNED_AT, institutions, file, mode)[0]
            tried += [(TUNED_AT, (rate, rate * ratio)) for ratio in recipe.lora_ratios]
        for epsilon, rates in tried:
            yield Case(adapter, institutions, epsilon, 0, rates, held_out=True, mode=mode)


def chosen_rates(
    adapter: str, epsilon: float, institutions: int, file: RowFile, mode: str = "local"
) -> Rates:
    """The rates with the best accuracy on held-out training rows; without such rows the ones of
    the documented table. LoRA's is the head's, times a ratio chosen at TUNED_AT."""
    documented, ratios = HEAD_RATES, LORA_RATIOS
    if mode != "local":
        documented, ratios = SHARED_HEAD_RATES, SHARED_LORA_RATIOS
        mode, institutions = SHARED_TUNED
    if adapter == "head":
        best = _best(adapter, epsilon, institutions, file, mode)
        return (documented[epsilon] if best is None else float(best["head_rate"]), 1.0)
    rate, _ = chosen_rates("head", epsilon, institutions, file, mode)
    best = _best(adapter, TUNED_AT, institutions, file, mode)
    if best is None:
        return rate, rate * ratios[adapter]
    return rate, rate * float(best["lora_rate"]) / float(best["head_rate"])


def _best(adapter: str, epsilon: float, institutions: int, file: RowFile, mode: str) -> Row | None:
    """The row of the best run on held-out rows, if there is any."""
    key = Case(adapter, institutions, epsilon, 0, (0.0, 0.0), held_out=True, mode=mode).key()
    del key["head_rate"], key["lora_rate"]
    return max(file.of(key), key=lambda row: float(row["accuracy"]), default=None)


def table(file: RowFile, institutions: int, mode: str = "local") -> str:
    """Mean test accuracy and its range over the seeds, adapters by epsilons, as Markdown."""
    lines = [
        "| adapter | " + " | ".join(f"epsilon {epsilon_text(e)}" for e in EPSILONS) + " |",
        "|---|" + "---|" * len(EPSILONS),
    ]
    for adapter in ADAPTERS:
        cells = []
        for epsilon in EPSILONS:
            rates = chosen_rates(adapter, epsilon, institutions, file, mode)
            key = Case(adapter, institutions, epsilon, 0, rates, mode=mode).key()
            del key["seed"]
            found = [100 * float(row["accuracy"]) for row in file.of(key)]
            cells.append(
                f"{statistics.mean(found):.1f} ({min(found):.1f} to {max(found):.1f}, {len(found)})"
                if found
                else "not measured"
            )
        lines.append(f"| {adapter} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the budget allows and print the table of all rows there are."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    file, budget = RowFile(arguments.out), Budget(arguments.budget_minutes)
    institutions, mode = arguments.institutions, arguments.mode
    adapters = [name for name in ADAPTERS if _wanted(arguments.only, name, tuple(ADAPTERS))]
    texts = tuple(epsilon_text(e) for e in EPSILONS)
    epsilons = [e for e in EPSILONS if _wanted(arguments.only, epsilon_text(e), texts)]
    # A generator: the rates of later runs follow from earlier ones.
    wanted = (
        tuning_cases(adapters, epsilons, institutions, file, mode)
        if arguments.tune
        else cases(adapters, epsilons, arguments.seeds, institutions, file, mode)
    )
    bench: Bench | None = None
    for case in wanted:
        if budget.spent:
            break
        if file.of(case.key()):
            continue
        bench = bench or Bench(load_data(arguments.data))
        row = bench.run(case)
        file.append(row)
        print(
            f"{case.mode}, {case.adapter}, epsilon {epsilon_text(case.epsilon)}, seed {case.seed}, "
            f"rates {case.rates}: {100 * row['accuracy']:.2f} % in {row['cpu_s']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    if arguments.plot is not None:
        from benchmarks.utility_plot import draw  # noqa: PLC0415 - matplotlib is an extra

        draw(file, arguments.plot, lambda e, n, mode: chosen_rates("head", e, n, file, mode)[0])
    if arguments.json:
        print(json.dumps({"benchmark": "privacy_utility", "rows": file.rows}))
    else:
        print(table(file, institutions, mode))
    return 0


def _wanted(only: Sequence[str] | None, name: str, family: Sequence[str]) -> bool:
    """``--only`` restricts a family of names only if it names one of it."""
    named = [one for one in only or () if one in family]
    return not named or name in named


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.privacy_utility",
        description="Accuracy on BANKING77 under example-level privacy.",
    )
    parser.add_argument(
        "--data", default="../shared/data/banking77", help="folder with train, test"
    )
    parser.add_argument("--mode", choices=sorted(MODES), default="local", help="whose noise")
    parser.add_argument("--institutions", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    names = [*ADAPTERS, *(epsilon_text(e) for e in EPSILONS)]
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--tune", action="store_true", help="choose learning rates first")
    parser.add_argument(
        "--out", type=Path, default=Path("build/privacy_utility.jsonl"), help="rows; resumed"
    )
    parser.add_argument("--budget-minutes", type=float, help="start nothing new after so long")
    parser.add_argument("--plot", type=Path, help="draw all rows there are as an SVG file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
