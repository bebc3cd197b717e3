"""Votes instead of sizes: a value moves where nearly all clients moved it the same way.

signSGD with majority vote (Bernstein et al. 2019, arXiv 1810.05291) by its ballots, the robust
learning rate (Ozdayi et al. 2021, arXiv 2007.03767) by its threshold: of its update u of a tensor
of d values each client sends the signs alone, all of one size,

    b = sign(u) |u|_1 / d

(scaled signs: who works more, or in other places, is still seen to), and with S the opened sum of m
ballots every client applies

    x <- x + eta sign(S)   where |S| >= share F,      x <- x elsewhere.

F is the sum of all sizes, as it is found on values on which all clients agree: the d 2^-m-th
largest |S|, since by chance twice as many values have everybody's agreement. At `share` 0.8 and
like sizes up to nine clients must all agree. One malicious client then cannot move a value by
itself with a ballot that is one; it can keep values from moving. That it sends several votes for
few values and none for the others nobody sees: a validator bounds the length of the whole
(docs/adr/0024). How far values move is agreed, not sent: eta falls with the rounds that were
applied.

As in ``server_optimiser`` all clients arrive at the same bits: they select and compare values of
one and the same sum, and a step is one of few float32 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.payload import FloatArray, TensorLayout
from secure_fedfm.learning.strict_json import from_json, to_json

KIND = "votes"
_ROOM = 1e-3
"""Of the threshold, for sums that were rounded."""


@dataclass(frozen=True, slots=True)
class VoteSpec:
    """A charter's ``server_optimiser`` of kind ``votes``; every field is stated.

    Fields:
        share: of all ballots, by which those for a value must outweigh those against: above 0,
            at most 1.
        adapter_step, head_step: eta of the LoRA tensors and of the head.
        schedule_rounds, final_factor: both steps fall linearly from 1 to `final_factor` times
            themselves over so many applied rounds, and stay there.
    """

    kind: Literal["votes"] = "votes"
    share: float = 0.8
    adapter_step: float = 2.4e-2
    head_step: float = 0.12
    schedule_rounds: int = 4
    final_factor: float = 0.1

    def __post_init__(self) -> None:
        for name, value, good, expected in (
            ("share", self.share, 0 < self.share <= 1, "above 0 and at most 1"),
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

    def ballot(self, delta: npt.NDArray[np.floating], layout: TensorLayout) -> FloatArray:
        """What a client sends for its update: float32 (layout.size,)."""
        found: FloatArray = np.sign(delta).astype(np.float32)
        for _, part in _tensors(layout):
            found[part] *= np.float32(np.abs(delta[part]).mean(dtype=np.float64))
        return found

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
    factor, step = spec.factor(count), np.empty(layout.size, np.float32)
    for name, part in _tensors(layout):
        sums = total[part]
        outweigh = np.abs(sums)
        unanimous = max(1, math.floor(math.ldexp(len(sums), -accepted)))
        everybody = np.partition(outweigh, -unanimous)[-unanimous]
        # Rounding to the quantiser's grid plays no part: ballots are many steps of it.
        least = np.float64(spec.share * (1 - _ROOM)) * everybody
        agreed = np.where(outweigh >= least, np.sign(sums), 0.0).astype(np.float32)
        rate = spec.adapter_step if ".lora_" in name else spec.head_step
        np.multiply(np.float32(rate * factor), agreed, out=step[part])
    return step


def _tensors(layout: TensorLayout) -> Iterator[tuple[str, slice]]:
    for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        yield name, slice(offset, offset + math.prod(shape))
