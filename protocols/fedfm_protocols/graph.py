"""Sparse masking graphs: each client masks with k neighbours instead of with everyone.

Nodes stand on a ring in an order drawn from public randomness that nobody chose, and each is
joined to the k/2 nodes before and after it (a Harary graph on a random permutation).  Source:
Bell, Bonawitz, Gascon, Lepoint, Raykova 2020, "Secure Single-Server Aggregation with
(Poly)Logarithmic Overhead", sections 3 and 4; the search for (k, t) follows the two bad events
of its theorem, with the exact hypergeometric tails instead of their Chernoff bounds.

What k and t must achieve for n clients, ``colluding`` of whom are the adversary's and
``dropouts`` of whom vanish:

- the honest survivors stay connected, or the sum falls apart into smaller sums;
- no client has t adversarial neighbours (t shares rebuild a secret), and, against a coordinator
  that tells different survivors' sets to different clients, no client's neighbourhood can yield
  t shares of both of its secrets: 2 t > holders + (adversarial neighbours), where the k + 1
  holders are the neighbours and the dealer itself;
- every client keeps at least t surviving neighbours, or its masks cannot be taken off.

The first two fail with probability at most 2^-40 together, the last at most 2^-20 a round.

Two powers of a malicious coordinator go beyond that paper's analysis (docs/adr/0013):

- It sees the opened nonces before it publishes them, so it can choose which to leave out and try
  many rings.  At most :data:`MAX_WITHHELD` may be left out, and the bounds hold for all of these
  rings together (a union bound over the choices).
- It sees the ring before it says who vanished, so the "dropouts" may be a whole arc.  Every
  client therefore refuses a cohort in which anybody keeps fewer than ``min_neighbours`` accepted
  neighbours: k/2 on one side plus one more than the adversary has on the other.  A part of the
  ring that is cut off ends in a client that cannot have that many.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_protocols.errors import CharterError

SECURITY_BITS = 40
CORRECTNESS_BITS = 20
# How many clients of the key roster may fail to open their nonce; with more the round is over.
MAX_WITHHELD = 4


@dataclass(frozen=True, slots=True)
class GraphParameters:
    """Degree ``k`` (even), share threshold ``t`` of every neighbourhood, and the fewest accepted
    neighbours that anybody in a cohort may be left with.

    Source: protocols/README.md, section "Sparse graph".
    """

    clients: int
    degree: int
    threshold: int
    min_neighbours: int


@lru_cache(maxsize=64)
def find_parameters(
    clients: int, colluding: int, dropouts: int, *, malicious: bool = True
) -> GraphParameters:
    """Smallest degree, and the thresholds for it, that meet the bounds of this module.

    ``malicious=False`` leaves out the two powers that go beyond the paper's analysis, and the
    share that a dealer keeps for itself, to compare with other implementations of the paper.

    Raises
    ------
    CharterError
        if no degree below ``clients - 1`` does; the complete graph is then the answer.
    """
    if clients < 4 or colluding < 0 or dropouts < 0 or colluding + dropouts >= clients:
        raise CharterError(
            f"no sparse graph for {clients} clients with {colluding} colluding and {dropouts} "
            "dropping out"
        )
    # Those left out are chosen from a roster that is larger than what remains by their number.
    roster = clients + MAX_WITHHELD
    rings = sum(math.comb(roster, left_out) for left_out in range(MAX_WITHHELD + 1))
    log_per_event = -(SECURITY_BITS + 1) * math.log(2) - (math.log(rings) if malicious else 0.0)
    for degree in range(2, clients - 1, 2):
        holders = degree + 1 if malicious else degree
        found = _try_degree(clients, colluding, dropouts, degree, holders, log_per_event)
        if found is not None and (found.min_neighbours <= found.surviving or not malicious):
            return GraphParameters(clients, degree, found.threshold, found.min_neighbours)
    raise CharterError(
        f"{clients} clients with {colluding} colluding and {dropouts} dropping out need more "
        "neighbours than there are clients; lower limits.colluding or limits.dropouts"
    )


@dataclass(frozen=True, slots=True)
class _Found:
    threshold: int
    min_neighbours: int
    surviving: int


def _try_degree(
    clients: int, colluding: int, dropouts: int, degree: int, holders: int, log_per_event: float
) -> _Found | None:
    if _log_disconnected(clients, colluding + dropouts, degree) >= log_per_event:
        return None
    each = math.log(clients)
    adversarial = _upper_quantile(clients, colluding, degree, log_per_event - each)
    one_side = _upper_quantile(clients, colluding, degree // 2, log_per_event - each)
    surviving = _lower_quantile(
        clients, clients - dropouts, degree, -CORRECTNESS_BITS * math.log(2) - each
    )
    # Honest holders answer once, the adversary's twice: 2 t > holders + adversarial neighbours.
    threshold = max((holders + adversarial) // 2 + 1, adversarial + 1, 2)
    if threshold > surviving:
        return None
    return _Found(threshold, max(threshold, degree // 2 + one_side + 1), surviving)


def _log_disconnected(clients: int, bad: int, degree: int) -> float:
    """Log of a bound on the chance that the ring falls apart once ``bad`` nodes are gone.

    That takes two gaps of degree/2 bad nodes in a row each; the bound is the union over all
    pairs of places for them.
    """
    if degree > bad:
        return -math.inf
    pairs = math.log(clients) + math.log(clients - degree - 1) - math.log(2)
    return pairs + _log_choose(clients - degree, bad - degree) - _log_choose(clients, bad)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_probability(population: int, marked: int, drawn: int, hits: int) -> float:
    """Log of the hypergeometric probability of ``hits`` marked nodes among ``drawn``."""
    if hits < max(0, drawn - (population - marked)) or hits > min(drawn, marked):
        return -math.inf
    return (
        _log_choose(marked, hits)
        + _log_choose(population - marked, drawn - hits)
        - _log_choose(population, drawn)
    )


def _log_add(a: float, b: float) -> float:
    if a == -math.inf:
        return b
    if b == -math.inf:
        return a
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


def _upper_quantile(population: int, marked: int, drawn: int, log_bound: float) -> int:
    """Smallest x with P[X > x] <= bound."""
    tail = -math.inf
    for hits in range(drawn, -1, -1):
        tail = _log_add(tail, _log_probability(population, marked, drawn, hits))
        if tail > log_bound:
            return hits
    return 0


def _lower_quantile(population: int, marked: int, drawn: int, log_bound: float) -> int:
    """Largest x with P[X < x] <= bound."""
    tail = -math.inf
    for hits in range(drawn + 1):
        tail = _log_add(tail, _log_probability(population, marked, drawn, hits))
        if tail > log_bound:
            return hits
    return drawn


def graph_seed(context: bytes, nonces: Mapping[str, bytes]) -> bytes:
    """The ring's randomness: a hash of the fixed roster's context and of every participant with
    its opened nonce, all of which were committed to before any honest one was known.

    Nothing else goes in: signatures, for one, could be made anew until the ring pleases.
    """
    parts = [part for name in sorted(nonces) for part in (name.encode(), nonces[name])]
    return hash_parts(Label.GRAPH, context, *parts)


@dataclass(frozen=True, slots=True)
class Ring:
    """Participants in the order that ``seed`` draws, each joined to the ``degree`` / 2 before it
    and after it; ``degree`` of ``len(order) - 1`` or more joins everybody.

    A ring of n names is kept, not n lists of neighbours: every client holds one.

    Source: protocols/README.md, section "Sparse graph".
    """

    seed: bytes
    degree: int
    order: tuple[str, ...] = field(repr=False)

    @classmethod
    def draw(cls, names: Collection[str], seed: bytes, degree: int) -> Ring:
        """The ring of ``names``, in whatever order they are given."""
        place = {name: hash_parts(Label.GRAPH, seed, name.encode()) for name in names}
        return cls(seed, degree, tuple(sorted(place, key=place.__getitem__)))

    def neighbours(self, name: str) -> tuple[str, ...]:
        """The neighbours of a participant, sorted, without itself."""
        size, half, at = len(self.order), self.degree // 2, self.order.index(name)
        if self.degree >= size - 1:
            return tuple(sorted(other for other in self.order if other != name))
        offsets = range(at - half, at + half + 1)
        return tuple(sorted(self.order[place % size] for place in offsets if place != at))

    def lonely(self, accepted: Collection[str], min_neighbours: int) -> tuple[str, ...]:
        """Accepted participants with fewer than ``min_neighbours`` accepted neighbours, sorted."""
        inside, size, half = frozenset(accepted), len(self.order), self.degree // 2
        marks = [name in inside for name in self.order]
        if self.degree >= size - 1:
            return tuple(sorted(inside)) if len(inside) - 1 < min_neighbours else ()
        # sums[i] counts the accepted before place i - half of the ring, unrolled at both ends.
        sums = list(accumulate((*marks[-half:], *marks, *marks[:half]), initial=0))
        return tuple(
            sorted(
                name
                for place, name in enumerate(self.order)
                if marks[place] and sums[place + 2 * half + 1] - sums[place] - 1 < min_neighbours
            )
        )
