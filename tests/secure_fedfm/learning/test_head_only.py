"""A linear head trained alone: specification, caches and parts of prepared rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.learner import LocalLearner, load_adapted
from secure_fedfm.learning.lower_blocks import HiddenStates, PooledStates
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import prepare_rows, ready

HEAD = AdapterSpec(targets=HEAD_ONLY)


def test_only_mean_pooling_has_a_head_to_train_alone() -> None:
    assert HEAD.head_only
    assert AdapterSpec.from_json(HEAD.to_json()) == HEAD
    with pytest.raises(ConfigurationError, match="pooling 'native'"):
        AdapterSpec(targets=HEAD_ONLY, pooling="native")


def test_plain_training_of_a_head_alone_learns(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset, plan: TrainingPlan
) -> None:
    learner = LocalLearner(tiny_encoder, HEAD, task, plan, tickets, client="clinic")
    assert learner.layout.names == ("head.bias", "head.weight")
    step = learner.train(learner.initial_adapter(), 1)
    assert np.abs(step).max() > 1e-3
    assert np.array_equal(learner.train(learner.initial_adapter(), 1), step)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [(HEAD, PooledStates), (AdapterSpec(last_layers=1), HiddenStates)],
    ids=["head", "lora"],
)
def test_a_part_of_prepared_rows_gives_the_same_scores(
    spec: AdapterSpec,
    kind: type[object],
    tiny_encoder: ModelSpec,
    task: TaskSpec,
    tickets: Dataset,
) -> None:
    model = load_adapted(tiny_encoder, spec, task)
    assert model.head is not None
    torch.nn.init.constant_(model.head.weight[:, ::2], 0.3)
    rows = prepare_rows(model, tickets, task.labels, 64)
    assert isinstance(rows.hidden, kind)
    chosen = np.array([40, 3, 17, 22, 9])
    part = rows.part(chosen)
    assert len(part) == 5
    with torch.no_grad():
        with ready(model, rows) as make:
            batch = make(chosen)
            expected = model.scorer.scores(batch)
        with ready(model, part) as make:
            own = make(np.arange(5))
            found = model.scorer.scores(own)
    assert torch.equal(own.labels, batch.labels)
    assert torch.equal(found, expected)
    assert len(rows.part(np.empty(0, dtype=np.int64))) == 0
