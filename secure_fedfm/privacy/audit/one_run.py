"""Layer 3: one release with many canaries in it, each in or out by a coin of its own.

Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846). Under (epsilon, delta)-DP the auditor's v
correct guesses out of r, over m canaries, are no more than what randomised response allows:

    P[V >= v] <= beta + 2 m delta alpha,    W ~ Binomial(r, e^epsilon / (1 + e^epsilon))
    beta = P[W >= v],    alpha = max_{1 <= i <= m} P[v > W >= v - i] / i         (Theorem 5.2)

so the smallest epsilon that leaves this above the error probability is a lower bound. Canaries are
rows whose gradients point in random directions, at the full clip: in d >> m dimensions they are
nearly orthogonal, and the projection of the release on each says whether it is in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from fedfm_audit.privacy.gaussian import gaussian_epsilon
from fedfm_crypto.random_source import RandomSource, draw, system_random
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.privacy import clipping, release
from secure_fedfm.privacy.audit.binomial import probabilities
from secure_fedfm.privacy.audit.findings import Finding, LayerReport
from secure_fedfm.privacy.gradients import RowGradients
from secure_fedfm.privacy.release import NoiseGrid

_NAME = "audited"
_CHUNK = 50
_ERROR = 0.05
_SHARES = (0.1, 0.5)
"""Shares of canaries guessed at, the surest ones; each takes its part of the error probability."""
LARGEST_EPSILON = 50.0

SHOWS = (
    "one release does not leak more than noise far too small would (by about a factor of five or "
    "more): a failure is proof of a broken mechanism at the stated confidence"
)
CANNOT_SHOW = (
    "a pass is weak evidence: noise of half the declared size passes, since the bound from one run "
    "lies far below the true epsilon even for a correct mechanism"
)


def p_value(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Largest probability of v or more correct guesses under (epsilon, delta)-DP (Theorem 5.2).

    Args:
        m: canaries, each in with probability 1/2. r: guesses. v: correct ones, 0 <= v <= r <= m.
    """
    chance = 1 / (1 + math.exp(-epsilon))
    masses = probabilities(r, chance)
    beta = float(masses[v:].sum())
    below = np.cumsum(masses[:v][::-1])  # P[v > W >= v - i] for i = 1..v
    # Beyond i = v the probability stays and the divisor grows, so the maximum is among these.
    alpha = float((below / np.arange(1, v + 1)).max()) if v else 0.0
    return min(1.0, beta + 2 * m * delta * alpha)


def epsilon_lower_bound(m: int, r: int, v: int, delta: float, error: float) -> float:
    """The largest epsilon that v of r correct guesses refute with confidence 1 - error; 0 if none.

    Arguments as for `p_value`; at most `LARGEST_EPSILON`.
    """
    if p_value(m, r, v, 0.0, delta) > error:
        return 0.0
    low, high = 0.0, LARGEST_EPSILON
    for _ in range(50):
        middle = (low + high) / 2
        if p_value(m, r, v, middle, delta) <= error:
            low = middle
        else:
            high = middle
    return low


def bound_from_scores(
    scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], delta: float, error: float
) -> float:
    """The best bound over several numbers of guesses, the error probability divided among them.

    Args:
        scores: (m,), higher for canaries that look included. included: the truth.
    """
    order = np.argsort(scores)
    best = 0.0
    for share in _SHARES:
        side = max(1, round(share * len(scores) / 2))
        correct = int(included[order[-side:]].sum()) + int((~included[order[:side]]).sum())
        found = epsilon_lower_bound(len(scores), 2 * side, correct, delta, error / len(_SHARES))
        best = max(best, found)
    return best


def one_run_audit(
    noise_multiplier: float,
    delta: float,
    *,
    canaries: int = 1000,
    dimension: int = 30_000,
    clip: float = 1.0,
    random: RandomSource = system_random,
) -> LayerReport:
    """Run the layer: one release of a sum of about half the canaries.

    Args:
        noise_multiplier: z that the ledger claims. delta: of the claimed epsilon.
    """
    layout = TensorLayout((_NAME,), ((dimension,),))
    grid = NoiseGrid(clip, max(1, round((1 << 20) / clip)), dimension, noise_multiplier)
    coins = np.frombuffer(draw(random, canaries), dtype=np.uint8)
    included = (coins & 1).astype(bool)
    directions = int.from_bytes(draw(random, 8), "big") >> 1
    total = clipping.ClippedSum.empty(layout)
    for chosen, rows in _canary_rows(canaries, dimension, directions):
        taken = rows[torch.from_numpy(included[chosen])] * (2 * clip)  # above the clip: clipped
        if len(taken):
            gradients = RowGradients({_NAME: taken}, torch.zeros(len(taken)))
            total = total.plus(clipping.clip_and_sum(gradients, layout, clip))
    noised = release.release_sum(total.total, grid, random).noised / (grid.scale * clip)
    released = torch.from_numpy(noised)
    scores = np.empty(canaries)
    for chosen, rows in _canary_rows(canaries, dimension, directions):
        scores[chosen] = (rows.double() @ released).numpy()
    found = bound_from_scores(scores, included, delta, _ERROR)
    claimed = gaussian_epsilon(1 / noise_multiplier, delta)
    finding = Finding(
        "epsilon from one release",
        found <= claimed,
        f"at least {found:.2f} with 95 % confidence; claimed {claimed:.2f}",
    )
    figures = {"epsilon_one_run": found, "epsilon_claimed": claimed, "canaries": float(canaries)}
    return LayerReport("one run", SHOWS, CANNOT_SHOW, (finding,), figures)


def _canary_rows(canaries: int, dimension: int, seed: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Unit vectors in random directions, some at a time, the same ones in every pass."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, canaries, _CHUNK):
        count = min(_CHUNK, canaries - start)
        rows = torch.randn(count, dimension, generator=generator)
        yield slice(start, start + count), rows / rows.norm(dim=1, keepdim=True)
