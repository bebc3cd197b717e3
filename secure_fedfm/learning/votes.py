"""Votes instead of lengths: a value moves where nearly all clients moved it the same way.

signSGD with majority vote (Bernstein et al. 2019, arXiv 1810.05291) by its ballots, the robust
learning rate (Ozdayi et al. 2021, arXiv 2007.03767) by its threshold: of its update u each client
sends the signs alone, as long as every other client's,

    b = vote sign(u)                          (a value that did not move: 0)

and with S the opened sum of m ballots every client applies

    x <- x + eta sign(S)   where |S| >= share m vote,      x <- x elsewhere.

With `share` above 1 - 2/m that is where all m agree. A malicious client then cannot move a value by
itself, whatever it sends there as long as its ballot is as long as the others' (the validator's
business: lengths are equal and known); it can keep values from moving. How far values move is
agreed, not sent: eta falls with the rounds that were applied.

As in ``server_optimiser`` all clients arrive at the same bits: sums are compared with half a vote
of room, so that rounding to the quantiser's grid plays no part, and a step is one of few float32
numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.payload import FloatArray, TensorLayout
from secure_fedfm.learning.strict_json import from_json, to_json

KIND = "votes"


@dataclass(frozen=True, slots=True)
class VoteSpec:
    """A charter's ``server_optimiser`` of kind ``votes``; every field is stated.

    Fields:
        share: of the accepted clients, by which ballots must outweigh: above 0, at most 1.
        vote: size of an entry of a ballot, from 2^-12 to 1.
        adapter_step, head_step: eta of the LoRA tensors and of the head.
        schedule_rounds, final_factor: both steps fall linearly from 1 to `final_factor` times
            themselves over so many applied rounds, and stay there.
    """

    kind: Literal["votes"] = "votes"
    share: float = 0.8
    vote: float = 0.0625
    adapter_step: float = 2.4e-2
    head_step: float = 0.12
    schedule_rounds: int = 4
    final_factor: float = 0.1

    def __post_init__(self) -> None:
        for name, value, good, expected in (
            ("share", self.share, 0 < self.share <= 1, "above 0 and at most 1"),
            ("vote", self.vote, 2**-12 <= self.vote <= 1, "from 2^-12 to 1"),
            ("adapter_step", self.adapter_step, 0 < self.adapter_step <= 10, "in (0, 10]"),
            ("head_step", self.head_step, 0 < self.head_step <= 10, "in (0, 10]"),
            ("schedule_rounds", self.schedule_rounds, self.schedule_rounds >= 1, "at least 1"),
            ("final_factor", self.final_factor, 0 <= self.final_factor <= 1, "from 0 to 1"),
        ):
            if not good:
                raise ConfigurationError(f"server_optimiser.{name} is {value}; expected {expected}")

    def to_json(self) -> dict[str, object]:
        return to_json(self)

    @classmethod
    def from_json(cls, data: object) -> VoteSpec:
        return from_json(cls, "server_optimiser", data)

    def ballot(self, delta: npt.NDArray[np.floating]) -> FloatArray:
        """What a client sends for its update: float32 of its shape."""
        return np.sign(delta).astype(np.float32) * np.float32(self.vote)

    def factor(self, count: int) -> float:
        """Multiplier of the steps after `count` applied rounds: in the middle of the next one, as
        the rates of its trainings are on the average."""
        left = 1.0 - min(1.0, (count + 0.5) / self.schedule_rounds)
        return self.final_factor + (1.0 - self.final_factor) * left


def voted_step(
    spec: VoteSpec,
    layout: TensorLayout,
    count: int,
    total: npt.NDArray[np.float64],
    accepted: int,
) -> FloatArray:
    """What is added to the tensors, float32 (layout.size,).

    Args:
        spec: of the votes.
        layout: of the tensors.
        count: rounds that were applied before.
        total: opened sum of ballots, float64 (layout.size,).
        accepted: clients in it.
    """
    # Half a vote of room: a sum of ballots is a multiple of the vote but for rounding.
    least = (math.ceil(spec.share * accepted - 1e-9) - 0.5) * spec.vote
    agreed = np.where(np.abs(total) >= least, np.sign(total), 0.0).astype(np.float32)
    factor = spec.factor(count)
    step = np.empty(layout.size, np.float32)
    for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        part = slice(offset, offset + math.prod(shape))
        rate = spec.adapter_step if ".lora_" in name else spec.head_step
        np.multiply(np.float32(rate * factor), agreed[part], out=step[part])
    return step
