"""Adapters that the benchmark of marks works on, each trained once.

MiniLM with LoRA of rank 8 on all linear layers, A frozen, and a linear head, on BANKING77. The
training rows are halved: adapters are trained on rows of one half, and whoever fine-tunes a stolen
copy has rows of the other. Seeds have rows, batches and an A of their own, so their adapters are
independent but for the rows that they share by chance.

What is trained is kept under the hash of what it was trained from, as safetensors, where a folder
is given; measured accuracies likewise. Both are functions of their inputs on one thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset, TrainTest
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.payload import FloatArray
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.seeds import generator
from secure_fedfm.learning.specs import ALL_LINEAR, AdapterSpec, TaskSpec
from secure_fedfm.learning.training import (
    PreparedRows,
    evaluate_rows,
    new_optimiser,
    prepare_rows,
    train_round,
)
from secure_fedfm.learning.weights import DEFAULT_MODEL
from secure_fedfm.watermark.carrier import Carrier

MAX_TOKENS = 48
FINE_TUNED = (1, 3, 10)
"""Epochs after which a thief's fine-tuning is looked at: one run of ten, whose rate falls over all
of them."""


@dataclass(frozen=True)
class Training:
    """How adapters are trained.

    Fields:
        rows, epochs: of each adapter, from the first half of the training rows.
        fresh: rows of a thief, from the second half.
        tested: test rows that curves are measured on; what marks cost is measured on all.
    """

    rows: int = 3000
    epochs: int = 3
    fresh: int = 800
    tested: int = 500

    def plan(self, seed: int, epochs: int | None = None) -> TrainingPlan:
        """One round whose rate falls linearly to a tenth."""
        return TrainingPlan(
            epochs=self.epochs if epochs is None else epochs,
            schedule_rounds=1,
            max_tokens=MAX_TOKENS,
            seed=seed,
        )


class Workbench:
    """Model and rows, loaded when first needed, and what came of trainings.

    Args:
        folder: where adapters and accuracies are kept; None keeps none.
    """

    def __init__(self, data: TrainTest, training: Training, folder: Path | None) -> None:
        self.training, self.data, self.labels = training, data, data.train.label_names()
        order = generator("halves of the marks benchmark").permutation(len(data.train))
        self._halves = np.array_split(order, 2)
        self._tested = generator("test rows of the marks benchmark").permutation(len(data.test))
        self._folder = folder
        self._models: dict[int, tuple[AdaptedModel, Adapter]] = {}
        self._prepared: dict[bytes, PreparedRows] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def model(self, seed: int) -> AdaptedModel:
        """The base model with that seed's A, in whatever state it was left."""
        return self._loaded(seed)[0]

    def carrier(self, seed: int) -> Carrier:
        """Where marks go in adapters of that seed."""
        return Carrier(
            self.model(seed).layout, scale=self._spec(seed).alpha / self._spec(seed).rank
        )

    def trained(self, seed: int) -> Adapter:
        """The adapter of a seed, without any mark."""
        model, initial = self._loaded(seed)

        def train() -> Adapter:
            rows = self.prepared(self._part(0, self.training.rows, seed))
            model.load(initial)
            train_round(model, rows, self.training.plan(seed), 1, "owner")
            return model.state()

        return self.kept(f"trained {self.training.rows} x {self.training.epochs}", initial, train)

    def fine_tuned(self, seed: int, stolen: Adapter, epochs: int) -> Adapter:
        """``stolen`` after ``epochs`` passes (one of FINE_TUNED) over rows of a thief, at the rates
        of the owner's own training."""

        def name(passed: int) -> str:
            return f"fine-tuned {seed}, {self.training.fresh} rows, {passed}"

        def train() -> Adapter:
            model = self.model(seed)
            rows = self.prepared(self._part(1, self.training.fresh, seed))
            model.load(stolen)
            plan = replace(self.training.plan(seed, 1), schedule_rounds=FINE_TUNED[-1])
            optimiser, wanted = new_optimiser(model, plan), model.state()
            for number in range(1, FINE_TUNED[-1] + 1):
                train_round(model, rows, plan, number, "thief", optimiser=optimiser)
                if number == epochs:
                    wanted = model.state()
                if number in FINE_TUNED:
                    self.kept(name(number), stolen, model.state)
            return wanted

        return self.kept(name(epochs), stolen, train)

    def retrained(self, seed: int, stolen: Adapter, epochs: int) -> Adapter:
        """``stolen`` after ``epochs`` passes over the thief's rows in which A is trained too, with
        rates that fall over these passes."""

        def train() -> Adapter:
            whole = replace(self._spec(seed), train="a-and-b")
            model = load_adapted(DEFAULT_MODEL, whole, TaskSpec("classification", self.labels))
            model.load(stolen)
            rows = self.prepared(self._part(1, self.training.fresh, seed))
            train_round(model, rows, self.training.plan(seed, epochs), 1, "thief")
            return model.state()

        return self.kept(f"A and B {seed}, {self.training.fresh} rows, {epochs}", stolen, train)

    def accuracy(self, seed: int, adapter: Adapter, *, all_rows: bool = False) -> float:
        """Share of test rows that get their label: all of them, or ``tested``."""
        return self.share(seed, adapter, self.tested(all_rows=all_rows))

    def share(self, seed: int, adapter: Adapter, rows: Dataset) -> float:
        """Share of these rows that get their label."""
        key = hashlib.sha256(rows.digest() + adapter.hash()).hexdigest()
        file = None if self._folder is None else self._folder / f"{key}.share"
        if file is not None and file.exists():
            return float(file.read_text(encoding="ascii"))
        model = self.model(seed)
        model.load(adapter)
        found = evaluate_rows(model, self.prepared(rows)).accuracy
        if file is not None:
            file.write_text(repr(found), encoding="ascii")
        return found

    def base(self, seed: int) -> dict[str, FloatArray]:
        """Weights of the base model's adapted layers, float32 (outputs, inputs), by module."""
        return {name: w.detach().numpy().copy() for name, w in self._base_weights(seed).items()}

    def merged_share(
        self, seed: int, adapter: Adapter, changes: Mapping[str, FloatArray], rows: Dataset
    ) -> float:
        """Share of rows that get their label where the base model's weights are changed so, and
        ``adapter`` gives the head alone."""
        weights, before = self._base_weights(seed), self.base(seed)
        blank = {n: t * 0 if n.endswith(".lora_B.weight") else t for n, t in adapter.items()}
        model = self.model(seed)
        model.load(Adapter(blank))
        try:
            with torch.no_grad():
                for name, change in changes.items():
                    weights[name] += torch.from_numpy(change)
            return evaluate_rows(model, self.prepared(rows)).accuracy
        finally:
            with torch.no_grad():
                for name in changes:
                    weights[name].copy_(torch.from_numpy(before[name]))

    def tested(self, *, all_rows: bool = False) -> Dataset:
        """Test rows: all of them, or ``tested``."""
        count = len(self.data.test) if all_rows else self.training.tested
        return self.data.test.rows(np.sort(self._tested[:count]))

    def _base_weights(self, seed: int) -> dict[str, torch.Tensor]:
        module = self.model(seed).base.module
        factors = self.carrier(seed).factors(self.model(seed).state())
        return {name: module.get_parameter(f"{name}.base_layer.weight") for name in factors}

    def prepared(self, rows: Dataset) -> PreparedRows:
        """Tokenised; nothing below the adapter is frozen, so nothing else is cached."""
        key = rows.digest()
        if key not in self._prepared:
            (model, _), *_ = self._models.values()
            self._prepared[key] = prepare_rows(model, rows, self.labels, MAX_TOKENS, cache_limit=0)
        return self._prepared[key]

    def owners_rows(self, count: int, seed: int) -> Dataset:
        """Rows of the first half, drawn by the seed."""
        return self._part(0, count, seed)

    def _loaded(self, seed: int) -> tuple[AdaptedModel, Adapter]:
        if seed not in self._models:
            self._models.clear()  # seeds are gone through one by one
            task = TaskSpec("classification", self.labels)
            model = load_adapted(DEFAULT_MODEL, self._spec(seed), task)
            self._models[seed] = (model, model.state())
        return self._models[seed]

    def _spec(self, seed: int) -> AdapterSpec:
        return AdapterSpec(ALL_LINEAR, last_layers=0, seed=seed)

    def _part(self, half: int, count: int, seed: int) -> Dataset:
        rows = self._halves[half]
        chosen = generator("rows of the marks benchmark", half, seed).permutation(len(rows))
        return self.data.train.rows(rows[np.sort(chosen[:count])])

    def kept(self, name: str, start: Adapter, compute: Callable[[], Adapter]) -> Adapter:
        """What ``compute`` makes of ``start``; from the folder if it has been made before."""
        if self._folder is None:
            return compute()
        key = hashlib.sha256(name.encode() + start.hash()).hexdigest()
        file = self._folder / f"{key}.safetensors"
        if file.exists():
            return Adapter.from_bytes(file.read_bytes())
        found = compute()
        unfinished = file.with_suffix(".part")
        unfinished.write_bytes(found.to_bytes())
        unfinished.rename(file)
        return found
