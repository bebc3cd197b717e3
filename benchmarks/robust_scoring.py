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
from secure_fedfm.robust.score_matrix import ScoreMatrix

Integers = NDArray[np.int64]
Scoring = Callable[[tuple[str, ...], Sequence[Integers], bytes], tuple[ScoreMatrix, Row]]

NORM_BOUND = 256.0
"""Largest norm that is measured, as a charter would say: a dozen honest ones of round 1, and more
than what the largest dose sends. Four digits down to norm 1."""


def scores_of_vectors(vectors: Mapping[str, Vector]) -> ScoreMatrix:
    """Exact inner products of vectors by name, in the order of the names."""
    names = tuple(sorted(vectors))
    rows = np.array([vectors[name] for name in names])
    return ScoreMatrix(names, _symmetric(rows @ rows.T))


def plain_scoring(layout: SketchLayout) -> Scoring:
    """Inner products of the sketches, in the clear."""

    def score(
        names: tuple[str, ...], vectors: Sequence[Integers], beacon: bytes
    ) -> tuple[ScoreMatrix, Row]:
        return ScoreMatrix(names, _plain([sketch(v, beacon, layout) for v in vectors])), {}

    return score


def encrypted_scoring(layout: SketchLayout, scale: int) -> Scoring:
    """The same through CKKS; ``scale`` is how many integers make 1.0."""
    secret = SketchSecretKey.generate(SeededRandom(8))
    encryption, evaluation = secret.public_keys()
    sketch_scale = SketchScale(NORM_BOUND * scale)
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
            for task in score_tasks(encryption, evaluation, ciphertexts, 1, random):
                pairs += task.pairs
                scores += score_task_results(task)
        with validator.running():
            (gram,) = symmetric(pairs, opening.open(scores), len(names))
        plain = _plain(sketches)
        norms = np.sqrt(np.diagonal(plain))
        costs = {
            "clients_s": clients.seconds,
            "coordinator_s": coordinator.seconds,
            "validator_s": validator.seconds,
            "largest_error": float(np.max(np.abs(gram - plain) / np.outer(norms, norms))),
        }
        return ScoreMatrix(names, gram), costs

    return score


def _plain(sketches: Sequence[Integers]) -> NDArray[np.float64]:
    return _symmetric(
        np.array([[float(inner_products(a, b)[0]) for b in sketches] for a in sketches])
    )


def _symmetric(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same, with rounding errors of the last digit gone."""
    return np.asarray((gram + gram.T) / 2)
