"""The charter's privacy section, and what a client does to its update because of it.

``none`` promises nothing.  ``local``: every institution trains with DP-SGD and its own full noise,
so what it sends is private already and goes through the protocol like any update.  ``client``:
a whole update is what is protected, and noise is shared: each client clips its update, rounds it,
and adds a part of the noise; only the opened sum carries all of it.  ``shared-noise``: a single
record is what is protected, noise is shared in the same way, and what is added up is not an update
but one step of DP-SGD: the sum of clipped per-example gradients.
Source: protocols/README.md, section "Privacy modes"; Kairouz, Liu and Steinke 2102.06387.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedfm_crypto.discrete_noise import Mechanism
from fedfm_crypto.distributed_noise import NoiseShares
from fedfm_crypto.errors import CapacityError, CryptoError
from fedfm_crypto.quantise import Quantiser, stochastic_round
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.rotation import padded_size, rotate, unrotate
from fedfm_crypto.sensitivity import round_within, vector_sensitivity
from fedfm_protocols.errors import CharterError
from fedfm_protocols.thresholds import Thresholds

LaneWords = NDArray[np.uint32]

MAX_SESSION_STEPS = 1024
LEAST_SHARE_DEVIATION = 10.0
"""Grid steps: below, discrete noise is too unlike the continuous noise that sampling is accounted
with."""


class _Mode(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class NoPrivacy(_Mode):
    """The adapter carries no formal guarantee.

    Source: protocols/README.md, section "Privacy modes".
    """

    mode: Literal["none"]


class _Budget(_Mode):
    """What an institution may spend over the whole federation, and the noise it is spent with."""

    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)
    noise_multiplier: float = Field(gt=0, le=1e6)


class LocalPrivacy(_Budget):
    """Example-level DP-SGD in each institution: Poisson sampling with public rate, so many steps
    a round, per-example clip.

    Source: protocols/README.md, section "Privacy modes".
    """

    mode: Literal["local"]
    sampling_rate: float = Field(gt=0, le=1)
    steps_per_round: int = Field(ge=1, le=10_000_000)
    clip: float = Field(gt=0, le=1e9)


class ClientPrivacy(_Budget):
    """Client-level noise that the honest survivors share: L2 clip of a whole update, how the
    noise is distributed, and whether updates are rotated before they are rounded.

    Source: protocols/README.md, section "Privacy modes".
    """

    mode: Literal["client"]
    clip_l2: float = Field(gt=0, le=1e9)
    mechanism: Mechanism
    rotation: bool


class SharedNoisePrivacy(_Budget):
    """Example-level DP-SGD of all institutions together: each sends the sum of its clipped
    per-example gradients with a share of the noise, so many steps a round; the opened sum over
    ``batch`` is the gradient.

    ``honest_shares`` (h) is what the noise is made for: each share has z C s / sqrt(h), so h shares
    carry all of it.

    Source: protocols/README.md, section "Privacy modes".
    """

    mode: Literal["shared-noise"]
    sampling_rate: float = Field(gt=0, le=1)
    steps_per_round: int = Field(ge=1, le=MAX_SESSION_STEPS)
    clip: float = Field(gt=0, le=1e9)
    mechanism: Mechanism
    honest_shares: int = Field(ge=1, le=4096)
    batch: float = Field(gt=0, le=1e12, allow_inf_nan=False)

    def coalition(self, thresholds: Thresholds) -> int:
        """How many clients may tell the coordinator their shares of the noise before fewer than
        ``honest_shares`` are left in the smallest sum that is opened."""
        return thresholds.min_accepted - self.honest_shares

    def check(self, suite: str, thresholds: Thresholds) -> None:
        """Refuse a pairing that breaks the promise.

        Raises
        ------
        CharterError
            naming it, and what to change.
        """
        if suite == "clear":
            raise CharterError(
                "privacy mode shared-noise with suite clear: every client's sum would be seen with "
                "its own small share of the noise; take suite layered or masked, or mode local"
            )
        if suite == "sealed":
            raise CharterError(
                "privacy mode shared-noise with suite sealed: the coordinator and one client that "
                "deviates can open a single client's sum, which carries a share of the noise only "
                "(ADR 0016); take suite layered"
            )
        least, most = thresholds.min_accepted - thresholds.colluding, thresholds.min_accepted
        if not least <= self.honest_shares <= most:
            raise CharterError(
                f"privacy.honest_shares is {self.honest_shares}; expected {least} (the smallest "
                f"sum of {most} without {thresholds.colluding} colluding) to {most} (nobody "
                "colludes): fewer waste noise, more are not in every sum"
            )


PrivacyMode = NoPrivacy | LocalPrivacy | ClientPrivacy | SharedNoisePrivacy
Privacy = Annotated[PrivacyMode, Field(discriminator="mode")]


@dataclass(frozen=True, slots=True)
class UpdateEncoding:
    """From an update to lane words and back, under one charter: clip, round, and add noise where
    the privacy mode shares it.

    Source: protocols/README.md, sections "Masks" and "Privacy modes".
    """

    quantiser: Quantiser
    privacy: PrivacyMode
    thresholds: Thresholds
    values: int

    @property
    def lanes(self) -> int:
        """How many lanes an update of ``values`` values takes."""
        rotated = isinstance(self.privacy, ClientPrivacy) and self.privacy.rotation
        return padded_size(self.values) if rotated else self.values

    def check_capacity(self) -> None:
        """Refuse parameters under which a sum may leave its lane.

        Raises
        ------
        CapacityError
            if it may, if the quantiser's clip is not that of mode client, or if the grid is too
            coarse for the noise.
        """
        clients, bits = self.thresholds.clients, self.quantiser.lane_bits
        match self.privacy:
            case ClientPrivacy():
                if self.quantiser.clip != self.privacy.clip_l2:
                    raise CapacityError(
                        f"quantiser.clip is {self.quantiser.clip}, privacy.clip_l2 "
                        f"{self.privacy.clip_l2}; in mode client they are one clip, of the whole "
                        "update"
                    )
                self._shares().check_capacity(clients, int(self._bound()), self.lanes, bits)
            case SharedNoisePrivacy():
                self._shares().check_capacity(clients, self.largest_step, self.lanes, bits)
                deviation = math.sqrt(self._shares().variance)
                if deviation < LEAST_SHARE_DEVIATION:
                    raise CapacityError(
                        f"a share of the noise has a deviation of {deviation:.3g} grid steps, "
                        f"expected at least {LEAST_SHARE_DEVIATION:g}: raise quantiser.scale"
                    )
            case _:
                self.quantiser.check_capacity(clients)

    def encode(self, update: NDArray[np.floating], seed: bytes, random: RandomSource) -> LaneWords:
        """Lane words (uint32 ``[lanes]``) of an update (float ``[values]``).

        Raises
        ------
        CryptoError
            if a value is not finite.
        """
        match self.privacy:
            case ClientPrivacy():
                vector = clip_norm(update, self.privacy.clip_l2)
                if self.privacy.rotation:
                    vector = rotate(vector, seed)
                rounded = round_within(vector, self.quantiser.scale, self._bound(), random)
                return self._shares().add(rounded, random, self.quantiser.lane_bits)
            case SharedNoisePrivacy():
                rounded = self.round_sum(update, random)
                return self._shares().add(rounded, random, self.quantiser.lane_bits)
            case _:
                return self.quantiser.quantise(update, random)

    def round_sum(self, total: NDArray[np.floating], random: RandomSource) -> NDArray[np.int64]:
        """A sum of clipped gradients on the grid, before noise (int64 ``[values]``).

        Clamped to the quantiser's clip, then rounded with dither that does not depend on the data.
        The clamp moves no two numbers apart, so sums that differ by C in L2 norm still do, and
        after rounding with the same dither by s C + sqrt(d) at most.

        Raises
        ------
        CryptoError
            if a value is not finite.
        """
        clamped = np.clip(total.astype(np.float64), -self.quantiser.clip, self.quantiser.clip)
        return stochastic_round(clamped, self.quantiser.scale, random)

    def decode(self, words: LaneWords, seed: bytes) -> NDArray[np.float64]:
        """The sum (float64 ``[values]``) that opened lane words hold."""
        total = self.quantiser.dequantise(words)
        if isinstance(self.privacy, ClientPrivacy) and self.privacy.rotation:
            return unrotate(total, seed, self.values)
        return total

    def clipped(self, update: NDArray[np.floating]) -> str:
        """What the clip took from this update, for the site's own log; empty for nothing."""
        clip = self.quantiser.clip
        if isinstance(self.privacy, ClientPrivacy):
            norm = float(np.linalg.norm(update.astype(np.float64)))
            return f"an update of norm {norm:.3g} was clipped to {clip}" if norm > clip else ""
        count = self.quantiser.count_clipped(update)
        if not count:
            return ""
        return (
            f"{count} of {update.size} values exceed the charter's clip of {clip} and were clipped"
        )

    @property
    def largest_step(self) -> int:
        """Largest magnitude on the grid of a value clamped to the quantiser's clip."""
        return math.ceil(Fraction(self.quantiser.clip) * self.quantiser.scale)

    def _shares(self) -> NoiseShares:
        privacy = self.privacy
        match privacy:
            case ClientPrivacy():
                clip = privacy.clip_l2
                honest = self.thresholds.min_accepted - self.thresholds.colluding
            case SharedNoisePrivacy():
                clip, honest = privacy.clip, privacy.honest_shares
            case _:
                raise CryptoError(f"privacy mode {privacy.mode} shares no noise")
        return NoiseShares(
            mechanism=privacy.mechanism,
            noise_multiplier=privacy.noise_multiplier,
            clip=clip,
            scale=self.quantiser.scale,
            min_honest=honest,
        )

    def _bound(self) -> float:
        return vector_sensitivity(self.quantiser.clip, self.quantiser.scale, self.lanes)


def clip_norm(update: NDArray[np.floating], clip: float) -> NDArray[np.float64]:
    """The update as float64, scaled down to L2 norm ``clip`` if it is longer.

    Raises
    ------
    CryptoError
        if a value is not finite.
    """
    vector = update.astype(np.float64)
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm):
        raise CryptoError("the update has values that are not finite numbers")
    return vector * (clip / norm) if norm > clip else vector
