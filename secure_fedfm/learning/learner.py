"""What a client service needs of learning: one object per client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.lower_blocks import Progress
from secure_fedfm.learning.model import load_base
from secure_fedfm.learning.payload import FloatArray, TensorLayout, delta
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import (
    PreparedRows,
    TrainingProgress,
    prepare_rows,
    train_round,
)


def load_adapted(
    model: ModelSpec, adapter: AdapterSpec, task: TaskSpec, location: Path | None = None
) -> AdaptedModel:
    """The verified base model with the initial adapter in place.

    Raises:
        ModelError, ConfigurationError: see `load_base` and `AdaptedModel`.
    """
    return AdaptedModel(load_base(model, task, adapter, location), adapter, task)


class LocalLearner:
    """Trains on one client's rows. Holds the only copy of them that learning makes.

    `train` is a function of (adapter, round number) for a given client: the model's own state
    between calls does not matter, so a restarted client repeats a round exactly.
    """

    def __init__(
        self,
        model: ModelSpec,
        adapter: AdapterSpec,
        task: TaskSpec,
        plan: TrainingPlan,
        data: Dataset,
        *,
        client: str,
        location: Path | None = None,
        threads: int | None = None,
    ) -> None:
        """
        Args:
            client: this client's name; clients shuffle their rows differently.
            location: folder of the base model, where it is not found by name.
            threads: torch's threads in this process (a process-wide setting); None leaves it. Use
                1 where clients share cores: waiting threads spin, and many of them cost tenfold.

        Raises:
            DataError: a label that the task does not list (before any model is loaded).
        """
        if task.kind == "classification":
            data.label_indices(task.labels)
        self._specs = (model, adapter, task)
        self._plan, self._data, self._client = plan, data, client
        self._location, self._threads = location, threads
        self._model: AdaptedModel | None = None
        self._initial: Adapter | None = None
        self._rows: PreparedRows | None = None

    def _loaded(self) -> AdaptedModel:
        if self._model is None:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            self._model = load_adapted(*self._specs, self._location)
            self._initial = self._model.state()
        return self._model

    def prepare(self, progress: Progress | None = None) -> None:
        """Load the model and cache the lower blocks; `progress(rows done, rows)`.

        Raises:
            ModelError: the base model is missing or not the agreed one.
        """
        model = self._loaded()
        if self._rows is None:
            self._rows = prepare_rows(
                model,
                self._data,
                self._specs[2].labels,
                self._plan.max_tokens,
                progress=progress,
            )

    @property
    def layout(self) -> TensorLayout:
        """Layout of the payload: the trained tensors."""
        return self._loaded().layout

    def initial_adapter(self) -> Adapter:
        """The adapter before round 1; equal bits in every client."""
        self._loaded()
        assert self._initial is not None  # noqa: S101
        return self._initial

    def train(
        self,
        adapter: Adapter,
        round_number: int,
        progress: Callable[[TrainingProgress], None] | None = None,
    ) -> FloatArray:
        """Train from `adapter` for one round; float32 delta of shape (layout.size,).

        Raises:
            ModelError: the adapter does not fit, or training diverged.
        """
        self.prepare()
        model = self._loaded()
        assert self._rows is not None  # noqa: S101
        model.load(adapter)
        train_round(model, self._rows, self._plan, round_number, self._client, progress=progress)
        return delta(model.layout, adapter, model.state())
