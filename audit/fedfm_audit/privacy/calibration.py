"""How much noise a budget asks for: the smallest multiplier whose loss fits.

Source: Renyi divergence, then privacy loss distributions (Koskela et al. 2020, Doroshenko et al.
2022), both through dp-accounting; the search needs nothing but that more noise never costs more.
"""

from __future__ import annotations

import math
from enum import Enum
from functools import lru_cache
from typing import Protocol

from fedfm_audit.errors import PrivacySettingError
from fedfm_audit.privacy.accountant import PLD_INTERVAL, SEARCH_INTERVAL, spent
from fedfm_audit.privacy.events import GaussianSteps, Mechanism

_LEAST, _MOST = 0.2, 1e4
_DIGITS = 4
_FAR = 50.0  # the height of a cost without a logarithm


class Figure(Enum):
    """How exactly a cost is wanted: all three are upper bounds."""

    RENYI = "Renyi divergence"
    COARSE = "a loss distribution on the grid of searches"
    HEADLINE = "what a ledger states"


class Cost(Protocol):
    """Epsilon at a noise multiplier."""

    def __call__(self, multiplier: float, figure: Figure) -> float: ...


def epsilon_by(figure: Figure, event: Mechanism, delta: float) -> float:
    """What ``event`` alone costs."""
    pld, interval = figure is not Figure.RENYI, PLD_INTERVAL
    if figure is Figure.COARSE:
        interval = SEARCH_INTERVAL
    return spent([event], delta, pld=pld, interval=interval).epsilon


@lru_cache(maxsize=256)
def noise_multiplier_for(
    epsilon: float, delta: float, *, sampling_rate: float, steps: int
) -> float:
    """The noise multiplier at which so many Poisson-sampled Gaussian steps cost ``epsilon`` at
    ``delta`` (PLD), rounded up to four significant digits.

    Raises
    ------
    PrivacySettingError
        if no multiplier between .2 and 10,000 does.
    """

    def cost(multiplier: float, figure: Figure) -> float:
        event = GaussianSteps(
            noise_multiplier=multiplier, clip=1.0, sampling_rate=sampling_rate, steps=steps
        )
        return epsilon_by(figure, event, delta)

    found = calibrate(cost, epsilon)
    if found is None:
        raise PrivacySettingError(
            f"epsilon {epsilon:g} at delta {delta:g} needs a noise multiplier above {_MOST:g} for "
            f"{steps} steps; take fewer steps or a larger epsilon"
        )
    return found


def calibrate(cost: Cost, epsilon: float) -> float | None:
    """The least multiplier between .2 and 10,000 whose cost is at most ``epsilon``, rounded up to
    four significant digits; None if there is none.  More noise must never cost more.

    Raises
    ------
    PrivacySettingError
        if ``epsilon`` is not positive and finite.
    """
    if not 0 < epsilon < math.inf:
        raise PrivacySettingError(f"epsilon {epsilon!r}, expected a positive finite number")
    # Each is dearer than the one before, never promises too much, and leaves it little to do.
    high = _least(cost, epsilon, _LEAST, _MOST, 5e-3, Figure.RENYI)
    if high is None:
        return None
    found = _least(cost, epsilon, 0.8 * high, high, 2e-3, Figure.COARSE)
    best = high if found is None else found
    # Finer grids nearly always say less, but nothing promises it.
    while best < high and cost(best, Figure.HEADLINE) > epsilon:
        best = min(high, best * (1 + 1e-3))
    digit = 10.0 ** (math.floor(math.log10(best)) - _DIGITS + 1)
    return round(math.ceil(best / digit) * digit, 12)


def _least(
    cost: Cost, epsilon: float, low: float, high: float, tolerance: float, figure: Figure
) -> float | None:
    """The least number in [low, high] that fits, to a relative tolerance from above; None if the
    largest does not fit.  Whatever is larger than one that fits, fits."""
    over, under = cost(low, figure), cost(high, figure)
    if under > epsilon:
        return None
    if over <= epsilon:
        return low
    # Illinois' rule on the logarithms: a straight line there is nearly the curve, and a loss
    # distribution costs a second. An end that stays twice has its weight halved, so both close in.
    heights = [_height(over, epsilon), _height(under, epsilon)]
    stayed = 0
    while high / low > 1 + tolerance:
        middle = _between(low, high, heights, math.sqrt(1 + tolerance))
        found = cost(middle, figure)
        if found <= epsilon:
            high, heights[1] = middle, _height(found, epsilon)
            heights[0] *= 0.5 if stayed > 0 else 1.0
            stayed = 1
        else:
            low, heights[0] = middle, _height(found, epsilon)
            heights[1] *= 0.5 if stayed < 0 else 1.0
            stayed = -1
    return high


def _height(found: float, epsilon: float) -> float:
    """How far above (or, negative, below) the budget a cost lies, as a logarithm."""
    if 0 < found < math.inf:
        return math.log(found / epsilon)
    return math.copysign(_FAR, found - epsilon)


def _between(low: float, high: float, heights: list[float], margin: float) -> float:
    """Where the line through both ends meets the budget, a factor ``margin`` away from either."""
    above, below = heights[0], -heights[1]
    share = above / (above + below) if above + below > 0 else 0.5
    met = low * (high / low) ** share
    inside: float = min(max(met, low * margin), high / margin)
    return inside
