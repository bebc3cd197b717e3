"""The bounds of the audit against slow exact oracles, closed forms and simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from secure_fedfm.privacy.audit.binomial import lower_bound, probabilities, upper_bound
from secure_fedfm.privacy.audit.findings import Finding, LayerReport
from secure_fedfm.privacy.audit.monte_carlo import gaussian_bound, threshold_bound
from secure_fedfm.privacy.audit.one_run import (
    bound_from_scores,
    epsilon_lower_bound,
    p_value,
)


def _slow_p_value(m: int, r: int, v: int, q: Fraction, delta: Fraction) -> Fraction:
    """Appendix D of the paper, in exact arithmetic: beta + alpha delta 2 m."""
    mass = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    beta = sum(mass[v:], Fraction(0))
    alpha = Fraction(0)
    for i in range(1, m + 1):
        alpha = max(alpha, sum(mass[max(0, v - i) : v], Fraction(0)) / i)
    return min(Fraction(1), beta + alpha * delta * 2 * m)


@pytest.mark.parametrize(
    ("m", "r", "v"), [(10, 10, 9), (20, 12, 12), (30, 8, 5), (15, 15, 0), (40, 30, 24)]
)
@pytest.mark.parametrize("q", [Fraction(1, 2), Fraction(3, 4), Fraction(19, 20)])
@pytest.mark.parametrize("delta", [Fraction(0), Fraction(1, 10**5), Fraction(1, 50)])
def test_the_p_value_is_the_papers(m: int, r: int, v: int, q: Fraction, delta: Fraction) -> None:
    epsilon = math.log(q / (1 - q))
    expected = float(_slow_p_value(m, r, v, q, delta))
    assert p_value(m, r, v, epsilon, float(delta)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("r", [1, 10, 100, 1000])
def test_all_guesses_right_has_a_closed_form(r: int) -> None:
    """(e^eps / (1 + e^eps))^r = error, so eps = -log(error^(-1/r) - 1)."""
    expected = max(0.0, -math.log(0.05 ** (-1 / r) - 1))
    assert epsilon_lower_bound(r, r, r, 0.0, 0.05) == pytest.approx(expected, abs=1e-9)


def test_no_better_than_chance_gives_no_bound() -> None:
    assert epsilon_lower_bound(1000, 1000, 510, 1e-5, 0.05) == 0.0
    assert epsilon_lower_bound(1000, 1000, 0, 1e-5, 0.05) == 0.0


def test_delta_only_weakens_the_bound() -> None:
    bounds = [epsilon_lower_bound(1000, 100, 99, delta, 0.05) for delta in (0, 1e-6, 1e-4, 1e-2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1]


def test_the_one_run_bound_holds_for_randomised_response() -> None:
    """The worst case itself, epsilon 1.5: at 95 % confidence it may exceed 1.5 in 5 % of runs."""
    random = np.random.default_rng(8)
    epsilon, runs, m = 1.5, 300, 200
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    over = 0
    for _ in range(runs):
        included = random.random(m) < 0.5
        right = random.random(m) < keep
        scores = np.where(included == right, 1.0, 0.0) + random.random(m) * 1e-3
        over += bound_from_scores(scores, included, 0.0, 0.05) > epsilon
    assert over / runs < 0.1


def test_clopper_pearson_bounds_solve_their_equations() -> None:
    for successes, trials in ((0, 20), (3, 20), (20, 20), (480, 1000)):
        low, high = (bound(successes, trials, 0.01) for bound in (lower_bound, upper_bound))
        if successes:
            assert probabilities(trials, low)[successes:].sum() == pytest.approx(0.01, rel=1e-6)
        if successes < trials:
            tail = probabilities(trials, high)[: successes + 1].sum()
            assert tail == pytest.approx(0.01, rel=1e-6)
        assert low <= successes / trials <= high
    # Closed form with no success: (1 - p)^n = error.
    assert upper_bound(0, 50, 0.05) == pytest.approx(1 - 0.05 ** (1 / 50), rel=1e-9)


def test_statistical_bounds_stay_below_the_truth_and_near_it() -> None:
    """Two unit normals one apart: mu = 1, epsilon 4.377 at delta 1e-5."""
    random = np.random.default_rng(3)
    for _ in range(20):
        without, with_row = random.normal(size=5000), 1 + random.normal(size=5000)
        gaussian = gaussian_bound(without, with_row, 1e-5)
        assert 3.5 < gaussian < 4.378
        assert 0.5 < threshold_bound(without, with_row, 1e-5) < 4.378


def test_a_report_says_what_it_is_worth() -> None:
    report = LayerReport(
        "layer",
        "this",
        "that",
        (Finding("a", True, "x"), Finding("b", False, "y")),
        {"e": math.inf},
    )
    assert not report.passed
    assert report.failed() == ("b",)
    assert "cannot show:  that" in report.to_text()
    assert report.to_json()["figures"] == {"e": None}
