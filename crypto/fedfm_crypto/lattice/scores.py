"""Encrypted scores: inner products of encrypted sketches, one number (or one a group) each.

The coordinator multiplies two ciphertexts and keeps of the product *one coefficient*. Slot values
z_k are values of the plaintext polynomial m at odd powers of zeta, so their mean is a coefficient:
m_0 = (1/N) sum over all N roots = (1/4096) sum_k Re z_k. No rotations, hence no Galois keys and no
partial sums in other slots. With G groups (slot k belongs to group k mod G) the G group sums are
as many coefficients, at multiples of N/2G: the partial trace to the subring of degree 2G,
m'(y) = sum_j m_(j N/2G) y^j, whose value at exp(i pi 3^r / 2G) is the mean of group r, and for
real slots m'_(2G-j) = -m'_j.

Steps, in the basis of all four primes, Q' = P Q:

1. (d0, d1, d2) = product of the two ciphertexts; (e0, e1) = P (d0, d1) + sum_j [d2]_j (b_j, a_j):
   relinearised, still multiplied by P.
2. A fresh encryption of zero: (e0, e1) += u (b, a), u ternary. Without it, e1 is a function of the
   clients' ciphertexts: a validator, who knows s, could take sketches out of it.
3. beta_t = coefficient t of e0 / Q', alpha = e1 / Q': fractions modulo 1. beta_t gets noise
   uniform in +-2^-32, which drowns the noise of the parts (their products with the sketches).
4. Rounded to 40 bits: 5 bytes a coefficient of alpha, 5 a score. The other coefficients of e0,
   which would tell the other sums, are not sent.

The validator computes beta_t + (alpha s)_t. What it sees is alpha, uniform to anybody who cannot
solve RLWE (u unknown; rounding drops 160 bits, more than the error that RLWE asks for), and a
number: the score with uniform noise. Rescaling is never needed, as one product fills the modulus.

Noise, as fractions: parts below 2^-64 for vectors of 1/32 of the largest norm (2^-59 at the
largest), so a score depends on them with a statistical distance below 2^-30 (2^-27); flooding
2^-32.8 (standard deviation), rounding 2^-35.6. A squared norm of B^2 is the fraction 1/4. So a
score of vectors of norm B/32 is good to 5e-7 of their squared norm, of norm B/256 to 4e-5 (both one
standard deviation), beside the sketch's own error of 2 %.

Sources: Chillotti et al., "TFHE" (2020), section 4.2 for sample extraction; Gentry et al., "Field
switching in BGV-style homomorphic encryption" (2013) for the trace; Gentry (2009), section 21.1,
and Ducas and Stehle, "Sanitization of FHE ciphertexts" (2016) for hiding what was computed on;
Banerjee, Peikert and Rosen (2012) for rounding as error. The composition is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lattice.ntt import Ring
from fedfm_crypto.lattice.sampling import Sampler
from fedfm_crypto.lattice.sketch_format import (
    PARAMETERS,
    SCORE_BITS,
    SKETCH,
    score_positions,
    write_score,
)
from fedfm_crypto.lattice.sketch_keys import EncryptionKey, EvaluationKey, data_ring, key_ring
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = [
    "BLOCK", "ScoreEvaluation", "ScoreTask", "gram_pairs", "score_task_results", "score_tasks",
]  # fmt: skip

Words = NDArray[np.uint64]

BLOCK = 16
"""Rows and columns of the Gram matrix that one task covers: at most 32 sketches, 10 MB."""

_FLOODING_BITS = 32
_SEED_SIZE = 32
_P = PARAMETERS.primes[-1]
_K = len(PARAMETERS.primes)
_N = PARAMETERS.degree


class ScoreEvaluation:
    """The coordinator's multiplication under one validator's keys.

    Args:
        encryption: the validator's encryption key.
        evaluation: its evaluation key.

    Raises:
        CryptoError: the two keys are of different seeds.
    """

    __slots__ = ("_pairs", "_zero")

    def __init__(self, encryption: EncryptionKey, evaluation: EvaluationKey) -> None:
        if encryption.seed != evaluation.seed:
            raise CryptoError(
                "the validator's encryption and evaluation keys have different seeds; ask for both "
                "keys of this epoch"
            )
        self._zero = encryption.pair
        self._pairs = evaluation.pairs

    def score(self, one: Words, other: Words, groups: int, sampler: Sampler) -> bytes:
        """Return the encrypted inner products, for each group, of two encrypted sketches.

        Args:
            one: residues [2, 3, N] as ``SKETCH.read`` returns them.
            other: likewise; the same array for a squared norm.
            groups: 1, 2, 4 or 8.
            sampler: of fresh secret randomness.
        """
        ring_ = key_ring()
        extended = self._relinearised(one, other)
        u = ring_.forward(ring_.residues(sampler.ternary(PARAMETERS.degree)))
        for part, public in zip(extended, self._zero, strict=True):
            part[:] = ring_.add(part, ring_.multiply(u, public))
        alpha = _fractions(ring_, ring_.inverse(extended[1]))
        positions = score_positions(groups)
        constants = _coefficients(ring_, extended[0], positions)
        flooding = sampler.words(groups) >> np.uint64(63 - _FLOODING_BITS)
        betas = [
            _fraction(constant) + int(noise) - (1 << _FLOODING_BITS)
            for constant, noise in zip(constants, flooding, strict=True)
        ]
        return write_score([beta >> (64 - SCORE_BITS) for beta in betas], alpha)

    def _relinearised(self, one: Words, other: Words) -> Words:
        """Return P times the product, of degree 1 in s, transformed, [2, 4, N]."""
        ring_, data = key_ring(), data_ring()
        d0 = data.multiply(one[0], other[0])
        d1 = data.add(data.multiply(one[0], other[1]), data.multiply(one[1], other[0]))
        d2 = data.inverse(data.multiply(one[1], other[1]))
        digits = ring_.forward(_lifted(d2))
        total = np.zeros((2, _K, PARAMETERS.degree), dtype=np.uint64)
        for part, d in zip(total, (d0, d1), strict=True):
            part[:-1] = data.scale(d, [_P] * (_K - 1))
        for digit, pair in zip(digits, self._pairs, strict=True):
            for part, key in zip(total, pair, strict=True):
                part[:] = ring_.add(part, ring_.multiply(digit, key))
        return total


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """A block of the Gram matrix for one worker process: bytes and integers, so it pickles.

    Args:
        encryption_key: as received.
        evaluation_key: as received.
        sketches: ciphertexts as received, those that the pairs name.
        pairs: (row, column) places in the whole matrix.
        local: the same pairs as places in ``sketches``.
        groups: of the sketch layout.
        seed: 32 secret random bytes, of this task only.
    """

    encryption_key: bytes = field(repr=False)
    evaluation_key: bytes = field(repr=False)
    sketches: tuple[bytes, ...] = field(repr=False)
    pairs: tuple[tuple[int, int], ...]
    local: tuple[tuple[int, int], ...]
    groups: int
    seed: bytes = field(repr=False)


def gram_pairs(count: int) -> tuple[tuple[int, int], ...]:
    """Return the places (row, column), row <= column, of a symmetric matrix, row by row."""
    return tuple((i, j) for i in range(count) for j in range(i, count))


def score_tasks(
    encryption: EncryptionKey,
    evaluation: EvaluationKey,
    sketches: Sequence[bytes],
    groups: int,
    random: RandomSource,
    block: int = BLOCK,
) -> Iterator[ScoreTask]:
    """Yield the tasks that together score every pair of ``sketches`` once, block by block.

    Args:
        encryption: the validator's encryption key.
        evaluation: its evaluation key.
        sketches: ciphertexts, a root direction's last where there is one.
        groups: of the sketch layout.
        random: each task gets a seed of its own from it.
        block: rows and columns of a block.

    Raises:
        CryptoError: ``block`` is below 1, or the keys are of different seeds.
    """
    if block < 1:
        raise CryptoError(f"blocks of {block} rows, expected at least 1")
    ScoreEvaluation(encryption, evaluation)
    keys = encryption.to_bytes(), evaluation.to_bytes()
    starts = range(0, len(sketches), block)
    for top in starts:
        for left in starts:
            if left < top:
                continue
            rows = range(top, min(top + block, len(sketches)))
            columns = range(left, min(left + block, len(sketches)))
            pairs = tuple((i, j) for i in rows for j in columns if i <= j)
            needed = sorted({*rows, *columns})
            place = {index: at for at, index in enumerate(needed)}
            local = tuple((place[i], place[j]) for i, j in pairs)
            chosen = tuple(bytes(sketches[index]) for index in needed)
            yield ScoreTask(*keys, chosen, pairs, local, groups, draw(random, _SEED_SIZE))


def score_task_results(task: ScoreTask) -> tuple[bytes, ...]:
    """Return the score ciphertext of each of the task's pairs, in order. Runs in any process.

    Raises:
        CiphertextError: a sketch or key is malformed.
        CryptoError: the task names another number of groups than there can be.
    """
    evaluation = _evaluation(task.encryption_key, task.evaluation_key)
    values = [SKETCH.read(data) for data in task.sketches]
    sampler = Sampler(Secret(task.seed))
    return tuple(
        evaluation.score(values[i], values[j], task.groups, sampler) for i, j in task.local
    )


@lru_cache(maxsize=2)
def _evaluation(encryption_key: bytes, evaluation_key: bytes) -> ScoreEvaluation:
    return ScoreEvaluation(
        EncryptionKey.from_bytes(encryption_key), EvaluationKey.from_bytes(evaluation_key)
    )


def _lifted(coefficients: Words) -> Words:
    """Return each row of residues [3, N], as integers below its prime, modulo all four primes."""
    primes, sources = PARAMETERS.primes, PARAMETERS.data_primes
    lifted = np.empty((len(sources), len(primes), coefficients.shape[-1]), dtype=np.uint64)
    for digit, row, source in zip(lifted, coefficients, sources, strict=True):
        for target, prime in zip(digit, primes, strict=True):
            if source <= prime:
                target[:] = row
            else:
                # floor_divide by a scalar is vectorised, the remainder is not.
                target[:] = row - row // np.uint64(prime) * np.uint64(prime)
    return lifted


def _coefficients(
    ring_: Ring, transformed: Words, positions: Sequence[int]
) -> list[tuple[int, ...]]:
    """Return the residues of some coefficients of a transform [4, N]."""
    if tuple(positions) == (0,):
        # The constant coefficient is the mean of all values; halves of words cannot overflow.
        low = (transformed & np.uint64(0xFFFFFFFF)).sum(axis=1, dtype=np.uint64)
        high = (transformed >> np.uint64(32)).sum(axis=1, dtype=np.uint64)
        sums = zip(low, high, ring_.primes, strict=True)
        return [tuple(((int(b) << 32) + int(a)) * pow(_N, -1, q) % q for a, b, q in sums)]
    coefficients = ring_.inverse(transformed)
    return [tuple(int(x) for x in coefficients[:, t]) for t in positions]


@lru_cache(maxsize=1)
def _cofactors() -> tuple[int, ...]:
    """Return the inverse of Q'/q modulo each prime q."""
    primes = PARAMETERS.primes
    whole = 1
    for q in primes:
        whole *= q
    return tuple(pow(whole // q, -1, q) for q in primes)


def _fraction(residues: Sequence[int]) -> int:
    """Return x / Q' modulo 1 from the residues of x, in units of 2^-64, modulo 2^64."""
    triples = zip(residues, _cofactors(), PARAMETERS.primes, strict=True)
    return sum((x * c % q << 64) // q for x, c, q in triples) % (1 << 64)


def _fractions(ring_: Ring, coefficients: Words) -> Words:
    """Return x / Q' modulo 1 of coefficients [4, N] in units of 2^-40, uint64 [N], rounded.

    In doubles, whose error of 2^-51 is far below the rounding.
    """
    scaled = ring_.scale(coefficients, _cofactors()).astype(np.float64)
    shares = scaled / np.array(PARAMETERS.primes, dtype=np.float64)[:, np.newaxis]
    units = np.rint(shares.sum(axis=0) * float(1 << SCORE_BITS)).astype(np.uint64)
    reduced: Words = units & np.uint64((1 << SCORE_BITS) - 1)
    return reduced
