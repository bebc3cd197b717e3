"""A private round: what it does step by step, and that nothing but its releases moves the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from fedfm_crypto.random_source import SeededRandom
from secure_fedfm.learning.central import train_centrally
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.evaluate import AdapterEvaluator, evaluate_folder
from secure_fedfm.learning.export import Manifest, export_adapter
from secure_fedfm.learning.learner import LocalLearner, load_adapted
from secure_fedfm.learning.model_card import CardFacts
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import TrainingProgress, prepare_rows
from secure_fedfm.privacy.dp_sgd import StepRecord, train_private_round
from secure_fedfm.privacy.gradients import one_by_one
from secure_fedfm.privacy.plan import PrivatePlan
from secure_fedfm.privacy.sampling import poisson_sample
from tests.secure_fedfm.privacy.conftest import Make, flat

PLAN = TrainingPlan(schedule="constant")


def _records(
    make: Make, shape: str, tickets: Dataset, private: PrivatePlan, seed: int = 1
) -> tuple[list[StepRecord], np.ndarray[tuple[int], np.dtype[np.float32]]]:
    model, task = make(shape)
    rows = prepare_rows(model, tickets, task.labels, 64)
    found: list[StepRecord] = []
    train_private_round(
        model, rows, PLAN, private, 1, random=SeededRandom(seed), observe=found.append
    )
    return found, model.layout.flatten(model.state())


def test_one_step_of_sgd_without_noise_is_the_clipped_mean(
    make: Make, tickets: Dataset, private: PrivatePlan
) -> None:
    """Against a loop written out here: sample, autograd per row, clip, sum, divide, step."""
    private = replace(
        private,
        noise_multiplier=0.0,
        steps_per_round=1,
        optimiser="sgd",
        adapter_learning_rate=0.7,
        head_learning_rate=0.2,
    )
    model, task = make("bert, frozen A")
    rows = prepare_rows(model, tickets, task.labels, 64)
    before = model.layout.flatten(model.state())
    chosen = poisson_sample(len(rows), private.sampling_rate, SeededRandom(9))
    total = np.zeros(model.layout.size)
    for row in chosen.tolist():
        one = flat(one_by_one(model, rows.encoded.batch([row])), model.layout.names)
        total += one * min(1.0, private.clip / float(np.linalg.norm(one)))
    rates = np.concatenate(
        [
            np.full(int(np.prod(shape)), 0.7 if ".lora_" in name else 0.2)
            for name, shape in zip(model.layout.names, model.layout.shapes, strict=True)
        ]
    )
    train_private_round(model, rows, PLAN, private, 1, random=SeededRandom(9))
    moved = model.layout.flatten(model.state()) - before
    expected = -rates * total / private.expected_batch
    assert 0 < len(chosen) < len(rows)
    assert np.abs(moved - expected).max() < 1e-6


def test_an_empty_step_is_released_like_any_other(
    make: Make, tickets: Dataset, private: PrivatePlan
) -> None:
    private = replace(private, sampling_rate=2.0**-40, steps_per_round=3)
    found, _ = _records(make, "bert, frozen A", tickets, private)
    assert [record.chosen.size for record in found] == [0, 0, 0]
    for record in found:
        assert not record.release.rounded.any()
        assert np.count_nonzero(record.gradient) > 0.99 * record.gradient.size


@pytest.mark.parametrize("shape", ["bert, frozen A", "gpt2", "bert, head alone"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_rounds_are_a_function_of_their_randomness(
    shape: str,
    optimiser: Literal["sgd", "adam"],
    make: Make,
    tickets: Dataset,
    private: PrivatePlan,
) -> None:
    private = replace(private, optimiser=optimiser)
    first, second, other = (_records(make, shape, tickets, private, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.isfinite(first).all()


def test_the_number_of_rows_is_in_no_divisor(
    make: Make, tickets: Dataset, private: PrivatePlan
) -> None:
    """With an empty draw two institutions of different size release the same for the same noise."""
    private = replace(private, sampling_rate=2.0**-40)
    model, task = make("bert, frozen A")
    ends = []
    start = model.state()
    for rows in (tickets, tickets.rows(range(10))):
        model.load(start)
        prepared = prepare_rows(model, rows, task.labels, 64)
        gradients: list[StepRecord] = []
        from secure_fedfm.privacy.audit.paired import CallSeeded

        train_private_round(
            model, prepared, PLAN, private, 1, random=CallSeeded(b"x"), observe=gradients.append
        )
        ends.append(gradients[0].gradient)
    assert np.array_equal(ends[0], ends[1])


def test_frozen_a_stays_and_the_schedule_applies(
    make: Make, tickets: Dataset, private: PrivatePlan
) -> None:
    model, task = make("bert, frozen A")
    before = model.state()
    rows = prepare_rows(model, tickets, task.labels, 64)
    plan = TrainingPlan(schedule="linear", schedule_rounds=2, final_factor=0.0)
    train_private_round(model, rows, plan, private, 3, random=SeededRandom(1))
    assert model.state() == before  # rounds past the schedule have rate zero
    train_private_round(model, rows, plan, private, 1, random=SeededRandom(1))
    after = model.state()
    for name in before:
        assert np.array_equal(before[name], after[name]) == (".lora_A." in name)


def test_progress_is_reported_for_every_step(
    make: Make, tickets: Dataset, private: PrivatePlan
) -> None:
    model, task = make("bert, frozen A")
    rows = prepare_rows(model, tickets, task.labels, 64)
    seen: list[TrainingProgress] = []
    train_private_round(model, rows, PLAN, private, 1, random=SeededRandom(1), progress=seen.append)
    assert [(one.step, one.steps) for one in seen] == [(i, 4) for i in (1, 2, 3, 4)]
    assert all(np.isfinite(one.loss) for one in seen)


def test_a_stopped_round_leaves_no_hooks(
    make: Make, tickets: Dataset, private: PrivatePlan
) -> None:
    model, task = make("bert, frozen A")
    rows = prepare_rows(model, tickets, task.labels, 64)

    def stop(_: TrainingProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_private_round(model, rows, PLAN, private, 1, progress=stop)
    assert not any(module._forward_hooks for module in model.peft.modules())
    train_private_round(model, rows, PLAN, private, 1, random=SeededRandom(1))


def test_the_learner_trains_privately_and_learns(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset
) -> None:
    private = PrivatePlan(
        noise_multiplier=0.3,
        sampling_rate=0.5,
        steps_per_round=30,
        clip=1.0,
        expected_batch=24.0,
        head_learning_rate=0.05,
    )
    spec = AdapterSpec()
    plan = TrainingPlan(schedule="constant", max_tokens=64)
    learner = LocalLearner(
        tiny_encoder,
        spec,
        task,
        plan,
        tickets,
        client="clinic",
        private=private,
        random=SeededRandom(1),
    )
    start = learner.initial_adapter()
    step = learner.train(start, 1)
    assert step.shape == (learner.layout.size,)
    evaluator = AdapterEvaluator(tiny_encoder, spec, task, tickets, max_tokens=64)
    before = evaluator.evaluate(start).accuracy
    after = evaluator.evaluate(start.moved(learner.layout, step)).accuracy
    assert after > before + 0.2
    # A second call is a second release, with noise of its own.
    assert not np.array_equal(learner.train(start, 1), step)


def test_central_training_takes_the_same_private_plan(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset, private: PrivatePlan
) -> None:
    found = [
        train_centrally(
            tiny_encoder,
            AdapterSpec(),
            task,
            TrainingPlan(max_tokens=64),
            tickets,
            2,
            private=private.pooled(1),
            random=SeededRandom(seed),
        )
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_head_alone_trains_from_pooled_states_and_is_exported(
    tiny_encoder: ModelSpec,
    task: TaskSpec,
    tickets: Dataset,
    private: PrivatePlan,
    tmp_path: object,
) -> None:
    from pathlib import Path

    spec = AdapterSpec(targets=HEAD_ONLY)
    model = load_adapted(tiny_encoder, spec, task)
    assert model.layout.names == ("head.bias", "head.weight")
    cached = prepare_rows(model, tickets, task.labels, 64)
    whole = prepare_rows(model, tickets, task.labels, 64, cache_limit=0)
    assert cached.hidden is not None
    assert whole.hidden is None
    train_private_round(model, cached, PLAN, private, 1, random=SeededRandom(1))
    everyone = np.arange(48)
    with torch.no_grad():
        short = model.scorer.scores(cached.batch(everyone))
        long = model.scorer.scores(whole.batch(everyone))
    assert torch.allclose(short, long, atol=1e-5)
    folder = Path(str(tmp_path)) / "adapter"
    facts = CardFacts(federation="f", data="d", clients=1, rounds=1, suite="clear", privacy="local")
    manifest = Manifest(tiny_encoder, task, spec, 64)
    export_adapter(folder, model, model.state(), manifest, facts)
    evaluator = AdapterEvaluator(tiny_encoder, spec, task, tickets, max_tokens=64)
    assert evaluate_folder(folder, tickets).accuracy == evaluator.evaluate(model.state()).accuracy
    assert "linear head alone" in (folder / "README.md").read_text()
