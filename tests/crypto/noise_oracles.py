"""Goodness of fit against laws computed apart from the code under test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Integers = NDArray[np.int64]

LEAST_P = 1e-4
"""A right sampler fails once in 10^4 seeds; the seeds are fixed, so never after the first run."""
CAUGHT_P = 1e-9
"""What a planted fault must fall below."""


def gaussian_edges(sigma: float, cells: int = 60) -> NDArray[np.float64]:
    """Half-integer edges of about equally likely cells of N(0, sigma^2)."""
    quantiles = stats.norm.ppf(np.arange(1, cells) / cells) * sigma
    inner = np.unique(np.floor(quantiles) + 0.5)
    return np.concatenate([[-np.inf], inner, [np.inf]])


def discrete_gaussian_cells(sigma: float, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each cell: summed weights, or the integral where that is the same.

    From sigma = 1000 on the midpoint rule's error, of relative size 1 / (24 sigma^2), is below
    what a million samples can show.
    """
    if sigma >= 1000:
        return np.diff(stats.norm.cdf(edges / sigma))
    reach = math.ceil(12 * sigma) + 2
    points = np.arange(-reach, reach + 1)
    weights = np.exp(-(points**2) / (2 * sigma * sigma))
    return np.histogram(points, clamp(edges, reach), weights=weights / weights.sum())[0]


def skellam_cells(variance: float, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for the Skellam law, by scipy; by the integral from a variance of 10^6 on."""
    if variance >= 1e6:
        return np.diff(stats.norm.cdf(edges / math.sqrt(variance)))
    reach = math.ceil(15 * math.sqrt(variance)) + 12
    points = np.arange(-reach, reach + 1)
    mass = stats.skellam.pmf(points, variance / 2, variance / 2)
    assert abs(mass.sum() - 1) < 1e-9
    return np.histogram(points, clamp(edges, reach), weights=mass)[0]


def clamp(edges: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Replace the infinite ends by finite ones beyond every sample."""
    return np.concatenate([[-reach - 1.0], edges[1:-1], [reach + 1.0]])


def fit(samples: Integers, sigma: float, cells: Callable[..., NDArray[np.float64]]) -> float:
    """Chi-square p-value of ``samples`` against cells(sigma or variance, edges)."""
    edges = gaussian_edges(sigma)
    parameter = sigma**2 if cells is skellam_cells else sigma
    expected = cells(parameter, edges) * samples.size
    reach = float(np.abs(samples).max()) + float(np.abs(edges[1:-1]).max())
    observed = np.histogram(samples, clamp(edges, reach))[0]
    assert observed.sum() == samples.size
    return chi_square(observed, expected)


def chi_square(observed: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """P-value, cells with fewer than 8 expected joined to their neighbour."""
    joined: list[list[float]] = []
    open_cell = [0.0, 0.0]
    for seen, due in zip(observed, expected, strict=True):
        open_cell = [open_cell[0] + seen, open_cell[1] + due]
        if open_cell[1] >= 8:
            joined.append(open_cell)
            open_cell = [0.0, 0.0]
    joined[-1] = [joined[-1][0] + open_cell[0], joined[-1][1] + open_cell[1]]
    table = np.array(joined)
    statistic = float(((table[:, 0] - table[:, 1]) ** 2 / table[:, 1]).sum())
    return float(stats.chi2.sf(statistic, max(1, len(joined) - 1)))


def same_law(one: Integers, other: Integers, sigma: float) -> float:
    """P-value of a two-sample chi-square test on the cells of ``gaussian_edges``."""
    edges = clamp(gaussian_edges(sigma), 1e3 * sigma + 1e3)
    table = np.array([np.histogram(one, edges)[0], np.histogram(other, edges)[0]])
    table = table[:, table.sum(axis=0) >= 16]
    return float(stats.chi2_contingency(table).pvalue)


def moments(samples: Integers) -> Sequence[float]:
    """Mean over its standard error, variance, and share of positive among non-zero samples."""
    values = samples.astype(np.float64)
    deviation = float(values.std())
    positive = int((samples > 0).sum()) / max(1, int((samples != 0).sum()))
    return float(values.mean()) * math.sqrt(samples.size) / deviation, deviation**2, positive
