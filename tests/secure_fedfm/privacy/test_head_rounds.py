"""Rounds of the head alone: the closed form against the hooks, and what they leave as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from fedfm_crypto.random_source import SeededRandom
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.central import train_centrally
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.learning.lower_blocks import compute_pooled_states
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import AdapterUpdater, ServerOptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.splits import iid_split
from secure_fedfm.learning.training import PreparedRows, prepare_rows
from secure_fedfm.privacy import head_gradients
from secure_fedfm.privacy.dp_sgd import StepRecord, train_private_round
from secure_fedfm.privacy.gradients import one_by_one
from secure_fedfm.privacy.head_gradients import BIAS, WEIGHT, HeadGradients, HeadStates
from secure_fedfm.privacy.plan import PrivatePlan, PrivateTraining
from secure_fedfm.privacy.release import NoiseGrid
from tests.secure_fedfm.privacy.conftest import Make, flat

PLAN = TrainingPlan(schedule="linear", schedule_rounds=2, max_tokens=64)
LORA = ("bert, frozen A", "bert, q and v")


def rows_of(make: Make, shape: str, tickets: Dataset) -> tuple[AdaptedModel, PreparedRows]:
    model, task = make(shape)
    return model, prepare_rows(model, tickets, task.labels, 64)


@pytest.fixture
def alone(private: PrivatePlan) -> PrivatePlan:
    return replace(private, head_rounds=1, optimiser="sgd", head_learning_rate=0.5)


@pytest.mark.parametrize("shape", LORA)
@pytest.mark.parametrize("cached", [True, False])
def test_the_closed_form_is_the_clipped_sum_over_the_head(
    make: Make, shape: str, tickets: Dataset, cached: bool
) -> None:
    """Against plain autograd through the whole model, LoRA's part of each gradient left out."""
    model, task = make(shape)
    rows = prepare_rows(model, tickets, task.labels, 64, cache_limit=2**30 if cached else 0)
    head = np.concatenate(
        [
            np.full(int(np.prod(shape)), name in (WEIGHT, BIAS))
            for name, shape in zip(model.layout.names, model.layout.shapes, strict=True)
        ]
    )
    chosen = np.array([5, 1, 40, 17, 8])
    gradients = [
        flat(one_by_one(model, rows.encoded.batch([row])), model.layout.names) * head
        for row in chosen.tolist()
    ]
    clip = sorted(float(np.linalg.norm(one)) for one in gradients)[2] * 1.000001
    expected = sum(one * min(1.0, clip / float(np.linalg.norm(one))) for one in gradients)
    found = HeadGradients(
        model.layout, HeadStates().of(model, rows), rows.encoded.labels, clip
    ).sum_of(model.state()[WEIGHT], model.state()[BIAS], chosen)
    assert np.abs(found.total - expected).max() < 5e-6 * clip
    assert not found.total[~head].any()
    assert (found.rows, found.clipped, found.dropped) == (5, 2, 0)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_only_the_head_moves_and_the_charge_is_that_of_any_round(
    make: Make, tickets: Dataset, alone: PrivatePlan, optimiser: Literal["sgd", "adam"]
) -> None:
    model, rows = rows_of(make, "bert, q and v", tickets)
    before, found = model.state(), list[StepRecord]()
    train_private_round(
        model, rows, PLAN, replace(alone, optimiser=optimiser), 1,
        random=SeededRandom(1), observe=found.append,
    )  # fmt: skip
    after = model.state()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {WEIGHT, BIAS}
    grid = NoiseGrid.of(alone, model.layout.size)
    for record in found:
        assert record.release.noised.size == grid.dimension
        # The whole dimension carries noise; the head's part is what a step uses.
        spread = (record.release.noised - record.release.rounded).std()
        assert spread == pytest.approx(grid.sigma, rel=0.1)


def test_lora_moves_from_the_next_round_on(
    make: Make, tickets: Dataset, alone: PrivatePlan
) -> None:
    model, rows = rows_of(make, "bert, frozen A", tickets)
    before = model.state()
    train_private_round(model, rows, PLAN, alone, 2, random=SeededRandom(1))
    after = model.state()
    for name in before:
        assert np.array_equal(before[name], after[name]) == (".lora_A." in name)


