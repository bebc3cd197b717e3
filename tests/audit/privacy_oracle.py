"""Random event lists and an accountant written by others (prv-accountant) to hold ours against."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import pytest

from fedfm_audit.privacy.accountant import rdp_epsilon, spent
from fedfm_audit.privacy.events import GaussianSteps

prv = pytest.importorskip("prv_accountant", reason="the oracle prv-accountant is not installed")

LISTS = 200
DELTAS = (1e-7, 1e-6, 1e-5, 1e-3)


def gaussian(noise: float, rate: float, steps: int) -> GaussianSteps:
    """Steps with clip 1."""
    return GaussianSteps(noise_multiplier=noise, clip=1.0, sampling_rate=rate, steps=steps)


def random_list(number: int) -> tuple[list[GaussianSteps], float]:
    """One to three different mechanisms and a delta; total epsilon of a size anybody would use."""
    rng = random.Random(number)  # noqa: S311 - a seeded case, nothing secret
    while True:
        delta = rng.choice(DELTAS)
        events = []
        for _ in range(rng.randint(1, 3)):
            rate = 1.0 if rng.random() < 0.2 else 10 ** rng.uniform(-3, -0.3)
            steps = rng.randint(1, 20) if rate == 1 else int(10 ** rng.uniform(0, 3.3))
            events.append(gaussian(10 ** rng.uniform(-0.3, 0.9), rate, steps))
        if 0.05 < rdp_epsilon(events, delta).epsilon < 15:
            return events, delta


def oracle(
    events: Sequence[GaussianSteps], delta: float, *, precision: float = 0.05
) -> tuple[float, float, float]:
    """Lower bound, estimate and upper bound of epsilon by prv-accountant."""
    mechanisms = [
        prv.GaussianMechanism(noise_multiplier=event.noise_multiplier)
        if event.sampling_rate == 1
        else prv.PoissonSubsampledGaussianMechanism(
            noise_multiplier=event.noise_multiplier, sampling_probability=event.sampling_rate
        )
        for event in events
    ]
    steps = [event.steps for event in events]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of deprecated NumPy calls of its own
        accountant = prv.PRVAccountant(
            prvs=mechanisms,
            max_self_compositions=steps,
            eps_error=precision,
            delta_error=delta * 1e-3,
        )
        low, estimate, high = accountant.compute_epsilon(delta=delta, num_self_compositions=steps)
    return float(low), float(estimate), float(high)


def check_list(number: int) -> None:
    """Neither of our bounds is below the oracle's lower bound, and PLD not far above its upper."""
    events, delta = random_list(number)
    low, _, high = oracle(events, delta)
    cost = spent(events, delta)
    assert cost.pld is not None
    assert cost.rdp.epsilon >= low, (number, events, delta)
    assert cost.pld >= low, (number, events, delta)
    assert cost.pld <= high + 0.01, (number, events, delta)
