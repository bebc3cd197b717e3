"""Layer 2, statistical: the numbers that the real clip, round and noise code releases, many times.

One released sum without sampling, over data with and without one row whose gradient is far above
the clip. The statistic is the projection on that row's direction, which is the best there is
against Gaussian noise. For a threshold t, an (epsilon, delta)-DP release has

    P[above t | with] <= e^epsilon P[above t | without] + delta      (and the same the other way)

so two Clopper-Pearson bounds give a lower bound on epsilon that assumes nothing (Jagielski, Ullman
and Oprea 2020, arXiv 2006.07709). Assuming Gaussian noise, bounds on mean and deviation give a far
sharper one. Beside the projection, which hardly sees them, every coordinate's own deviation.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from fedfm_audit.privacy.gaussian import gaussian_epsilon
from fedfm_crypto.random_source import RandomSource, system_random
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.privacy import clipping, release, sampling
from secure_fedfm.privacy.audit.binomial import lower_bound, upper_bound
from secure_fedfm.privacy.audit.findings import Finding, LayerReport
from secure_fedfm.privacy.gradients import RowGradients
from secure_fedfm.privacy.release import NoiseGrid

DIMENSION = 256
_ERROR = 1e-4
"""Chance that a correct mechanism fails one check."""
_DEVIATIONS = 6.0
_NAME = "audited"
_ROWS, _RATE, _DRAWS = 400, 0.1, 400

SHOWS = "released numbers are no easier to tell apart than the noise multiplier says, per release"
CANNOT_SHOW = (
    "that training uses this code (layer 1 does), or anything about values far in the tail: a "
    "bound from samples can be far below the truth"
)


def monte_carlo_audit(
    noise_multiplier: float,
    delta: float,
    *,
    trials: int = 2000,
    clip: float = 1.0,
    random: RandomSource = system_random,
) -> LayerReport:
    """Run the layer.

    Args:
        noise_multiplier: z that the ledger claims. delta: of the claimed epsilon.
        trials: releases on either side.
    """
    layout = TensorLayout((_NAME,), ((DIMENSION,),))
    grid = NoiseGrid(clip, max(1, round((1 << 20) / clip)), DIMENSION, noise_multiplier)
    direction = torch.randn(
        DIMENSION, generator=torch.Generator().manual_seed(11), dtype=torch.float64
    )
    direction /= direction.norm()
    rows = torch.zeros(2, DIMENSION)
    rows[1] = (1e3 * clip * direction).to(torch.float32)
    axis = direction.numpy()

    def releases(count: int) -> npt.NDArray[np.float64]:
        gradients = RowGradients({_NAME: rows[:count]}, torch.zeros(count))
        found = np.empty((trials, DIMENSION))
        for trial in range(trials):
            total = clipping.clip_and_sum(gradients, layout, clip).total
            found[trial] = release.release_sum(total, grid, random).noised / (grid.scale * clip)
        return found

    without, with_row = releases(1), releases(2)
    claimed = gaussian_epsilon(1 / noise_multiplier, delta)
    free = threshold_bound(without @ axis, with_row @ axis, delta)
    gaussian = gaussian_bound(without @ axis, with_row @ axis, delta)
    findings = (
        Finding(
            "epsilon, free of assumptions",
            free <= claimed,
            f"at least {free:.2f}; one unsampled release is claimed to have {claimed:.2f}",
        ),
        Finding("epsilon, if Gaussian", gaussian <= claimed, f"at least {gaussian:.2f}"),
        _coordinates(without - without.mean(axis=0), noise_multiplier * grid.sensitivity, grid),
        _sample_sizes(random),
    )
    figures = {"epsilon_free": free, "epsilon_gaussian": gaussian, "epsilon_claimed": claimed}
    return LayerReport("Monte Carlo", SHOWS, CANNOT_SHOW, findings, figures)


def threshold_bound(
    without: npt.NDArray[np.float64], with_row: npt.NDArray[np.float64], delta: float
) -> float:
    """Lower bound on epsilon by one threshold, chosen on one half and measured on the other."""
    half = len(without) // 2
    best, chosen = -math.inf, (0.0, 1.0)
    for threshold in np.quantile(np.concatenate([without[:half], with_row[:half]]), _QUANTILES):
        for sign in (1.0, -1.0):
            often, seldom = _counts(without[:half], with_row[:half], threshold, sign)
            # About where the exact bounds will lie; the choice need not be exact.
            least = (often - 4 * math.sqrt(often)) / half - delta
            most = (seldom + 4 * math.sqrt(seldom) + 8) / half
            found = math.log(least / most) if least > 0 else -math.inf
            if found > best:
                best, chosen = found, (float(threshold), sign)
    often, seldom = _counts(without[half:], with_row[half:], *chosen)
    least = lower_bound(often, len(without) - half, _ERROR / 2) - delta
    most = upper_bound(seldom, len(without) - half, _ERROR / 2)
    return max(0.0, math.log(least / most)) if least > 0 else 0.0


_QUANTILES = np.linspace(0.01, 0.99, 99)


def _counts(
    without: npt.NDArray[np.float64],
    with_row: npt.NDArray[np.float64],
    threshold: float,
    sign: float,
) -> tuple[int, int]:
    """How often beyond the threshold, on the likely and on the unlikely side.

    sign 1: above it, more likely with the row; -1: below it, more likely without.
    """
    likely, unlikely = (with_row, without) if sign > 0 else (without, with_row)
    return (
        int(np.count_nonzero(sign * likely > sign * threshold)),
        int(np.count_nonzero(sign * unlikely > sign * threshold)),
    )


def gaussian_bound(
    without: npt.NDArray[np.float64], with_row: npt.NDArray[np.float64], delta: float
) -> float:
    """Lower bound on epsilon from the means' distance over the deviation, both at their worst."""
    quantile = 4.0  # of a standard normal; two tails of 3e-5
    count = len(without)
    variance = (float(without.var(ddof=1)) + float(with_row.var(ddof=1))) / 2
    deviation = math.sqrt(variance * (1 + quantile * math.sqrt(1 / count)))
    gap = float(with_row.mean() - without.mean()) - quantile * math.sqrt(2 * variance / count)
    return gaussian_epsilon(gap / deviation, delta) if gap > 0 else 0.0


