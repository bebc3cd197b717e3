"""What private training costs: ``python -m benchmarks.dp_step``.

Processor time of one DP-SGD step over that of one plain step on the same rows of the same length:
forward, backward and Adam on one side; forward, gradients per row, clipping, summing, rounding,
noise and Adam on the other. One after the other in one process, so that each ratio is of a pair
from the same moment; the median of the ratios is reported. The model is the demo's (or ``--model``)
with LoRA of rank 8 on the query and value projections of every block, and a linear head.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.measure import median, settle
from benchmarks.results import package_versions
from fedfm_crypto.random_source import system_random
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.seeds import generator
from secure_fedfm.learning.specs import AdapterSpec, TaskSpec
from secure_fedfm.learning.training import PreparedRows, new_optimiser, prepare_rows, ready
from secure_fedfm.learning.weights import DEFAULT_MODEL, pin_model
from secure_fedfm.privacy.clipping import clipped_sum
from secure_fedfm.privacy.dp_sgd import apply_gradient, new_private_optimiser
from secure_fedfm.privacy.gradients import per_row_gradients
from secure_fedfm.privacy.plan import PrivatePlan
from secure_fedfm.privacy.release import NoiseGrid, mean_gradient, release_sum

LABELS = tuple(f"intent {number:02d}" for number in range(77))
WORDS = ("card", "lost", "money", "bank", "please", "help", "where", "my", "new", "account", "cash")
LONGEST = 1.5
"""The most a private step may cost, in plain steps."""


def sentences(rows: int) -> Dataset:
    """Random sentences of 4 to 24 words, about as long as a customer's question."""
    random = generator("dp step")
    texts = tuple(
        " ".join(str(word) for word in random.choice(WORDS, int(random.integers(4, 25))))
        for _ in range(rows)
    )
    return Dataset(texts, tuple(LABELS[i % len(LABELS)] for i in range(rows)))


def measure_pairs(
    model: AdaptedModel, rows: PreparedRows, repeat: int
) -> list[tuple[float, float]]:
    """Processor seconds (plain step, private step) of each pair; the first pair warms up and is
    not among them."""
    batch = np.arange(len(rows), dtype=np.int64)
    plan = TrainingPlan()
    private = PrivatePlan(
        noise_multiplier=1.0,
        sampling_rate=0.1,
        steps_per_round=1,
        clip=1.0,
        expected_batch=float(len(rows)),
        physical_batch=len(rows),
    )
    grid = NoiseGrid.of(private, model.layout.size)
    plain_optimiser = new_optimiser(model, plan)
    noised_optimiser = new_private_optimiser(model, private)

    def plain() -> float:
        with ready(model, rows) as make:
            started = time.process_time()
            found = make(batch)
            loss = model.scorer.row_losses(found, model.scorer.scores(found)).mean()
            plain_optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            plain_optimiser.step()
            return time.process_time() - started

    def noised() -> float:
        with ready(model, rows) as make, per_row_gradients(model) as gradients:
            started = time.process_time()
            total = clipped_sum(
                batch, rows.encoded.lengths, make, gradients, model.layout, private.clip, len(batch)
            )
            released = release_sum(total.total, grid, system_random)
            gradient = mean_gradient(released.noised, grid, private.expected_batch)
            apply_gradient(model, noised_optimiser, gradient)
            return time.process_time() - started

    pairs = []
    for number in range(repeat + 1):
        settle()
        # Alternate who goes first.
        first, second = (plain, noised) if number % 2 else (noised, plain)
        one, other = first(), second()
        pairs.append((one, other) if number % 2 else (other, one))
    return pairs[1:]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code: 1 if a private step costs more than LONGEST."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    spec = AdapterSpec(targets=("query", "value"), last_layers=0, train=arguments.train)
    model_spec = DEFAULT_MODEL if arguments.model is None else pin_model(arguments.model)
    model = load_adapted(model_spec, spec, TaskSpec("classification", LABELS))
    rows = prepare_rows(model, sentences(arguments.rows), LABELS, 64)
    pairs = measure_pairs(model, rows, arguments.repeat)
    ratio = median(noised / plain for plain, noised in pairs)
    result = {
        "benchmark": "dp_step",
        "model": model_spec.name,
        "train": arguments.train,
        "values": model.layout.size,
        "rows": arguments.rows,
        "repeat": arguments.repeat,
        "plain_cpu_s": median(plain for plain, _ in pairs),
        "private_cpu_s": median(noised for _, noised in pairs),
        "ratio": ratio,
        "versions": package_versions(["secure-fedfm", "torch", "opacus", "peft", "transformers"]),
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"{model_spec.name}, LoRA q,v ({arguments.train}), {model.layout.size} values, "
            f"{arguments.rows} rows a step: plain {result['plain_cpu_s']:.3f} s, private "
            f"{result['private_cpu_s']:.3f} s, median ratio {ratio:.3f} of {arguments.repeat} pairs"
        )
    return 0 if ratio <= LONGEST else 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dp_step", description="Cost of one DP-SGD step in plain steps."
    )
    parser.add_argument("--rows", type=int, default=64, help="rows of one step")
    parser.add_argument("--repeat", type=int, default=15, help="pairs; the median is reported")
    parser.add_argument("--train", choices=("a-and-b", "b-only"), default="a-and-b")
    parser.add_argument("--model", help="an encoder by name or folder; default: the demo's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