def test_pooled_states_are_those_of_the_adapter_that_is_loaded(
    make: Make, tickets: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = rows_of(make, "bert, frozen A", tickets)
    passes: list[int] = []
    compute = compute_pooled_states
    monkeypatch.setattr(
        head_gradients,
        "compute_pooled_states",
        lambda *given: passes.append(1) or compute(*given),  # type: ignore[func-returns-value]
    )
    states, start = HeadStates(), model.state()
    first = states.of(model, rows).values
    model.load(Adapter({**start, BIAS: start[BIAS] + 1}))
    assert states.of(model, rows).values is first  # the head is above them
    lora = {name: -3 * start[name] for name in model.layout.names if ".lora_" in name}
    model.load(Adapter({**start, **lora}))
    other = states.of(model, rows).values
    assert len(passes) == 2
    assert float((other - first).abs().max()) > 1e-3
    assert states.of(model, rows.part(np.arange(48))).values is not other
    # And they are what the whole model, without any cache, puts into its head.
    whole = prepare_rows(model, tickets, tuple(sorted(set(tickets.labels))), 64, cache_limit=0)
    assert float((HeadStates().of(model, whole).values - other).abs().max()) < 1e-4


def test_federated_rounds_are_those_of_a_loop_and_central_keeps_the_schedule(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset, alone: PrivatePlan
) -> None:
    spec, rounds = AdapterSpec(last_layers=1), 2
    parts = iid_split(tickets, 3, 1)
    learners = [
        LocalLearner(
            tiny_encoder, spec, task, PLAN, part, client=f"c{number}", private=alone,
            random=SeededRandom(number),
        )
        for number, part in enumerate(parts)
    ]  # fmt: skip
    start = learners[0].initial_adapter()
    updater = AdapterUpdater(learners[0].layout, ServerOptimiserSpec())
    adapter, state, course = start, updater.initial_state(), [start]
    for number in range(1, rounds + 1):
        total = sum(learner.train(adapter, number).astype(np.float64) for learner in learners)
        adapter, state = updater.advance(adapter, state, np.asarray(total), 3)
        course.append(adapter)

    by_hand = start
    model = learners[0]._loaded()
    randoms = [SeededRandom(number) for number in range(3)]
    for number in range(1, rounds + 1):
        ends = []
        for part, random in zip(parts, randoms, strict=True):
            model.load(by_hand)
            train_private_round(
                model, prepare_rows(model, part, task.labels, 64), PLAN, alone, number,
                random=random,
            )  # fmt: skip
            ends.append(model.state())
        by_hand = Adapter(
            {
                name: by_hand[name] + np.mean([end[name] - by_hand[name] for end in ends], axis=0)
                for name in by_hand
            }
        )
    for name in by_hand:
        assert np.abs(by_hand[name] - adapter[name]).max() < 1e-6
    central = [
        train_centrally(
            tiny_encoder, spec, task, PLAN, tickets, count,
            private=alone.pooled(3), random=SeededRandom(9),
        )
        for count in (1, 2)
    ]  # fmt: skip
    for first, second in ((course[1], course[2]), (central[0], central[1])):
        for name in start:
            kept = np.array_equal(start[name], first[name])
            assert kept == (name not in (WEIGHT, BIAS))
            assert np.array_equal(start[name], second[name]) == (".lora_A." in name)


def test_models_without_a_linear_head_are_refused(
    make: Make, tickets: Dataset, alone: PrivatePlan, tiny_gpt2: ModelSpec, causal_task: TaskSpec
) -> None:
    model, rows = rows_of(make, "gpt2, last block", tickets)
    with pytest.raises(ConfigurationError, match="head_rounds"):
        train_private_round(model, rows, PLAN, alone, 1, random=SeededRandom(1))
    learner = LocalLearner(
        tiny_gpt2, AdapterSpec(pooling="native", last_layers=1), causal_task, PLAN, tickets,
        client="a", private=alone,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="no linear head"):
        learner.prepare()


def test_some_round_must_train_lora() -> None:
    training = PrivateTraining(expected_rows=10, head_rounds=2)
    training.check_rounds(3)
    with pytest.raises(ConfigurationError, match="2 of 2 rounds"):
        training.check_rounds(2)
    assert PrivateTraining.from_json(training.to_json()) == training
    found = training.plan(noise_multiplier=1, sampling_rate=0.5, steps_per_round=2, clip=1.0)
    assert found.head_rounds == found.pooled(4).head_rounds == 2
    with pytest.raises(ConfigurationError, match="head_rounds"):
        replace(found, head_rounds=-1)
    PrivateTraining(expected_rows=10).check_rounds(1)
