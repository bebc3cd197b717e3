"""Local training: exact caching, determinism, frozen A, and learning in all three families."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch

from secure_fedfm.errors import DataError, ModelError
from secure_fedfm.learning import lower_blocks, training
from secure_fedfm.learning.batches import EncodedRows
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.evaluate import AdapterEvaluator
from secure_fedfm.learning.learner import LocalLearner, load_adapted
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import (
    PreparedRows,
    TrainingProgress,
    evaluate_rows,
    prepare_rows,
    ready,
    train_round,
)

NATIVE = AdapterSpec(pooling="native", last_layers=1)


def _learner(
    model: ModelSpec, task: TaskSpec, plan: TrainingPlan, data: Dataset, spec: AdapterSpec
) -> LocalLearner:
    return LocalLearner(model, spec, task, plan, data, client="clinic")


@pytest.mark.parametrize("family", ["encoder", "native", "causal-lm"])
def test_cached_blocks_give_the_same_scores(
    family: str,
    tiny_encoder: ModelSpec,
    tiny_gpt2: ModelSpec,
    task: TaskSpec,
    causal_task: TaskSpec,
    tickets: Dataset,
) -> None:
    causal = family == "causal-lm"
    chosen = causal_task if causal else task
    spec = AdapterSpec(last_layers=1) if family == "encoder" else NATIVE
    model = load_adapted(tiny_gpt2 if causal else tiny_encoder, spec, chosen)
    if model.head is not None:
        torch.nn.init.constant_(model.head.weight[:, ::2], 0.3)
    rows = prepare_rows(model, tickets, chosen.labels, 64)
    assert rows.hidden is not None
    batch_rows = np.array([40, 3, 17, 22, 9])
    with torch.no_grad():
        whole = model.scorer.scores(rows.encoded.batch(batch_rows))
        with ready(model, rows) as make:
            batch = make(batch_rows)
            short = model.scorer.scores(batch)
    real = batch.attention_mask.bool() if causal else slice(None)
    torch.testing.assert_close(short[real], whole[real], atol=1e-5, rtol=1e-5)
    assert len(model.stack.blocks) == model.peft.config.num_hidden_layers


def test_training_with_and_without_the_cache_agrees(
    tiny_encoder: ModelSpec, task: TaskSpec, plan: TrainingPlan, tickets: Dataset
) -> None:
    results = []
    for limit in (0, training.CACHE_LIMIT):
        model = load_adapted(tiny_encoder, AdapterSpec(last_layers=1), task)
        rows = prepare_rows(model, tickets, task.labels, 64, cache_limit=limit)
        assert (rows.hidden is None) == (limit == 0)
        # AdamW turns a rounding difference near zero into a whole step: plain rates only.
        train_round(model, rows, dataclasses.replace(plan, epochs=1), 1, "clinic")
        results.append(evaluate_rows(model, rows).loss)
    assert results[0] == pytest.approx(results[1], abs=1e-4)


def test_a_model_that_differs_without_its_lower_blocks_is_not_cached(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = lower_blocks.HiddenStates.attach

    def slightly_off(self: lower_blocks.HiddenStates, batch: object) -> object:
        attached = original(self, batch)  # type: ignore[arg-type]
        assert attached.hidden is not None
        attached.hidden.add_(0.05 * torch.arange(32))
        return attached

    monkeypatch.setattr(lower_blocks.HiddenStates, "attach", slightly_off)
    model = load_adapted(tiny_encoder, AdapterSpec(), task)
    assert prepare_rows(model, tickets, task.labels, 64).hidden is None


def test_batches_hold_every_row_once_and_little_padding(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset
) -> None:
    model = load_adapted(tiny_encoder, AdapterSpec(), task)
    rows = EncodedRows(tickets, task.labels, model.base.tokenizer, 64)
    first = rows.shuffled(5, np.random.default_rng(1))
    assert sorted(np.concatenate(first).tolist()) == list(range(48))
    assert [b.tolist() for b in first] != [
        b.tolist() for b in rows.shuffled(5, np.random.default_rng(2))
    ]
    padded = sum(len(b) * int(rows.lengths[b].max()) for b in first)
    assert padded < 1.15 * int(rows.lengths.sum())
    assert EncodedRows(tickets, task.labels, model.base.tokenizer, 4).lengths.max() == 4


def test_training_is_deterministic_and_does_not_depend_on_what_came_before(
    tiny_encoder: ModelSpec, task: TaskSpec, plan: TrainingPlan, tickets: Dataset
) -> None:
    learner = _learner(tiny_encoder, task, plan, tickets, AdapterSpec())
    initial = learner.initial_adapter()
    first = learner.train(initial, 1)
    learner.train(initial.moved(learner.layout, first), 2)
    np.testing.assert_array_equal(learner.train(initial, 1), first)
    again = _learner(tiny_encoder, task, plan, tickets, AdapterSpec())
    np.testing.assert_array_equal(again.train(again.initial_adapter(), 1), first)
    assert learner.initial_adapter() == initial
    other = LocalLearner(tiny_encoder, AdapterSpec(), task, plan, tickets, client="bank")
    assert not np.array_equal(other.train(initial, 1), first)


@pytest.mark.parametrize("train", ["b-only", "a-and-b"])
def test_ffa_really_freezes_a(
    train: str, tiny_encoder: ModelSpec, task: TaskSpec, plan: TrainingPlan, tickets: Dataset
) -> None:
    spec = AdapterSpec.from_json({**AdapterSpec().to_json(), "train": train})
    model = load_adapted(tiny_encoder, spec, task)
    before = model.state()
    base = {n: p.clone() for n, p in model.peft.named_parameters() if "lora" not in n}
    train_round(model, prepare_rows(model, tickets, task.labels, 64), plan, 1, "clinic")
    after = model.state()
    for name in before:
        moved = not np.array_equal(before[name], after[name])
        assert moved == ("lora_A" not in name or train == "a-and-b"), name
    for name, parameter in model.peft.named_parameters():
        if "lora" not in name:
            assert torch.equal(parameter, base[name]), name


def test_rates_of_head_and_adapter_are_separate_and_follow_the_round(
    tiny_encoder: ModelSpec, task: TaskSpec, tickets: Dataset
) -> None:
    model = load_adapted(tiny_encoder, AdapterSpec(), task)
    rows = PreparedRows(EncodedRows(tickets, task.labels, model.base.tokenizer, 64), None)
    plan = TrainingPlan(
        batch_size=48,
        adapter_learning_rate=1e-3,
        head_learning_rate=1e-2,
        schedule_rounds=2,
        final_factor=0.0,
    )
    # One step of Adam moves every coordinate by the rate, whatever the gradient.
    for round_number, factor in ((1, 1.0), (2, 0.5)):
        model.load(initial := load_adapted(tiny_encoder, AdapterSpec(), task).state())
        assert model.head is not None
        # Not zero, or B would have no gradient in this one step.
        model.head.weight.data.copy_(torch.linspace(0, 40, 96).cos().view(3, 32))
        before = model.state()
        train_round(model, rows, plan, round_number, "clinic")
        after = model.state()
        steps = {n: float(np.abs(after[n] - before[n]).max()) for n in initial if "lora_A" not in n}
        assert steps["head.bias"] == pytest.approx(1e-2 * factor, rel=1e-2)
        assert max(v for n, v in steps.items() if "lora_B" in n) == pytest.approx(
            1e-3 * factor, rel=1e-2
        )


@pytest.mark.parametrize("spec", [AdapterSpec(), NATIVE], ids=["mean", "native"])
def test_classifiers_learn(
    spec: AdapterSpec,
    tiny_distilbert: ModelSpec,
    task: TaskSpec,
    tickets: Dataset,
) -> None:
    plan = TrainingPlan(
        epochs=6,
        batch_size=8,
        schedule="constant",
        adapter_learning_rate=1e-2,
        head_learning_rate=3e-2,
    )
    learner = _learner(tiny_distilbert, task, plan, tickets, spec)
    seen: list[TrainingProgress] = []
    update = learner.train(learner.initial_adapter(), 1, seen.append)
    assert [p.step for p in seen] == list(range(1, 37))
    evaluator = AdapterEvaluator(tiny_distilbert, spec, task, tickets, max_tokens=64)
    before = evaluator.evaluate(learner.initial_adapter())
    after = evaluator.evaluate(learner.initial_adapter().moved(learner.layout, update))
    assert before.accuracy < 0.6
    assert after.accuracy > 0.9
    assert after.rows == 48


def test_a_language_model_learns_and_its_loss_is_the_models_own(
    tiny_gpt2: ModelSpec, causal_task: TaskSpec, plan: TrainingPlan, tickets: Dataset
) -> None:
    spec = AdapterSpec(pooling="native", last_layers=2)
    model = load_adapted(tiny_gpt2, spec, causal_task)
    rows = EncodedRows(tickets, (), model.base.tokenizer, 64)
    batch = rows.batch([0, 20, 45])
    with torch.no_grad():
        found = model.scorer.row_losses(batch, model.scorer.scores(batch))
        for position, row in enumerate(batch.rows):
            ids = torch.from_numpy(rows.ids[row])[None]
            expected = model.peft(input_ids=ids, labels=ids).loss
            torch.testing.assert_close(found[position], expected, atol=1e-5, rtol=1e-5)

    learner = _learner(tiny_gpt2, causal_task, plan, tickets, spec)
    update = learner.train(learner.initial_adapter(), 1)
    evaluator = AdapterEvaluator(tiny_gpt2, spec, causal_task, tickets, max_tokens=64)
    before = evaluator.evaluate(learner.initial_adapter())
    after = evaluator.evaluate(learner.initial_adapter().moved(learner.layout, update))
    assert after.loss < before.loss - 0.2
    assert after.accuracy > before.accuracy


def test_unknown_labels_are_refused_before_any_model_is_loaded(plan: TrainingPlan) -> None:
    data = Dataset(("a", "b"), ("x", "zebra"))
    task = TaskSpec("classification", ("x", "y"))
    with pytest.raises(DataError, match="unknown label 'zebra' in row 2"):
        LocalLearner(ModelSpec("absent", "0" * 64), AdapterSpec(), task, plan, data, client="a")


def test_divergence_is_an_error_of_its_own(
    tiny_encoder: ModelSpec, task: TaskSpec, plan: TrainingPlan, tickets: Dataset
) -> None:
    learner = _learner(tiny_encoder, task, plan, tickets, AdapterSpec())
    poisoned = learner.initial_adapter().moved(
        learner.layout, np.full(learner.layout.size, np.nan, np.float32)
    )
    with pytest.raises(ModelError, match="lower the learning rates"):
        learner.train(poisoned, 1)


def test_preparing_reports_rows(
    tiny_encoder: ModelSpec, task: TaskSpec, plan: TrainingPlan, tickets: Dataset
) -> None:
    seen: list[tuple[int, int]] = []
    learner = _learner(tiny_encoder, task, plan, tickets, AdapterSpec())
    learner.prepare(lambda done, rows: seen.append((done, rows)))
    learner.prepare(lambda done, rows: seen.append((done, rows)))
    assert seen == [(48, 48)]


def test_rates_follow_completed_rounds_and_batches_the_number(
    tiny_encoder: ModelSpec, task: TaskSpec, plan: TrainingPlan, tickets: Dataset
) -> None:
    """Keys and failed rounds use up numbers; the schedule must not see them, a retry must."""
    falling = replace(plan, schedule="linear", schedule_rounds=3)
    learner = _learner(tiny_encoder, task, falling, tickets, AdapterSpec())
    initial = learner.initial_adapter()
    usual = learner.train(initial, 1)
    np.testing.assert_array_equal(learner.train(initial, 1, completed=0), usual)
    later = learner.train(initial, 3, completed=0)
    assert not np.array_equal(later, usual)  # other batches
    assert not np.array_equal(learner.train(initial, 3), later)  # another rate
