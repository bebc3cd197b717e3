"""What every rule sees: inner products between clients' updates, and nothing else of them.

Distances and cosines follow: |u_i - u_j|^2 = G_ii + G_jj - 2 G_ij, cos = G_ij / sqrt(G_ii G_jj).
Scores that come from encrypted sketches carry noise, so a diagonal entry can be a little negative
and a cosine a little above 1; both are cut off here, in one place. A matrix with NaN, or an
asymmetric one, is refused. Inner products far above what the norms allow (Cauchy and Schwarz) are
what a score that wrapped around, or a sketch with imaginary parts, looks like: :func:`impossible`
says whose they are, so that one client cannot stop a round with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secure_fedfm.errors import RobustnessError

__all__ = ["NOISE", "GroupScores", "ScoreMatrix", "impossible"]

Floats = NDArray[np.float64]

NOISE = 1e-3
"""Largest error of a score, relative to ordinary squared norms: far above what decryption adds."""


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Inner products of one group of values (the head, the B matrices).

    Args:
        name: of the group.
        gram: float64 [n, n].
        root: as in :class:`ScoreMatrix`, or None.
    """

    name: str
    gram: Floats = field(repr=False)
    root: Floats | None = field(default=None, repr=False)


# Not slotted: what is derived is kept (cached_property).
@dataclass(frozen=True)
class ScoreMatrix:
    """Inner products of a round's clients.

    Args:
        names: of the clients, distinct; row i of every matrix is names[i].
        gram: G, float64 [n, n], in any unit.
        root: inner products with a root direction r and, last, |r|^2: float64 [n + 1]; None where
            clients are compared with each other only.
        groups: the same by group of values, where the sketch layout has several.

    Raises:
        RobustnessError: shapes that do not fit, NaN or infinite entries, an asymmetric matrix, two
            clients of one name, or none.
    """

    names: tuple[str, ...]
    gram: Floats = field(repr=False)
    root: Floats | None = field(default=None, repr=False)
    groups: tuple[GroupScores, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names) or not self.names:
            raise RobustnessError(f"clients {list(self.names)}, expected distinct names")
        _check(self.gram, self.root, self.names, "scores")
        for group in self.groups:
            _check(group.gram, group.root, self.names, f"scores of group {group.name!r}")

    @property
    def count(self) -> int:
        """Number of clients."""
        return len(self.names)

    @cached_property
    def norms(self) -> Floats:
        """L2 norms, [n]; noise below zero counts as zero."""
        lengths: Floats = np.sqrt(np.maximum(np.diagonal(self.gram), 0.0))
        return lengths

    @cached_property
    def squared_distances(self) -> Floats:
        """|u_i - u_j|^2, [n, n], zero on the diagonal and never below zero."""
        diagonal = np.diagonal(self.gram)
        squares = np.maximum(diagonal[:, None] + diagonal[None, :] - 2 * self.gram, 0.0)
        np.fill_diagonal(squares, 0.0)
        return squares

    @cached_property
    def cosines(self) -> Floats:
        """Cosines, [n, n], 1 on the diagonal; 0 where a vector is zero: it has no direction."""
        found = _cosines(self.gram, self.norms[:, None] * self.norms[None, :])
        np.fill_diagonal(found, 1.0)
        return found

    @cached_property
    def root_cosines(self) -> Floats:
        """Cosines to the root direction, [n].

        Raises:
            RobustnessError: there is no root row, or the root direction is zero.
        """
        if self.root is None:
            raise RobustnessError(
                "this rule compares with a root direction and there is none; name a client as the "
                "root, or choose a rule without"
            )
        if self.root[-1] <= 0:
            raise RobustnessError("the root direction is zero; the root client learnt nothing")
        return _cosines(self.root[:-1], self.norms * float(np.sqrt(self.root[-1])))

    def group(self, name: str) -> ScoreMatrix:
        """Return the scores of one group as a matrix of its own.

        Raises:
            RobustnessError: there is no such group.
        """
        for group in self.groups:
            if group.name == name:
                return ScoreMatrix(self.names, group.gram, group.root)
        known = ", ".join(group.name for group in self.groups) or "none"
        raise RobustnessError(f"no scores for the group {name!r}; the sketches have: {known}")

    def rooted_at(self, name: str) -> ScoreMatrix:
        """Return the scores with one client's update as the root direction.

        Raises:
            RobustnessError: that client is not among them.
        """
        if name not in self.names:
            raise RobustnessError(
                f"the root client {name} is not among the {self.count} clients of this round, and "
                "there is nobody to compare the others with"
            )
        place = self.names.index(name)

        def row(gram: Floats) -> Floats:
            return np.append(gram[place], gram[place, place])

        return ScoreMatrix(
            self.names,
            self.gram,
            row(self.gram),
            tuple(GroupScores(group.name, group.gram, row(group.gram)) for group in self.groups),
        )

    def ordered(self, order: list[int]) -> ScoreMatrix:
        """Return the scores of some clients, in this order (places in this matrix)."""
        rows = np.ix_(order, order)
        ends = [*order, self.count]
        return ScoreMatrix(
            tuple(self.names[i] for i in order),
            self.gram[rows],
            None if self.root is None else self.root[ends],
            tuple(
                GroupScores(g.name, g.gram[rows], None if g.root is None else g.root[ends])
                for g in self.groups
            ),
        )


