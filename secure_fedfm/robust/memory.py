"""What a rule remembers between rounds: numbers for clients and for pairs of them, by name.

Cohorts change, so a memory is keyed by names, not by places. It is an explicit value: a rule takes
one and returns the next, and nothing is kept anywhere else. It holds only what its owner, the
validator, has seen anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.errors import RobustnessError

__all__ = ["NOTHING", "Memory", "PairKey"]

Floats = NDArray[np.float64]

_WITHIN = "/"

PairKey = tuple[str, str, str]
"""(what is remembered, one client, another): the two names in ascending order; of one client by
itself, ``""`` and its name."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Running averages for pairs of clients, and for clients by themselves.

    Args:
        pairs: value by key; copied.

    Raises:
        RobustnessError: names out of order, or a value that is not finite.
    """

    pairs: Mapping[PairKey, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for (what, one, other), value in self.pairs.items():
            if one >= other or not math.isfinite(value):
                raise RobustnessError(
                    f"memory of {what!r} for ({one}, {other}) is {value}: expected a finite number "
                    "and two names in ascending order"
                )
        object.__setattr__(self, "pairs", MappingProxyType(dict(self.pairs)))

    def averaged(self, what: str, names: tuple[str, ...], values: Floats, weight: float) -> Floats:
        """Return (1 - weight) remembered + weight values; ``values`` where nothing is remembered.

        Args:
            what: the kind of average.
            names: clients of rows and columns.
            values: symmetric, float64 [n, n]; its diagonal is kept.
            weight: of the newest round, in (0, 1].
        """
        averages = values.copy()
        for i, one in enumerate(names):
            for j in range(i + 1, len(names)):
                before = self.pairs.get(_key(what, one, names[j]))
                if before is not None:
                    mixed = (1 - weight) * before + weight * values[i, j]
                    averages[i, j] = averages[j, i] = mixed
        return averages

    def remembering(self, what: str, names: tuple[str, ...], averages: Floats) -> Memory:
        """Return the memory with these averages in the place of the clients' older ones."""
        pairs = dict(self.pairs)
        for i, one in enumerate(names):
            for j in range(i + 1, len(names)):
                pairs[_key(what, one, names[j])] = float(averages[i, j])
        return Memory(pairs)

    def of_each(self, what: str, names: tuple[str, ...]) -> tuple[float | None, ...]:
        """Return what is remembered of each client by itself; None of a new one."""
        return tuple(self.pairs.get((what, "", name)) for name in names)

    def remembering_each(self, what: str, names: tuple[str, ...], values: Floats) -> Memory:
        """Return the memory with these values in the place of the clients' older ones."""
        new = {(what, "", name): float(v) for name, v in zip(names, values, strict=True)}
        return Memory({**self.pairs, **new})

    def part(self, group: str) -> Memory:
        """Return what is remembered for one group of values, as :meth:`with_part` stored it."""
        prefix = group + _WITHIN
        return Memory(
            {
                (what[len(prefix) :], one, other): value
                for (what, one, other), value in self.pairs.items()
                if what.startswith(prefix)
            }
        )

    def with_part(self, group: str, part: Memory) -> Memory:
        """Return the memory with that of one group of values replaced by ``part``."""
        prefix = group + _WITHIN
        pairs = {key: value for key, value in self.pairs.items() if not key[0].startswith(prefix)}
        for (what, one, other), value in part.pairs.items():
            pairs[(prefix + what, one, other)] = value
        return Memory(pairs)

    def without(self, name: str) -> Memory:
        """Return the memory with one client forgotten (it left the roster)."""
        return Memory({key: value for key, value in self.pairs.items() if name not in key[1:]})


NOTHING = Memory()
"""The memory before the first round."""


def _key(what: str, one: str, other: str) -> PairKey:
    return (what, one, other) if one < other else (what, other, one)
