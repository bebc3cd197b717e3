"""The gate lets good models pass unchanged and names what is wrong with others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from secure_fedfm.errors import PrivacyGateError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.privacy import gate
from secure_fedfm.privacy.dp_sgd import apply_gradient
from secure_fedfm.privacy.gate import check_model
from tests.secure_fedfm.privacy.conftest import SHAPES, Make


@pytest.mark.parametrize("shape", SHAPES)
def test_supported_models_pass_and_are_left_as_they_were(shape: str, make: Make) -> None:
    model, task = make(shape)
    before = model.state()
    weights = [p.detach().clone() for p in model.peft.parameters()]
    report = check_model(model, task, 64)
    assert report.worst_error < 1e-9
    assert (report.tensors, report.values) == (len(model.layout.names), model.layout.size)
    assert model.state() == before
    for parameter, weight in zip(model.peft.parameters(), weights, strict=True):
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, weight)


def _module(model: AdaptedModel, end: str) -> Any:
    return next(m for n, m in model.peft.named_modules() if n.endswith(end))


def test_a_weight_used_past_its_layer_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """F.linear with the same weight again: the hooks see only the call of the module."""
    model, task = make("bert, frozen A")
    wrapper = _module(model, "layer.3.attention.self.query")
    inner = _module(model, "layer.3.attention.self.query.lora_B.default")
    original = wrapper.forward

    def forward(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        again = functional.linear(wrapper.lora_A["default"](x), inner.weight)
        result: torch.Tensor = original(x, *args, **kwargs) + again
        return result

    monkeypatch.setattr(wrapper, "forward", forward)
    with pytest.raises(PrivacyGateError, match=r"layer\.3\.attention\.self\.query\.lora_B"):
        check_model(model, task, 64)


def test_rows_that_see_each_other_are_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = make("bert, frozen A")
    output = _module(model, "layer.3")
    original = output.forward

    def forward(*args: object, **kwargs: object) -> object:
        found = original(*args, **kwargs)
        hidden = found[0] if isinstance(found, tuple) else found
        mixed = hidden + 0.01 * hidden.mean(dim=(0, 1), keepdim=True)
        return (mixed, *found[1:]) if isinstance(found, tuple) else mixed

    monkeypatch.setattr(output, "forward", forward)
    with pytest.raises(PrivacyGateError, match="mixes rows"):
        check_model(model, task, 64)


def test_a_tensor_that_no_loss_depends_on_is_named(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = make("bert, frozen A")
    assert model.head is not None
    monkeypatch.setattr(
        model.head,
        "forward",
        lambda x: functional.linear(x, model.head.weight.detach()),
    )
    with pytest.raises(PrivacyGateError, match=r"head\.(bias|weight)"):
        check_model(model, task, 64)


def test_a_step_that_does_not_arrive_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = make("bert, frozen A")
    original = apply_gradient

    def forgets_the_head(model: AdaptedModel, *args: Any) -> None:
        head = {n: p.detach().clone() for n, p in model.trained().items() if "head." in n}
        original(model, *args)
        with torch.no_grad():
            for name, value in head.items():
                model.trained()[name].copy_(value)

    monkeypatch.setattr(gate, "apply_gradient", forgets_the_head)
    with pytest.raises(PrivacyGateError, match=r"does not change head\.bias, head\.weight"):
        check_model(model, task, 64)


def test_an_adapter_that_is_not_all_of_the_training_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = make("bert, frozen A")
    original = AdaptedModel.load
    calls = []

    def also_moves_the_base(self: AdaptedModel, adapter: Adapter) -> None:
        calls.append(adapter)
        original(self, adapter)
        if len(calls) == 2:  # the reload of the check itself
            with torch.no_grad():
                _module(self, "layer.3.output.dense.base_layer").weight.add_(0.1)

    monkeypatch.setattr(AdaptedModel, "load", also_moves_the_base)
    with pytest.raises(PrivacyGateError, match="outside the adapter"):
        check_model(model, task, 64)


def test_the_adapter_is_restored_after_a_refusal(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = make("bert, frozen A")
    before = model.state()
    monkeypatch.setattr(gate, "TOLERANCE", -1.0)
    with pytest.raises(PrivacyGateError, match="differ"):
        check_model(model, task, 64)
    assert model.state() == before
    assert all(p.dtype == torch.float32 for p in model.peft.parameters())