def _cosines(products: Floats, lengths: Floats) -> Floats:
    ratios = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.clip(ratios, -1.0, 1.0)


def _check(gram: Floats, root: Floats | None, names: tuple[str, ...], what: str) -> None:
    """Refuse what is no matrix of scores."""
    count = len(names)
    if gram.shape != (count, count) or gram.dtype != np.float64:
        raise RobustnessError(
            f"{what}: {gram.dtype} {gram.shape}, expected float64 ({count}, {count})"
        )
    if root is not None and (root.shape != (count + 1,) or root.dtype != np.float64):
        raise RobustnessError(
            f"{what}: root row of {root.dtype} {root.shape}, expected float64 ({count + 1},)"
        )
    if not np.isfinite(gram).all() or (root is not None and not np.isfinite(root).all()):
        raise RobustnessError(f"{what}: an entry is NaN or infinite; a score was not decrypted")
    if (gram != gram.T).any():
        raise RobustnessError(f"{what}: the matrix is not symmetric; each pair has one score")


def impossible(scores: ScoreMatrix) -> dict[str, str]:
    """Return the clients whose scores no vector has, each with the reason, for people.

    A negative square is its client's own. Of two whose product is above that of their norms, the
    one with more such pairs is named, until none is left; of equals, the larger norm (ties: both
    names in order).
    """
    found: dict[str, str] = {}
    for what, gram in [("", scores.gram)] + [(f" of {g.name}", g.gram) for g in scores.groups]:
        diagonal = np.diagonal(gram)
        noise = NOISE * float(np.median(np.abs(diagonal)))
        for name, square in zip(scores.names, diagonal, strict=True):
            if square < -noise:
                found.setdefault(
                    name,
                    f"impossible: squared norm{what} is negative: its sketch is larger than what "
                    "is measured, or is no sketch",
                )
        lengths = np.sqrt(np.maximum(diagonal, 0.0))
        limits = lengths[:, None] * lengths[None, :] * (1 + NOISE) + noise
        above = np.abs(gram) > limits
        np.fill_diagonal(above, False)
        for place, name in enumerate(scores.names):
            if name in found:
                above[place] = above[:, place] = False
        while above.any():
            counts = above.sum(axis=1)
            worst = max(range(scores.count), key=lambda i: (counts[i], lengths[i], scores.names[i]))
            found[scores.names[worst]] = (
                f"impossible: inner products{what} with {counts[worst]} others are above the "
                "product of the norms: its sketch is larger than what is measured, or is no sketch"
            )
            above[worst] = above[:, worst] = False
    return found
