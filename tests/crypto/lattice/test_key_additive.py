"""Bulk encryption: Python integers as oracle, exact sums for many clients, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fedfm_crypto.errors import (
    CapacityError,
    CiphertextError,
    CryptoError,
    DecryptionError,
    InvalidKeyError,
)
from fedfm_crypto.lanes import from_lanes, to_lanes
from fedfm_crypto.lattice import bulk_format, kernels
from fedfm_crypto.lattice.bulk_format import (
    DEGREE,
    POLYNOMIAL_BYTES,
    PRIMES,
    check_polynomials,
    read_polynomials,
    write_polynomials,
)
from fedfm_crypto.lattice.bulk_keys import (
    CERTAIN_CLIENTS,
    BulkKey,
    KeySum,
    PublicPolynomials,
    bulk_ring,
    check_clients,
    failure_exponent,
    noise_bound,
)
from fedfm_crypto.lattice.key_additive import (
    RunningSum,
    _constants,
    decrypt,
    encrypt,
    polynomials_for,
)
from fedfm_crypto.lattice.wide_words import add_wide_masks, from_wide, to_wide, wide_size
from fedfm_crypto.random_source import SeededRandom
from fedfm_crypto.secret import Secret
from tests.crypto.lattice.oracles import big_integer_product, combine

Q = PRIMES[0] * PRIMES[1]
T = 2**96
PUBLIC = PublicPolynomials(bytes(range(32)))


def random_words(count: int, seed: int) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 2**32, 3 * count, dtype=np.uint32)


def as_integers(limbs: NDArray[np.uint32]) -> list[int]:
    octets = limbs.astype("<u4").tobytes()
    return [int.from_bytes(octets[i : i + 12], "little") for i in range(0, len(octets), 12)]


def seal_all(
    words: NDArray[np.uint32],
    key: BulkKey,
    random: SeededRandom,
    public: PublicPolynomials = PUBLIC,
) -> bytes:
    return b"".join(encrypt(words, key, public, random))


def test_a_ciphertext_is_a_s_plus_t_e_plus_m() -> None:
    """The definition, in Python integers modulo Q, for two polynomials."""
    random = SeededRandom(1)
    key, words = BulkKey.generate(random), random_words(2 * DEGREE, 1)
    residues = read_polynomials(seal_all(words, key, random))
    for poly in range(2):
        public = combine(bulk_ring().inverse(PUBLIC.expand(poly, 1))[0], PRIMES)
        product = big_integer_product(public, key.coefficients.tolist(), Q)
        messages = as_integers(words)[DEGREE * poly : DEGREE * (poly + 1)]
        noise = []
        for c, p, m in zip(combine(residues[poly], PRIMES), product, messages, strict=True):
            rest = (c - p - m) % Q
            rest = rest - Q if rest > Q // 2 else rest
            assert rest % T == 0
            noise.append(rest // T)
        assert max(map(abs, noise)) <= 21
        assert np.var(noise) == pytest.approx(10.5, rel=0.1)


def test_one_ciphertext_opens_under_its_key() -> None:
    random = SeededRandom(2)
    key, words = BulkKey.generate(random), random_words(DEGREE + 5, 2)
    opened = decrypt(seal_all(words, key, random), KeySum(key.coefficients, 1), PUBLIC)
    assert opened.size == 3 * 2 * DEGREE
    assert (opened[: words.size] == words).all()
    assert not opened[words.size :].any()


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("clients", [3, 20, 200, 1000])
def test_sums_at_the_capacity_bound_are_exact_with_masks_peeled_off(
    clients: int, bits: int
) -> None:
    """Plain integer sums as oracle; masks, borrows, streaming and packing all in the path."""
    random, generator = SeededRandom(clients), np.random.default_rng(clients)
    most, count = ((1 << (bits - 1)) - 1) // clients, 50
    total, keys = RunningSum(1), np.zeros(DEGREE, dtype=np.int64)
    expected, masks = (
        np.zeros(count, dtype=np.int64),
        np.zeros(3 * wide_size(count, bits), np.uint32),
    )
    for client in range(clients):
        values = generator.integers(-most, most + 1, count)
        values[:4] = (most, -most, most, -most)
        words, key = to_wide(to_lanes(values, bits), bits), BulkKey.generate(random)
        mask = Secret(client.to_bytes(32, "big"))
        add_wide_masks(words, [(mask, 1)])
        add_wide_masks(masks, [(mask, 1)])
        total.add(seal_all(words, key, random))
        expected += values
        keys += key.coefficients
    total.subtract_words(masks)
    (chunk,) = total.chunks()
    lanes = from_wide(decrypt(chunk, KeySum(keys, clients), PUBLIC), bits, count)
    assert (from_lanes(lanes, bits) == expected).all()


def test_chunks_can_come_and_go_in_any_order() -> None:
    random = SeededRandom(3)
    words = [random_words(19 * DEGREE - 7, seed) for seed in (1, 2)]
    keys = [BulkKey.generate(random) for _ in words]
    sealed = [seal_all(w, k, random) for w, k in zip(words, keys, strict=True)]
    assert [len(s) for s in sealed] == [19 * POLYNOMIAL_BYTES] * 2
    running = RunningSum(polynomials_for(19 * DEGREE - 7))
    for ciphertext in sealed:
        for first in (17, 3, 0, 10):
            last = {17: 19, 3: 10, 0: 3, 10: 17}[first]
            part = memoryview(ciphertext)[POLYNOMIAL_BYTES * first : POLYNOMIAL_BYTES * last]
            running.add(part, first)
    key = KeySum(keys[0].coefficients + keys[1].coefficients, 2)
    summed = [(a + b) % T for a, b in zip(*map(as_integers, words), strict=True)]
    opened, first = [], 0
    for chunk in running.chunks():
        opened += as_integers(decrypt(bytearray(chunk), key, PUBLIC, first))
        first += len(chunk) // POLYNOMIAL_BYTES
    assert opened[: len(summed)] == summed


def test_the_same_randomness_gives_the_same_ciphertext() -> None:
    words = random_words(10, 1)
    one, other = (
        seal_all(words, BulkKey.generate(r), r) for r in (SeededRandom(1), SeededRandom(1))
    )
    assert one == other


def test_a_key_encrypts_once() -> None:
    random = SeededRandom(4)
    key, words = BulkKey.generate(random), random_words(1, 1)
    first = encrypt(words, key, PUBLIC, random)
    # Refused at the call, not when the chunks are asked for.
    with pytest.raises(InvalidKeyError, match="already"):
        encrypt(words, key, PUBLIC, random)
    assert len(b"".join(first)) == POLYNOMIAL_BYTES


@pytest.mark.parametrize("wrong", ["one key missing", "another key", "another seed", "one client"])
def test_a_wrong_key_sum_is_noticed(wrong: str) -> None:
    random, clients = SeededRandom(5), 90
    keys = [BulkKey.generate(random) for _ in range(clients)]
    running, words = RunningSum(1), random_words(100, 1)
    for key in keys:
        running.add(seal_all(words, key, random))
    if wrong == "one key missing":
        keys = keys[1:]
    if wrong == "another key":
        keys[7] = BulkKey.generate(random)
    public = PublicPolynomials(bytes(32)) if wrong == "another seed" else PUBLIC
    counted = 1 if wrong == "one client" else clients
    (chunk,) = running.chunks()
    total = sum((key.coefficients for key in keys), start=np.zeros(DEGREE, dtype=np.int64))
    with pytest.raises(DecryptionError):
        decrypt(chunk, KeySum(total, counted), public)


def test_a_ciphertext_looks_uniform_whatever_it_holds() -> None:
    random = SeededRandom(6)
    zeros = np.zeros(3 * 8 * DEGREE, dtype=np.uint32)
    values = read_polynomials(seal_all(zeros, BulkKey.generate(random), random))
    for k in range(2):
        counts = np.bincount((values[:, k].reshape(-1) >> np.uint64(46)).astype(np.int64))
        expected = 8 * DEGREE / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 5 * 510**0.5


def test_combining_residues_is_exact_up_to_half_of_q() -> None:
    """The worst sums of 93 clients, both ends of +-Q/2, and random values."""
    generator = np.random.default_rng(7)
    values = [
        0, 1, -1, Q // 2, -(Q // 2), Q // 2 - 1, 1 - Q // 2,
        93 * 21 * T + 93 * (T - 1), -93 * 21 * T - (T - 1), T, -T, T - 1, 1 - T, 2**64, -(2**64),
        PRIMES[0] - 1, PRIMES[1], PRIMES[0],
    ]  # fmt: skip
    values += [int.from_bytes(generator.bytes(14), "big") % Q - Q // 2 for _ in range(200)]
    residues = bulk_ring().zeros(1)
    for k, prime in enumerate(PRIMES):
        residues[0, k, : len(values)] = [value % prime for value in values]
    words = np.empty(3 * DEGREE, dtype=np.uint32)
    moduli = np.array(PRIMES, dtype=np.uint64)
    extremes = kernels.combine_residues(residues, moduli, _constants().garner, words)
    assert as_integers(words)[: len(values)] == [value % T for value in values]
    assert extremes == (min(values) // T, max(values) // T)


def test_the_certain_bound_is_where_the_module_says() -> None:
    # (21 n + 1) T and 22 n T must stay below Q / 2.
    assert 22 * CERTAIN_CLIENTS * T <= Q // 2 < 22 * (CERTAIN_CLIENTS + 1) * T
    assert failure_exponent(CERTAIN_CLIENTS) == -math.inf
    assert failure_exponent(1000) < -75
    assert (2047 - 1000) / (10.5 * 1000) ** 0.5 > 10
    assert noise_bound(4) == 84
    assert noise_bound(93) == math.ceil(14 * (10.5 * 93) ** 0.5)
    for clients in (0, 1001):
        with pytest.raises(CapacityError, match=r"1\.\.1000"):
            check_clients(clients)


def test_a_malformed_chunk_leaves_the_sum_as_it_was() -> None:
    random = SeededRandom(8)
    running = RunningSum(2)
    running.add(seal_all(random_words(2 * DEGREE, 1), BulkKey.generate(random), random))
    before = b"".join(running.chunks())
    assert check_polynomials(before) == 2
    bad = bytearray(before)
    bad[-7:] = b"\xff" * 7
    for chunk, first, words in [
        (bytes(bad), 0, "not below the prime"),
        (b"\xff" * len(before), 0, "residue 0 of polynomial 0"),
        (before[:-1], 0, "multiple"), (b"", 0, "multiple"),
        (before, 1, "polynomials 1..2"), (before, -1, "of a ciphertext of 2"),
    ]:  # fmt: skip
        with pytest.raises(CiphertextError, match=words):
            running.add(chunk, first)
        if first == 0:
            with pytest.raises(CiphertextError, match=words):
                check_polynomials(chunk)
    with pytest.raises(CiphertextError, match="of a ciphertext of 2"):
        running.subtract_words(random_words(2 * DEGREE + 1, 1))
    assert b"".join(running.chunks()) == before


@pytest.mark.parametrize("polynomials", [1, 3, 8, 9])
def test_packing_keeps_54_bits_a_residue(polynomials: int) -> None:
    generator = np.random.default_rng(9)
    values = np.stack(
        [generator.integers(0, q, (polynomials, DEGREE), dtype=np.uint64) for q in PRIMES], axis=1
    )
    values[:, :, :2] = np.array([[0, q - 1] for q in PRIMES], dtype=np.uint64)
    packed = write_polynomials(values)
    digits = [format(value, "054b") for value in reversed(values.reshape(-1).tolist())]
    assert int.from_bytes(packed, "little") == int("".join(digits), 2)
    assert (read_polynomials(packed) == values).all()


def test_writing_checks_shape_and_residues() -> None:
    with pytest.raises(CiphertextError, match="expected uint64"):
        write_polynomials(np.zeros((1, 2, 5), dtype=np.uint64))
    with pytest.raises(CiphertextError, match="not below its prime"):
        write_polynomials(np.full((1, 2, DEGREE), PRIMES[1], dtype=np.uint64))


def test_keys_and_sums_are_checked_and_never_printed() -> None:
    key = BulkKey.generate(SeededRandom(10))
    assert "redacted" in repr(key)
    assert repr(KeySum(key.coefficients, 1)) == "KeySum(clients=1)"
    with pytest.raises(DecryptionError, match="exceeds 1 keys"):
        KeySum(key.coefficients + 22, 1)
    with pytest.raises(InvalidKeyError, match="outside"):
        BulkKey(key.coefficients * 22)
    with pytest.raises(InvalidKeyError, match="expected int64"):
        BulkKey(key.coefficients[1:])
    with pytest.raises(InvalidKeyError, match="expected int64"):
        KeySum(key.coefficients[1:], 1)
    with pytest.raises(InvalidKeyError, match="seed of 31"):
        PublicPolynomials(bytes(31))
    with pytest.raises(CryptoError, match="no words"):
        encrypt(np.zeros(0, dtype=np.uint32), key, PUBLIC, SeededRandom(1))
    with pytest.raises(CryptoError, match="at least 1"):
        RunningSum(0)


def test_public_polynomials_depend_on_seed_and_index_only() -> None:
    together = PUBLIC.expand(0, 5)
    assert (together[3] == PUBLIC.expand(3, 1)[0]).all()
    assert len({row.tobytes() for row in together}) == 5
    assert (PublicPolynomials(bytes(32)).expand(0, 1) != together[:1]).any()
    assert bulk_format.POLYNOMIAL_BYTES == 55_296
