"""The noise that a budget asks for: never too little, seldom too much."""

from __future__ import annotations

import math

import pytest

from fedfm_audit.errors import PrivacySettingError
from fedfm_audit.privacy.accountant import spent
from fedfm_audit.privacy.calibration import noise_multiplier_for
from fedfm_audit.privacy.events import GaussianSteps


def epsilon_of(multiplier: float, rate: float, steps: int) -> float:
    event = GaussianSteps(noise_multiplier=multiplier, clip=1.0, sampling_rate=rate, steps=steps)
    return spent([event], 1e-5).epsilon


@pytest.mark.parametrize(("epsilon", "sigma"), [(8.0, 1.044)])
def test_the_reference_values_are_found(epsilon: float, sigma: float) -> None:
    # Poisson q = .1, 150 steps, delta 1e-5, PLD.
    found = noise_multiplier_for(epsilon, 1e-5, sampling_rate=0.1, steps=150)
    assert found == pytest.approx(sigma, rel=4e-3)
    assert epsilon_of(found, 0.1, 150) <= epsilon
    assert epsilon_of(0.99 * found, 0.1, 150) > epsilon


def test_what_no_noise_can_give_is_refused() -> None:
    with pytest.raises(PrivacySettingError, match="fewer steps"):
        noise_multiplier_for(1e-7, 1e-9, sampling_rate=1.0, steps=1_000_000)
    with pytest.raises(PrivacySettingError, match="positive finite"):
        noise_multiplier_for(math.inf, 1e-5, sampling_rate=0.1, steps=10)
