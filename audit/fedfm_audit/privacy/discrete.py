"""What discrete noise costs: sums of discrete Gaussians, Skellam noise, Poisson sampling of both.

Notation: an integer vector of L2 norm Delta (``sensitivity_squared`` = Delta^2) in d coordinates;
n honest shares of variance v on the grid, so s^2 = n v on the sum.

*Discrete Gaussian, unsampled.*  The sum of n shares is (1/2) epsilon^2-zCDP with

    epsilon = min( sqrt(Delta^2 / s^2 + tau d / 2),  Delta / s + tau sqrt(d) )
    tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 v k / (k + 1))

Kairouz, Liu, Steinke 2021 (2102.06387), Proposition 3.6 and Theorem 3.7.

*Discrete Gaussian, Poisson-sampled.*  N(0, (s^2 - eta^2) I), then each coordinate rounded to the
grid by a discrete Gaussian of deviation eta around it, is the discrete Gaussian of variance s^2 up
to a distance that vanishes with exp(-2 pi^2 eta^2): Peikert, CRYPTO 2010, Theorem 3.1.  The
rounding looks only at the noisy value, so the cost is that of continuous noise of variance
s^2 - eta^2, and the distance is added to delta.  eta = 6.

*Skellam, unsampled.*  Closed under sums.  For integer orders a,

    RDP(a) <= a Delta^2 / (2 s^2)
              + min( ((2 a - 1) Delta^2 + 6 Delta_1) / (4 s^4),  3 Delta_1 / (2 s^2) )

Agarwal, Kairouz, Liu 2021 (2110.04995), Theorem 3.5.  RDP grows with the order, so an order in
between takes the value of the next integer.

*Skellam, Poisson-sampled.*  For integer a, with rate q and E(k) = exp((k - 1) RDP(k)),

    (a - 1) RDP_q(a) = log( (1 - q)^(a-1) (1 + (a - 1) q)
                            + sum_{k=2}^a C(a, k) (1 - q)^(a-k) q^k E(k) )

This is the binomial expansion of the divergence of the mixture from the base.  It needs no factor
3 on the higher terms (Zhu and Wang 2019, Theorem 5), because here the other direction is never
larger: x -> Delta - x swaps noise around 0 and noise around Delta, so Theorem 5 of Mironov, Talwar,
Zhang 2019 (1908.10530) applies; its proof uses only that this map keeps the measure, which on the
integers it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedfm_audit.privacy.events import (
    SMOOTHING_DEVIATION,
    DiscreteGaussianSteps,
    SkellamSteps,
)

_TWO_PI_SQUARED = 2 * math.pi**2


def share_sum_excess(shares: int, share_variance: float) -> float:
    """tau: how far, per coordinate and in log-probability, a sum of discrete Gaussians is from the
    discrete Gaussian of the summed variance."""
    return 10 * math.fsum(
        math.exp(-_TWO_PI_SQUARED * share_variance * k / (k + 1)) for k in range(1, shares)
    )


def discrete_gaussian_rho(event: DiscreteGaussianSteps) -> float:
    """rho of the zCDP guarantee of one unsampled step."""
    tau = share_sum_excess(event.honest_shares, event.share_variance)
    squared = event.sensitivity_squared / event.variance
    epsilon = min(
        math.sqrt(squared + tau * event.dimension / 2),
        math.sqrt(squared) + tau * math.sqrt(event.dimension),
    )
    return epsilon**2 / 2


def continuous_multiplier(event: DiscreteGaussianSteps) -> float | None:
    """Noise multiplier of the continuous Gaussian that one step is post-processing of; None where
    the grid is too coarse for the decomposition."""
    rest = event.variance - SMOOTHING_DEVIATION**2
    return math.sqrt(rest / event.sensitivity_squared) if rest > 0 else None


def decomposition_distance(event: DiscreteGaussianSteps) -> float:
    """Total variation distance that :func:`continuous_multiplier` neglects, per step: Peikert's
    8 epsilon over all coordinates, and that of the sum of shares."""
    # At eta = 6 the exponential is below the smallest double: kept as the smallest, never as zero.
    tail = max(math.exp(-_TWO_PI_SQUARED * SMOOTHING_DEVIATION**2), 5e-324)
    smoothing = 8 * math.expm1(event.dimension * 2.01 * tail)
    tau = share_sum_excess(event.honest_shares, event.share_variance)
    shares = math.expm1(min(event.dimension * tau, 1.0))
    return min(1.0, smoothing + shares)


def skellam_zcdp(event: SkellamSteps) -> tuple[tuple[float, float], tuple[float, float]]:
    """The two bounds of one unsampled step as (rho, xi): RDP(a) <= xi + rho a for integer a."""
    square, norm1, variance = event.sensitivity_squared, event.sensitivity_l1, event.variance
    first = square / (2 * variance)
    second_order = (
        first + square / (2 * variance**2),
        max(0.0, (6 * norm1 - square) / (4 * variance**2)),
    )
    return second_order, (first, 3 * norm1 / (2 * variance))


def skellam_rdp(event: SkellamSteps, order: int) -> float:
    """RDP of one unsampled step at an integer order."""
    return min(rho * order + xi for rho, xi in skellam_zcdp(event))


def sampled_skellam_rdp(event: SkellamSteps, orders: Sequence[int]) -> tuple[float, ...]:
    """RDP of one Poisson-sampled step at integer orders >= 2."""
    return tuple(_sampled(event, order) for order in orders)


def _sampled(event: SkellamSteps, order: int) -> float:
    rate = event.sampling_rate
    keep, take = math.log1p(-rate), math.log(rate)
    terms = [(order - 1) * keep + math.log1p((order - 1) * rate)]
    for k in range(2, order + 1):
        chosen = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        moment = (k - 1) * skellam_rdp(event, k)
        terms.append(chosen + (order - k) * keep + k * take + moment)
    largest = max(terms)
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return max(0.0, total) / (order - 1)
