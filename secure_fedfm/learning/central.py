"""The baseline: the same adapter, plan and number of example passes, on all rows in one place.

It answers what federating cost. The one difference besides the pooled rows is that AdamW keeps its
moments from pass to pass, as anybody training centrally would; clients start theirs fresh.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.lower_blocks import Progress
from secure_fedfm.learning.model import load_base
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import (
    TrainingProgress,
    new_optimiser,
    prepare_rows,
    train_round,
)


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
) -> Adapter:
    """Train on the pooled rows for `rounds * plan.epochs` passes from the same initial adapter.

    Args:
        caching: called with (rows cached, rows). progress: called with (round, where it stands).

    Raises:
        DataError, ModelError: as for `LocalLearner`.
    """
    adapted = AdaptedModel(load_base(model, task, adapter, location), adapter, task)
    rows = prepare_rows(adapted, data, task.labels, plan.max_tokens, progress=caching)
    optimiser = new_optimiser(adapted, plan)
    for number in range(1, rounds + 1):

        def report(step: TrainingProgress, number: int = number) -> None:
            if progress is not None:
                progress(number, step)

        train_round(adapted, rows, plan, number, "central", optimiser=optimiser, progress=report)
    return adapted.state()
