"""Random event lists and an accountant written by others (prv-accountant) to hold ours against.

prv-accountant can be wrong too: it moves every discretised loss by the difference of its mean from
a numerical integral, and an error of that integral counts once for every step.  At a finer mesh it
notices ("Discrete mean differs from continuous mean significantly") and gives up.  So where it
contradicts us, :func:`bracket` decides, which has no such integral.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm

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


def bracket(
    events: Sequence[GaussianSteps], delta: float, *, interval: float = 1e-4, largest: float = 60.0
) -> tuple[float, float]:
    """Lower and upper bound of epsilon from the definition: exact masses of the privacy loss
    between points of a grid, all moved down or all moved up to the next one, and composed."""
    last = round(largest / interval)
    points = np.arange(-last, last + 1, dtype=np.float64) * np.float64(interval)
    found = [
        [_epsilon(events, delta, points, removed=removed, up=up) for removed in (True, False)]
        for up in (False, True)
    ]
    return max(found[0]), max(found[1])


def _epsilon(
    events: Sequence[GaussianSteps],
    delta: float,
    points: npt.NDArray[np.float64],
    *,
    removed: bool,
    up: bool,
) -> float:
    transform, beyond = np.ones(len(points) // 2 + 1, dtype=complex), 0.0
    for event in events:
        below = _mass_below(event, points, removed=removed)
        masses = np.diff(below, append=below[-1])  # each at the lower end of its interval
        if up:
            masses = np.roll(masses, 1)
            masses[0] = below[0]
            beyond += event.steps * float(1 - below[-1])
        zero_first = np.roll(masses, -(len(points) // 2))
        transform *= np.fft.rfft(zero_first) ** event.steps
    composed = np.fft.irfft(transform, len(points)).clip(min=0)
    losses = np.fft.ifftshift(points)

    def spent_delta(epsilon: float) -> float:
        above = losses > epsilon
        return float((composed[above] * -np.expm1(epsilon - losses[above])).sum()) + beyond

    low, high = 0.0, float(points[-1])
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent_delta(middle) > delta else (low, middle)
    return high


def _mass_below(
    event: GaussianSteps, points: npt.NDArray[np.float64], *, removed: bool
) -> npt.NDArray[np.float64]:
    """P(loss <= point): with the row in the first distribution (removed) or in the second."""
    sigma, rate = event.noise_multiplier, event.sampling_rate
    ratio = (np.exp(points if removed else -points) - (1 - rate)) / rate
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.where(ratio > 0, sigma**2 * np.log(ratio) + 0.5, -np.inf)
    if not removed:
        return np.asarray(norm.sf(place / sigma))
    return np.asarray((1 - rate) * norm.cdf(place / sigma) + rate * norm.cdf((place - 1) / sigma))


def check_list(number: int) -> None:
    """Neither of our bounds is below the oracle's lower bound, and PLD not far above its upper;
    an oracle that contradicts us must itself be refuted by the bracket, and ours lie in it."""
    events, delta = random_list(number)
    low, _, high = oracle(events, delta)
    cost = spent(events, delta)
    assert cost.pld is not None
    if cost.pld < low:
        low, true_high = bracket(events, delta)
        assert true_high < oracle(events, delta)[0], (number, events, delta)
        high = true_high
    assert cost.rdp.epsilon >= low, (number, events, delta)
    assert cost.pld >= low, (number, events, delta)
    assert cost.pld <= high + 0.01, (number, events, delta)
