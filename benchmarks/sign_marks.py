"""Sign marks for comparison: what FedIPR does, brought to LoRA factors.

FedIPR (Li, Fan, Gu, Li, Yang 2022, arXiv 2109.13236, section 4, "feature-based watermarks"): each
client has a secret matrix E and N bits b, and training adds a hinge loss that makes the signs of
W E equal to b for the chosen weights W; a claim is the share of signs that agree, whose probability
under the hypothesis of no mark is that of fair coins.

Here W is every B of the last transformer block, one vector; E is Gaussian; and the hinge is met
after training by the smallest change that meets it (ridge on E^T E, as this project's marks are
written), with the same margin relative to the norm of W. So both kinds are compared
for what they read from a copy, not for how they are trained in. What differs: a sign mark is read
from the parameters as they are stored, so it depends on the gauge of the factors; where a thief
leaves no factors, or of another rank, it is read from those of a singular value decomposition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.mark_attacks import Factors, Matrix, refactored
from fedfm_audit.watermark.statistic import Evidence
from fedfm_audit.watermark.suspect import LowRank
from secure_fedfm.watermark.embedding import RIDGE

BLOCK = 6
"""Linear layers of the last block of BERT: the last modules by name."""


@dataclass(frozen=True, slots=True)
class SignMark:
    """One owner's sign mark.

    Attributes:
        size: N. strength: margin of every sign, relative to the norm of W. seed: of E and b.
    """

    size: int
    strength: float
    seed: int

    def written(self, factors: Factors) -> dict[str, LowRank]:
        """The factors with this mark in B of the last block."""
        weights, (secret, bits) = _weights(factors), self._drawn(factors)
        responses = secret.T @ weights
        margin = self.strength * float(np.linalg.norm(weights))
        wanted = bits * np.maximum(0.0, margin - bits * responses)
        gram = (secret.T @ secret).astype(np.float64)
        gram[np.diag_indices_from(gram)] *= 1 + RIDGE
        change = (secret @ np.linalg.solve(gram, wanted)).astype(np.float32)
        found, start = dict(factors), 0
        for name in _chosen(factors):
            b = found[name].b
            found[name] = replace(
                found[name], b=b + change[start : start + b.size].reshape(b.shape)
            )
            start += b.size
        return found

    def found(self, factors: Factors) -> Evidence:
        """The signs that agree in a copy with factors of the same rank."""
        secret, bits = self._drawn(factors)
        return Evidence.of((secret.T @ _weights(factors)).astype(np.float64), bits)

    def _drawn(self, factors: Factors) -> tuple[Matrix, NDArray[np.float64]]:
        """E, float32 (values of W, N), and b."""
        generator = np.random.default_rng(self.seed)
        values = sum(factors[name].b.size for name in _chosen(factors))
        secret = generator.standard_normal((values, self.size), dtype=np.float32)
        return secret, generator.choice([-1.0, 1.0], size=self.size)


def _chosen(factors: Factors) -> list[str]:
    return sorted(factors)[-BLOCK:]


def _weights(factors: Factors) -> Matrix:
    return np.concatenate([factors[name].b.ravel() for name in _chosen(factors)])


def as_factors(factors: Factors, rank: int) -> dict[str, LowRank]:
    """Factors of another rank as such of this one: by SVD, with zeros where there are fewer."""
    found = {}
    for name, one in refactored(rank)(factors).items():
        spare = ((0, 0), (0, rank - one.b.shape[1]))
        found[name] = LowRank(np.pad(one.b, spare), np.pad(one.a, spare[::-1]))
    return found


def from_merged(changes: dict[str, Matrix], rank: int) -> dict[str, LowRank]:
    """Factors of the changes of merged weights: their best approximation of this rank."""
    found = {}
    for name in sorted(changes)[-BLOCK:]:
        u, s, v = np.linalg.svd(changes[name], full_matrices=False)
        found[name] = LowRank((u * s)[:, :rank], v[:rank])
    return found
