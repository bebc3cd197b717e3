"""Cases of the privacy utility benchmark, its data and models, and how each mode trains.

Rows, caches and the two stages (head alone, then LoRA and head) are the same in every privacy
mode; a mode is one function of MODES: from a stage and the adapter before it to the adapter after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.results import Row, package_versions
from benchmarks.shared_runs import train_shared
from benchmarks.utility_recipes import (
    ADAPTERS,
    DELTA,
    MAX_TOKENS,
    RECIPES,
    Rates,
    Recipe,
    epsilon_text,
    noise_for,
    private_plan,
    schedule,
)
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import HEAD_PREFIX, Adapter
from secure_fedfm.learning.dataset import TrainTest, hash_split
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.payload import delta
from secure_fedfm.learning.seeds import generator
from secure_fedfm.learning.specs import TaskSpec
from secure_fedfm.learning.training import PreparedRows, evaluate_rows, prepare_rows
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.privacy.dp_sgd import train_private_round

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Case:
    """One run. ``held_out``: trained without, and measured on, a tenth of the training rows."""

    adapter: str
    institutions: int
    epsilon: float
    seed: int
    rates: Rates
    held_out: bool = False
    mode: str = "local"

    @property
    def recipe(self) -> Recipe:
        """Its recipe."""
        return RECIPES[self.adapter]

    def key(self) -> Row:
        """What names the run's row in the file; an infinite epsilon is a word in JSON."""
        recipe = self.recipe
        return {
            "benchmark": "privacy_utility",
            "mode": self.mode,
            "adapter": self.adapter,
            "institutions": self.institutions,
            "epsilon": epsilon_text(self.epsilon),
            "seed": self.seed,
            "held_out": self.held_out,
            "head_rate": self.rates[0],
            "lora_rate": self.rates[1],
            "head_rounds": recipe.head_rounds,
            "rounds": recipe.rounds,
            "steps": recipe.steps,
            "sampling_rate": recipe.sampling_rate,
        }


@dataclass(frozen=True)
class Stage:
    """What a mode trains: a model, the rows of each institution for it, and which rounds."""

    case: Case
    model: AdaptedModel
    parts: Sequence[PreparedRows]
    rounds: range
    noise_multiplier: float

    @property
    def rows(self) -> int:
        """Rows of all institutions."""
        return sum(len(part) for part in self.parts)


Mode = Callable[[Stage, Adapter], Adapter]


def train_local(stage: Stage, adapter: Adapter) -> Adapter:
    """Mode ``local``: every institution trains with its own full noise, and deltas are averaged,
    through the library's own path (secure sums change nothing but rounding and are left out)."""
    case, layout = stage.case, stage.model.layout
    nominal = stage.rows // case.institutions
    private = private_plan(case.recipe, case.rates, stage.noise_multiplier, nominal)
    for number in stage.rounds:
        total = np.zeros(layout.size, dtype=np.float64)
        for rows in stage.parts:
            stage.model.load(adapter)
            train_private_round(stage.model, rows, schedule(case.recipe), private, number)
            total += delta(layout, adapter, stage.model.state())
        adapter = adapter.moved(layout, (total / case.institutions).astype(np.float32))
    return adapter


MODES: Mapping[str, Mode] = {
    "local": train_local,
    **{
        f"shared-{calibration}{how}": partial(
            train_shared, calibration=calibration, encrypted=bool(how)
        )
        for calibration in ("all", "honest")
        for how in ("", "-encrypted")
    },
}


class Bench:
    """Loads models and rows once, when a case first needs them, and runs cases."""

    def __init__(self, data: TrainTest) -> None:
        self._data = data
        self._labels = data.train.label_names()
        apart = set(hash_split(data.train, HELD_OUT_SHARE)[1].texts)
        held_out = np.array([text in apart for text in data.train.texts])
        self._held_out, self._fitted = np.flatnonzero(held_out), np.flatnonzero(~held_out)
        self._models: dict[str, tuple[AdaptedModel, Adapter]] = {}
        self._rows: dict[tuple[bool, int], tuple[PreparedRows, PreparedRows]] = {}

    def run(self, case: Case) -> Row:
        """Train and measure; the row, key included."""
        started = time.process_time()
        adapter = self.trained(case)
        model, _ = self._model(case.adapter)
        model.load(adapter)
        train, test = self._prepared(case.adapter)
        found = evaluate_rows(model, train.part(self._held_out) if case.held_out else test)
        return {
            **case.key(),
            "noise_multiplier": _noise(case),
            "delta": DELTA,
            "values": model.layout.size,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "cpu_s": time.process_time() - started,
            "versions": package_versions(["secure-fedfm", "torch", "opacus", "dp-accounting"]),
        }

    def trained(self, case: Case) -> Adapter:
        """The adapter after both stages."""
        recipe, train = case.recipe, MODES[case.mode]
        joins = recipe.head_rounds + 1
        _, adapter = self._model("head")
        adapter = train(self._stage(case, "head", range(1, joins)), adapter)
        if joins > recipe.rounds:
            return adapter
        _, initial = self._model(case.adapter)
        heads = {name: adapter[name] for name in initial if name.startswith(HEAD_PREFIX)}
        upper = self._stage(case, case.adapter, range(joins, recipe.rounds + 1))
        return train(upper, Adapter({**initial, **heads}))

    def _stage(self, case: Case, adapter: str, rounds: range) -> Stage:
        model, _ = self._model(adapter)
        return Stage(case, model, self._dealt(case, adapter), rounds, _noise(case))

    def _dealt(self, case: Case, adapter: str) -> list[PreparedRows]:
        """The rows of each institution: dealt at random by the seed, caches shared."""
        rows, _ = self._prepared(adapter)
        all_rows = np.arange(len(rows))
        used = self._fitted if case.held_out else all_rows
        order = generator("privacy utility", case.seed).permutation(len(used))
        return [
            rows.part(used[np.sort(order[start :: case.institutions])])
            for start in range(case.institutions)
        ]

    def _model(self, adapter: str) -> tuple[AdaptedModel, Adapter]:
        """The model and its initial adapter."""
        if adapter not in self._models:
            task = TaskSpec("classification", self._labels)
            model = load_adapted(DEFAULT_MODEL, ADAPTERS[adapter], task)
            self._models[adapter] = (model, model.state())
        return self._models[adapter]

    def _prepared(self, adapter: str) -> tuple[PreparedRows, PreparedRows]:
        """All training and test rows; what is frozen below is alike for all of one depth."""
        spec = ADAPTERS[adapter]
        depth = (spec.head_only, spec.last_layers)
        if depth not in self._rows:
            model, initial = self._model(adapter)
            model.load(initial)
            train, test = (
                prepare_rows(model, rows, self._labels, MAX_TOKENS)
                for rows in (self._data.train, self._data.test)
            )
            self._rows[depth] = (train, test)
        return self._rows[depth]


def _noise(case: Case) -> float:
    return noise_for(case.epsilon, case.recipe.sampling_rate, case.recipe.all_steps)
