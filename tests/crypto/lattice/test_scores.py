"""Encrypted scores: right to a millionth, and nothing but the score in any slot or coefficient."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import tenseal
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError, CryptoError
from fedfm_crypto.lattice import scores
from fedfm_crypto.lattice.ntt import ring
from fedfm_crypto.lattice.sampling import Sampler
from fedfm_crypto.lattice.score_opening import ScoreOpening, symmetric
from fedfm_crypto.lattice.scores import (
    ScoreEvaluation,
    gram_pairs,
    score_task_results,
    score_tasks,
)
from fedfm_crypto.lattice.sketch_encryption import SketchEncryption
from fedfm_crypto.lattice.sketch_format import (
    PARAMETERS,
    SKETCH,
    SketchScale,
    score_positions,
    score_size,
)
from fedfm_crypto.lattice.sketch_keys import SketchSecretKey, data_ring
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from fedfm_crypto.sketch import SLOTS
from tests.crypto.lattice.sketching import (
    NORM,
    encrypted_gram,
    example_scale,
    example_sketch,
    make_validator,
    plain_gram,
)

N = PARAMETERS.degree
ONE, OTHER = example_sketch(1), example_sketch(2)


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest error of G_ij relative to sqrt(G_ii G_jj)."""
    norms = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))
    return float(np.abs((found - expected) / (norms[:, :, None] * norms[:, None, :])).max())


def ciphertexts(*sketches: NDArray[np.int64], scale: SketchScale | None = None) -> list[bytes]:
    client = SketchEncryption(make_validator().encryption, scale or example_scale())
    return [client.encrypt(values) for values in sketches]


def evaluation() -> ScoreEvaluation:
    return ScoreEvaluation(make_validator().encryption, make_validator().evaluation)


def sampler(seed: int) -> Sampler:
    return Sampler(Secret(seed.to_bytes(32, "big")))


def score(one: bytes, other: bytes, groups: int = 1, seed: int = 1) -> bytes:
    return evaluation().score(SKETCH.read(one), SKETCH.read(other), groups, sampler(seed))


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_the_encrypted_gram_matrix_is_the_plain_one(groups: int) -> None:
    sketches = [example_sketch(seed, groups) for seed in range(3)]
    sketches.append(-2 * sketches[0] + sketches[1])
    found = encrypted_gram(sketches, example_scale(groups), block=2)
    assert relative_error(found, plain_gram(sketches, groups)) < 3e-5


def test_groups_do_not_leak_into_each_other() -> None:
    """One group 300 times as large as the others."""
    sketches = [example_sketch(seed, 4) for seed in range(2)]
    for values in sketches:
        values.reshape(-1, 4)[:, 2] *= 30
    found = encrypted_gram(sketches, example_scale(4))
    expected = plain_gram(sketches, 4)
    assert relative_error(found, expected) < 1e-4
    assert expected[2, 0, 0] > 500 * expected[1, 0, 0]


