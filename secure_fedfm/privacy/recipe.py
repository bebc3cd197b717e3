"""Charter sections of private training: what `charter new` and the demo write by themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fedfm_audit.privacy.calibration import noise_multiplier_for
from secure_fedfm.privacy.plan import PrivateTraining

DEFAULT_DELTA = 1e-5
DEFAULT_CLIP = 1.0
# A step takes a quarter of an institution's rows: a large batch carries no more noise than a small.
DEFAULT_RATE = 0.25
DEFAULT_STEPS = 20
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
    training: PrivateTraining | None = None,
) -> PrivacySections:
    """Mode ``local`` with just the noise that ``rounds`` rounds need within the budget.

    Args:
        expected_rows: public number of rows per institution; a count of nobody's rows.

    Raises:
        PrivacySettingError: no noise multiplier gets there.
        ConfigurationError: a setting of training is out of range.
    """
    noise = noise_multiplier_for(
        epsilon * _MARGIN, delta, sampling_rate=sampling_rate, steps=steps_per_round * rounds
    )
    used = training or PrivateTraining(expected_rows=expected_rows)
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
