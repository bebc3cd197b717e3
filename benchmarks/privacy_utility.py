"""Accuracy under privacy: ``python -m benchmarks.privacy_utility --data DIR``.

BANKING77, example-level DP-SGD in mode ``local``: the training rows are dealt to institutions, each
trains on its own with its own full noise and its own budget of epsilon, and the deltas are
averaged, round by round, through the library's own path (secure sums change nothing but rounding
and are left out). Three adapters: the linear head alone on frozen mean-pooled embeddings, LoRA with
frozen A and a head, LoRA and a head. Epsilon infinite (clipped, no noise), 8, 3 and 1, with delta
1e-5.

Learning rates are chosen with ``--tune`` on a tenth of the TRAINING rows that those runs do not
train on, never on the test rows. In a real federation each trial costs privacy; here it is not
charged, and the table says so.

Rows are appended to a JSONL file as they are measured; started again, the benchmark goes on where
it was. ``--only`` picks adapters or epsilons, ``--budget-minutes`` stops starting new ones.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.results import Budget, Row, RowFile, package_versions
from fedfm_audit.privacy.calibration import noise_multiplier_for
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.data import load_data
from secure_fedfm.learning.dataset import TrainTest, hash_split
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.payload import delta
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.seeds import generator
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, TaskSpec
from secure_fedfm.learning.training import PreparedRows, evaluate_rows, prepare_rows
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.privacy.dp_sgd import train_private_round
from secure_fedfm.privacy.plan import PrivatePlan

DELTA = 1e-5
EPSILONS = (math.inf, 8.0, 3.0, 1.0)
QUERY_VALUE = ("query", "value")
ADAPTERS = {
    "head": AdapterSpec(targets=HEAD_ONLY),
    "ffa": AdapterSpec(targets=QUERY_VALUE, last_layers=2, train="b-only"),
    "lora": AdapterSpec(targets=QUERY_VALUE, last_layers=2, train="a-and-b"),
}
MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Recipe:
    """Public settings of one adapter: rounds, and a private plan without noise or rates.

    Rates are those of ``RATES`` unless tuned ones are in the row file.
    """

    rounds: int
    steps: int
    sampling_rate: float
    rates: tuple[tuple[float, float], ...]


# (rate of the head, rate of LoRA) to choose from; SGD with momentum for the head alone, where it
# is known to be best, Adam where tensors of different scale are trained together.
RECIPES = {
    "head": Recipe(10, 15, 0.1, ((0.7, 1.0), (2.0, 1.0), (5.0, 1.0), (12.0, 1.0))),
    "ffa": Recipe(10, 10, 0.1, ((0.03, 0.003), (0.03, 0.01), (0.1, 0.01))),
    "lora": Recipe(10, 10, 0.1, ((0.03, 0.001), (0.03, 0.003), (0.1, 0.003))),
}
RATES = {
    ("head", math.inf): (12.0, 1.0),
    ("head", 8.0): (5.0, 1.0),
    ("head", 3.0): (2.0, 1.0),
    ("head", 1.0): (0.7, 1.0),
}


@lru_cache(maxsize=32)
def noise_for(epsilon: float, sampling_rate: float, steps: int) -> float:
    """The noise multiplier that stays within epsilon at DELTA."""
    if math.isinf(epsilon):
        return 0.0

    return noise_multiplier_for(epsilon, DELTA, sampling_rate=sampling_rate, steps=steps)


@dataclass(frozen=True)
class Case:
    """One run. ``held_out``: trained without, and measured on, a tenth of the training rows."""

    adapter: str
    institutions: int
    epsilon: float
    seed: int
    rates: tuple[float, float]
    held_out: bool = False

    def key(self) -> Row:
        """What names the run's row in the file; an infinite epsilon is a word in JSON."""
        recipe = RECIPES[self.adapter]
        return {
            "benchmark": "privacy_utility",
            "adapter": self.adapter,
            "institutions": self.institutions,
            "epsilon": epsilon_text(self.epsilon),
            "seed": self.seed,
            "held_out": self.held_out,
            "head_rate": self.rates[0],
            "lora_rate": self.rates[1],
            "rounds": recipe.rounds,
            "steps": recipe.steps,
            "sampling_rate": recipe.sampling_rate,
        }


def epsilon_text(epsilon: float) -> str:
    """8.0 -> "8"; infinity -> "inf"."""
    return f"{epsilon:g}"


