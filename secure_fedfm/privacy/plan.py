"""The public settings of private training (no torch: `charter show` reads it).

`PrivatePlan` is a round in mode `local`, `SharedNoisePlan` the steps of mode `shared-noise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from fedfm_crypto.discrete_noise import Mechanism
from fedfm_crypto.distributed_noise import NoiseShares
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
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
        head_rounds: in rounds 1 to this one the linear head is trained alone and LoRA stays as it
            is: B is small and its gradients mostly noise until the head points somewhere, and a
            step of the head costs next to nothing. The sum that is released has the whole
            dimension all the same, with zeros for LoRA; what the noise makes of those is dropped
            after the release. So such a round is charged, and clipped, exactly like any other,
            with more noise on the head than its own smaller dimension would ask for (by the
            rounding's sqrt(d) in 2^20 parts: nothing).
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
    head_rounds: int = 0

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
            ("head_rounds", self.head_rounds, self.head_rounds >= 0, "at least 0"),
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
        head_rounds: fewer than the charter's rounds, or LoRA would never be trained (for that,
            the adapter's targets are "none").
        the others: as in :class:`PrivatePlan`.
    """

    expected_rows: int
    optimiser: Literal["sgd", "adam"] = "adam"
    adapter_learning_rate: float = 4e-3
    head_learning_rate: float = 2e-2
    momentum: float = 0.9
    beta2: float = 0.99
    physical_batch: int = 64
    head_rounds: int = 0

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
            head_rounds=self.head_rounds,
        )

    def check_rounds(self, rounds: int) -> None:
        """
        Raises:
            ConfigurationError: a federation of so many rounds would train the head only.
        """
        if 0 < rounds <= self.head_rounds:
            raise ConfigurationError(
                f"training.private.head_rounds is {self.head_rounds} of {rounds} rounds; expected "
                'fewer than all, or set the adapter\'s targets to "none"'
            )

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> PrivateTraining:
        return from_json(cls, "training.private", data)


# What summing in doubles may add to the difference of two neighbours' sums, in parts of the clip:
# each of n rows' sums is off by n^2 2^-53 at most, so this covers batches of up to 2^16 rows.
_CLIP_MARGIN = 2.0**-20


@dataclass(frozen=True, slots=True)
class SharedNoisePlan:
    """DP-SGD of a whole federation, example level: what one institution does in a step.

    Every field is public and none may be computed from private rows.

    Fields:
        noise_multiplier: z; `honest_shares` shares of the noise together have deviation z times
            the clip. 0 means no privacy and is for baselines only.
        sampling_rate: q; every row is in a step with this probability, independently of all others.
        steps_per_round: S, steps of one session.
        clip: C, the largest L2 norm that one row's gradient keeps.
        batch: what the opened sum is divided by to give the gradient: a public constant, near q
            times the rows of all institutions.
        mechanism, honest_shares: how a share of the noise is drawn, and how many carry all of it.
        scale, bound: grid steps per unit, and the largest magnitude of one value of an
            institution's sum; the charter's quantiser.
        optimiser: what every institution does with the gradient.
        physical_batch: rows whose gradients are in memory at once; no effect on the result beyond
            floating-point rounding.
    """

    noise_multiplier: float
    sampling_rate: float
    steps_per_round: int
    clip: float
    batch: float
    mechanism: Mechanism
    honest_shares: int
    scale: int
    bound: float
    optimiser: StepOptimiserSpec = field(default_factory=StepOptimiserSpec)
    physical_batch: int = 64

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, float, bool, str], ...] = (
            ("noise_multiplier", self.noise_multiplier, self.noise_multiplier >= 0, "at least 0"),
            ("sampling_rate", self.sampling_rate, 0 < self.sampling_rate <= 1, "in (0, 1]"),
            ("steps_per_round", self.steps_per_round, self.steps_per_round >= 1, "at least 1"),
            ("clip", self.clip, self.clip > 0, "above 0"),
            ("batch", self.batch, self.batch > 0, "above 0"),
            ("honest_shares", self.honest_shares, self.honest_shares >= 1, "at least 1"),
            ("scale", self.scale, self.scale >= 1, "at least 1"),
            ("bound", self.bound, self.bound > 0, "above 0"),
            ("physical_batch", self.physical_batch, self.physical_batch >= 1, "at least 1"),
        )
        for name, value, good, expected in checks:
            if not (good and math.isfinite(value)):
                raise ConfigurationError(f"privacy.{name} is {value}; expected {expected}")

    @property
    def working_clip(self) -> float:
        """What gradients are clipped to: C less what the arithmetic of sums may add."""
        return self.clip * (1 - _CLIP_MARGIN)

    @property
    def shares(self) -> NoiseShares | None:
        """How a share of the noise is drawn; None without noise."""
        if self.noise_multiplier == 0:
            return None
        return NoiseShares(
            mechanism=self.mechanism,
            noise_multiplier=self.noise_multiplier,
            clip=self.clip,
            scale=self.scale,
            min_honest=self.honest_shares,
        )

    def pooled(self, institutions: int) -> SharedNoisePlan:
        """The same training where the rows of so many institutions lie in one place: the noise
        once, as one share, on sums of up to so many times the bound."""
        return replace(self, honest_shares=1, bound=self.bound * institutions)
