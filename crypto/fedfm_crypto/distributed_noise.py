"""Noise in shares: each client adds a part, only the opened sum carries the whole.

The sum shall carry noise of standard deviation z C s in integer steps (noise multiplier z, clip C,
scale s), whoever drops out. With h the least number of honest clients whose shares are in a sum
(``min_honest``: n - colluding - dropouts), each client adds a share of z C s / sqrt(h). A share
that a colluding client knows, or left out, hides nothing: of ``accepted`` clients, the ledger
counts ``accepted - colluding``, at least h (:meth:`NoiseShares.honest`), and never all of them.

Order: clip -> round -> add the share -> reduce modulo the lane -> mask. Nothing is clipped or
refused after the noise: that would depend on it. What is private is private modulo the lane as
well; an overflow only spoils the result, and :meth:`NoiseShares.check_capacity` keeps its
probability at or below 2^-40 for the whole vector.

**What k honest shares carry.** Skellam shares of variance v sum to a Skellam of variance k v,
exactly. The sum of k discrete Gaussians N_Z(0, sigma^2) is no discrete Gaussian, but close to
N_Z(0, k sigma^2): with tau = 10 sum_{j=1}^{k-1} exp(-2 pi^2 sigma^2 j / (j + 1)), a mechanism of
sensitivity D over d coordinates is eps^2/2-concentrated DP with
eps = D / (sqrt(k) sigma) + tau sqrt(d) (Kairouz, Liu and Steinke 2102.06387, theorem 1, which has
sharper forms too). :func:`convolution_gap` gives tau; from sigma = 3 on it is below 2^-120.

Sources: Kairouz, Liu and Steinke 2102.06387; Agarwal, Kairouz and Liu 2110.04995; Canonne, Kamath
and Steinke 2004.00010 (the discrete Gaussian is sub-Gaussian with its sigma).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.discrete_noise import (
    Mechanism,
    discrete_gaussian,
    gaussian_distance,
    skellam,
    skellam_distance,
)
from fedfm_crypto.errors import CapacityError, CryptoError
from fedfm_crypto.lanes import check_lane_bits
from fedfm_crypto.random_source import RandomSource

__all__ = ["OVERFLOW_BITS", "NoiseShares", "convolution_gap"]

OVERFLOW_BITS = 40
"""A lane of the opened vector may overflow with probability 2^-40 at most."""


@dataclass(frozen=True, slots=True)
class NoiseShares:
    """How noise on a sum is shared; public, part of the charter.

    Args:
        mechanism: ``discrete-gaussian`` or ``skellam``.
        noise_multiplier: z, noise on the sum over the clip; positive.
        clip: C, L2 clip in units of the update; positive.
        scale: s, integer steps per unit; at least 1.
        min_honest: h, the least number of honest shares in an opened sum; at least 1.

    Raises:
        CryptoError: an argument is out of range.
    """

    mechanism: Mechanism
    noise_multiplier: float
    clip: float
    scale: int
    min_honest: int

    def __post_init__(self) -> None:
        if self.mechanism not in get_args(Mechanism):
            raise CryptoError(
                f"noise mechanism {self.mechanism!r}, expected one of {get_args(Mechanism)}"
            )
        for name, value in (("noise multiplier", self.noise_multiplier), ("clip", self.clip)):
            if not (math.isfinite(value) and value > 0):
                raise CryptoError(f"{name} {value}, expected a positive finite number")
        if self.scale < 1 or self.min_honest < 1:
            raise CryptoError(
                f"scale {self.scale} and min_honest {self.min_honest}, expected at least 1; noise "
                "needs an honest client"
            )

    @property
    def parameter(self) -> float:
        """What the sampler is given: sigma of a share (Gaussian) or its variance (Skellam).

        z C s / sqrt(h), or its square, rounded up where doubles cannot hold it, so that h shares
        never carry less than z C s.
        """
        whole = (Fraction(self.noise_multiplier) * Fraction(self.clip) * self.scale) ** 2
        share = whole / self.min_honest
        if self.mechanism == "skellam":
            value = float(share)
            return value if Fraction(value) >= share else math.nextafter(value, math.inf)
        value = math.sqrt(share)
        while Fraction(value) ** 2 < share:
            value = math.nextafter(value, math.inf)
        return value

    @property
    def variance(self) -> float:
        """Variance of one share in squared steps (Gaussian: the parameter sigma^2)."""
        return self.parameter if self.mechanism == "skellam" else self.parameter**2

    def draw(self, size: int, random: RandomSource) -> NDArray[np.int64]:
        """Return one client's share for ``size`` coordinates (int64).

        Raises:
            CryptoError: the share's width is outside what the samplers take.
        """
        sampler = skellam if self.mechanism == "skellam" else discrete_gaussian
        return sampler(self.parameter, size, random)

    def add(
        self, rounded: NDArray[np.int64], random: RandomSource, lane_bits: int
    ) -> NDArray[np.uint32]:
        """Return rounded + share, reduced modulo the lane, as lane words.

        Args:
            rounded: 1-D int64, the client's clipped and rounded vector or sum.
            random: source of the noise key, fresh for each upload.
            lane_bits: 24 or 32.

        Raises:
            CapacityError: ``lane_bits`` is not 24 or 32.
            CryptoError: the array has another dtype or shape.
        """
        check_lane_bits(lane_bits)
        if rounded.ndim != 1 or rounded.dtype != np.int64:
            raise CryptoError(f"found {rounded.ndim}-D {rounded.dtype}, expected 1-D int64")
        noised = self.draw(rounded.size, random)
        noised += rounded
        noised &= (1 << lane_bits) - 1
        return noised.astype(np.uint32)

    def honest(self, accepted: int, colluding: int) -> int:
        """Return the number of shares that count: accepted - colluding.

        Raises:
            CryptoError: they are fewer than ``min_honest``; the sum must not be opened.
        """
        counted = accepted - colluding
        if colluding < 0 or counted < self.min_honest:
            raise CryptoError(
                f"{accepted} accepted clients with {colluding} colluding leave {counted} honest "
                f"shares of noise, expected at least {self.min_honest}; do not open this sum"
            )
        return counted

    def carried(self, honest: int) -> float:
        """Return the standard deviation, in steps, that ``honest`` shares put on the sum."""
        return math.sqrt(honest * self.variance)

    def multiplier(self, honest: int, sensitivity: float) -> float:
        """Return the noise multiplier to account with: carried noise over integer sensitivity.

        Args:
            honest: from :meth:`honest`.
            sensitivity: in steps, ``sum_sensitivity`` or ``vector_sensitivity``.
        """
        return self.carried(honest) / sensitivity

    def statistical_distance(self, honest: int, size: int) -> float:
        """Return the distance of ``honest`` shares of ``size`` coordinates to the ideal.

        To be charged to delta by ``delta_charge``, once a release.
        """
        distance = skellam_distance if self.mechanism == "skellam" else gaussian_distance
        return honest * distance(self.parameter, size)

    def overflow_bits(self, clients: int, magnitude: int, dimension: int, lane_bits: int) -> float:
        """Return b: some lane of the sum overflows with probability of at most 2^-b.

        A Chernoff bound on the noise of all clients (sub-Gaussian with variance n sigma^2, or from
        the Skellam moment generating function exp(V (cosh t - 1))), times 2 d. Zero where the
        values alone may overflow.

        Args:
            clients: n, all whose shares may be in the sum.
            magnitude: largest magnitude of one client's rounded value, before noise.
            dimension: d, lanes of the vector.
            lane_bits: 24 or 32.

        Raises:
            CapacityError: ``lane_bits`` is not 24 or 32, or a count is out of range.
        """
        check_lane_bits(lane_bits)
        if clients < 1 or dimension < 1 or magnitude < 0:
            raise CapacityError(
                f"{clients} clients, {dimension} lanes, magnitude {magnitude}: expected at least "
                "1, 1 and 0"
            )
        room = (1 << (lane_bits - 1)) - clients * magnitude
        if room <= 0:
            return 0.0
        variance = clients * self.variance
        if self.mechanism == "skellam":
            # sup_t (t a - V (cosh t - 1)) at t = asinh(a / V), written without cancellation.
            rise = room * room / (math.hypot(room, variance) + variance)
            exponent = room * math.asinh(room / variance) - rise
        else:
            exponent = room * room / (2 * variance)
        return max(0.0, exponent / math.log(2) - math.log2(2 * dimension))

    def check_capacity(self, clients: int, magnitude: int, dimension: int, lane_bits: int) -> None:
        """Raise CapacityError unless overflow has probability 2^-40 at most; see overflow_bits."""
        bits = self.overflow_bits(clients, magnitude, dimension, lane_bits)
        if bits < OVERFLOW_BITS:
            raise CapacityError(
                f"the noised sum of {clients} clients overflows a lane of {lane_bits} bits with a "
                f"probability bounded by 2^-{bits:.1f} only, expected 2^-{OVERFLOW_BITS}; lower "
                "the scale or use wider lanes"
            )


def convolution_gap(sigma: float, shares: int) -> float:
    """Return tau, a coordinate's gap between a sum of discrete Gaussians and a single one.

    tau = 10 sum_{j=1}^{shares-1} exp(-2 pi^2 sigma^2 j / (j + 1)); see the module's docstring.

    Args:
        sigma: of one share, in steps; at least 0.5, where the theorem starts.
        shares: k, shares in the sum, at least 1.

    Raises:
        CryptoError: an argument is out of range.
    """
    if not (math.isfinite(sigma) and sigma >= 0.5) or shares < 1:
        raise CryptoError(
            f"sigma {sigma} and {shares} shares: the sum of discrete Gaussians is analysed for "
            "sigma of at least 0.5 and at least one share; raise the scale or use skellam"
        )
    return 10 * math.fsum(
        math.exp(-2 * math.pi**2 * sigma**2 * j / (j + 1)) for j in range(1, shares)
    )
