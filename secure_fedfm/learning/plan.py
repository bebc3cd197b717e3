"""How every client trains in a round: one frozen plan, part of the charter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.strict_json import from_json, to_json


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Local training of one round: AdamW (Loshchilov and Hutter 2019), dropout off.

    The optimiser starts fresh in every round, so a client needs no private state between rounds.

    Fields:
        epochs: passes over the client's own rows in one round.
        batch_size: rows per step; a last short batch is kept.
        adapter_learning_rate, head_learning_rate: peak rates of the LoRA tensors and of the head
            (a fresh linear head wants a larger one).
        weight_decay: AdamW's decoupled decay, on matrices only.
        beta2: AdamW's second-moment decay; lower than the usual .999 because a round is short.
        warmup_steps: linear ramp at the start of each round, while the fresh moments settle.
        schedule, schedule_rounds, final_factor: the rates are multiplied by `learning_rate_factor`,
            a pure function of the round number and the position inside the round.
        max_tokens: longer texts are cut here.
        seed: with the client's name and the round it fixes the order of the batches.
    """

    epochs: int = 1
    batch_size: int = 32
    adapter_learning_rate: float = 2e-3
    head_learning_rate: float = 1e-2
    weight_decay: float = 0.0
    beta2: float = 0.99
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    schedule_rounds: int = 3
    final_factor: float = 0.1
    max_tokens: int = 128
    seed: int = 1

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, float, bool, str], ...] = (
            ("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size, self.batch_size >= 1, "at least 1"),
            (
                "adapter_learning_rate",
                self.adapter_learning_rate,
                0 < self.adapter_learning_rate < 10,
                "between 0 and 10",
            ),
            (
                "head_learning_rate",
                self.head_learning_rate,
                0 < self.head_learning_rate < 10,
                "between 0 and 10",
            ),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay <= 1, "from 0 to 1"),
            ("beta2", self.beta2, 0 <= self.beta2 < 1, "from 0 up to but not including 1"),
            ("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "at least 0"),
            ("schedule_rounds", self.schedule_rounds, self.schedule_rounds >= 1, "at least 1"),
            ("final_factor", self.final_factor, 0 <= self.final_factor <= 1, "from 0 to 1"),
            ("max_tokens", self.max_tokens, self.max_tokens >= 4, "at least 4"),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
        )
        for name, value, good, expected in checks:
            if not good:
                raise ConfigurationError(f"training.{name} is {value}; expected {expected}")

    def learning_rate_factor(self, round_number: int, position: float) -> float:
        """Multiplier of both rates in round `round_number` (from 1) at `position` in [0, 1].

        Falls from 1 to `final_factor` over `schedule_rounds` rounds and stays there.
        """
        done = min(1.0, (round_number - 1 + position) / self.schedule_rounds)
        if self.schedule == "constant":
            return 1.0
        shape = 1.0 - done if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.final_factor + (1.0 - self.final_factor) * shape

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> TrainingPlan:
        return from_json(cls, "training", data)
