"""Scores of a round's updates: in the clear, or through the real encryption of their sketches.

``encrypted`` is what a round does: each client encrypts its sketch, the coordinator multiplies
every pair, the validator opens the scores. A key serves one federation. What that costs, and
whether the scores are the plaintext ones, is in the row of every round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks.crafting import Vector
from benchmarks.measure import CpuClock
from benchmarks.results import Row
from fedfm_crypto.lattice.score_opening import ScoreOpening, symmetric
from fedfm_crypto.lattice.scores import score_task_results, score_tasks
from fedfm_crypto.lattice.sketch_encryption import SketchEncryption
from fedfm_crypto.lattice.sketch_format import SketchScale
from fedfm_crypto.lattice.sketch_keys import SketchSecretKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sketch import SketchLayout, inner_products, sketch
from secure_fedfm.robust.score_matrix import GroupScores, ScoreMatrix

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Scoring = Callable[[tuple[str, ...], Sequence[Integers], bytes], tuple[ScoreMatrix, Row]]

NORM_BOUND = 256.0
"""Largest norm that is measured, as a charter would say: a dozen honest ones of round 1, and more
than what the largest dose sends. Four digits down to norm 1."""


def scores_of_vectors(vectors: Mapping[str, Vector], layout: SketchLayout) -> ScoreMatrix:
    """Exact inner products of vectors by name, in the order of the names."""
    names = tuple(sorted(vectors))
    rows = np.array([vectors[name] for name in names])
    grams = []
    for group in layout.groups:
        part = np.hstack([rows[:, start:stop] for start, stop in group.spans])
        grams.append(_symmetric(part @ part.T))
    return _scores(names, np.array(grams), layout)


def _scores(names: tuple[str, ...], grams: Floats, layout: SketchLayout) -> ScoreMatrix:
    """Scores of the whole and, where there are several, of each group; grams is [groups, n, n]."""
    groups: tuple[GroupScores, ...] = ()
    if len(layout.groups) > 1:
        pairs = zip(layout.groups, grams, strict=True)
        groups = tuple(GroupScores(group.name, gram) for group, gram in pairs)
    return ScoreMatrix(names, grams.sum(axis=0), None, groups)


def plain_scoring(layout: SketchLayout) -> Scoring:
    """Inner products of the sketches, in the clear."""

    def score(
        names: tuple[str, ...], vectors: Sequence[Integers], beacon: bytes
    ) -> tuple[ScoreMatrix, Row]:
        sketches = [sketch(vector, beacon, layout) for vector in vectors]
        return _scores(names, _plain(sketches, layout), layout), {}

    return score


def encrypted_scoring(layout: SketchLayout, scale: int) -> Scoring:
    """The same through CKKS; ``scale`` is how many integers make 1.0."""
    secret = SketchSecretKey.generate(SeededRandom(8))
    encryption, evaluation = secret.public_keys()
    groups = len(layout.groups)
    sketch_scale = SketchScale(NORM_BOUND * scale, groups)
    client = SketchEncryption(encryption, sketch_scale)
    opening = ScoreOpening(secret, sketch_scale)

    def score(
        names: tuple[str, ...], vectors: Sequence[Integers], beacon: bytes
    ) -> tuple[ScoreMatrix, Row]:
        clients, coordinator, validator = CpuClock(), CpuClock(), CpuClock()
        with clients.running():
            sketches = [sketch(vector, beacon, layout) for vector in vectors]
            ciphertexts = [client.encrypt(one) for one in sketches]
        pairs: list[tuple[int, int]] = []
        scores: list[bytes] = []
        random = SeededRandom(int.from_bytes(beacon[:6], "big"))
        with coordinator.running():
            for task in score_tasks(encryption, evaluation, ciphertexts, groups, random):
                pairs += task.pairs
                scores += score_task_results(task)
        with validator.running():
            grams = symmetric(pairs, opening.open(scores), len(names))
        plain = _plain(sketches, layout)
        norms = np.sqrt(np.diagonal(plain, axis1=1, axis2=2))
        products = norms[:, :, None] * norms[:, None, :]
        costs = {
            "clients_s": clients.seconds,
            "coordinator_s": coordinator.seconds,
            "validator_s": validator.seconds,
            "largest_error": float(np.max(np.abs(grams - plain) / products)),
        }
        return _scores(names, grams, layout), costs

    return score


def _plain(sketches: Sequence[Integers], layout: SketchLayout) -> Floats:
    """Inner products by group, [groups, n, n]."""
    groups = len(layout.groups)
    rows = np.array([[inner_products(a, b, groups) for b in sketches] for a in sketches])
    return _symmetric(np.moveaxis(rows, 2, 0))


def _symmetric(grams: Floats) -> Floats:
    """The same, with rounding errors of the last digit gone."""
    return np.asarray((grams + np.swapaxes(grams, -1, -2)) / 2)
