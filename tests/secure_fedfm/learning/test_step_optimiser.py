"""The optimiser of opened gradients: torch as oracle, the same bits, quick enough."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.server_optimiser import (
    AdapterUpdater,
    OptimiserState,
    ServerOptimiserSpec,
    read_optimiser,
)
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec

TENSORS = {
    "head.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "x.lora_B.weight": np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2),
}
SPEC = StepOptimiserSpec(
    adapter_learning_rate=0.5, head_learning_rate=3.0, schedule_steps=8, final_factor=0.25
)


def start() -> tuple[Adapter, TensorLayout]:
    frozen = {"x.lora_A.weight": np.ones((2, 3), np.float32)}
    return Adapter({**TENSORS, **frozen}), TensorLayout.of(TENSORS)


def totals(count: int = 12) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    random = np.random.default_rng(3)
    return [random.normal(0, 20, 22) for _ in range(count)]


def test_sgd_is_torch_sgd_with_a_rate_for_each_group() -> None:
    adapter, layout = start()
    updater = AdapterUpdater(layout, SPEC, batch=100.0)
    state = updater.initial_state()
    parameters = {n: torch.nn.Parameter(torch.from_numpy(t.copy())) for n, t in TENSORS.items()}
    oracle = torch.optim.SGD(
        [
            {"params": [parameters["head.weight"]], "lr": 3.0},
            {"params": [parameters["x.lora_B.weight"]], "lr": 0.5},
        ],
        momentum=0.9,
    )
    for number, total in enumerate(totals()):
        gradient = layout.unflatten((total / 100).astype(np.float32))
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(gradient[name])
        factor = 0.25 + 0.75 * max(0.0, 1 - number / 8)
        for group, peak in zip(oracle.param_groups, (3.0, 0.5), strict=True):
            group["lr"] = peak * factor
        oracle.step()
        adapter, state = updater.advance(adapter, state, total, accepted=3)  # 3 must not matter
    assert state.count == 12
    for name, parameter in parameters.items():
        np.testing.assert_allclose(adapter[name], parameter.detach().numpy(), atol=2e-5)
    assert (adapter["x.lora_A.weight"] == 1).all()


def test_a_round_cut_in_two_and_stored_in_between_arrives_at_the_same_bits() -> None:
    for kind in ("sgd", "adam"):
        spec = replace(SPEC, kind=kind)
        adapter, layout = start()
        updater = AdapterUpdater(layout, spec, batch=100.0)
        state = updater.initial_state()
        stored = (adapter.to_bytes(), state.to_bytes())
        for total in totals():
            adapter, state = updater.advance(adapter, state, total, 5)
        for total in totals():
            one, two = Adapter.from_bytes(stored[0]), OptimiserState.from_bytes(stored[1])
            one, two = AdapterUpdater(layout, spec, 100.0).advance(one, two, total, 5)
            stored = (one.to_bytes(), two.to_bytes())
        assert one.hash() == adapter.hash()
        assert two.hash() == state.hash()
        assert two.count == 12


def test_the_count_is_part_of_the_state_and_of_its_hash() -> None:
    _, layout = start()
    zeros = OptimiserState.zeros(layout)
    counted = OptimiserState(zeros.momentum, zeros.variance, 3_000_001)
    assert counted.hash() != zeros.hash()
    assert OptimiserState.from_bytes(counted.to_bytes()).count == 3_000_001


def test_sums_of_updates_are_divided_by_their_number() -> None:
    adapter, layout = start()
    updater = AdapterUpdater(layout, ServerOptimiserSpec())
    total = totals(1)[0]
    after, state = updater.advance(adapter, updater.initial_state(), total, 4)
    expected, _ = updater.apply(adapter, state, (total / 4).astype(np.float32))
    assert after.hash() == expected.hash()
    assert state.count == 0


def test_both_kinds_are_read_back_from_json() -> None:
    for spec in (SPEC, StepOptimiserSpec("adam"), ServerOptimiserSpec("fedadam")):
        assert read_optimiser(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("field", "value"),
    [("head_learning_rate", 0.0), ("momentum", 1.0), ("schedule", "cosine"), ("kind", "lion"),
     ("schedule_steps", 0), ("final_factor", 2.0), ("tau", 0.0), ("adapter_learning_rate", -1.0)],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=field):
        StepOptimiserSpec.from_json({**SPEC.to_json(), field: value})
    if field != "kind":
        with pytest.raises(ConfigurationError, match=field):
            read_optimiser({**SPEC.to_json(), field: value})


def test_a_step_and_its_hash_take_milliseconds() -> None:
    tensors = {
        "head.bias": np.zeros(77, np.float32),
        "head.weight": np.zeros((77, 384), np.float32),
    }
    adapter, layout = Adapter(tensors), TensorLayout.of(tensors)
    updater = AdapterUpdater(layout, SPEC, batch=100.0)
    state = updater.initial_state()
    total = np.random.default_rng(1).normal(0, 1, layout.size)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        adapter, state = updater.advance(adapter, state, total, 5)
        adapter.hash()
        times.append(time.perf_counter() - started)
    assert min(times) < 5e-3
