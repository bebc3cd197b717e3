"""Cosine majorities: FLAME's selection, and the same decision on an average over rounds.

**FLAME's cluster step** is HDBSCAN with a smallest cluster of floor(n/2) + 1 and one neighbour. Two
clusters of that size cannot exist, so its tree has one branch: the answer is the single-linkage
component that first reaches this size as the distance grows. That is twenty lines, exact and the
same on every machine; a test compares with scikit-learn, which is therefore no dependency.

**The memory rule** looks at a running average of the cosine matrix, because single rounds late in
training, when updates are small and noisy, let an attacker in that earlier rounds had shown. Memory
cuts both ways: an attacker who behaves for some rounds is remembered as honest. So the newest round
is judged by itself as well, with a wider allowance, and lengths are held in a narrow band, of the
others' and of the client's own: late in training honest directions are next to orthogonal to each
other, and then the length of an update is the one thing that tells an attacker who adds poison to
honest work (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.robust.memory import Memory
from secure_fedfm.robust.norms import norm_reasons
from secure_fedfm.robust.rule import Rule, Verdict, accepting, check_share, median, nearest_first
from secure_fedfm.robust.score_matrix import ScoreMatrix

__all__ = ["CosineMemory", "Flame", "majority_component", "tight_majority"]

Floats = NDArray[np.float64]

_NOISE = 1e-4
"""Cosine distance that decrypted scores cannot tell from none."""
_MOST_GROWTH = 100.0
_RELUCTANCE = 0.5
"""How much a round in which a client worked too much counts in its average, beside others."""


@dataclass(frozen=True, slots=True)
class Flame(Rule):
    """FLAME's selection: the majority cluster by cosine; weights clip to the median norm.

    Its third step, noise on the sum, is the privacy mode's business. In suites that cannot weigh,
    ``multiple`` excludes what clipping would have cut down.

    Args:
        multiple: of the median norm, 1 to 100.
    """

    name: ClassVar[str] = "flame"
    source: ClassVar[str] = "Nguyen et al. 2022 (USENIX Security), sections 4.2 and 4.3"
    breakdown: ClassVar[str] = "fewer than half are malicious"

    multiple: float = 2.0

    def __post_init__(self) -> None:
        check_share(self.name, "multiple", self.multiple, 1, 100)

    def tolerates(self, count: int) -> int:
        """Return the largest minority."""
        return (count - 1) // 2

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        inside, reach = majority_component(1.0 - scores.cosines)
        reasons = norm_reasons(scores, self.multiple)
        for place, member in enumerate(inside):
            if not member:
                nearest = float((1.0 - scores.cosines)[place][inside].min())
                reasons[place] = (
                    f"direction: outside the majority cluster, cosine distance {nearest:.2f} to "
                    f"its nearest member, the cluster is connected at {reach:.2f}"
                )
        norms, middle = scores.norms, median(scores.norms)
        clipped = np.minimum(
            1.0, np.divide(middle, norms, out=np.ones_like(norms), where=norms > 0)
        )
        clipped[[bool(reason) for reason in reasons]] = 0.0
        return accepting(scores, reasons, memory, clipped)


@dataclass(frozen=True, slots=True)
class CosineMemory(Rule):
    """Cosine majority on a running average of the cosine matrix, and a norm bound.

    Clients whose norm is above ``multiple`` times the median are excluded, and those whose norm
    beside the others' is above ``growth`` times what it was on the average over rounds: how long a
    client's updates are beside the others' follows from its rows and hardly changes, and who adds
    poison does more work than before. So are, of those left, clients whose mean distance to the
    others in the newest round is below ``closest`` times the median of these: honest work has noise
    of its own, and what lies that near to everybody was made of estimates of the others' updates;
    it would be the middle of any majority. Of the rest, the majority is the smallest ball of
    floor(n/2) + 1 around one of them. Its members' mean distances to each other average to D;
    whoever has a mean distance to the majority above ``reach`` D on the average over rounds, or
    ``latest_reach`` D in the newest, is excluded.

    The narrow norm bound supposes that honest clients do like amounts of work in a round: steps of
    the same optimiser. Where they do not, ``multiple`` must be as wide as their lengths are apart,
    and bounds an attacker so much the less.

    Args:
        newest: weight of the newest round in the average, above 0 to 1; 1 is no memory.
        reach: multiple of the majority's mean distance, 1 to 10.
        multiple: of the median norm, 1 to 100.
        latest_reach: as ``reach``, for the newest round alone.
        closest: share of the median distance, 0 to 1; 0 lets everybody be as near as they like.
        growth: of a client's own length beside the others', over what it was, 1 to 100; in a group
            of values that is judged by itself twice as far above 1. A round above it changes the
            average little, so that poison is not got used to in a few rounds; honest work that grew
            for good is accepted again after some more.
    """

    name: ClassVar[str] = "cosine-memory"
    source: ClassVar[str] = "ours; clustering after FLAME, memory after FoolsGold"
    breakdown: ClassVar[str] = "fewer than half are malicious, and they stand apart on average"

    newest: float = 0.2
    reach: float = 1.25
    multiple: float = 1.4
    latest_reach: float = 1.3
    closest: float = 0.85
    growth: float = 1.15

    def __post_init__(self) -> None:
        check_share(self.name, "newest", self.newest, 1e-3, 1)
        check_share(self.name, "reach", self.reach, 1, 10)
        check_share(self.name, "multiple", self.multiple, 1, 100)
        check_share(self.name, "latest_reach", self.latest_reach, 1, 10)
        check_share(self.name, "closest", self.closest, 0, 1)
        check_share(self.name, "growth", self.growth, 1, _MOST_GROWTH)

    def tolerates(self, count: int) -> int:
        """Return the largest minority: by norm, where not by direction."""
        return (count - 1) // 2

    def in_group(self) -> CosineMemory:
        """With twice the room to grow: the length in a group changes more from round to round than
        that of the whole update, and fewer numbers of a sketch measure it."""
        return replace(self, growth=min(2 * self.growth - 1, _MOST_GROWTH))

    def _judge(self, scores: ScoreMatrix, memory: Memory) -> Verdict:
        average = memory.averaged("cosine", scores.names, scores.cosines, self.newest)
        # The true median: with fewer than half malicious both of the middle two lie among honest
        # lengths, and of four clients the lower one would make an ordinary client look long.
        middle = float(np.median(scores.norms))
        reasons = norm_reasons(scores, self.multiple, middle)
        memory = self._judge_growth(scores, memory, reasons)
        fits = np.array([not reason for reason in reasons])
        latest = 1.0 - scores.cosines
        for place, share in enumerate(_nearness(latest, fits)):
            if share < self.closest:
                fits[place] = False
                reasons[place] = (
                    f"direction: mean cosine distance to the others in this round is {share:.2f} "
                    f"times what is usual, expected {self.closest:g} or more: nearer to everybody "
                    "than honest work is"
                )
        for distances, reach, when in (
            (1.0 - average, self.reach, ", averaged over rounds,"),
            (latest, self.latest_reach, " in this round"),
        ):
            means, typical = _mean_distances(distances, scores.names, fits)
            for place, mean in enumerate(means):
                if mean > reach * typical + _NOISE and not reasons[place]:
                    reasons[place] = (
                        f"direction: mean cosine distance {mean:.2f} to the majority{when} is "
                        f"{mean / max(typical, _NOISE):.2f} times the majority's own, "
                        f"allowed {reach:g}"
                    )
        return accepting(scores, reasons, memory.remembering("cosine", scores.names, average))

    def _judge_growth(self, scores: ScoreMatrix, memory: Memory, reasons: list[str]) -> Memory:
        """Add reasons for those who work more than they used to; the memory with what they do.

        The unit is the median of what each client's length is over what it was, not the median
        length: honest lengths lie far apart, and one client that sends a short update for once
        would shift the median by a whole rank, so that others seemed to have grown.
        """
        before = memory.of_each("length", scores.names)
        known = [norm / usual for norm, usual in zip(scores.norms, before, strict=True) if usual]
        unit = float(np.median(known if known else scores.norms))
        if unit == 0:
            return memory
        lengths = np.minimum(scores.norms / unit, self.multiple)
        for place, usual in enumerate(before):
            if usual is None:
                continue
            allowed = self.growth * usual
            if lengths[place] > allowed and not reasons[place]:
                reasons[place] = (
                    f"norm: {lengths[place]:.2f} beside the others, where it was {usual:.2f} "
                    f"on the average over rounds; allowed {self.growth:g} times as much"
                )
            grown = lengths[place] > allowed
            weight = _RELUCTANCE * self.newest if grown else self.newest
            lengths[place] = (1 - weight) * usual + weight * min(lengths[place], allowed)
        return memory.remembering_each("length", scores.names, lengths)


def _nearness(distances: Floats, fits: NDArray[np.bool_]) -> Floats:
    """Return mean distances to the others who fit, over the median of these; 1 for who does not
    fit, and where the median is none to speak of."""
    shares = np.ones(len(distances))
    places = np.flatnonzero(fits)
    if len(places) > 2:
        means = distances[np.ix_(places, places)].sum(axis=1) / (len(places) - 1)
        middle = median(means)
        if middle > _NOISE:
            shares[places] = means / middle
    return shares


def _mean_distances(
    distances: Floats, names: tuple[str, ...], fits: NDArray[np.bool_]
) -> tuple[Floats, float]:
    """Return everybody's mean distance to the tight majority of those who fit, and its members'."""
    inside = tight_majority(distances, names, fits)
    # Members of the majority other than oneself.
    others = np.maximum(int(inside.sum()) - inside.astype(np.int64), 1)
    means: Floats = distances[:, inside].sum(axis=1) / others
    return means, float(means[inside].mean())


def majority_component(distances: Floats) -> tuple[NDArray[np.bool_], float]:
    """Return the single-linkage component that first has a majority, and the distance it takes.

    Args:
        distances: symmetric, float64 [n, n].
    """
    count = len(distances)
    labels = np.arange(count)
    rows, columns = np.triu_indices(count, 1)
    edges = distances[rows, columns]
    for reach in np.unique(edges):
        # Equal distances join together, so that the order of rows plays no part.
        for edge in np.flatnonzero(edges == reach):
            one, other = labels[rows[edge]], labels[columns[edge]]
            labels[labels == other] = one
        sizes = np.bincount(labels, minlength=count)
        if sizes.max() > count // 2:
            return labels == int(sizes.argmax()), float(reach)
    return np.ones(count, dtype=bool), 0.0


def tight_majority(
    distances: Floats, names: tuple[str, ...], candidates: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return the smallest ball of floor(n/2) + 1 candidates (all, if fewer) around one of them.

    By its radius, not by the mean distance in it: a few clones are at no distance from each other,
    and would win with one honest client far away. Ties by name.
    """
    places = np.flatnonzero(candidates)
    around = distances[np.ix_(places, places)].copy()
    np.fill_diagonal(around, -np.inf)
    size = min(len(distances) // 2 + 1, len(places))
    chosen_names = [names[place] for place in places]
    radii = np.sort(around, axis=1)[:, size - 1]
    centre = nearest_first(radii, chosen_names)[0]
    inside = np.zeros(len(distances), dtype=bool)
    inside[places[nearest_first(around[centre], chosen_names)[:size]]] = True
    return inside