class Bench:
    """Loads model and rows of one adapter once, and runs its cases."""

    def __init__(self, adapter: str, data: TrainTest, *, held_out: bool) -> None:
        self._adapter = adapter
        labels = data.train.label_names()
        task = TaskSpec("classification", labels)
        self._model: AdaptedModel = load_adapted(DEFAULT_MODEL, ADAPTERS[adapter], task)
        self._initial = self._model.state()
        train, test = data.train, data.test
        if held_out:
            train, test = hash_split(data.train, 0.1)
        self._labels, self._train = labels, train
        self._rows = prepare_rows(self._model, train, labels, MAX_TOKENS)
        self._test = prepare_rows(self._model, test, labels, MAX_TOKENS)

    def run(self, case: Case) -> Row:
        """Train and measure; the row, key included."""
        started = time.process_time()
        recipe = RECIPES[self._adapter]
        parts = self._dealt(case)
        nominal = len(self._train) // case.institutions  # stands for the charter's public number
        steps = recipe.rounds * recipe.steps
        multiplier = noise_for(case.epsilon, recipe.sampling_rate, steps)
        private = PrivatePlan(
            noise_multiplier=multiplier,
            sampling_rate=recipe.sampling_rate,
            steps_per_round=recipe.steps,
            clip=1.0,
            expected_batch=recipe.sampling_rate * nominal,
            optimiser="sgd" if self._adapter == "head" else "adam",
            head_learning_rate=case.rates[0],
            adapter_learning_rate=case.rates[1],
        )
        plan = TrainingPlan(
            schedule="linear",
            schedule_rounds=recipe.rounds,
            final_factor=0.1,
            max_tokens=MAX_TOKENS,
        )
        adapter, layout = self._initial, self._model.layout
        for number in range(1, recipe.rounds + 1):
            total = np.zeros(layout.size, dtype=np.float64)
            for rows in parts:
                self._model.load(adapter)
                train_private_round(self._model, rows, plan, private, number)
                total += delta(layout, adapter, self._model.state())
            adapter = adapter.moved(layout, (total / case.institutions).astype(np.float32))
        self._model.load(adapter)
        found = evaluate_rows(self._model, self._test)
        return {
            **case.key(),
            "noise_multiplier": multiplier,
            "delta": DELTA,
            "values": layout.size,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "cpu_s": time.process_time() - started,
            "versions": package_versions(["secure-fedfm", "torch", "opacus", "dp-accounting"]),
        }

    def _dealt(self, case: Case) -> list[PreparedRows]:
        """The rows of each institution: dealt at random by the seed, caches shared."""
        order = generator("privacy utility", case.seed).permutation(len(self._train))
        return [
            self._rows.part(np.sort(order[start :: case.institutions]))
            for start in range(case.institutions)
        ]


def cases(
    adapters: Sequence[str], epsilons: Sequence[float], seeds: int, institutions: int, file: RowFile
) -> Iterator[Case]:
    """The runs of the table, cheapest adapter first, with the rates that tuning chose."""
    for adapter in adapters:
        for epsilon in epsilons:
            rates = chosen_rates(adapter, epsilon, institutions, file)
            for seed in range(1, seeds + 1):
                yield Case(adapter, institutions, epsilon, seed, rates)


def chosen_rates(
    adapter: str, epsilon: float, institutions: int, file: RowFile
) -> tuple[float, float]:
    """The rates with the best accuracy on held-out training rows; without such rows the ones that
    earlier tuning on another machine chose."""
    key = {"adapter": adapter, "epsilon": epsilon_text(epsilon), "held_out": True}
    tuned = file.of({**key, "institutions": institutions})
    if tuned:
        best = max(tuned, key=lambda row: float(row["accuracy"]))
        return float(best["head_rate"]), float(best["lora_rate"])
    return RATES.get((adapter, epsilon), RECIPES[adapter].rates[0])


def table(file: RowFile, institutions: int) -> str:
    """Mean test accuracy and its range over the seeds, adapters by epsilons, as Markdown."""
    lines = [
        "| adapter | " + " | ".join(f"epsilon {epsilon_text(e)}" for e in EPSILONS) + " |",
        "|---|" + "---|" * len(EPSILONS),
    ]
    for adapter in ADAPTERS:
        cells = []
        for epsilon in EPSILONS:
            rates = chosen_rates(adapter, epsilon, institutions, file)
            key = Case(adapter, institutions, epsilon, 0, rates).key()
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
    adapters = [name for name in ADAPTERS if _wanted(arguments.only, name, tuple(ADAPTERS))]
    texts = tuple(epsilon_text(e) for e in EPSILONS)
    epsilons = [e for e in EPSILONS if _wanted(arguments.only, epsilon_text(e), texts)]
    data = load_data(arguments.data)
    for adapter in adapters:
        bench: Bench | None = None
        if arguments.tune:
            wanted = [
                Case(adapter, arguments.institutions, epsilon, 0, rates, held_out=True)
                for epsilon in epsilons
                for rates in RECIPES[adapter].rates
            ]
        else:
            seeds = arguments.seeds
            wanted = list(cases([adapter], epsilons, seeds, arguments.institutions, file))
        for case in wanted:
            if budget.spent:
                break
            if file.of(case.key()):
                continue
            bench = bench or Bench(adapter, data, held_out=arguments.tune)
            row = bench.run(case)
            file.append(row)
            print(
                f"{case.adapter}, epsilon {epsilon_text(case.epsilon)}, seed {case.seed}, rates "
                f"{case.rates}: {100 * row['accuracy']:.2f} % in {row['cpu_s']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    if arguments.json:
        print(json.dumps({"benchmark": "privacy_utility", "rows": file.rows}))
    else:
        print(table(file, arguments.institutions))
    return 0


def _wanted(only: Sequence[str] | None, name: str, family: Sequence[str]) -> bool:
    """``--only`` restricts a family of names only if it names one of it."""
    named = [one for one in only or () if one in family]
    return not named or name in named


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.privacy_utility",
        description="Accuracy on BANKING77 under example-level privacy, noise per institution.",
    )
    parser.add_argument(
        "--data", default="../shared/data/banking77", help="folder with train, test"
    )
    parser.add_argument("--institutions", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    names = [*ADAPTERS, *(epsilon_text(e) for e in EPSILONS)]
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--tune", action="store_true", help="choose learning rates first")
    parser.add_argument(
        "--out", type=Path, default=Path("build/privacy_utility.jsonl"), help="rows; resumed"
    )
    parser.add_argument("--budget-minutes", type=float, help="start nothing new after so long")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
