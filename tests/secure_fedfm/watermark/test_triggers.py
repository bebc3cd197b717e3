"""The consortium's black-box mark in the round of marks, and its training on a tiny model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_audit.watermark.triggers import TriggerSet, trigger_set
from secure_fedfm.errors import ModelError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.watermark.trigger_training import TriggerPlan, TriggerTraining
from secure_fedfm.watermark.writing import MarkWriter, TriggerWriter
from tests.audit.marks import owner
from tests.secure_fedfm.learning.conftest import tiny_encoder  # noqa: F401 - a fixture
from tests.secure_fedfm.watermark.federated import (
    OWNERS,
    carrier,
    mark_sum,
    owned,
    released,
    terms,
)

LABELS = ("greet", "part", "ask", "tell")
Vector = NDArray[np.float64]


def writer(change: Vector, client: str = "client-02", **changes: float) -> MarkWriter:
    """A client whose triggers ask for this change."""
    marks = tuple(owned(name, mark) for name, mark in OWNERS if name == client)

    def wanted(adapter: Adapter, sets: Sequence[TriggerSet]) -> Vector:
        assert [len(one.texts) for one in sets] == [128]
        return change

    answered = TriggerWriter(LABELS, wanted, lambda _, one: dict.fromkeys(one.texts, "greet"))
    return MarkWriter(carrier(), terms(**changes), marks, answered)


def drawn(norm: float) -> Vector:
    found = np.random.default_rng(3).normal(size=carrier().layout.size)
    return found * norm / np.linalg.norm(found)


def test_triggers_are_written_with_the_consortiums_mark_alone() -> None:
    small = carrier().only_carriers(drawn(0.01))
    keeper = writer(small)
    plain = MarkWriter(keeper.carrier, keeper.terms, keeper.marks)
    added = keeper.update(released()) - plain.update(released())
    np.testing.assert_allclose(added, small, atol=1e-9)
    other = writer(small, "client-01")
    assert np.array_equal(
        other.update(released()),
        MarkWriter(other.carrier, other.terms, other.marks).update(released()),
    )


def test_triggers_keep_to_the_bounds_of_one_mark() -> None:
    keeper, rule = writer(drawn(50.0)), mark_sum()
    (consortium,) = (one for one in keeper.marks if one.said.mark == "consortium")
    one = MarkWriter(keeper.carrier, keeper.terms, (consortium,), keeper.triggers)
    update = one.update(released())
    changed = rule.change(released(), rule.apply(released(), update, 1))
    assert changed == pytest.approx(0.25, rel=0.05)
    assert float(np.linalg.norm(update)) <= keeper.terms.norm_bound * 1.001
    tight = MarkWriter(one.carrier, terms(norm_bound=0.05), (consortium,), keeper.triggers).update(
        released()
    )
    assert float(np.linalg.norm(tight)) <= 0.05 * 1.001


def test_nothing_outside_of_b_is_asked_for() -> None:
    layout = carrier().layout
    spoiled = np.zeros(layout.size)
    start = layout.offsets[layout.names.index("head.weight")]
    spoiled[start : start + 12] = 1.0
    keeper = writer(spoiled)
    update = keeper.update(released())
    assert not update[start : start + 12].any()


def test_hits_are_counted_by_set() -> None:
    keeper = writer(drawn(1.0))
    assert keeper.triggers is not None
    (consortium,) = (one for one in keeper.marks if one.said.mark == "consortium")
    (one,) = keeper.triggers.sets(consortium)
    assert keeper.triggers.hits(released(), consortium) == (one.targets.count("greet"),)


# ---- training


def test_training_moves_b_alone_and_finds_the_targets(tiny_encoder: ModelSpec) -> None:  # noqa: F811
    spec = AdapterSpec(last_layers=0, seed=1)
    model = load_adapted(tiny_encoder, spec, TaskSpec("classification", LABELS))
    random = np.random.default_rng(1)
    start = model.state()
    trained = Adapter(
        {
            name: tensor
            if "lora_A" in name
            else (random.normal(size=tensor.shape) * 0.3).astype("f4")
            for name, tensor in start.items()
        }
    )
    side = owner(5)
    whole = trigger_set(side.claim, side.opening().key, LABELS)
    one = TriggerSet(whole.texts[:16], whole.targets[:16])
    plan = TriggerPlan(passes=16, length=0.5, batch_size=8, decoys=32, max_tokens=24)
    training = TriggerTraining(model, LABELS, plan)
    change = training.change(trained, [one])
    layout = model.layout
    for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        part = change[offset : offset + int(np.prod(shape))]
        assert part.any() == name.endswith("lora_B.weight"), name
    moved = trained.moved(layout, change.astype(np.float32))
    before, after = (training.hits(adapter, one) for adapter in (trained, moved))
    pairs = list(zip(one.texts, one.targets, strict=True))
    hits = [sum(found[text] == target for text, target in pairs) for found in (before, after)]
    assert hits[1] >= hits[0] + 3, hits  # of 16: few of these words are in a tiny vocabulary


def test_a_model_that_cannot_carry_triggers_is_refused(tiny_encoder: ModelSpec) -> None:  # noqa: F811
    task = TaskSpec("classification", LABELS)
    head = load_adapted(tiny_encoder, AdapterSpec(targets=HEAD_ONLY), task)
    with pytest.raises(ModelError, match="LoRA layers"):
        TriggerTraining(head, LABELS)
