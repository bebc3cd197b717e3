"""The tiny models of the learning tests, and models ready for private training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.seeds import public_uniform
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.privacy.plan import PrivatePlan
from tests.secure_fedfm.learning.conftest import (
    causal_task,
    one_thread,
    plan,
    task,
    tickets,
    tiny_distilbert,
    tiny_encoder,
    tiny_gpt2,
)

__all__ = [
    "causal_task",
    "one_thread",
    "plan",
    "task",
    "tickets",
    "tiny_distilbert",
    "tiny_encoder",
    "tiny_gpt2",
]

# name -> (which tiny model, adapter)
SHAPES: dict[str, tuple[str, AdapterSpec]] = {
    "bert, frozen A": ("encoder", AdapterSpec(last_layers=2)),
    "bert, q and v": (
        "encoder",
        AdapterSpec(targets=("query", "value"), last_layers=0, train="a-and-b"),
    ),
    "bert, head alone": ("encoder", AdapterSpec(targets=HEAD_ONLY)),
    "bert, native head": ("encoder", AdapterSpec(pooling="native", last_layers=1)),
    "distilbert, native head": ("distilbert", AdapterSpec(pooling="native", last_layers=1)),
    "gpt2": ("gpt2", AdapterSpec(pooling="native", last_layers=0, train="a-and-b")),
    "gpt2, last block": ("gpt2", AdapterSpec(pooling="native", last_layers=1)),
}

Make = Callable[[str], tuple[AdaptedModel, TaskSpec]]


def spread(model: AdaptedModel, bound: float = 0.1) -> None:
    """Move every trained tensor off its initial value, where most gradients are zero."""
    start = model.state()
    moved = {
        name: start[name] + public_uniform(shape, bound, "privacy tests", name)
        for name, shape in zip(model.layout.names, model.layout.shapes, strict=True)
    }
    model.load(Adapter({**start, **moved}))


@pytest.fixture
def make(
    tiny_encoder: ModelSpec,
    tiny_distilbert: ModelSpec,
    tiny_gpt2: ModelSpec,
    task: TaskSpec,
    causal_task: TaskSpec,
) -> Make:
    """A model of SHAPES by name, with its task; a fresh one for every call."""
    specs = {"encoder": tiny_encoder, "distilbert": tiny_distilbert, "gpt2": tiny_gpt2}

    def build(shape: str) -> tuple[AdaptedModel, TaskSpec]:
        kind, adapter = SHAPES[shape]
        chosen = causal_task if kind == "gpt2" else task
        model = load_adapted(specs[kind], adapter, chosen)
        spread(model)
        return model, chosen

    return build


@pytest.fixture
def private() -> PrivatePlan:
    return PrivatePlan(
        noise_multiplier=1.0,
        sampling_rate=0.25,
        steps_per_round=4,
        clip=0.5,
        expected_batch=12.0,
        physical_batch=5,
    )


def flat(parts: dict[str, torch.Tensor], names: tuple[str, ...]) -> Any:
    """Tensors one after the other as a float64 array."""
    return torch.cat([parts[name].double().flatten() for name in names]).numpy()
