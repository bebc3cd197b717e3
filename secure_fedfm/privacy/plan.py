"""The public settings of private training in mode `local` (no torch: `charter show` reads it)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.strict_json import from_json, to_json

GRID = 1 << 20
"""Grid steps per clip: rounding then adds sqrt(d) / 2^20 to the relative sensitivity."""


@dataclass(frozen=True, slots=True)
class PrivatePlan:
    """One institution's round of DP-SGD (Abadi et al. 2016, arXiv 1607.00133), example level.

    Every field is public and none may be computed from private rows.

    Fields:
        noise_multiplier: z; the noise has deviation z times the sensitivity of the sum, the
            rounding to the grid included. 0 means no privacy and is for baselines only.
        sampling_rate: q; every row is in a step with this probability, independently of all others.
        steps_per_round: T; empty steps count.
        clip: C, the largest L2 norm that one row's gradient keeps.
        expected_batch: what the noised sum is divided by: q * N, where N is a number of rows per
            institution that the CHARTER states. It is the same for every institution and never a
            count of anyone's rows, which are private: an institution with more rows than N simply
            moves further per step. It scales the update and has no effect on privacy.
        optimiser: post-processing of the noised mean gradient: "sgd" (momentum) or "adam".
        adapter_learning_rate, head_learning_rate: rates of LoRA tensors and of the head; the
            schedule is that of the training plan.
        momentum: of sgd; Adam's first-moment decay.
        beta2: Adam's second-moment decay.
        physical_batch: rows whose gradients are in memory at once; no effect on the result beyond
            floating-point rounding.
    """

    noise_multiplier: float
    sampling_rate: float
    steps_per_round: int
    clip: float
    expected_batch: float
    optimiser: Literal["sgd", "adam"] = "adam"
    adapter_learning_rate: float = 4e-3
    head_learning_rate: float = 2e-2
    momentum: float = 0.9
    beta2: float = 0.99
    physical_batch: int = 64

    def __post_init__(self) -> None:
        z, most = self.noise_multiplier, 1000
        adapter, head = self.adapter_learning_rate, self.head_learning_rate
        rate = f"above 0 and at most {most}"
        checks: tuple[tuple[str, float, bool, str], ...] = (
            ("noise_multiplier", z, 0 <= z <= 1e4, "from 0 to 10000"),
            ("sampling_rate", self.sampling_rate, 0 < self.sampling_rate <= 1, "in (0, 1]"),
            ("steps_per_round", self.steps_per_round, self.steps_per_round >= 1, "at least 1"),
            ("clip", self.clip, 1e-6 <= self.clip <= 1e6, "from 1e-6 to 1e6"),
            (
                "expected_batch",
                self.expected_batch,
                1e-3 <= self.expected_batch <= 1e9,
                "q times the charter's public number of rows per institution",
            ),
            ("adapter_learning_rate", adapter, 0 < adapter <= most, rate),
            ("head_learning_rate", head, 0 < head <= most, rate),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)"),
            ("beta2", self.beta2, 0 <= self.beta2 < 1, "in [0, 1)"),
            ("physical_batch", self.physical_batch, self.physical_batch >= 1, "at least 1"),
        )
        for name, value, good, expected in checks:
            if not (good and math.isfinite(value)):
                raise ConfigurationError(f"privacy.{name} is {value}; expected {expected}")

    @property
    def scale(self) -> int:
        """Grid steps per unit: an integer, about 2^20 of them per clip."""
        return max(1, round(GRID / self.clip))

    def with_noise(self, noise_multiplier: float, clip: float) -> PrivatePlan:
        """The same settings with other noise."""
        return replace(self, noise_multiplier=noise_multiplier, clip=clip)

    def pooled(self, institutions: int) -> PrivatePlan:
        """The same settings where the rows of so many institutions lie in one place."""
        return replace(self, expected_batch=self.expected_batch * institutions)

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> PrivatePlan:
        return from_json(cls, "privacy", data)


@dataclass(frozen=True, slots=True)
class PrivateTraining:
    """The part of a private plan that costs no privacy: the charter's ``training.private``.

    Fields:
        expected_rows: N, rows that the charter takes an institution to have; public, and a count
            of nobody's rows. Noised sums are divided by q * N.
        the others: as in :class:`PrivatePlan`.
    """

    expected_rows: int
    optimiser: Literal["sgd", "adam"] = "adam"
    adapter_learning_rate: float = 4e-3
    head_learning_rate: float = 2e-2
    momentum: float = 0.9
    beta2: float = 0.99
    physical_batch: int = 64

    def __post_init__(self) -> None:
        if self.expected_rows < 1:
            raise ConfigurationError(
                f"training.private.expected_rows is {self.expected_rows}; expected at least 1"
            )

    def plan(
        self, *, noise_multiplier: float, sampling_rate: float, steps_per_round: int, clip: float
    ) -> PrivatePlan:
        """The whole plan, with what the charter's privacy section says."""
        return PrivatePlan(
            noise_multiplier=noise_multiplier,
            sampling_rate=sampling_rate,
            steps_per_round=steps_per_round,
            clip=clip,
            expected_batch=sampling_rate * self.expected_rows,
            optimiser=self.optimiser,
            adapter_learning_rate=self.adapter_learning_rate,
            head_learning_rate=self.head_learning_rate,
            momentum=self.momentum,
            beta2=self.beta2,
            physical_batch=self.physical_batch,
        )

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> PrivateTraining:
        return from_json(cls, "training.private", data)
