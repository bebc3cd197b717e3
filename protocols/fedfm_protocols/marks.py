"""The charter's section about ownership marks, and how an owner's mark becomes lane words.

Marks are written after the last round of training, in one more round (kind ``watermark``) that goes
the way of every other sum.  What an owner adds is a function of the released adapter and of its own
key, so there is nothing to clip for privacy, to rotate or to add noise to, whatever the privacy
mode: it is rounded on a grid of its own and added.  What a mark is, is for the application to know;
the protocol binds who owns one by the hash of the leaf that commits to it.
Source: protocols/README.md, section "Watermark rounds".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedfm_crypto.quantise import Quantiser
from fedfm_crypto.random_source import RandomSource
from fedfm_protocols.errors import CharterError

LaneWords = NDArray[np.uint32]
MAX_MARKS = 8192
LARGEST_CHANGE = 0.4
"""No owner may ask to change the adapter by more than this part of its norm."""
SKETCH_SLACK = 1.25
"""What 4096 linear measurements may overstate a norm by, and what rounding adds to it."""


class MarkOwner(BaseModel):
    """Who writes which mark: ``consortium`` is the federation's, kept by this ``client``, ``own``
    the client's own; ``commitment`` is the SHA-256 of the leaf that commits to it.

    Source: protocols/README.md, section "Watermark rounds".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    client: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    mark: Literal["consortium", "own"]
    commitment: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Watermark(BaseModel):
    """Owners, and what one mark may change: ``norm_bound`` is the largest L2 norm of what it adds
    (units of the adapter), ``largest_change`` the largest part of the adapter's own norm; ``clip``
    and ``scale`` are the grid on which marks are rounded.

    Source: protocols/README.md, section "Watermark rounds".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    owners: list[MarkOwner] = Field(min_length=1, max_length=MAX_MARKS)
    norm_bound: float = Field(gt=0, le=1e9, allow_inf_nan=False)
    largest_change: float = Field(gt=0, le=LARGEST_CHANGE)
    clip: float = Field(gt=0, le=1e9, allow_inf_nan=False)
    scale: int = Field(ge=1, le=1 << 40)

    def check(self, clients: Sequence[str], lane_bits: int) -> None:
        """Refuse owners that are none, or a grid on which a sum of marks could wrap.

        Raises
        ------
        CharterError, CapacityError
            naming what is wrong, and what to change.
        """
        places = [(owner.client, owner.mark) for owner in self.owners]
        if places != sorted(set(places)):
            raise CharterError(
                "watermark.owners must be sorted by client and mark and hold each pair once"
            )
        strangers = sorted({owner.client for owner in self.owners} - set(clients))
        if strangers:
            raise CharterError(
                f"watermark.owners names {', '.join(strangers)}; only clients on the roster can "
                "write a mark"
            )
        if sum(owner.mark == "consortium" for owner in self.owners) > 1:
            raise CharterError("watermark.owners names two keepers of the consortium's mark")
        if len({owner.commitment for owner in self.owners}) != len(self.owners):
            raise CharterError("watermark.owners: two marks have one commitment")
        self.quantiser(lane_bits).check_capacity(len(clients))

    def quantiser(self, lane_bits: int) -> Quantiser:
        """The grid of marks, in lanes as wide as those of updates."""
        return Quantiser(clip=self.clip, scale=self.scale, lane_bits=lane_bits)

    def marks_of(self, client: str) -> tuple[MarkOwner, ...]:
        """The marks that a client writes; none for who only carries the others' sum."""
        return tuple(owner for owner in self.owners if owner.client == client)

    def largest_norm(self, accepted: int) -> float:
        """L2 norm (units of the adapter) that no sum of honest marks of ``accepted`` clients
        exceeds, but for rounding.

        It counts the most marks that so many clients own: a bound that every client computes alike
        from what is public, and no more than that.
        """
        names = {owner.client for owner in self.owners}
        counts = sorted((len(self.marks_of(name)) for name in names), reverse=True)
        return self.norm_bound * sum(counts[:accepted])

    def measured_bound(self, client: str) -> float:
        """L2 norm (steps of the grid) that a sketch of a client's honest marks stays under."""
        return SKETCH_SLACK * self.norm_bound * self.scale * len(self.marks_of(client))


@dataclass(frozen=True, slots=True)
class MarkEncoding:
    """From what an owner adds to lane words and back: rounded without bias, no noise.

    ``lanes`` is the length of every upload of this charter; values beyond ``values`` are 0.

    Source: protocols/README.md, section "Watermark rounds".
    """

    quantiser: Quantiser
    values: int
    lanes: int

    def encode(self, update: NDArray[np.floating], seed: bytes, random: RandomSource) -> LaneWords:
        """Lane words (uint32 ``[lanes]``) of what to add (float ``[values]``).

        Raises
        ------
        CryptoError
            if a value is not finite.
        """
        del seed
        words = np.zeros(self.lanes, dtype=np.uint32)
        words[: self.values] = self.quantiser.quantise(update, random)
        return words

    def decode(self, words: LaneWords, seed: bytes) -> NDArray[np.float64]:
        """The sum (float64 ``[values]``) that opened lane words hold."""
        del seed
        return self.quantiser.dequantise(words[: self.values])

    def clipped(self, update: NDArray[np.floating]) -> str:
        """What the clip took, for the site's own log; empty for nothing."""
        count = self.quantiser.count_clipped(update)
        return f"{count} values of a mark exceed watermark.clip and were clipped" if count else ""
