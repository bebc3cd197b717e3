"""A validator with keys, and clients with encrypted sketches, for the tests of scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.lattice.score_opening import ScoreOpening, symmetric
from fedfm_crypto.lattice.scores import score_task_results, score_tasks
from fedfm_crypto.lattice.sketch_encryption import SketchEncryption
from fedfm_crypto.lattice.sketch_format import SketchScale
from fedfm_crypto.lattice.sketch_keys import EncryptionKey, EvaluationKey, SketchSecretKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.sketch import SLOTS, inner_products

NORM = 2.0**22
"""Norm of an ordinary client's vector, in steps."""


@dataclass(frozen=True)
class Validator:
    """One validator's keys."""

    secret: SketchSecretKey
    encryption: EncryptionKey
    evaluation: EvaluationKey


@lru_cache(maxsize=2)
def make_validator(seed: int = 1) -> Validator:
    secret = SketchSecretKey.generate(SeededRandom(seed))
    return Validator(secret, *secret.public_keys())


def example_sketch(seed: int, groups: int = 1, norm: float = NORM) -> NDArray[np.int64]:
    """What the sketch of a vector of this norm looks like: integers of its variance."""
    values = np.random.default_rng(seed).standard_normal(SLOTS)
    values *= norm * np.sqrt(8 / groups) / np.linalg.norm(values)
    return np.rint(values).astype(np.int64)


def example_scale(groups: int = 1) -> SketchScale:
    return SketchScale(32 * NORM, groups)


def plain_gram(sketches: list[NDArray[np.int64]], groups: int = 1) -> NDArray[np.float64]:
    """[groups, n, n] from the sketches themselves."""
    rows = [[inner_products(one, other, groups) for other in sketches] for one in sketches]
    return np.moveaxis(np.array(rows), 2, 0)


def encrypted_gram(
    sketches: list[NDArray[np.int64]], scale: SketchScale, block: int = 16
) -> NDArray[np.float64]:
    """[groups, n, n] by the whole encrypted path."""
    validator = make_validator()
    client = SketchEncryption(validator.encryption, scale)
    ciphertexts = [client.encrypt(values) for values in sketches]
    random = SeededRandom(7)
    pairs: list[tuple[int, int]] = []
    scores: list[bytes] = []
    keys = validator.encryption, validator.evaluation
    for task in score_tasks(*keys, ciphertexts, scale.groups, random, block):
        pairs += task.pairs
        scores += score_task_results(task)
    opened = ScoreOpening(validator.secret, scale).open(scores)
    return symmetric(pairs, opened, len(sketches))
