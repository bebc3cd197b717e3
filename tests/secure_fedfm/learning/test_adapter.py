"""LoRA on tiny models: what is trained, what is frozen, and equal bits everywhere."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import peft
import pytest
import torch
from torch import nn

from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.model import load_base
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec

_PRINT_HASH = """
import json, sys, torch
torch.set_num_threads(2)
torch.manual_seed(99)
torch.rand(17)
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
model, task = json.loads(sys.argv[1])
adapted = load_adapted(ModelSpec.from_json(model), AdapterSpec(), TaskSpec.from_json(task))
print(adapted.state().hash().hex(), adapted.layout.hash().hex())
"""


def test_another_process_with_other_threads_starts_from_the_same_bits(
    tiny_encoder: ModelSpec, task: TaskSpec
) -> None:
    argument = json.dumps([tiny_encoder.to_json(), task.to_json()])
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PRINT_HASH, argument],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    here = load_adapted(tiny_encoder, AdapterSpec(), task)
    assert output == [here.state().hash().hex(), here.layout.hash().hex()]


def test_loading_leaves_the_callers_random_numbers_alone(
    tiny_encoder: ModelSpec, task: TaskSpec
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_adapted(tiny_encoder, AdapterSpec(pooling="native"), task)
    assert torch.equal(torch.rand(4), expected)


def test_names_and_values_are_those_that_peft_would_save(
    tiny_encoder: ModelSpec, task: TaskSpec
) -> None:
    for pooling in ("mean", "native"):
        spec = AdapterSpec.from_json({**AdapterSpec().to_json(), "pooling": pooling})
        adapted = load_adapted(tiny_encoder, spec, task)
        saved = peft.get_peft_model_state_dict(adapted.peft)
        ours = adapted.state().peft_tensors()
        assert set(ours) == set(saved)
        for name, tensor in saved.items():
            np.testing.assert_array_equal(ours[name], tensor.numpy())


def test_only_the_last_layers_are_adapted(tiny_encoder: ModelSpec, task: TaskSpec) -> None:
    adapted = load_adapted(tiny_encoder, AdapterSpec(last_layers=2), task)
    assert adapted.stack.first_adapted == 2
    layers = {name.split("encoder.layer.")[1][0] for name in adapted.state().peft_tensors()}
    assert layers == {"2", "3"}
    # query, key, value, attention output, intermediate, output
    assert len([n for n in adapted.layout.names if ".lora_B." in n]) == 12
    everywhere = load_adapted(tiny_encoder, AdapterSpec(last_layers=0), task)
    assert everywhere.stack.first_adapted == 0


def test_module_names_choose_targets(tiny_encoder: ModelSpec, task: TaskSpec) -> None:
    spec = AdapterSpec(targets=("query", "attention.self.value"), last_layers=1)
    names = load_adapted(tiny_encoder, spec, task).layout.names
    assert [name.rsplit(".", 3)[1] for name in names if "lora" in name] == ["query", "value"]
    with pytest.raises(ConfigurationError, match=r"match no linear layer.*dense, key, query"):
        load_adapted(tiny_encoder, AdapterSpec(targets=("q_proj",)), task)


def test_ffa_layout_has_no_a_and_full_lora_has(tiny_encoder: ModelSpec, task: TaskSpec) -> None:
    frozen = load_adapted(tiny_encoder, AdapterSpec(train="b-only"), task)
    assert not any("lora_A" in name for name in frozen.layout.names)
    assert any("lora_A" in name for name in frozen.state())
    full = load_adapted(tiny_encoder, AdapterSpec(train="a-and-b"), task)
    assert any("lora_A" in name for name in full.layout.names)
    assert full.state() == frozen.state()
    seeded = load_adapted(tiny_encoder, AdapterSpec(seed=2), task)
    assert seeded.state() != frozen.state()


def test_the_initial_adapter_changes_nothing_and_a_set_one_is_w_plus_scaled_ba(
    tiny_encoder: ModelSpec, task: TaskSpec
) -> None:
    plain = load_base(tiny_encoder, task, AdapterSpec())
    adapted = load_adapted(tiny_encoder, AdapterSpec(alpha=4, rank=8), task)
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    before = plain.module(input_ids=ids).last_hidden_state
    torch.testing.assert_close(adapted.peft(input_ids=ids).last_hidden_state, before)

    random = np.random.default_rng(2)
    moved = Adapter(
        {
            n: random.normal(0, 0.2, a.shape).astype(np.float32) if "lora_B" in n else a
            for n, a in adapted.state().items()
        }
    )
    adapted.load(moved)
    for name in moved:
        if "lora_B" not in name:
            continue
        path = name.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
        layer = plain.module.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        change = 4 / 8 * moved[name] @ moved[name.replace("lora_B", "lora_A")]
        layer.weight.add_(torch.from_numpy(change))
    expected = plain.module(input_ids=ids).last_hidden_state
    assert not torch.allclose(expected, before, atol=1e-2)
    found = adapted.peft(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_native_head_travels_whole(tiny_distilbert: ModelSpec, task: TaskSpec) -> None:
    adapted = load_adapted(tiny_distilbert, AdapterSpec(pooling="native", last_layers=1), task)
    layers = {n.removeprefix("base_model.model.") for n in adapted.layout.names if "lora" not in n}
    assert layers == {
        f"{layer}.{part}"
        for layer in ("pre_classifier", "classifier")
        for part in ("weight", "bias")
    }
    assert float(np.abs(adapted.state()["base_model.model.pre_classifier.weight"]).max()) > 0


def test_misfits_are_refused(tiny_encoder: ModelSpec, task: TaskSpec) -> None:
    adapted: AdaptedModel = load_adapted(tiny_encoder, AdapterSpec(), task)
    state = dict(adapted.state())
    with pytest.raises(ModelError, match=r"expected \(3,\)"):
        adapted.load(Adapter({**state, "head.bias": np.zeros(4, np.float32)}))
    del state["head.bias"]
    with pytest.raises(ModelError, match=r"'head\.bias'"):
        adapted.load(Adapter(state))
