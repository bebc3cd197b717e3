"""Wrapped keys end to end: sums of 3, 20 and 200 wraps, correlated noise, cancelling wraps."""

from __future__ import annotations

import numpy as np
import pytest

from fedfm_crypto.errors import CapacityError, CiphertextError, CryptoError, DecryptionError
from fedfm_crypto.lattice import wrapping
from fedfm_crypto.lattice.bulk_keys import BulkKey, PublicPolynomials
from fedfm_crypto.lattice.collective import PARAMETERS, data_ring
from fedfm_crypto.lattice.key_additive import RunningSum, decrypt, encrypt
from fedfm_crypto.lattice.wrapping import WRAP, check_noise, check_wrap, open_key_sum
from fedfm_crypto.random_source import SeededRandom
from tests.crypto.lattice.federation import make_federation, sum_of

FEDERATION = make_federation()
ACTIVE = (2, 3, 5)


def keys_of(count: int) -> list[BulkKey]:
    random = SeededRandom(count)
    return [BulkKey.generate(random) for _ in range(count)]


@pytest.mark.parametrize("clients", [1, 3, 20, pytest.param(200, marks=pytest.mark.slow)])
def test_the_sum_of_wraps_opens_to_the_sum_of_keys(clients: int) -> None:
    keys = keys_of(clients)
    opened = open_key_sum(FEDERATION.open(FEDERATION.wrapped_sum(keys), ACTIVE), clients)
    assert (opened.coefficients == sum_of(keys)).all()
    assert opened.clients == clients


def test_a_wrap_is_a_plain_seal_ciphertext_of_known_size() -> None:
    wrap = FEDERATION.wrapping.wrap(keys_of(1)[0])
    assert len(wrap) == WRAP.size == 262_257
    assert WRAP.write(check_wrap(wrap)) == wrap


def test_adding_is_adding_residues() -> None:
    wraps = [FEDERATION.wrapping.wrap(key) for key in keys_of(3)]
    total = FEDERATION.wrapping.new_sum()
    expected = data_ring().zeros(2)
    for wrap in wraps:
        total.add(wrap)
        expected = data_ring().add(expected, check_wrap(wrap))
    assert (total.ciphertext() == expected).all()
    assert total.clients == 3


def test_a_thousand_times_one_wrap_still_opens() -> None:
    """Fully correlated noise, worse than 1,000 independent wraps: 1000 c opens to 1000 s."""
    key = keys_of(1)[0]
    ciphertext = data_ring().scale(FEDERATION.wrapped_sum([key]), [1000, 1000])
    opened = open_key_sum(FEDERATION.open(ciphertext, ACTIVE), 1000)
    assert (opened.coefficients == 1000 * key.coefficients).all()


def test_noise_that_honest_wraps_cannot_have_is_refused() -> None:
    ciphertext = FEDERATION.wrapped_sum(keys_of(3))
    check_noise(FEDERATION.open(ciphertext, ACTIVE), len(ACTIVE))
    largest = data_ring().scale(FEDERATION.wrapped_sum([keys_of(1)[0]]), [1000, 1000])
    check_noise(FEDERATION.open(largest, ACTIVE), len(ACTIVE))
    for bits in (92, 94):
        crafted = ciphertext.copy()
        for k, prime in enumerate(PARAMETERS.data_primes):
            shift = np.uint64((1 << bits) % prime)
            crafted[1, k, 0] = (crafted[1, k, 0] + shift) % np.uint64(prime)
        opened = FEDERATION.open(crafted, ACTIVE)
        assert (open_key_sum(opened, 3).coefficients == sum_of(keys_of(3))).all()
        with pytest.raises(DecryptionError, match="crafted"):
            check_noise(opened, len(ACTIVE))


def test_the_whole_path_from_words_to_their_sum() -> None:
    random, public = SeededRandom(9), PublicPolynomials(bytes(32))
    running, wraps = RunningSum(2), FEDERATION.wrapping.new_sum()
    words = np.random.default_rng(1).integers(0, 2**28, (4, 3 * 5000), dtype=np.uint32)
    for row, key in zip(words, keys_of(4), strict=True):
        wraps.add(FEDERATION.wrapping.wrap(key))
        running.add(b"".join(encrypt(row, key, public, random)))
    key_sum = open_key_sum(FEDERATION.open(wraps.ciphertext(), (1, 4, 5)), wraps.clients)
    (chunk,) = running.chunks()
    opened = decrypt(chunk, key_sum, public)
    assert (opened[: words.shape[1]] == words.sum(axis=0)).all()


def test_a_sum_that_counts_too_few_clients_is_refused() -> None:
    opened = FEDERATION.open(FEDERATION.wrapped_sum(keys_of(20)), ACTIVE)
    with pytest.raises(DecryptionError, match="exceeds 1 keys"):
        open_key_sum(opened, 1)


def test_a_negated_or_unencrypted_wrap_is_refused_by_name() -> None:
    wrap = FEDERATION.wrapping.wrap(keys_of(1)[0])
    values = check_wrap(wrap)
    total = FEDERATION.wrapping.new_sum()
    total.add(wrap)
    with pytest.raises(CiphertextError, match="cancels the sum"):
        total.add(WRAP.write(data_ring().subtract(np.zeros_like(values), values)))
    # The sum is as it was.
    assert (total.ciphertext() == values).all()
    assert total.clients == 1
    bare = values.copy()
    bare[1] = 0
    with pytest.raises(CiphertextError, match="not encrypted"):
        total.add(WRAP.write(bare))


def test_bounds_on_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CryptoError, match="no wrapped keys"):
        FEDERATION.wrapping.new_sum().ciphertext()
    total = FEDERATION.wrapping.new_sum()
    total.clients = 1000
    with pytest.raises(CapacityError):
        total.add(b"")
    with pytest.raises(CapacityError):
        open_key_sum(data_ring().zeros(), 1001)


def test_nothing_malformed_reaches_tenseal(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("TenSEAL was called")

    monkeypatch.setattr(wrapping, "load_vector", never)
    total = FEDERATION.wrapping.new_sum()
    wrap = FEDERATION.wrapping.wrap(keys_of(1)[0])
    with pytest.raises(AssertionError, match="was called"):
        total.add(wrap)
    with pytest.raises(CiphertextError):
        total.add(wrap[:-1])
    assert PARAMETERS.degree == 8192


def test_the_slots_of_a_sum_are_the_key_sum_twice_and_of_nonsense_are_anything() -> None:
    keys = keys_of(3)
    opened = FEDERATION.open(FEDERATION.wrapped_sum(keys), (1, 2, 3))
    assert (wrapping.decode_slots(opened).reshape(2, -1) == sum_of(keys)).all()
    nonsense = wrapping.decode_slots(data_ring().add(opened, opened[:, ::-1].copy()))
    assert int(np.abs(nonsense).max()) > 1000
    assert int(np.abs(nonsense).max()) <= PARAMETERS.plain_modulus // 2
