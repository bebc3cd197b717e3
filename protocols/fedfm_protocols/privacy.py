"""The charter's privacy section, and what a client does to its update because of it.

``none`` promises nothing.  ``local``: every institution trains with DP-SGD and its own full noise,
so what it sends is private already and goes through the protocol like any update.  ``client``:
a whole update is what is protected, and noise is shared: each client clips its update, rounds it,
and adds a part of the noise; only the opened sum carries all of it.
Source: protocols/README.md, section "Privacy modes"; Kairouz, Liu and Steinke 2102.06387.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedfm_crypto.discrete_noise import Mechanism
from fedfm_crypto.distributed_noise import NoiseShares
from fedfm_crypto.errors import CapacityError, CryptoError
from fedfm_crypto.quantise import Quantiser
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.rotation import padded_size, rotate, unrotate
from fedfm_crypto.sensitivity import round_within, vector_sensitivity
from fedfm_protocols.thresholds import Thresholds

LaneWords = NDArray[np.uint32]


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


Privacy = Annotated[NoPrivacy | LocalPrivacy | ClientPrivacy, Field(discriminator="mode")]


@dataclass(frozen=True, slots=True)
class UpdateEncoding:
    """From an update to lane words and back, under one charter: clip, round, and add noise where
    the privacy mode shares it.

    Source: protocols/README.md, sections "Masks" and "Privacy modes".
    """

    quantiser: Quantiser
    privacy: NoPrivacy | LocalPrivacy | ClientPrivacy
    thresholds: Thresholds
    values: int

    @property
    def lanes(self) -> int:
        """How many lanes an update of ``values`` values takes."""
        shared = isinstance(self.privacy, ClientPrivacy) and self.privacy.rotation
        return padded_size(self.values) if shared else self.values

    def check_capacity(self) -> None:
        """Refuse parameters under which a sum may leave its lane.

        Raises
        ------
        CapacityError
            if it may, or if the quantiser's clip is not that of the privacy mode.
        """
        clients = self.thresholds.clients
        if not isinstance(self.privacy, ClientPrivacy):
            self.quantiser.check_capacity(clients)
            return
        if self.quantiser.clip != self.privacy.clip_l2:
            raise CapacityError(
                f"quantiser.clip is {self.quantiser.clip}, privacy.clip_l2 "
                f"{self.privacy.clip_l2}; in mode client they are one clip, of the whole update"
            )
        bound = int(self._bound())
        self._shares().check_capacity(clients, bound, self.lanes, self.quantiser.lane_bits)

    def encode(self, update: NDArray[np.floating], seed: bytes, random: RandomSource) -> LaneWords:
        """Lane words (uint32 ``[lanes]``) of an update (float ``[values]``).

        Raises
        ------
        CryptoError
            if a value is not finite.
        """
        if not isinstance(self.privacy, ClientPrivacy):
            return self.quantiser.quantise(update, random)
        vector = clip_norm(update, self.privacy.clip_l2)
        if self.privacy.rotation:
            vector = rotate(vector, seed)
        rounded = round_within(vector, self.quantiser.scale, self._bound(), random)
        return self._shares().add(rounded, random, self.quantiser.lane_bits)

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

    def _shares(self) -> NoiseShares:
        if not isinstance(self.privacy, ClientPrivacy):
            raise CryptoError(f"privacy mode {self.privacy.mode} shares no noise")
        return NoiseShares(
            mechanism=self.privacy.mechanism,
            noise_multiplier=self.privacy.noise_multiplier,
            clip=self.privacy.clip_l2,
            scale=self.quantiser.scale,
            min_honest=self.thresholds.min_accepted - self.thresholds.colluding,
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
