"""What a charter says about model, task and adapter (no torch: `charter show` reads this too)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.strict_json import from_json, to_json

ALL_LINEAR = "all-linear"
HEAD_ONLY = "none"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The base model: its name (or path) and the SHA-256 of its weights, in hex.

    The hash, not the name, is what every client checks before round 1 (weights.py says what is
    hashed when the weights come in several files).
    """

    name: str
    sha256: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigurationError("model.name is empty; give a hub name or a folder")
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigurationError(
                f"model.sha256 is {self.sha256!r}; expected 64 lowercase hex digits, "
                "the SHA-256 of model.safetensors"
            )

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> ModelSpec:
        return from_json(cls, "model", data)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What is learned. `labels` is the order of the classes for everyone; empty for causal-lm."""

    kind: Literal["classification", "causal-lm"]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.labels)) != len(self.labels):
            raise ConfigurationError("task.labels holds a label twice; list every label once")
        if self.kind == "classification" and len(self.labels) < 2:
            raise ConfigurationError(
                f"task.labels holds {len(self.labels)} label(s); classification needs at least 2"
            )
        if self.kind == "causal-lm" and self.labels:
            raise ConfigurationError("task.labels must be empty for a causal-lm task")

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> TaskSpec:
        return from_json(cls, "task", data)


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """The LoRA adapter (Hu et al. 2021, arXiv 2106.09685) and the head on top of it.

    Fields:
        targets: "all-linear" for every linear layer of the adapted blocks, or module names matched
            from the end as PEFT does ("query", "attention.self.value"); "none" for no LoRA at all:
            the linear head of pooling "mean" is all that is trained (the baseline of private
            training; last_layers, rank, alpha and train then say nothing).
        last_layers: only the last so many transformer blocks are adapted; 0 means all of them.
        rank, alpha: the update is (alpha / rank) * B @ A with A of shape (rank, in).
        train: "b-only" freezes A at its public initial value (FFA-LoRA, Sun et al. 2024, arXiv
            2403.12313: averaging B is then exact and an update is half as long); "a-and-b" is
            full LoRA.
        pooling: "mean" puts a linear head on the masked mean of the last hidden states of an
            encoder; "native" uses the model's own head (sequence classifier or language model).
        seed: public seed of the initial values, identical for every client.
    """

    targets: str | tuple[str, ...] = ALL_LINEAR
    last_layers: int = 2
    rank: int = 8
    alpha: int = 16
    train: Literal["b-only", "a-and-b"] = "b-only"
    pooling: Literal["mean", "native"] = "mean"
    seed: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.targets, str) and self.targets not in (ALL_LINEAR, HEAD_ONLY):
            raise ConfigurationError(
                f"adapter.targets is {self.targets!r}; expected {ALL_LINEAR!r}, {HEAD_ONLY!r} or "
                "a list of names"
            )
        if self.head_only and self.pooling != "mean":
            raise ConfigurationError(
                f"adapter.targets is {HEAD_ONLY!r} with pooling {self.pooling!r}; only pooling "
                "'mean' has a linear head that can be trained alone"
            )
        if not self.targets or any(not name for name in self.targets):
            raise ConfigurationError("adapter.targets is empty; name at least one module")
        for name, value, least in (
            ("last_layers", self.last_layers, 0),
            ("rank", self.rank, 1),
            ("alpha", self.alpha, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise ConfigurationError(f"adapter.{name} is {value}; expected at least {least}")

    @property
    def head_only(self) -> bool:
        """Whether nothing but the linear head is trained."""
        return self.targets == HEAD_ONLY

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> AdapterSpec:
        return from_json(cls, "adapter", data)
