"""The optimiser of shared-noise training: one step on every opened sum, the same bits everywhere.

With g the opened sum over a public constant, and x the trained tensors,

    sgd    m <- b m + g,  x <- x - eta m               (momentum as in torch.optim.SGD)
    adam   m <- b m + (1 - b) g,  v <- b2 v + (1 - b2) g^2,  x <- x - eta m / (sqrt(v) + tau)

Adam is without bias correction, which would need powers: at the defaults (.9 and .99) the first
step is 0.1 / sqrt(0.01) = 1 times a full one, so there is little to correct.  As in
``server_optimiser`` each formula is a sequence of single float32 operations that IEEE 754 rounds
correctly; the learning rate is computed in float64 and rounded once.  All of it is post-processing
of what was opened: it costs no privacy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.payload import FloatArray, TensorLayout
from secure_fedfm.learning.strict_json import from_json, to_json

KINDS = ("sgd", "adam")


@dataclass(frozen=True, slots=True)
class StepOptimiserSpec:
    """A charter's ``server_optimiser`` in privacy mode ``shared-noise``; every field is stated.

    Fields:
        kind: ``sgd`` or ``adam``.
        adapter_learning_rate, head_learning_rate: eta of the LoRA tensors and of the head.
        momentum: b. beta2, tau: Adam's b2 and tau.
        schedule, schedule_steps, final_factor: both rates stay (``constant``) or fall linearly
            from 1 to `final_factor` times themselves over `schedule_steps` steps, counted from the
            federation's first, and stay there.
    """

    kind: Literal["sgd", "adam"] = "sgd"
    adapter_learning_rate: float = 0.5
    head_learning_rate: float = 2.0
    momentum: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    schedule: Literal["constant", "linear"] = "linear"
    schedule_steps: int = 150
    final_factor: float = 0.1

    def __post_init__(self) -> None:
        adapter, head = self.adapter_learning_rate, self.head_learning_rate
        rate = "above 0 and at most 10000"
        for name, value, good, expected in (
            ("adapter_learning_rate", adapter, 0 < adapter <= 1e4, rate),
            ("head_learning_rate", head, 0 < head <= 1e4, rate),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)"),
            ("beta2", self.beta2, 0 <= self.beta2 < 1, "in [0, 1)"),
            ("tau", self.tau, 0 < self.tau <= 1, "in (0, 1]"),
            ("schedule_steps", self.schedule_steps, self.schedule_steps >= 1, "at least 1"),
            ("final_factor", self.final_factor, 0 <= self.final_factor <= 1, "from 0 to 1"),
        ):
            if not good:
                raise ConfigurationError(f"server_optimiser.{name} is {value}; expected {expected}")

    def factor(self, count: int) -> float:
        """Multiplier of the rates in the step after `count` steps."""
        if self.schedule == "constant":
            return 1.0
        left = 1.0 - min(1.0, count / self.schedule_steps)
        return self.final_factor + (1.0 - self.final_factor) * left

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> StepOptimiserSpec:
        return from_json(cls, "server_optimiser", data)


def rate_groups(layout: TensorLayout, spec: StepOptimiserSpec) -> list[tuple[slice, float]]:
    """Slices of the flat vector with the peak rate of each, in order."""
    return [
        (
            slice(offset, offset + math.prod(shape)),
            spec.adapter_learning_rate if ".lora_" in name else spec.head_learning_rate,
        )
        for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=True)
    ]


def gradient_step(
    spec: StepOptimiserSpec,
    layout: TensorLayout,
    momentum: FloatArray,
    variance: FloatArray,
    count: int,
    gradient: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What is added to the tensors, and both moments afterwards; all float32 (layout.size,)."""
    beta, beta2, one = np.float32(spec.momentum), np.float32(spec.beta2), np.float32(1)
    direction: FloatArray
    if spec.kind == "sgd":
        momentum = beta * momentum + gradient
        direction = momentum
    else:
        momentum = beta * momentum + (one - beta) * gradient
        variance = beta2 * variance + (one - beta2) * (gradient * gradient)
        spread: FloatArray = np.sqrt(variance) + np.float32(spec.tau)
        direction = momentum / spread
    factor = spec.factor(count)
    step = np.empty(layout.size, np.float32)
    for part, rate in rate_groups(layout, spec):
        np.multiply(np.float32(-rate * factor), direction[part], out=step[part])
    return step, momentum, variance
