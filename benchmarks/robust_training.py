"""Local trainings and measurements of the robustness benchmark, each done once.

The federations of a table share most of their trainings: the rounds before an attack starts are
those of every attack, and as long as a rule keeps the attackers out, its honest clients train as
they do against any other attack. A training is a function of rows, adapter, round and order, so its
delta is kept under the hash of these, on disk where a folder is given; measurements likewise. Rows
are cached up to the first adapted block, by text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.attacks.crafting import Vector
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.batches import EncodedRows
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.lower_blocks import HiddenStates
from secure_fedfm.learning.payload import delta
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.seeds import generator
from secure_fedfm.learning.training import (
    PreparedRows,
    evaluate_rows,
    new_optimiser,
    prepare_rows,
    ready,
    train_round,
)

MAX_TOKENS = 48
ANCHOR_PULL = 0.02
"""Weight of the squared distance to the anchor in an attacker's loss (constrain and scale)."""


@dataclass(frozen=True)
class Training:
    """One client's training in one round.

    Args:
        rows: that it trains on.
        number: of the round, from 1; sets the learning rates.
        order: names the client and the seed, so that clients shuffle differently.
        epochs: passes over the rows.
        anchor: a delta that the loss pulls towards, or None.
    """

    rows: Dataset
    number: int
    order: str
    epochs: int = 1
    anchor: Vector | None = None

    def digest(self, adapter: Adapter) -> str:
        """Names the result, hexadecimal."""
        found = hashlib.sha256(self.rows.digest() + adapter.hash())
        found.update(f"{self.number}/{self.order}/{self.epochs}".encode())
        if self.anchor is not None:
            found.update(self.anchor.astype(np.float32).tobytes())
        return found.hexdigest()


class Trainer:
    """A model, the rows it has seen, and what came of its trainings.

    Args:
        model: trained and evaluated in place.
        labels: of the task, in the head's order.
        plan: of honest trainings; attackers change the number of epochs.
        folder: where deltas and measurements are kept, for one model and plan; None keeps none.
    """

    def __init__(
        self,
        model: AdaptedModel,
        labels: tuple[str, ...],
        plan: TrainingPlan,
        folder: Path | None = None,
    ) -> None:
        self.model, self.initial, self.layout = model, model.state(), model.layout
        self._labels, self._plan, self._folder = labels, plan, folder
        self._states: dict[str, torch.Tensor] = {}
        self._prepared: dict[bytes, PreparedRows] = {}
        self._measured: dict[str, float] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def delta(self, training: Training, adapter: Adapter) -> Vector:
        """What the training moves, float64 [values]."""
        file = None
        if self._folder is not None:
            file = self._folder / f"{training.digest(adapter)}.npy"
            if file.exists():
                return np.load(file, allow_pickle=False).astype(np.float64)  # type: ignore[no-any-return]
        rows = self._rows(training.rows)
        self.model.load(adapter)
        plan = replace(self._plan, epochs=training.epochs)
        if training.anchor is None:
            train_round(self.model, rows, plan, training.number, training.order)
        else:
            goal = adapter.moved(self.layout, training.anchor.astype(np.float32))
            self._train_anchored(rows, training, plan, goal)
        found = delta(self.layout, adapter, self.model.state())
        if file is not None:
            unfinished = file.with_suffix(".part")
            with unfinished.open("wb") as stream:
                np.save(stream, found.astype(np.float32), allow_pickle=False)
            unfinished.rename(file)
        return found.astype(np.float64)

    def accuracy(self, data: Dataset, adapter: Adapter) -> float:
        """The share of rows that get their label."""
        key = hashlib.sha256(data.digest() + adapter.hash()).hexdigest()
        if key in self._measured:
            return self._measured[key]
        file = None if self._folder is None else self._folder / f"{key}.share"
        if file is not None and file.exists():
            found = float(file.read_text(encoding="ascii"))
        else:
            rows = self._rows(data)
            self.model.load(adapter)
            found = evaluate_rows(self.model, rows).accuracy
            if file is not None:
                file.write_text(repr(found), encoding="ascii")
        self._measured[key] = found
        return found

    def _rows(self, data: Dataset) -> PreparedRows:
        """Rows with hidden states; loads the initial adapter, which they do not depend on."""
        key = data.digest()
        if key not in self._prepared:
            new = sorted({text for text in data.texts if text not in self._states})
            if new:
                self._add_states(tuple(new))
            encoded = EncodedRows(data, self._labels, self.model.base.tokenizer, MAX_TOKENS)
            values = torch.cat([self._states[text] for text in data.texts])
            self._prepared[key] = PreparedRows(encoded, HiddenStates(values, encoded.lengths))
        return self._prepared[key]

    def _add_states(self, texts: tuple[str, ...]) -> None:
        self.model.load(self.initial)
        some = Dataset(texts, (self._labels[0],) * len(texts))
        found = prepare_rows(self.model, some, self._labels, MAX_TOKENS)
        for row, (text, length) in enumerate(zip(texts, found.encoded.lengths, strict=True)):
            batch = found.batch(np.array([row], dtype=np.int64))
            if batch.hidden is None:
                raise ValueError("this model's lower blocks cannot be cached; adapt fewer blocks")
            self._states[text] = batch.hidden[0, : int(length)].clone()

    def _train_anchored(
        self, rows: PreparedRows, training: Training, plan: TrainingPlan, goal: Adapter
    ) -> None:
        """`train_round` with a pull towards ``goal`` in the loss (Bagdasaryan et al. 2020, the
        anomaly term of constrain and scale)."""
        model, number = self.model, training.number
        optimiser = new_optimiser(model, plan)
        random = generator("batch order", plan.seed, training.order, number)
        passes = [rows.encoded.shuffled(plan.batch_size, random) for _ in range(plan.epochs)]
        batches = [batch for one_pass in passes for batch in one_pass]
        anchors = {name: torch.from_numpy(np.array(goal[name])) for name in model.trained()}
        with ready(model, rows) as make:
            for step, chosen in enumerate(batches):
                for group in optimiser.param_groups:
                    factor = plan.learning_rate_factor(number, step / len(batches))
                    group["lr"] = group["peak"] * factor
                batch = make(chosen)
                loss = model.scorer.row_losses(batch, model.scorer.scores(batch)).mean()
                for name, parameter in model.trained().items():
                    loss = loss + ANCHOR_PULL * (parameter - anchors[name]).square().sum()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
