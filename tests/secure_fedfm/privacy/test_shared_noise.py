"""One institution's part of a step, and the federation's steps without protocol."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedfm_crypto.random_source import SeededRandom
from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.central import train_centrally
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.evaluate import AdapterEvaluator
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import AdapterUpdater
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
from secure_fedfm.learning.training import PreparedRows, TrainingProgress, prepare_rows
from secure_fedfm.privacy.gradients import one_by_one
from secure_fedfm.privacy.plan import SharedNoisePlan
from secure_fedfm.privacy.sampling import poisson_sample
from secure_fedfm.privacy.shared_noise import SharedNoiseTraining, noised_sum
from tests.secure_fedfm.privacy.conftest import Make, flat

PLAN = SharedNoisePlan(
    noise_multiplier=0.0,
    sampling_rate=0.5,
    steps_per_round=10,
    clip=0.5,
    batch=24.0,
    mechanism="discrete-gaussian",
    honest_shares=2,
    scale=1 << 20,
    bound=50.0,
    optimiser=StepOptimiserSpec(
        adapter_learning_rate=0.5, head_learning_rate=2.0, schedule_steps=20
    ),
    physical_batch=7,
)
SHAPES = ("bert, head alone", "bert, frozen A", "bert, q and v", "gpt2, last block")


def training(
    make: Make, shape: str, tickets: Dataset, plan: SharedNoisePlan = PLAN, seed: int = 1
) -> tuple[SharedNoiseTraining, AdaptedModel, PreparedRows]:
    model, task = make(shape)
    rows = prepare_rows(model, tickets, task.labels, 64)
    return SharedNoiseTraining(model, rows, plan, SeededRandom(seed)), model, rows


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_sum_of_clipped_gradients(make: Make, shape: str, tickets: Dataset) -> None:
    """Against plain autograd, row by row; some rows are clipped and some are not."""
    found, model, rows = training(make, shape, tickets)
    adapter = model.state()
    chosen = poisson_sample(len(rows), PLAN.sampling_rate, SeededRandom(1))
    gradients = [
        flat(one_by_one(model, rows.encoded.batch([row])), model.layout.names)
        for row in chosen.tolist()
    ]
    norms = sorted(float(np.linalg.norm(one)) for one in gradients)
    clip = norms[len(norms) // 2] * 1.000001
    plan = replace(PLAN, clip=clip)
    found = SharedNoiseTraining(model, rows, plan, SeededRandom(1))
    expected = sum(one * min(1.0, clip / float(np.linalg.norm(one))) for one in gradients)
    step = found.step(adapter)
    assert step.total.dtype == np.float64
    assert step.total.shape == (model.layout.size,)
    assert np.abs(step.total - expected).max() < 2e-6 * clip * len(chosen)
    assert (step.rows, step.dropped) == (len(chosen), 0)
    assert 0 < step.clipped < len(chosen)


def test_the_closed_form_of_the_head_is_what_the_hooks_give(make: Make, tickets: Dataset) -> None:
    closed, model, rows = training(make, "bert, head alone", tickets)
    hooked = SharedNoiseTraining(model, rows, PLAN, SeededRandom(1))
    assert closed._head is not None
    hooked._head = None
    adapter = model.state()
    for chosen in (np.arange(48), np.array([3]), np.array([5, 1, 40])):
        one, other = closed.sum_of(adapter, chosen), hooked.sum_of(adapter, chosen)
        assert np.abs(one.total - other.total).max() < 1e-6 * PLAN.clip
        assert (one.rows, one.clipped, one.dropped) == (other.rows, other.clipped, other.dropped)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert float(np.linalg.norm(one.total)) <= PLAN.clip * len(chosen)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_empty_batch_gives_zeros(make: Make, shape: str, tickets: Dataset) -> None:
    found, model, _ = training(make, shape, tickets, replace(PLAN, sampling_rate=2.0**-40))
    step = found.step(model.state())
    assert step.rows == 0
    assert not step.total.any()
    assert step.total.shape == (model.layout.size,)


@pytest.mark.parametrize("shape", ["bert, head alone", "bert, frozen A"])
def test_a_row_that_is_not_finite_counts_as_zero(make: Make, shape: str, tickets: Dataset) -> None:
    found, model, rows = training(make, shape, tickets)
    adapter = model.state()
    clean = found.sum_of(adapter, np.array([0, 2]))
    assert rows.hidden is not None
    states: Any = rows.hidden
    if shape == "bert, head alone":
        states._values[1] = math.inf
    else:
        start = int(states._starts[1])
        states._values[start : start + int(rows.encoded.lengths[1])] = math.nan
    found = SharedNoiseTraining(model, rows, PLAN, SeededRandom(1))
    step = found.sum_of(adapter, np.array([0, 1, 2]))
    assert step.dropped == 1
    assert np.abs(step.total - clean.total).max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sums_of_clients_add_up_to_the_pooled_sum(
    make: Make, shape: str, tickets: Dataset
) -> None:
    """Noise off: what the institutions send, rounded, against central clipping on the same rows."""
    found, model, _ = training(make, shape, tickets)
    adapter = model.state()
    pooled = found.sum_of(adapter, np.arange(48))
    parts = [np.arange(start, 48, 4) for start in range(4)]
    opened = sum(
        noised_sum(found.sum_of(adapter, part).total, PLAN, SeededRandom(number))
        for number, part in enumerate(parts)
    )
    assert float(np.abs(opened - pooled.total).max()) < 4 / PLAN.scale + 1e-6


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_steps_of_a_federation_are_steps_of_central_training(
    make: Make, tickets: Dataset, kind: Any
) -> None:
    """Noise off, the same batches: ten steps by sums against torch's optimiser on the pooled
    rows; each quantised sum is off by four steps of the grid at most."""
    plan = replace(
        PLAN,
        optimiser=replace(PLAN.optimiser, kind=kind, schedule="constant", head_learning_rate=0.5),
    )
    found, model, _ = training(make, "bert, head alone", tickets, plan)
    updater = AdapterUpdater(model.layout, plan.optimiser, plan.batch)
    adapter, state = model.state(), updater.initial_state()
    parameters = {
        name: torch.nn.Parameter(torch.from_numpy(adapter[name].astype(np.float64)))
        for name in model.layout.names
    }
    oracle = torch.optim.SGD(parameters.values(), lr=0.5, momentum=0.9) if kind == "sgd" else None
    first = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    second = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for number in range(10):
        chosen = poisson_sample(48, 0.5, SeededRandom(number))
        opened = sum(
            noised_sum(
                found.sum_of(adapter, chosen[part::4]).total, plan, SeededRandom(9 * number + part)
            )
            for part in range(4)
        )
        assert isinstance(opened, np.ndarray)
        central = Adapter(
            {**adapter, **{n: p.detach().numpy().astype(np.float32) for n, p in parameters.items()}}
        )
        gradient = (found.sum_of(central, chosen).total / plan.batch).astype(np.float32)
        for name, part in model.layout.unflatten(gradient).items():
            grad = torch.from_numpy(part).double()
            parameters[name].grad = grad
            if oracle is None:
                first[name] = 0.9 * first[name] + 0.1 * grad
                second[name] = 0.99 * second[name] + 0.01 * grad**2
                with torch.no_grad():
                    parameters[name].sub_(0.5 * first[name] / (second[name].sqrt() + 1e-3))
        if oracle is not None:
            oracle.step()
        adapter, state = updater.advance(adapter, state, opened, 4)
    assert state.count == 10
    tolerance = 1e-4 if kind == "adam" else 2e-6  # Adam magnifies what is near zero
    for name, parameter in parameters.items():
        assert np.abs(adapter[name] - parameter.detach().numpy()).max() < tolerance


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
def test_shares_carry_the_noise_once_and_so_does_the_pooled_plan(mechanism: Any) -> None:
    plan = replace(PLAN, noise_multiplier=1.5, mechanism=mechanism, honest_shares=4, scale=1 << 12)
    zero = np.zeros(60_000)
    sigma = 1.5 * plan.clip
    shared = noised_sum(zero, plan, SeededRandom(1), shares=4)
    assert float(np.std(shared)) == pytest.approx(sigma, rel=0.02)
    alone = noised_sum(zero, plan, SeededRandom(2))
    assert float(np.std(alone)) == pytest.approx(sigma / 2, rel=0.02)
    pooled = noised_sum(zero, plan.pooled(4), SeededRandom(3))
    assert float(np.std(pooled)) == pytest.approx(sigma, rel=0.02)
    assert plan.pooled(4).batch == plan.batch
    with pytest.raises(ConfigurationError, match="shares"):
        noised_sum(zero, plan, SeededRandom(1), shares=0)


def test_the_learner_gives_steps_at_the_adapter_that_it_is_given(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset
) -> None:
    spec = AdapterSpec(targets=HEAD_ONLY)
    learner = LocalLearner(
        tiny_encoder, spec, task, TrainingPlan(), tickets, client="a", private=PLAN,
        random=SeededRandom(1),
    )  # fmt: skip
    seen: list[TrainingProgress] = []
    start = learner.initial_adapter()
    first = learner.train(start, 1, seen.append, step=3)
    assert first.dtype == np.float64
    assert first.shape == (learner.layout.size,)
    assert (seen[0].step, seen[0].steps) == (4, 10)
    moved = start.moved(learner.layout, -(first / PLAN.batch).astype(np.float32))
    steps = LocalLearner(
        tiny_encoder, spec, task, TrainingPlan(), tickets, client="a", private=PLAN,
        random=SeededRandom(1),
    )  # fmt: skip
    assert not np.array_equal(steps.train(moved, 1), first)  # the same rows, another adapter
    with pytest.raises((ModelError, KeyError)):
        learner.train(Adapter({"x": np.zeros(3, np.float32)}), 1)


def test_central_training_with_the_noise_once_learns(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset
) -> None:
    plan = replace(PLAN, noise_multiplier=0.3, clip=1.0, honest_shares=3)
    seen: list[tuple[int, int]] = []
    adapter = train_centrally(
        tiny_encoder, AdapterSpec(targets=HEAD_ONLY), task, TrainingPlan(), tickets, 2,
        private=plan.pooled(3), random=SeededRandom(4),
        progress=lambda number, done: seen.append((number, done.step)),
    )  # fmt: skip
    assert seen == [(number, step) for number in (1, 2) for step in range(1, 11)]
    found = AdapterEvaluator(
        tiny_encoder, AdapterSpec(targets=HEAD_ONLY), task, tickets, max_tokens=64
    ).evaluate(adapter)
    assert found.accuracy > 0.6  # a third by chance


def test_a_step_of_the_head_is_quick(make: Make, tickets: Dataset) -> None:
    found, model, _ = training(make, "bert, head alone", tickets)
    adapter = model.state()
    found.step(adapter)
    started = time.perf_counter()
    for _ in range(20):
        found.step(adapter)
    assert (time.perf_counter() - started) / 20 < 0.05


@pytest.mark.parametrize(
    ("field", "value"),
    [("noise_multiplier", -1.0), ("sampling_rate", 0.0), ("clip", math.inf), ("batch", 0.0),
     ("steps_per_round", 0), ("scale", 0), ("bound", 0.0), ("honest_shares", 0)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    change: dict[str, Any] = {field: value}
    with pytest.raises(ConfigurationError, match=field):
        replace(PLAN, **change)
