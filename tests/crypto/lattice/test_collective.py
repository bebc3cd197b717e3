"""The collective key: its definition, the whole key's holder as oracle, commitments, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from fedfm_crypto.errors import CiphertextError, InvalidKeyError, ShareError
from fedfm_crypto.lattice.bulk_keys import BulkKey
from fedfm_crypto.lattice.collective import (
    PARAMETERS,
    CollectivePublicKey,
    PublicKeyGeneration,
    PublicKeyShare,
    SecretContribution,
    key_ring,
)
from fedfm_crypto.random_source import SeededRandom
from tests.crypto.lattice.federation import make_federation
from tests.crypto.lattice.oracles import big_integer_product, ideal_decrypt, whole_secret

SEED = bytes(32)


def test_a_public_share_is_minus_a_s_plus_e() -> None:
    random = SeededRandom(1)
    generation, secret = PublicKeyGeneration(b"context", SEED), SecretContribution.generate(random)
    share = generation.gen_share(secret, random)
    public = key_ring().inverse(generation.finalise(share).values[1])
    s, b = key_ring().inverse(secret.transformed), key_ring().inverse(share.values)
    for k, q in ((0, PARAMETERS.primes[0]), (2, PARAMETERS.primes[2])):
        assert set(s[k].tolist()) == {0, 1, q - 1}
        product = big_integer_product(public[k].tolist(), s[k].tolist(), q)
        noise = [(x + y) % q for x, y in zip(b[k].tolist(), product, strict=True)]
        centred = [e - q if e > q // 2 else e for e in noise]
        assert max(map(abs, centred)) <= 21
        assert np.var(centred) == pytest.approx(10.5, rel=0.1)


def test_the_sum_is_a_public_key_of_the_sum_of_secrets() -> None:
    """TenSEAL encrypts under the collective key and decrypts under the key nobody should hold."""
    federation = make_federation()
    key = BulkKey.generate(SeededRandom(2))
    ciphertext = federation.wrapped_sum([key])
    slots = ideal_decrypt(whole_secret(federation.secrets), federation.public_key, ciphertext)
    assert slots == key.coefficients.tolist()
    short = whole_secret(federation.secrets[1:])
    wrong = ideal_decrypt(short, federation.public_key, ciphertext)
    assert sum(a == b for a, b in zip(wrong, slots, strict=True)) <= 2


def test_a_commitment_binds_party_context_and_share() -> None:
    random = SeededRandom(3)
    generation, secret = PublicKeyGeneration(b"context", SEED), SecretContribution.generate(random)
    share, other = (generation.gen_share(secret, random) for _ in range(2))
    commitment = generation.commitment("north", share)
    generation.check_commitment("north", share, commitment)
    elsewhere = PublicKeyGeneration(b"another epoch", SEED)
    for found in (
        generation.commitment("south", share), generation.commitment("north", other),
        elsewhere.commitment("north", share),
    ):  # fmt: skip
        with pytest.raises(ShareError, match="north does not open"):
            generation.check_commitment("north", share, found)


def test_the_common_polynomial_depends_on_context_and_seed() -> None:
    share = PublicKeyShare(key_ring().zeros())
    values = {
        PublicKeyGeneration(context, seed).finalise(share).values[1].tobytes()
        for context in (b"one", b"two")
        for seed in (SEED, b"\x01" * 32)
    }
    assert len(values) == 4
    with pytest.raises(InvalidKeyError, match="seed of 5"):
        PublicKeyGeneration(b"one", b"short")


def test_shares_and_keys_survive_the_wire() -> None:
    federation = make_federation()
    data = federation.public_key.to_bytes()
    assert len(data) == 393_329
    assert CollectivePublicKey.from_bytes(data).to_bytes() == data
    share = PublicKeyShare(federation.public_key.values[0])
    assert PublicKeyShare.from_bytes(share.to_bytes()).to_bytes() == share.to_bytes()


def test_aggregation_refuses_nothing_and_repetition() -> None:
    generation = PublicKeyGeneration(b"context", SEED)
    share = PublicKeyShare(key_ring().zeros())
    with pytest.raises(ShareError, match="no public key shares"):
        generation.aggregate([])
    with pytest.raises(ShareError, match="equal"):
        generation.aggregate([share, share])


def test_values_out_of_range_are_refused() -> None:
    values = key_ring().zeros()
    values[2, 5] = PARAMETERS.primes[2]
    with pytest.raises(CiphertextError, match=r"residue \(2, 5\)"):
        PublicKeyShare(values)
    with pytest.raises(CiphertextError, match="expected"):
        PublicKeyShare(values[:2])
    with pytest.raises(CiphertextError, match="expected"):
        CollectivePublicKey(values)


def test_secrets_are_not_printed() -> None:
    assert repr(make_federation().secrets[0]) == "SecretContribution()"
