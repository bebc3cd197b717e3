"""The server step: against independent formulas, and equal bits in every process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import FloatArray, TensorLayout
from secure_fedfm.learning.server_optimiser import (
    AdapterUpdater,
    OptimiserState,
    ServerOptimiserSpec,
)

SHAPE = (5, 3)


def _start() -> tuple[Adapter, TensorLayout]:
    values = np.linspace(-1, 1, 15, dtype=np.float32).reshape(SHAPE)
    adapter = Adapter({"x.lora_B.weight": values, "x.lora_A.weight": values.T + 1})
    return adapter, TensorLayout.of({"x.lora_B.weight": values})


def _deltas() -> list[FloatArray]:
    random = np.random.default_rng(5)
    return [random.normal(0, 0.1, 15).astype(np.float32) for _ in range(4)]


def _run(spec: ServerOptimiserSpec) -> tuple[Adapter, OptimiserState]:
    adapter, layout = _start()
    updater = AdapterUpdater(layout, spec)
    state = updater.initial_state()
    for delta in _deltas():
        adapter, state = updater.apply(adapter, state, delta)
    return adapter, state


def test_fedavg_at_rate_one_adds_the_mean_delta() -> None:
    before, layout = _start()
    updater = AdapterUpdater(layout, ServerOptimiserSpec())
    after, _ = updater.apply(before, updater.initial_state(), _deltas()[0])
    expected = before["x.lora_B.weight"] + _deltas()[0].reshape(SHAPE)
    np.testing.assert_array_equal(after["x.lora_B.weight"], expected)
    np.testing.assert_array_equal(after["x.lora_A.weight"], before["x.lora_A.weight"])


def test_fedavgm_is_torch_sgd_with_momentum_on_the_negative_delta() -> None:
    adapter, _ = _run(ServerOptimiserSpec("fedavgm", learning_rate=0.7, beta1=0.8))
    before, _ = _start()
    parameter = torch.nn.Parameter(torch.from_numpy(before["x.lora_B.weight"].copy()))
    oracle = torch.optim.SGD([parameter], lr=0.7, momentum=0.8)
    for delta in _deltas():
        parameter.grad = -torch.from_numpy(delta.reshape(SHAPE))
        oracle.step()
    np.testing.assert_allclose(adapter["x.lora_B.weight"], parameter.detach().numpy(), atol=1e-6)


def test_fedadam_is_the_formula_of_the_paper_in_double_precision() -> None:
    spec = ServerOptimiserSpec("fedadam", learning_rate=0.05, beta1=0.9, beta2=0.99, tau=1e-2)
    adapter, _ = _run(spec)
    before, _ = _start()
    x = before["x.lora_B.weight"].ravel().astype(np.float64)
    for index in range(len(x)):
        m = v = 0.0
        for delta in _deltas():
            d = float(delta[index])
            m = 0.9 * m + 0.1 * d
            v = 0.99 * v + 0.01 * d * d
            x[index] += 0.05 * m / (v**0.5 + 1e-2)
    np.testing.assert_allclose(adapter["x.lora_B.weight"].ravel(), x, rtol=1e-5)


_OTHER_PROCESS = """
import sys
import numpy as np
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.server_optimiser import AdapterUpdater, ServerOptimiserSpec
values = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
adapter = Adapter({"x.lora_B.weight": values, "x.lora_A.weight": values.T + 1})
updater = AdapterUpdater(
    TensorLayout.of({"x.lora_B.weight": values}), ServerOptimiserSpec("fedadam", 0.05)
)
state = updater.initial_state()
random = np.random.default_rng(5)
for _ in range(4):
    delta = random.normal(0, 0.1, 15).astype(np.float32)
    adapter, state = updater.apply(adapter, state, delta)
assert "torch" not in sys.modules
sys.stdout.write(adapter.to_bytes().hex() + " " + state.to_bytes().hex())
"""


def test_another_process_without_torch_arrives_at_the_same_bytes() -> None:
    output = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS], capture_output=True, text=True, check=True
    ).stdout.split()
    adapter, state = _run(ServerOptimiserSpec("fedadam", 0.05))
    assert output == [adapter.to_bytes().hex(), state.to_bytes().hex()]


def test_state_survives_storage_and_its_hash_sees_one_bit() -> None:
    _, state = _run(ServerOptimiserSpec("fedadam"))
    assert OptimiserState.from_bytes(state.to_bytes()).hash() == state.hash()
    changed = state.variance.copy()
    changed[3] = np.nextafter(changed[3], np.float32(1))
    assert OptimiserState(state.momentum, changed).hash() != state.hash()


def test_damaged_state_is_refused() -> None:
    with pytest.raises(ModelError, match="not a safetensors file"):
        OptimiserState.from_bytes(b"\x00" * 40)
    with pytest.raises(ModelError, match="expected momentum and variance"):
        OptimiserState.from_bytes(Adapter({"momentum": np.zeros(3, np.float32)}).to_bytes())


def test_wrong_length_and_not_finite_deltas_are_refused() -> None:
    adapter, layout = _start()
    updater = AdapterUpdater(layout, ServerOptimiserSpec())
    with pytest.raises(ModelError, match=r"expected \(15,\)"):
        updater.apply(adapter, updater.initial_state(), np.zeros(14, np.float32))
    poisoned = np.zeros(15, np.float32)
    poisoned[2] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        updater.apply(adapter, updater.initial_state(), poisoned)


@pytest.mark.parametrize(
    ("field", "value"), [("learning_rate", 0.0), ("beta1", 1.0), ("beta2", -0.1), ("tau", 0.0)]
)
def test_constants_out_of_range_are_named(field: str, value: float) -> None:
    data = {**ServerOptimiserSpec().to_json(), field: value}
    with pytest.raises(ConfigurationError, match=f"server_optimiser.{field}"):
        ServerOptimiserSpec.from_json(data)
