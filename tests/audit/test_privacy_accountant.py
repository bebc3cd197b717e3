"""Every reference value, by the accountant it belongs to; closed forms and another accountant."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace

import dp_accounting
import mpmath
import numpy as np
import pytest
from dp_accounting import pld, rdp

from fedfm_audit.errors import PrivacyError
from fedfm_audit.privacy.accountant import (
    DEFAULT_ORDERS,
    INTEGER_ORDERS,
    group,
    pld_epsilon,
    rdp_curve,
    rdp_epsilon,
    spent,
)
from fedfm_audit.privacy.discrete import (
    decomposition_distance,
    discrete_gaussian_rho,
    share_sum_excess,
    skellam_rdp,
)
from fedfm_audit.privacy.events import (
    AbortedRound,
    ClearRelease,
    DiscreteGaussianSteps,
    Event,
    HyperparameterTrials,
    SkellamSteps,
    least_sensitivity_squared,
)
from fedfm_audit.privacy.gaussian import gaussian_delta, gaussian_epsilon
from tests.audit.privacy_oracle import check_list, gaussian, oracle

Lattice = type[DiscreteGaussianSteps] | type[SkellamSteps]


def lattice(
    cls: Lattice,
    *,
    noise: float,
    scale: int,
    dimension: int,
    planned: int,
    honest: int,
    rounding: str = "vector",
    rate: float = 1.0,
    steps: int = 20,
    distance: float = 0.0,
) -> DiscreteGaussianSteps | SkellamSteps:
    """Clip 1; noise calibrated for ``planned`` shares, ``honest`` of which are in the sum."""
    return cls(
        share_variance=(noise * scale) ** 2 / planned,
        honest_shares=honest,
        clip=1.0,
        scale=scale,
        rounding=rounding,
        sensitivity_squared=least_sensitivity_squared(1.0, scale, dimension, rounding),
        dimension=dimension,
        sampling_rate=rate,
        steps=steps,
        distance=distance,
    )


# ---- reference values


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta", "expected", "digits", "order"),
    [
        (1.5, 0.04, 2250, 1e-5, 7.32933, 5, 3.9),
        (1.3, 150 / 60000, 6000, 1e-5, 0.7242234, 7, 19),
        (1.0, 1e-3, 30000, 1e-7, 1.4154988, 7, 13),
        (0.7, 0.01, 120, 1e-5, 3.2392676, 7, 4.4),
        (0.7, 1, 2, 1e-5, 10.8602036, 7, 3.3),
    ],
)
def test_rdp_references(
    noise: float,
    rate: float,
    steps: int,
    delta: float,
    expected: float,
    digits: int,
    order: float,
) -> None:
    found = rdp_epsilon([gaussian(noise, rate, steps)], delta)
    assert found.epsilon == pytest.approx(expected, abs=0.51 * 10**-digits)
    assert found.order == order


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "expected", "digits"),
    [
        (1.5, 0.04, 2249, 6.767, 3),
        (0.7, 0.01, 120, 2.4612381, 7),
        (0.7, 1, 2, 10.1224946, 7),
        (1.0, 1, 1, 4.377178, 6),
        (1.0, 0.01, 1000, 1.83, 2),
        (1.044, 0.1, 150, 7.94, 2),
        (1.952, 0.1, 150, 2.98, 2),
        (4.754, 0.1, 150, 1.00, 2),
    ],
)
def test_pld_references(
    noise: float, rate: float, steps: int, expected: float, digits: int
) -> None:
    found = pld_epsilon([gaussian(noise, rate, steps)], 1e-5)
    assert found == pytest.approx(expected, abs=0.51 * 10**-digits)


def test_opacus_computes_the_exact_series() -> None:
    """7.32911 and 7.32933 differ by the series at order 3.9, not by the list of orders:
    dp-accounting adds its terms by magnitude.  Quadrature decides."""
    with mpmath.workdps(30):
        moment = mpmath.quad(
            lambda x: mpmath.npdf(x, 0, 1.5) * (0.96 + 0.04 * mpmath.exp((2 * x - 1) / 4.5)) ** 3.9,
            [-40, -10, 0, 3, 6, 10, 40],
        )
        exact = 2250 * mpmath.log(moment) / 2.9
        epsilon = exact + mpmath.log1p(-1 / 3.9) - mpmath.log(1e-5 * 3.9) / 2.9
    assert float(epsilon) == pytest.approx(7.32911, abs=5e-6)
    curve = rdp_curve(gaussian(1.5, 0.04, 1), (3.9,))
    assert 0 < 2250 * curve[0] - float(exact) < 3e-4


def test_the_reference_of_the_oracle() -> None:
    low, _, high = oracle([gaussian(1.5, 0.04, 2249)], 1e-5, precision=0.01)
    assert high == pytest.approx(6.7774, abs=5e-5)
    assert low <= 6.767 <= high


def test_shuffled_and_charged_as_ten_passes() -> None:
    ten = [gaussian(1.0, 1, 10)]
    assert gaussian_epsilon(math.sqrt(10), 1e-5) == pytest.approx(17.86, abs=5e-3)
    assert pld_epsilon(ten, 1e-5) == pytest.approx(17.86, abs=5e-3)


def test_other_adjacencies_cost_more() -> None:
    """Why entries say add-remove and Poisson, and why nothing else is on the allow-list."""
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    step = dp_accounting.GaussianDpEvent(1.0)
    poisson = pld.PLDAccountant(relation).compose(
        dp_accounting.PoissonSampledDpEvent(0.01, step), 1000
    )
    assert poisson.get_epsilon(1e-5) == pytest.approx(2.84, abs=5e-3)
    fixed = rdp.RdpAccountant(neighboring_relation=relation).compose(
        dp_accounting.SampledWithoutReplacementDpEvent(10_000, 100, step), 1000
    )
    assert fixed.get_epsilon(1e-5) == pytest.approx(3.58, abs=5e-3)


@pytest.mark.parametrize("cls", [DiscreteGaussianSteps, SkellamSteps])
@pytest.mark.parametrize(
    ("scale", "expected", "digits"),
    [(2**8, 6.855, 3), (2**10, 5.479, 3), (2**12, 5.385, 3), (2**16, 5.3778, 4)],
)
def test_distributed_noise(cls: Lattice, scale: int, expected: float, digits: int) -> None:
    """d = 131072, z = 4, n = 10, T = 20: integer orders (the reference's)."""
    event = lattice(cls, noise=4, scale=scale, dimension=131072, planned=10, honest=10)
    found = rdp_epsilon([event], 1e-5, orders=INTEGER_ORDERS).epsilon
    assert found == pytest.approx(expected, abs=0.51 * 10**-digits)
    # The discrete Gaussian has bounds at fractional orders, Skellam noise has not.
    default = rdp_epsilon([event], 1e-5).epsilon
    assert default <= found
    assert (default == found) == (cls is SkellamSteps or scale > 2**10)


def test_distributed_noise_is_continuous_in_the_limit() -> None:
    assert rdp_epsilon([gaussian(4, 1, 20)], 1e-5).epsilon == pytest.approx(5.3777, abs=5e-5)


@pytest.mark.parametrize(("honest", "expected"), [(7, 6.66), (5, 8.09)])
def test_fewer_survivors_cost_more(honest: int, expected: float) -> None:
    event = lattice(SkellamSteps, noise=4, scale=2**16, dimension=131072, planned=10, honest=honest)
    assert rdp_epsilon([event], 1e-5).epsilon == pytest.approx(expected, abs=5e-3)


def test_charging_for_all_accepted_would_hide_two_epsilon() -> None:
    """n = 5, h = 4, c = 1: four accepted of whom one may collude leave three honest shares."""
    honest = pld_epsilon([gaussian(1.044 * math.sqrt(3 / 4), 0.1, 150)], 1e-5)
    assert honest == pytest.approx(10.4, abs=0.05)


def test_sampled_skellam_reference() -> None:
    """Noise multiplier 1.044 of the integer sensitivity: 8.84 by integer orders."""
    event = lattice(
        SkellamSteps, noise=1.044, scale=2**16, dimension=30000, planned=5, honest=5,
        rounding="sum", rate=0.1, steps=150,
    )  # fmt: skip
    event = replace(event, share_variance=1.044**2 * event.sensitivity_squared / 5)
    assert rdp_epsilon([event], 1e-5).epsilon == pytest.approx(8.84, abs=5e-3)
    assert pld_epsilon([event], 1e-5) is None
    assert spent([event], 1e-5).epsilon == rdp_epsilon([event], 1e-5).epsilon


def test_sampled_discrete_gaussian_reference() -> None:
    event = lattice(
        DiscreteGaussianSteps, noise=1.044, scale=2**16, dimension=30000, planned=5, honest=5,
        rounding="sum", rate=0.1, steps=150,
    )  # fmt: skip
    event = replace(event, share_variance=1.044**2 * event.sensitivity_squared / 5)
    assert pld_epsilon([event], 1e-5) == pytest.approx(7.94, abs=5e-3)


@pytest.mark.parametrize(("scale", "factor"), [(2**12, 1.042), (2**16, 1.003)])
def test_rounding_a_sum_raises_its_sensitivity(scale: int, factor: float) -> None:
    squared = least_sensitivity_squared(1.0, scale, 30000, "sum")
    assert math.sqrt(squared) / scale == pytest.approx(factor, abs=5e-4)


# ---- closed forms and independent computations


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_the_closed_form(mu: float, delta: float) -> None:
    found = gaussian_epsilon(mu, delta)
    reference = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    assert found == pytest.approx(reference, rel=1e-7, abs=1e-7)
    assert gaussian_delta(found, mu) <= delta
    by_pld = pld_epsilon([gaussian(1 / mu, 1, 1)], delta)
    assert by_pld is not None
    assert found - 1e-9 <= by_pld <= found + 1e-3 * (1 + found)


def test_the_reference_of_the_closed_form() -> None:
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.377178, abs=5e-7)


