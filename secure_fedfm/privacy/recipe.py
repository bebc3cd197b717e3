"""Charter sections of private training: what `charter new` and the demo write by themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from fedfm_audit.privacy.calibration import noise_multiplier_for
from fedfm_audit.privacy.shared_noise import SharedNoise
from fedfm_crypto.discrete_noise import Mechanism
from fedfm_protocols.thresholds import Thresholds
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
from secure_fedfm.privacy.plan import PrivateTraining

DEFAULT_DELTA = 1e-5
DEFAULT_CLIP = 1.0
# A step takes a quarter of an institution's rows: a large batch carries no more noise than a small.
DEFAULT_RATE = 0.25
DEFAULT_STEPS = 10
# Measured on generated tickets of another seed, without the wordings that only test tickets have.
# SGD leaves noise as it is; Adam would scale it up in every tensor that carries little else.
DEFAULT_HEAD_RATE = 4.0
DEFAULT_ADAPTER_RATE = 1.0
# Mode shared-noise: a step takes a tenth of all rows, and a session fifty of them (measured on the
# head alone).
SHARED_RATE = 0.1
SHARED_STEPS = 50
# What a calibrated budget leaves for the distance of real samplers from ideal noise.
_MARGIN = 0.999


@dataclass(frozen=True, slots=True)
class PrivacySections:
    """``privacy`` and ``training.private`` of a charter (None: there is no such section)."""

    privacy: dict[str, Any] = field(default_factory=lambda: {"mode": "none"})
    private: dict[str, object] | None = None


def local_privacy(
    *,
    epsilon: float,
    rounds: int,
    expected_rows: int,
    delta: float = DEFAULT_DELTA,
    sampling_rate: float = DEFAULT_RATE,
    steps_per_round: int = DEFAULT_STEPS,
    clip: float = DEFAULT_CLIP,
    head_rounds: int = 0,
    training: PrivateTraining | None = None,
) -> PrivacySections:
    """Mode ``local`` with just the noise that ``rounds`` rounds need within the budget.

    Args:
        expected_rows: public number of rows per institution; a count of nobody's rows.
        head_rounds: the first so many rounds train the head alone (see `PrivatePlan`).
        training: takes the place of the two before, and of the default rates.

    Raises:
        PrivacySettingError: no noise multiplier gets there.
        ConfigurationError: a setting of training is out of range.
    """
    used = training or PrivateTraining(
        expected_rows=expected_rows,
        optimiser="sgd",
        adapter_learning_rate=DEFAULT_ADAPTER_RATE,
        head_learning_rate=DEFAULT_HEAD_RATE,
        head_rounds=head_rounds,
    )
    used.check_rounds(rounds)
    noise = noise_multiplier_for(
        epsilon * _MARGIN, delta, sampling_rate=sampling_rate, steps=steps_per_round * rounds
    )
    return PrivacySections(
        {
            "mode": "local",
            "epsilon": float(epsilon),
            "delta": delta,
            "noise_multiplier": noise,
            "sampling_rate": float(sampling_rate),
            "steps_per_round": steps_per_round,
            "clip": float(clip),
        },
        used.to_json(),
    )


def client_privacy(
    *,
    epsilon: float,
    rounds: int,
    clip: float,
    delta: float = DEFAULT_DELTA,
    mechanism: str = "discrete-gaussian",
    rotation: bool = False,
) -> PrivacySections:
    """Mode ``client``: noise on whole updates, shared by the honest survivors, every round."""
    # The integer sensitivity is a little above the clip: see fedfm_crypto.sensitivity.
    noise = noise_multiplier_for(0.98 * epsilon, delta, sampling_rate=1.0, steps=rounds)
    return PrivacySections(
        {
            "mode": "client",
            "epsilon": float(epsilon),
            "delta": delta,
            "noise_multiplier": noise,
            "clip_l2": float(clip),
            "mechanism": mechanism,
            "rotation": rotation,
        }
    )


@dataclass(frozen=True, slots=True)
class SharedNoiseRequest:
    """Mode ``shared-noise`` as founders ask for it; :meth:`sections` computes the rest once the
    length of an update is known.

    Fields:
        epsilon, delta: budget of every record in the federation, over `rounds` sessions and
            `spare_rounds` more that may be charged and come to nothing: a charge is never given
            back.
        expected_rows: public number of rows per institution; a count of nobody's rows.
        honest_shares: how many institutions' noise together is all of it. None: the smallest sum
            less those who may collude, so that the budget stands against them.
    """

    epsilon: float
    rounds: int
    expected_rows: int
    delta: float = DEFAULT_DELTA
    sampling_rate: float = SHARED_RATE
    steps_per_round: int = SHARED_STEPS
    clip: float = DEFAULT_CLIP
    mechanism: Mechanism = "discrete-gaussian"
    honest_shares: int | None = None
    spare_rounds: int = 0

    def __post_init__(self) -> None:
        for name, value, good, expected in (
            ("epsilon", self.epsilon, 0 < self.epsilon < float("inf"), "a positive number"),
            ("delta", self.delta, 0 < self.delta < 1, "between 0 and 1"),
            ("sampling rate", self.sampling_rate, 0 < self.sampling_rate <= 1, "in (0, 1]"),
            ("steps per round", self.steps_per_round, 1 <= self.steps_per_round <= 1024, "1..1024"),
            ("example clip", self.clip, 0 < self.clip < float("inf"), "a positive number"),
            ("rows per institution", self.expected_rows, self.expected_rows >= 1, "at least 1"),
            ("rounds", self.rounds, self.rounds >= 1, "at least 1"),
            ("spare rounds", self.spare_rounds, self.spare_rounds >= 0, "at least 0"),
        ):
            if not good:
                raise ConfigurationError(f"{name} {value}; expected {expected}")

    @property
    def steps(self) -> int:
        """Steps of the whole federation."""
        return self.rounds * self.steps_per_round

    def batch(self, clients: int) -> float:
        """B: rows that a step takes on average, by public numbers."""
        return self.sampling_rate * self.expected_rows * clients

    def bound(self, clients: int) -> float:
        """Default bound on one value of an institution's sum: that of a whole step's rows, so that
        nothing is cut even where one institution has most of them."""
        return self.clip * max(1.0, self.batch(clients))

    def optimiser(self, clients: int) -> StepOptimiserSpec:
        """Default optimiser, its schedule over all steps.

        The more noise, the lower the best rate.  Measured on the head alone (BANKING77, rates
        chosen on held-out rows, batch 1,000, 150 steps): 4, 2 and 1 at epsilon 8, 3 and 1, which
        is epsilon^(2/3).  For smaller batches the root of their size is a guess.
        """
        rate = min(4.0, self.epsilon ** (2 / 3)) * min(1.0, math.sqrt(self.batch(clients) / 1000))
        head = float(f"{rate:.2g}")
        return StepOptimiserSpec(
            head_learning_rate=head, adapter_learning_rate=head / 4, schedule_steps=self.steps
        )

    def draft(self, thresholds: Thresholds) -> dict[str, Any]:
        """The ``privacy`` section with noise that is yet to be calibrated."""
        honest = self.honest_shares
        if honest is None:
            honest = thresholds.min_accepted - thresholds.colluding
        return {
            "mode": "shared-noise",
            "epsilon": float(self.epsilon),
            "delta": self.delta,
            "noise_multiplier": 1.0,
            "sampling_rate": float(self.sampling_rate),
            "steps_per_round": self.steps_per_round,
            "clip": float(self.clip),
            "mechanism": self.mechanism,
            "honest_shares": honest,
            "batch": self.batch(thresholds.clients),
        }

    def sections(self, thresholds: Thresholds, *, values: int, scale: int) -> PrivacySections:
        """The ``privacy`` section with just the noise that all sessions need within the budget.

        Args:
            values, scale: of the charter's quantiser.

        Raises:
            PrivacySettingError: no noise multiplier gets there.
        """
        section = self.draft(thresholds)
        noise = SharedNoise(
            mechanism=self.mechanism,
            clip=float(self.clip),
            scale=scale,
            dimension=values,
            honest_shares=section["honest_shares"],
            sampling_rate=float(self.sampling_rate),
            steps=self.steps_per_round,
        )
        sessions = self.rounds + self.spare_rounds
        found = noise.noise_multiplier(self.epsilon, self.delta, sessions=sessions)
        return PrivacySections({**section, "noise_multiplier": found})