def _coordinates(centred: npt.NDArray[np.float64], sigma: float, grid: NoiseGrid) -> Finding:
    """Every coordinate's variance over all releases, against the declared one."""
    trials = len(centred)
    ratios = centred.var(axis=0, ddof=1) * (grid.scale * grid.clip / sigma) ** 2
    band = _DEVIATIONS * math.sqrt(2 / trials)
    wrong = int(np.count_nonzero(np.abs(ratios - 1) > band))
    return Finding(
        "noise of each coordinate",
        wrong == 0,
        f"{wrong} of {DIMENSION} outside {1 - band:.2f} to {1 + band:.2f} of the declared variance"
        f" (found {ratios.min():.2f} to {ratios.max():.2f})",
    )


def _sample_sizes(random: RandomSource) -> Finding:
    """Batches of independent draws vary in size; shuffled or fixed-size ones do not."""
    sizes = [len(sampling.poisson_sample(_ROWS, _RATE, random)) for _ in range(_DRAWS)]
    ratio = float(np.var(sizes, ddof=1)) / (_ROWS * _RATE * (1 - _RATE))
    mean = float(np.mean(sizes)) / (_ROWS * _RATE)
    band = _DEVIATIONS * math.sqrt(2 / _DRAWS)
    near = _DEVIATIONS * math.sqrt((1 - _RATE) / (_ROWS * _RATE * _DRAWS))
    return Finding(
        "batch sizes are binomial",
        abs(ratio - 1) <= band and abs(mean - 1) <= near,
        f"mean {mean:.3f} and variance {ratio:.2f} of what independent draws have",
    )