def test_the_bound_on_sums_of_discrete_gaussians_holds_by_convolution() -> None:
    support = np.arange(-60, 61)

    def mass(variance: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        weights = np.exp(-(support.astype(np.float64) ** 2) / (2 * variance))
        return np.asarray(weights / weights.sum())

    for variance in (0.3, 0.5, 0.8):
        summed = np.convolve(mass(variance), mass(variance), "same")
        ideal = mass(2 * variance)
        middle = slice(50, 71)  # beyond, the truncated support shows
        worst = np.abs(np.log(summed[middle] / ideal[middle])).max()
        assert 0 < worst <= share_sum_excess(2, variance)


def test_skellam_divergence_is_below_its_bound() -> None:
    """The exact divergence of shifted Skellam noise in one coordinate."""
    event = SkellamSteps(
        share_variance=50.0, honest_shares=1, clip=1.0, scale=2, rounding="sum",
        sensitivity_squared=9, dimension=1, sampling_rate=1.0, steps=1, distance=0.0,
    )  # fmt: skip
    with mpmath.workdps(40):
        masses = {k: mpmath.besseli(abs(k), 50) * mpmath.exp(-50) for k in range(-80, 84)}
        for order in (2, 3, 8):
            total = mpmath.fsum(
                masses[k - 3] ** order * masses[k] ** (1 - order) for k in range(-77, 80)
            )
            exact = float(mpmath.log(total) / (order - 1))
            assert exact <= skellam_rdp(event, order) <= 1.2 * exact


def test_sampled_skellam_divergence_in_both_directions() -> None:
    """Exact mixtures in one coordinate: the bound needs no factor 3, and the direction from the
    base to the mixture is the smaller one."""
    event = SkellamSteps(
        share_variance=50.0, honest_shares=1, clip=1.0, scale=2, rounding="sum",
        sensitivity_squared=9, dimension=1, sampling_rate=0.2, steps=1, distance=0.0,
    )  # fmt: skip
    orders = (2.0, 3.0, 8.0, 20.0)
    curve = rdp_curve(event, orders)
    with mpmath.workdps(60):
        base = {k: mpmath.besseli(abs(k), 50) * mpmath.exp(-50) for k in range(-123, 124)}
        mixed = {k: 0.8 * base[k] + 0.2 * base[k - 3] for k in range(-120, 124)}
        for order, bound in zip(orders, curve, strict=True):
            forward, back = (
                float(
                    mpmath.log(mpmath.fsum(p[k] ** order * q[k] ** (1 - order) for k in mixed))
                    / (order - 1)
                )
                for p, q in ((mixed, base), (base, mixed))
            )
            assert back <= forward <= bound <= 2 * forward


def test_unsampled_events_through_zcdp() -> None:
    event = lattice(
        DiscreteGaussianSteps, noise=4, scale=2**12, dimension=131072, planned=10, honest=10
    )
    assert isinstance(event, DiscreteGaussianSteps)
    accountant = rdp.RdpAccountant(DEFAULT_ORDERS)
    accountant.compose(dp_accounting.ZCDpEvent(discrete_gaussian_rho(event)), 20)
    assert rdp_epsilon([event], 1e-5).epsilon == accountant.get_epsilon(1e-5)


# ---- errors charged to delta


@pytest.mark.parametrize("bound", [pld_epsilon, lambda e, d: rdp_epsilon(e, d).epsilon])
def test_statistical_distance_is_charged(
    bound: Callable[[list[DiscreteGaussianSteps | SkellamSteps], float], float | None],
) -> None:
    def epsilon(distance: float) -> float:
        event = lattice(
            DiscreteGaussianSteps, noise=4, scale=2**12, dimension=1000, planned=10, honest=10,
            distance=distance,
        )  # fmt: skip
        found = bound([event], 1e-5)
        assert found is not None
        return found

    ideal, little, much = epsilon(0.0), epsilon(1e-30), epsilon(1e-9)
    assert ideal <= little <= ideal + 1e-9
    assert much > ideal + 1e-3
    assert epsilon(1e-6) == math.inf
    # (1 + e^epsilon) T t is really covered: the ideal at what remains of delta is no larger.
    event = lattice(
        DiscreteGaussianSteps, noise=4, scale=2**12, dimension=1000, planned=10, honest=10
    )
    rest = bound([event], 1e-5 - (1 + math.exp(much)) * 20 * 1e-9)
    assert rest is not None
    assert rest <= much + 1e-9


def test_the_decomposition_neglects_nothing_visible() -> None:
    event = lattice(
        DiscreteGaussianSteps, noise=1, scale=2**12, dimension=2**20, planned=20, honest=20,
        rate=0.1,
    )  # fmt: skip
    assert isinstance(event, DiscreteGaussianSteps)
    assert 0 < decomposition_distance(event) < 1e-290


# ---- behaviour


def test_groups_do_not_depend_on_how_events_are_written() -> None:
    once = [gaussian(1.1, 0.05, 300), gaussian(2.0, 1, 3)]
    split = [gaussian(2.0, 1, 1)] + [gaussian(1.1, 0.05, 100)] * 3 + [gaussian(2.0, 1, 2)]
    trials: list[Event] = [HyperparameterTrials(trials=3, event=gaussian(1.1, 0.05, 100)), once[1]]
    assert group(once) == group(split) == group(trials)
    assert spent(once, 1e-5) == spent(split, 1e-5)


def test_what_costs_nothing_and_what_costs_everything() -> None:
    event = gaussian(1.1, 0.05, 300)
    aborted = AbortedRound(charge=0, reason="the coordinator went away")
    assert spent([], 1e-5).epsilon == 0
    assert spent([event, aborted], 1e-5) == spent([event], 1e-5)
    assert spent([event, ClearRelease(what="validation accuracy")], 1e-5).epsilon == math.inf


def test_more_events_never_cost_less() -> None:
    rng = random.Random(5)  # noqa: S311
    for _ in range(8):
        events = [
            gaussian(10 ** rng.uniform(-0.3, 1), rng.choice([0.01, 0.1, 1]), rng.randint(1, 50))
            for _ in range(4)
        ]
        costs = [rdp_epsilon(events[:count], 1e-5).epsilon for count in range(5)]
        assert costs == sorted(costs)


def test_large_epsilon_does_not_need_memory_in_proportion() -> None:
    found = pld_epsilon([gaussian(0.1, 0.5, 100)], 1e-5)
    assert found is not None
    assert 1000 < found <= rdp_epsilon([gaussian(0.1, 0.5, 100)], 1e-5).epsilon * 1.01


def test_orders_that_do_not_converge_are_left_out_without_a_word(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    rdp_curve.cache_clear()
    with caplog.at_level(logging.DEBUG):
        curve = rdp_curve(gaussian(1.044, 0.1, 1), DEFAULT_ORDERS)
    assert curve[0] == math.inf
    assert caplog.records == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_impossible_deltas_are_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        spent([gaussian(1, 1, 1)], delta)


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(PrivacyError, match="orders"):
        rdp_epsilon([gaussian(1, 1, 1)], 1e-5, orders=[1.0, 2.0])


@pytest.mark.parametrize("number", range(8))
def test_never_below_the_oracle(number: int) -> None:
    """The first of 200 random lists; tests/soak holds all of them."""
    check_list(number)
