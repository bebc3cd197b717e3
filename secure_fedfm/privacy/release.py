"""From the clipped sum to a noised one: round to an integer grid, then add discrete noise there.

Floating-point noise has gaps that reveal what it hides (Mironov 2012), so nothing of the true sum
meets a float again before it carries noise: the sum x becomes integers floor(x s + u) with a dither
u that does not depend on the data, discrete Gaussian noise is added to those (Canonne, Kamath and
Steinke 2020, arXiv 2004.00010), and only then is it divided.

Sensitivity: neighbours' sums differ by at most C; the same dither rounds both, so each of d
coordinates adds at most one step, and the integer vectors differ by at most s C + sqrt(d). The
noise has deviation z times THAT, so the noise multiplier z of the ledger holds with the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfm_audit.privacy.events import DiscreteGaussianSteps, least_sensitivity_squared
from fedfm_crypto.discrete_noise import discrete_gaussian, gaussian_distance
from fedfm_crypto.quantise import stochastic_round
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.sensitivity import sum_sensitivity
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.payload import FloatArray
from secure_fedfm.privacy.plan import PrivatePlan

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NoiseGrid:
    """Where and how much: all public, all of it belongs into the ledger.

    Fields:
        clip: C. scale: s, grid steps per unit. dimension: d, values per sum.
        noise_multiplier: z; 0 for none.
    """

    clip: float
    scale: int
    dimension: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        if self.noise_multiplier < 0 or self.scale < 1 or self.dimension < 1:
            raise ConfigurationError(
                f"noise grid with z {self.noise_multiplier}, scale {self.scale}, dimension "
                f"{self.dimension}; expected z of at least 0 and the others at least 1"
            )

    @classmethod
    def of(cls, plan: PrivatePlan, dimension: int) -> NoiseGrid:
        """The grid of a private plan, for a layout of this size."""
        return cls(plan.clip, plan.scale, dimension, plan.noise_multiplier)

    @property
    def sensitivity(self) -> float:
        """Delta, in grid steps: the most that one row changes the rounded sum by, in L2."""
        return sum_sensitivity(self.clip, self.scale, self.dimension)

    def charge(self, sampling_rate: float, steps: int) -> DiscreteGaussianSteps:
        """The ledger's event for so many Poisson-sampled releases on this grid.

        Raises:
            PrivacyEventError: no noise, or too little for the accountant.
        """
        return DiscreteGaussianSteps(
            share_variance=self.sigma**2,
            honest_shares=1,
            clip=self.clip,
            scale=self.scale,
            rounding="sum",
            sensitivity_squared=least_sensitivity_squared(
                self.clip, self.scale, self.dimension, "sum"
            ),
            dimension=self.dimension,
            sampling_rate=sampling_rate,
            steps=steps,
            distance=gaussian_distance(self.sigma, self.dimension),
        )

    @property
    def sigma(self) -> float:
        """Deviation of the noise in grid steps: z Delta."""
        return self.noise_multiplier * self.sensitivity


@dataclass(frozen=True, eq=False)
class Release:
    """One release. Only `noised` may leave; `rounded` is the private sum on the grid."""

    rounded: Integers
    noised: Integers

    def __repr__(self) -> str:
        return f"Release({self.noised.size} values)"


def release_sum(total: npt.NDArray[np.float64], grid: NoiseGrid, random: RandomSource) -> Release:
    """Round and noise one sum.

    Args:
        total: float64 (d,), from `clipping.clipped_sum`.
        random: a fresh CSPRNG stream; used twice over, two releases give away their difference.

    Raises:
        NonFiniteError, CapacityError: values that no sum of clipped gradients has.
        ConfigurationError: another length than the grid's.
    """
    if total.shape != (grid.dimension,):
        raise ConfigurationError(
            f"a sum of shape {total.shape}; the grid is for ({grid.dimension},)"
        )
    rounded = stochastic_round(total, grid.scale, random)
    if grid.sigma == 0:
        return Release(rounded, rounded.copy())
    return Release(rounded, rounded + discrete_gaussian(grid.sigma, grid.dimension, random))


def mean_gradient(noised: Integers, grid: NoiseGrid, expected_batch: float) -> FloatArray:
    """The noised integers as a mean gradient, float32 (d,).

    `expected_batch` is a public constant (see `PrivatePlan`): dividing by the number of rows that
    were in fact drawn, or by q times the rows that an institution holds, would release that number.
    """
    return (noised / (grid.scale * expected_batch)).astype(np.float32)