def test_it_is_what_tensealls_own_dot_product_gives() -> None:
    """An independent oracle: keys, product, rotations and decryption all TenSEAL's."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60], n_threads=1
    )
    context.global_scale = 2.0**40
    context.generate_galois_keys()
    vectors = [tenseal.ckks_vector(context, (v / NORM).tolist()) for v in (ONE, OTHER)]
    theirs = vectors[0].dot(vectors[1]).decrypt()[0] * NORM**2 / 8
    ours = encrypted_gram([ONE, OTHER], example_scale())[0, 0, 1]
    assert ours == pytest.approx(theirs, abs=1e-5 * NORM**2)


def test_large_and_small_norms_are_measured() -> None:
    for factor, tolerance in ((1.15 * 32, 1e-8), (1.0, 3e-6), (1 / 8, 2e-4)):
        sketches = [example_sketch(seed, norm=factor * NORM) for seed in range(2)]
        found = encrypted_gram(sketches, example_scale())
        assert relative_error(found, plain_gram(sketches)) < tolerance


def rebuilt_polynomial(data: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All that the validator can compute from a score, as fractions modulo 1.

    The ciphertext with zeros in place of the coefficients that were not sent, decrypted: all N
    coefficients, and the 4096 slots that TenSEAL would show.
    """
    units = np.zeros((N + 1, 8), dtype=np.uint8)
    units[:, :5] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 5)
    values = units.reshape(-1).view("<u8").astype(object)
    prime = PARAMETERS.primes[0]
    # alpha s over the integers is below 2^40 * 8192 < q / 2, so one 60-bit prime holds it.
    base = ring(N, (prime,))
    secret = base.forward(base.residues(make_validator().secret.ternary()))
    alpha = base.forward(values[1:].astype(np.uint64).reshape(1, N))
    product = base.inverse(base.multiply(alpha, secret))[0].astype(object)
    phase = np.where(product > prime // 2, product - prime, product)
    phase[0] += values[0]
    centred = (phase + 2**39) % 2**40 - 2**39
    fractions = centred.astype(np.float64) / 2.0**40
    twist = np.exp(1j * np.pi * np.arange(N) / N)
    return fractions, (np.fft.ifft(fractions * twist) * N).real


def whole_product(one: bytes, other: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same of the whole product, as the coordinator holds it: what must not be sent."""
    data, a, b = data_ring(), SKETCH.read(one), SKETCH.read(other)
    secret = data.forward(data.residues(make_validator().secret.ternary()))
    plain = [data.add(c[0], data.multiply(c[1], secret)) for c in (a, b)]
    residues = data.inverse(data.multiply(*plain)).astype(object)
    modulus = 1
    total = np.zeros(N, dtype=object)
    for q in PARAMETERS.data_primes:
        modulus *= q
    for row, q in zip(residues, PARAMETERS.data_primes, strict=True):
        total = total + row * (modulus // q * pow(modulus // q, -1, q))
    centred = (total + modulus // 2) % modulus - modulus // 2
    fractions = (centred / modulus).astype(np.float64)
    twist = np.exp(1j * np.pi * np.arange(N) / N)
    return fractions, (np.fft.ifft(fractions * twist) * N).real


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def test_no_slot_and_no_coefficient_holds_more_than_the_score() -> None:
    one, other = ciphertexts(ONE, OTHER)
    product, product_slots = whole_product(one, other)
    found, slots = rebuilt_polynomial(score(one, other))
    # The test sees leaks: the whole product's slots are the products bucket by bucket.
    order = np.array([pow(3, k, 2 * N) // 2 for k in range(SLOTS)])
    assert correlation(product_slots[order], ONE.astype(float) * OTHER) > 0.999
    # The score is there,
    assert found[0] == pytest.approx(product[0], abs=2.0**-31)
    # and everything else is uniform noise, whatever linear function one looks at.
    rest = np.sort(found[1:])
    uniform = (np.arange(rest.size) + 0.5) / rest.size - 0.5
    assert np.abs(rest - uniform).max() < 2.2 / np.sqrt(N)  # Kolmogorov-Smirnov, 1 in 10^4
    assert abs(correlation(found[1:], product[1:])) < 5 / np.sqrt(N)
    assert abs(correlation(slots[order], product_slots[order])) < 5 / np.sqrt(SLOTS)
    assert abs(correlation(slots[order], ONE.astype(float) * OTHER)) < 5 / np.sqrt(SLOTS)


def test_alpha_is_fresh_for_every_score() -> None:
    one, other = ciphertexts(ONE, OTHER)
    first, second = (
        np.frombuffer(score(one, other, seed=seed)[5:], np.uint8).reshape(-1, 5) for seed in (1, 2)
    )
    assert np.count_nonzero((first == second).all(axis=1)) == 0
    assert score(one, other, seed=1) == score(one, other, seed=1)


def test_without_the_encryption_of_zero_alpha_would_be_the_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red if the re-randomisation is dropped: then alpha is a function of the ciphertexts alone."""
    one, other = ciphertexts(ONE, OTHER)
    monkeypatch.setattr(
        Sampler, "ternary", lambda self, count: np.zeros(count, dtype=np.int64), raising=True
    )
    assert score(one, other, seed=1)[5:] == score(one, other, seed=2)[5:]


def test_the_flooding_is_uniform_and_as_wide_as_stated() -> None:
    one, other = ciphertexts(ONE, OTHER)
    product, _ = whole_product(one, other)
    a, b, both = SKETCH.read(one), SKETCH.read(other), evaluation()
    opening = ScoreOpening(make_validator().secret, example_scale())
    stream = sampler(3)
    errors = []
    for _ in range(60):
        (phase,) = opening._phases(both.score(a, b, 1, stream))
        errors.append(phase / 2.0**40 - product[0])
    spread = float(np.std(errors)) * 2.0**32
    # Uniform in +-2^-32: 0.577; the rounding of alpha and beta adds 0.08 in squares' root.
    assert 0.48 < spread < 0.68
    assert float(np.abs(errors).max()) * 2.0**32 < 1.5


def test_noise_of_the_parts_is_as_small_as_stated() -> None:
    """Below 2^-64 for ordinary norms: what the flooding has to drown."""
    fractions = []
    for _ in range(4):
        one, other = ciphertexts(ONE, OTHER)
        fractions.append(whole_product(one, other)[0])
    noise = np.std(np.array(fractions), axis=0)
    assert float(noise.max()) < 2.0**-64


@pytest.mark.parametrize("count", [1, 2, 5, 33])
@pytest.mark.parametrize("block", [1, 4, 16])
def test_tasks_cover_every_pair_once(count: int, block: int) -> None:
    validator = make_validator()
    names = [bytes([i]) for i in range(count)]
    keys = validator.encryption, validator.evaluation
    tasks = list(score_tasks(*keys, names, 1, SeededRandom(1), block))
    pairs = [pair for task in tasks for pair in task.pairs]
    assert sorted(pairs) == sorted(gram_pairs(count))
    for task in tasks:
        assert len(task.sketches) <= 2 * block
        for (i, j), (a, b) in zip(task.pairs, task.local, strict=True):
            assert (task.sketches[a], task.sketches[b]) == (names[i], names[j])
    assert len({task.seed for task in tasks}) == len(tasks)


def test_a_task_survives_the_way_to_another_process() -> None:
    validator = make_validator()
    keys = validator.encryption, validator.evaluation
    (task,) = score_tasks(*keys, ciphertexts(ONE, OTHER), 2, SeededRandom(1))
    there = pickle.loads(pickle.dumps(task))  # noqa: S301
    assert score_task_results(there) == score_task_results(task)
    assert task.seed.hex() not in repr(task)
    assert all(len(data) == score_size(2) for data in score_task_results(task))


def test_malformed_sketches_stop_a_task() -> None:
    validator = make_validator()
    keys = validator.encryption, validator.evaluation
    (task,) = score_tasks(*keys, [*ciphertexts(ONE), b"x"], 1, SeededRandom(1))
    with pytest.raises(CiphertextError, match="encrypted sketch: 1 bytes"):
        score_task_results(task)


def test_another_validators_key_opens_nothing() -> None:
    one, same = ciphertexts(ONE, ONE)
    data = score(one, same)
    right = ScoreOpening(make_validator().secret, example_scale()).open([data])[0, 0]
    other = SketchSecretKey.generate(SeededRandom(9))
    wrong = ScoreOpening(other, example_scale()).open([data])[0, 0]
    assert right == pytest.approx(NORM**2, rel=1e-4)
    assert abs(wrong / right - 1) > 1


def test_scores_of_another_length_are_refused() -> None:
    opening = ScoreOpening(make_validator().secret, example_scale())
    for size in (0, score_size(1) - 1, score_size(2)):
        with pytest.raises(CiphertextError, match="expected exactly 40965"):
            opening.open([bytes(size)])


def test_a_matrix_needs_every_pair_once() -> None:
    values = np.arange(3.0).reshape(3, 1)
    assert symmetric(gram_pairs(2), values, 2).tolist() == [[[0.0, 1.0], [1.0, 2.0]]]
    for pairs in ([(0, 0), (0, 1), (0, 1)], [(0, 0), (0, 1), (1, 0)], [(0, 0), (0, 1)]):
        with pytest.raises(CryptoError, match="each of the 3 pairs"):
            symmetric(pairs, values[: len(pairs)], 2)


def test_wrong_arguments_are_refused() -> None:
    validator = make_validator()
    with pytest.raises(CryptoError, match="blocks of 0"):
        list(
            score_tasks(validator.encryption, validator.evaluation, [], 1, SeededRandom(1), block=0)
        )
    with pytest.raises(CryptoError, match="3 sketch groups"):
        score_positions(3)
    assert scores.BLOCK == 16
