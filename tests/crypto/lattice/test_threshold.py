"""Sharing and threshold decryption: every active set, one share short, noise."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fedfm_crypto.errors import CiphertextError, DecryptionError, ShareError
from fedfm_crypto.lattice.bulk_keys import BulkKey
from fedfm_crypto.lattice.collective import PARAMETERS, data_ring
from fedfm_crypto.lattice.threshold import (
    FLOODING_BITS,
    MOST_ACTIVE,
    DecryptionShare,
    KeyShare,
    KeySharing,
    ThresholdDecryption,
    lagrange_weights,
)
from fedfm_crypto.lattice.wrapping import open_key_sum
from fedfm_crypto.random_source import SeededRandom
from tests.crypto.lattice.federation import make_federation, sum_of
from tests.crypto.lattice.oracles import combine, decode_slots, whole_secret

FEDERATION = make_federation()
KEYS = [BulkKey.generate(SeededRandom(seed)) for seed in range(5)]
CIPHERTEXT = FEDERATION.wrapped_sum(KEYS)
SUM = sum_of(KEYS)
Q = PARAMETERS.data_primes[0] * PARAMETERS.data_primes[1]
T = PARAMETERS.plain_modulus


@pytest.mark.parametrize("active", list(combinations(range(1, 6), 3)))
def test_any_three_of_five_open_the_sum(active: tuple[int, ...]) -> None:
    opened = open_key_sum(FEDERATION.open(CIPHERTEXT, active), len(KEYS))
    assert (opened.coefficients == SUM).all()


@pytest.mark.parametrize("active", [(5, 1, 3, 2), (1, 2, 3, 4, 5)])
def test_more_than_the_threshold_open_it_too(active: tuple[int, ...]) -> None:
    opened = open_key_sum(FEDERATION.open(CIPHERTEXT, active), len(KEYS))
    assert (opened.coefficients == SUM).all()


@pytest.mark.parametrize("active", [(1, 2), (2, 5)])
def test_one_share_short_opens_nothing(active: tuple[int, ...]) -> None:
    """Two of the three shares needed, weighted as if two were enough: no coefficient matches."""
    opened = FEDERATION.open(CIPHERTEXT, active, threshold=2)
    matches = int(np.count_nonzero(decode_slots(opened) == SUM))
    # By chance 4096 / t = 0.004 are expected.
    assert matches <= 2
    with pytest.raises(DecryptionError):
        open_key_sum(opened, len(KEYS))


def test_one_decryption_share_missing_opens_nothing() -> None:
    decryption, random = ThresholdDecryption(3, [1, 2, 3]), SeededRandom(1)
    shares = [decryption.gen_share(FEDERATION.shares[x], CIPHERTEXT, random) for x in (1, 2, 3)]
    with pytest.raises(ShareError, match=r"x = \[1, 2\], expected those at \[1, 2, 3\]"):
        decryption.aggregate(shares[:2])
    partly = data_ring().add(shares[0].values, shares[1].values)
    opened = decryption.finalise(CIPHERTEXT, partly)
    assert int(np.count_nonzero(decode_slots(opened) == SUM)) <= 2


def test_the_noise_stays_below_the_stated_bound() -> None:
    """c0 + c1 s minus (Q/t) m under the whole key: |v| <= K ((N n + 1) / 2 + 2)."""
    parties, wraps = len(FEDERATION.secrets), len(KEYS)
    s = whole_secret(FEDERATION.secrets)[:2]
    ring = data_ring()
    product = ring.inverse(ring.multiply(ring.forward(CIPHERTEXT[1]), s))
    phase = combine(ring.add(CIPHERTEXT[0], product), PARAMETERS.data_primes)
    noise = [abs(x * T - ((2 * x * T + Q) // (2 * Q)) * Q) / T for x in phase]
    bound = wraps * ((PARAMETERS.degree * parties + 1) / 2 + 2)
    assert max(noise) <= bound
    assert max(noise) > 1
    assert 1000 * ((8192 * 1000 + 1) / 2 + 2) <= 2**32
    assert MOST_ACTIVE * 2**FLOODING_BITS + 2**32 < Q / (2 * T) < 521 * 2**FLOODING_BITS


def test_a_partial_decryption_is_lambda_c1_sigma_plus_flooding() -> None:
    decryption = ThresholdDecryption(3, [1, 2, 4])
    share = decryption.gen_share(FEDERATION.shares[2], CIPHERTEXT, SeededRandom(2))
    ring = data_ring()
    key = ring.scale(FEDERATION.shares[2].values, lagrange_weights([1, 2, 4], 2))
    product = ring.inverse(ring.multiply(ring.forward(CIPHERTEXT[1]), key))
    flood = combine(ring.subtract(share.values, product), PARAMETERS.data_primes)
    assert all(-(2**90) <= value < 2**90 for value in flood)
    assert max(map(abs, flood)) > 2**89
    assert abs(float(np.mean([value / 2**90 for value in flood]))) < 0.05


def test_a_single_share_is_uniform_whatever_the_secret() -> None:
    """Two dealings of one secret give one party unrelated, uniform values."""
    sharing = KeySharing(2, [1, 2])
    one, other = (
        sharing.gen_shares(FEDERATION.secrets[0], SeededRandom(seed))[0].values for seed in (1, 2)
    )
    assert not (one == other).any()
    for k, prime in enumerate(PARAMETERS.data_primes):
        counts = np.bincount((one[k] // np.uint64(prime // 64 + 1)).astype(np.int64), minlength=64)
        expected = PARAMETERS.degree / 64
        assert float(((counts - expected) ** 2 / expected).sum()) < 63 + 5 * 126**0.5


def test_shares_interpolate_to_the_secret() -> None:
    xs = [3, 7, 1 << 20, (1 << 32) - 1]
    shares = KeySharing(3, xs).gen_shares(FEDERATION.secrets[0], SeededRandom(3))
    for chosen in combinations(shares, 3):
        points = [share.x for share in chosen]
        total = data_ring().zeros()
        for share in chosen:
            weighted = data_ring().scale(share.values, lagrange_weights(points, share.x))
            total = data_ring().add(total, weighted)
        assert (total == FEDERATION.secrets[0].transformed[:2]).all()


def test_a_corrupt_share_is_noticed() -> None:
    decryption, random = ThresholdDecryption(3, [1, 2, 3]), SeededRandom(5)
    shares = [decryption.gen_share(FEDERATION.shares[x], CIPHERTEXT, random) for x in (1, 2, 3)]
    values = shares[1].values.copy()
    values[0, 17] ^= np.uint64(1 << 58)
    values[0] %= np.uint64(PARAMETERS.data_primes[0])
    bad = [shares[0], DecryptionShare(2, values), shares[2]]
    with pytest.raises(DecryptionError):
        open_key_sum(decryption.finalise(CIPHERTEXT, decryption.aggregate(bad)), len(KEYS))


def test_shares_survive_the_wire_and_do_not_print() -> None:
    share = FEDERATION.shares[1]
    assert repr(share) == "KeyShare(x=1)"
    assert len(share.to_bytes()) == 131_072
    assert (KeyShare.from_bytes(1, share.to_bytes()).values == share.values).all()
    answer = DecryptionShare(1, share.values)
    assert (DecryptionShare.from_bytes(1, answer.to_bytes()).values == share.values).all()
    for data in (share.to_bytes()[:-1], share.to_bytes() + b"\0", b"\xff" * 131_072, b""):
        with pytest.raises(CiphertextError):
            KeyShare.from_bytes(1, data)
        with pytest.raises(CiphertextError):
            DecryptionShare.from_bytes(1, data)


def test_shares_of_one_party_add_up_from_one_dealer_on() -> None:
    one = FEDERATION.shares[1]
    assert (KeySharing.aggregate([one]).values == one.values).all()
    assert KeySharing.aggregate([one]).x == 1
    twice = KeySharing.aggregate([one, one])
    primes = np.array(PARAMETERS.data_primes, dtype=np.uint64)[:, None]
    assert (twice.values == 2 * one.values % primes).all()
    with pytest.raises(ShareError, match="one party"):
        KeySharing.aggregate([])


def test_arguments_out_of_range_are_refused() -> None:
    share = FEDERATION.shares[1]
    for threshold, xs in [(1, [1, 2]), (3, [1, 2]), (2, [0, 1]), (2, [1, 1]), (2, [1, 1 << 32])]:
        with pytest.raises(ShareError):
            KeySharing(threshold, xs)
    for threshold, xs in [(3, [1, 2]), (2, [1]), (2, [1, 1]), (2, [0, 2])]:
        with pytest.raises(ShareError):
            ThresholdDecryption(threshold, xs)
    with pytest.raises(ShareError, match="not among"):
        ThresholdDecryption(2, [2, 3]).gen_share(share, CIPHERTEXT, SeededRandom(1))
    with pytest.raises(ShareError, match="one party"):
        KeySharing.aggregate([share, FEDERATION.shares[2]])
    with pytest.raises(ShareError, match="expected uint64"):
        KeyShare(1, share.values[:1])
    with pytest.raises(ShareError, match="share point 0"):
        KeyShare(0, share.values)
