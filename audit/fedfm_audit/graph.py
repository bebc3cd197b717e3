"""The sparse masking graph of a round, drawn again by the auditor from the opened nonces.

Written from the specification (protocols/README.md, "Sparse graph") and in exact integer
arithmetic, where the protocol's own search works with logarithms: the two agree or one is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import comb

from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label

MAX_COMPLETE = 64
"""Rosters up to this size mask with everybody."""
MAX_WITHHELD = 4
"""So many of the key roster may fail to open their nonce."""
_SECURITY = 2**41  # each of two bad events within 2^-41
_CORRECTNESS = 2**20


@dataclass(frozen=True, slots=True)
class GraphParameters:
    """Neighbours of everybody, shares that rebuild a secret, and the fewest accepted neighbours
    that an accepted client may be left with."""

    degree: int
    threshold: int
    min_neighbours: int


@lru_cache(maxsize=16)
def graph_parameters(clients: int, colluding: int, dropouts: int) -> GraphParameters | None:
    """The smallest degree that meets the bounds of the specification, or None if there is none."""
    # Every choice of whom to leave out draws another ring, and all of them must be good.
    rings = sum(comb(clients + MAX_WITHHELD, left_out) for left_out in range(MAX_WITHHELD + 1))
    for degree in range(2, clients - 1, 2):
        if _falls_apart(clients, colluding + dropouts, degree, rings):
            continue
        rarity = _SECURITY * rings * clients
        adversarial = _most(clients, colluding, degree, rarity)
        one_side = _most(clients, colluding, degree // 2, rarity)
        # The fewest survivors among the neighbours: all but the most that dropped out.
        surviving = degree - _most(clients, dropouts, degree, _CORRECTNESS * clients)
        threshold = max((degree + 1 + adversarial) // 2 + 1, adversarial + 1, 2)
        min_neighbours = max(threshold, degree // 2 + one_side + 1)
        if min_neighbours <= surviving:
            return GraphParameters(degree, threshold, min_neighbours)
    return None


def _falls_apart(clients: int, bad: int, degree: int, rings: int) -> bool:
    """Whether two gaps of degree / 2 ``bad`` nodes each are too likely, for any pair of places."""
    if degree > bad:
        return False
    pairs = clients * (clients - degree - 1)  # twice the number of pairs
    hits = comb(clients - degree, bad - degree)
    return pairs * hits * _SECURITY * rings >= 2 * comb(clients, bad)


def _most(population: int, marked: int, drawn: int, rarity: int) -> int:
    """The smallest x with P[more than x marked among ``drawn``] <= 1 / rarity (hypergeometric)."""
    whole, tail = comb(population, drawn), 0
    for hits in range(min(drawn, marked), 0, -1):
        tail += comb(marked, hits) * comb(population - marked, drawn - hits)
        if tail * rarity > whole:
            return hits
    return 0


@dataclass(frozen=True, slots=True)
class MaskingGraph:
    """Who masked with whom; ``seed`` is part of what every upload hash refers to."""

    seed: bytes
    parameters: GraphParameters
    ring: tuple[str, ...] = field(repr=False)

    @classmethod
    def draw(
        cls, context1: bytes, nonces: Mapping[str, bytes], parameters: GraphParameters
    ) -> MaskingGraph:
        """The graph that the opened nonces (participant -> nonce) draw."""
        parts = [part for name in sorted(nonces) for part in (name.encode(), nonces[name])]
        seed = hash_parts(Label.GRAPH, context1, *parts)
        order = sorted(nonces, key=lambda name: hash_parts(Label.GRAPH, seed, name.encode()))
        return cls(seed, parameters, tuple(order))

    def neighbours(self, name: str) -> tuple[str, ...]:
        """Who masks with ``name``: those around it on the ring."""
        size, half = len(self.ring), self.parameters.degree // 2
        place = self.ring.index(name)
        return tuple(
            self.ring[(place + offset) % size] for offset in range(-half, half + 1) if offset
        )

    def lonely(self, accepted: Collection[str]) -> list[str]:
        """Accepted participants with too few accepted neighbours."""
        size, half = len(self.ring), self.parameters.degree // 2
        offsets = [offset for offset in range(-half, half + 1) if offset]
        inside = frozenset(accepted)
        return sorted(
            name
            for place, name in enumerate(self.ring)
            if name in inside
            and sum(self.ring[(place + offset) % size] in inside for offset in offsets)
            < self.parameters.min_neighbours
        )


def nonce_commitment(context0: bytes, name: str, nonce: bytes) -> bytes:
    """What a KeyOffer says about the nonce that its sender will open."""
    return hash_parts(Label.GRAPH_COMMITMENT, context0, name.encode(), nonce)
