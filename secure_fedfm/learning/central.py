"""The baseline: the same adapter, plan and number of example passes, on all rows in one place.

It answers what federating cost. The one difference besides the pooled rows is that AdamW keeps its
moments from pass to pass, as anybody training centrally would; clients start theirs fresh.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedfm_crypto.random_source import RandomSource, system_random
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.lower_blocks import Progress
from secure_fedfm.learning.model import load_base
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import AdapterUpdater
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import (
    PreparedRows,
    TrainingProgress,
    new_optimiser,
    prepare_rows,
    train_round,
)
from secure_fedfm.privacy.plan import PrivatePlan, SharedNoisePlan


def train_centrally(
    model: ModelSpec,
    adapter: AdapterSpec,
    task: TaskSpec,
    plan: TrainingPlan,
    data: Dataset,
    rounds: int,
    *,
    location: Path | None = None,
    caching: Progress | None = None,
    progress: Callable[[int, TrainingProgress], None] | None = None,
    private: PrivatePlan | SharedNoisePlan | None = None,
    random: RandomSource = system_random,
) -> Adapter:
    """Train on the pooled rows for `rounds * plan.epochs` passes from the same initial adapter.

    Args:
        caching: called with (rows cached, rows). progress: called with (round, where it stands).
        private: train by DP-SGD: `private.pooled(institutions)` has the clients' noise multiplier,
            sampling rate and steps, so the same epsilon. random: its CSPRNG. With a
            `SharedNoisePlan` a round is a session, and its optimiser goes on from one to the next.

    Raises:
        DataError, ModelError: as for `LocalLearner`.
    """
    adapted = AdaptedModel(load_base(model, task, adapter, location), adapter, task)
    if private is None:
        one_round = _plain_round(adapted, plan)
    elif isinstance(private, PrivatePlan):
        one_round = _private_round(adapted, plan, private, random, task)
    else:
        one_round = _session(adapted, plan, private, random, task)
    rows = prepare_rows(adapted, data, task.labels, plan.max_tokens, progress=caching)
    for number in range(1, rounds + 1):

        def report(step: TrainingProgress, number: int = number) -> None:
            if progress is not None:
                progress(number, step)

        one_round(rows, number, report)
    return adapted.state()


_Report = Callable[[TrainingProgress], None]
_Round = Callable[[PreparedRows, int, _Report], None]


def _plain_round(model: AdaptedModel, plan: TrainingPlan) -> _Round:
    optimiser = new_optimiser(model, plan)

    def train(rows: PreparedRows, number: int, report: _Report) -> None:
        train_round(model, rows, plan, number, "central", optimiser=optimiser, progress=report)

    return train


def _private_round(
    model: AdaptedModel,
    plan: TrainingPlan,
    private: PrivatePlan,
    random: RandomSource,
    task: TaskSpec,
) -> _Round:
    # Imported here: without a private plan nobody needs Opacus.
    from secure_fedfm.privacy.dp_sgd import (  # noqa: PLC0415
        new_private_optimiser,
        train_private_round,
    )
    from secure_fedfm.privacy.gate import check_model  # noqa: PLC0415
    from secure_fedfm.privacy.head_gradients import HeadStates  # noqa: PLC0415

    check_model(model, task, plan.max_tokens)
    pooled = HeadStates()
    optimiser = new_private_optimiser(model, private)

    def train(rows: PreparedRows, number: int, report: _Report) -> None:
        train_private_round(
            model,
            rows,
            plan,
            private,
            number,
            random=random,
            optimiser=optimiser,
            progress=report,
            pooled=pooled,
        )

    return train


def _session(
    model: AdaptedModel,
    plan: TrainingPlan,
    private: SharedNoisePlan,
    random: RandomSource,
    task: TaskSpec,
) -> _Round:
    from secure_fedfm.privacy.gate import check_model  # noqa: PLC0415
    from secure_fedfm.privacy.shared_noise import (  # noqa: PLC0415
        SharedNoiseTraining,
        noised_sum,
    )

    check_model(model, task, plan.max_tokens)
    updater = AdapterUpdater(model.layout, private.optimiser, private.batch)
    state = updater.initial_state()

    def train(rows: PreparedRows, number: int, report: _Report) -> None:
        nonlocal state
        del number
        training = SharedNoiseTraining(model, rows, private, random)
        adapter = model.state()
        for step in range(1, private.steps_per_round + 1):
            found = training.step(adapter)
            opened = noised_sum(found.total, private, random)
            adapter, state = updater.advance(adapter, state, opened, 1)
            loss = found.loss / max(1, found.rows)
            report(TrainingProgress(step, private.steps_per_round, loss))
        model.load(adapter)

    return train
