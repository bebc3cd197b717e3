"""What a client service needs of learning: one object per client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from fedfm_crypto.random_source import RandomSource, system_random
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.lower_blocks import Progress
from secure_fedfm.learning.model import load_base
from secure_fedfm.learning.payload import TensorLayout, delta
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import (
    PreparedRows,
    TrainingProgress,
    prepare_rows,
    train_round,
)
from secure_fedfm.learning.votes import VoteSpec
from secure_fedfm.privacy.plan import PrivatePlan, SharedNoisePlan

if TYPE_CHECKING:
    from secure_fedfm.privacy.head_gradients import HeadStates
    from secure_fedfm.privacy.shared_noise import SharedNoiseTraining


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
    between calls does not matter, so a restarted client repeats a round exactly. Not so with a
    private plan: there every call draws fresh randomness and is a release of its own (with shared
    noise: a part of one), which the caller has charged to the ledger before.
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
        private: PrivatePlan | SharedNoisePlan | None = None,
        votes: VoteSpec | None = None,
        random: RandomSource = system_random,
    ) -> None:
        """
        Args:
            client: this client's name; clients shuffle their rows differently.
            location: folder of the base model, where it is not found by name.
            threads: torch's threads in this process (a process-wide setting); None leaves it. Use
                1 where clients share cores: waiting threads spin, and many of them cost tenfold.
            private: train by DP-SGD with these settings, whole rounds of it (`PrivatePlan`) or
                steps that the institutions add up (`SharedNoisePlan`); None trains without privacy.
            votes: send the signs of a delta instead of it; None sends deltas.
            random: CSPRNG of private training (sampling, dither, noise).

        Raises:
            DataError: a label that the task does not list (before any model is loaded).
        """
        if task.kind == "classification":
            data.label_indices(task.labels)
        self._specs = (model, adapter, task)
        self._plan, self._data, self._client = plan, data, client
        self._location, self._threads = location, threads
        self._private, self._votes, self._random = private, votes, random
        self._model: AdaptedModel | None = None
        self._initial: Adapter | None = None
        self._rows: PreparedRows | None = None
        self._steps: SharedNoiseTraining | None = None
        self._pooled: HeadStates | None = None

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
            PrivacyGateError: private training is asked for and would not protect this model.
            ConfigurationError: the head shall be trained alone, and the model has no linear one.
        """
        model = self._loaded()
        if self._rows is None:
            if self._private is not None:
                # Imported here: without a private plan nobody needs Opacus.
                from secure_fedfm.privacy.gate import check_model  # noqa: PLC0415

                check_model(model, self._specs[2], self._plan.max_tokens)
                _check_head_rounds(model, self._private)
            self._rows = prepare_rows(
                model,
                self._data,
                self._specs[2].labels,
                self._plan.max_tokens,
                progress=progress,
            )
        if self._steps is None and isinstance(self._private, SharedNoisePlan):
            from secure_fedfm.privacy.shared_noise import SharedNoiseTraining  # noqa: PLC0415

            self._steps = SharedNoiseTraining(model, self._rows, self._private, self._random)

    @property
    def layout(self) -> TensorLayout:
        """Layout of the payload: the trained tensors."""
        return self._loaded().layout

    def adapted(self) -> AdaptedModel:
        """The model that is trained, in whatever state it was left: load an adapter first. Who
        changes its state does no harm, since every training loads its own."""
        return self._loaded()

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
        *,
        step: int = 0,
        completed: int | None = None,
    ) -> npt.NDArray[np.floating]:
        """Train from `adapter`; the update, of shape (layout.size,).

        `round_number` is the protocol's, from 1, which a repeated round never has again: it draws
        the order of batches.  `completed` counts the rounds of training before this one, as the
        charter does: it sets the learning rates, and whether the head is trained alone; by default
        as if no number had gone to keys or failed rounds.

        Of a whole round it is the float32 delta, or the ballot for it.  With a `SharedNoisePlan` it
        is step `step` (from 0): the float64 sum of clipped gradients at `adapter`, PRIVATE until
        the protocol has noised and masked it.

        Raises:
            ModelError: the adapter does not fit, or training diverged.
        """
        self.prepare()
        model = self._loaded()
        assert self._rows is not None  # noqa: S101
        scheduled = round_number if completed is None else completed + 1
        if isinstance(self._private, SharedNoisePlan):
            assert self._steps is not None  # noqa: S101
            found = self._steps.step(adapter)
            if progress is not None:
                loss = found.loss / max(1, found.rows)
                progress(TrainingProgress(step + 1, self._private.steps_per_round, loss))
            return found.total
        model.load(adapter)
        if self._private is None:
            train_round(
                model,
                self._rows,
                self._plan,
                scheduled,
                self._client,
                draw=round_number,
                progress=progress,
            )
        else:
            from secure_fedfm.privacy.dp_sgd import train_private_round  # noqa: PLC0415
            from secure_fedfm.privacy.head_gradients import HeadStates  # noqa: PLC0415

            self._pooled = self._pooled or HeadStates()
            train_private_round(
                model,
                self._rows,
                self._plan,
                self._private,
                scheduled,
                random=self._random,
                progress=progress,
                pooled=self._pooled,
            )
        moved = delta(model.layout, adapter, model.state())
        return moved if self._votes is None else self._votes.ballot(moved, model.layout)


def _check_head_rounds(model: AdaptedModel, private: PrivatePlan | SharedNoisePlan) -> None:
    if isinstance(private, PrivatePlan) and private.head_rounds:
        from secure_fedfm.privacy.head_gradients import check_linear_head  # noqa: PLC0415

        check_linear_head(model)
