"""A small federation with a collective key, made once for the tests that only use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.lattice.bulk_keys import BulkKey
from fedfm_crypto.lattice.collective import (
    CollectivePublicKey,
    PublicKeyGeneration,
    SecretContribution,
)
from fedfm_crypto.lattice.threshold import KeyShare, KeySharing, ThresholdDecryption
from fedfm_crypto.lattice.wrapping import KeyWrapping
from fedfm_crypto.random_source import SeededRandom

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Federation:
    threshold: int
    secrets: list[SecretContribution]
    public_key: CollectivePublicKey
    shares: dict[int, KeyShare]
    """Point -> share of the collective key."""
    wrapping: KeyWrapping

    def open(self, ciphertext: Words, active: Sequence[int], threshold: int | None = None) -> Words:
        """Threshold decryption; an attacker would claim a ``threshold`` below the real one."""
        decryption = ThresholdDecryption(threshold or self.threshold, active)
        random = SeededRandom(b"flooding" + bytes(active))
        shares = [decryption.gen_share(self.shares[x], ciphertext, random) for x in active]
        return decryption.finalise(ciphertext, decryption.aggregate(shares))

    def wrapped_sum(self, keys: Sequence[BulkKey]) -> Words:
        total = self.wrapping.new_sum()
        for key in keys:
            total.add(self.wrapping.wrap(key))
        return total.ciphertext()


@lru_cache(maxsize=4)
def make_federation(parties: int = 5, threshold: int = 3) -> Federation:
    random = SeededRandom(parties)
    generation = PublicKeyGeneration(b"a charter and an epoch", bytes(range(32)))
    secrets = [SecretContribution.generate(random) for _ in range(parties)]
    public = [generation.gen_share(secret, random) for secret in secrets]
    xs = range(1, parties + 1)
    sharing = KeySharing(threshold, xs)
    deals = [sharing.gen_shares(secret, random) for secret in secrets]
    shares = {x: sharing.aggregate([deal[x - 1] for deal in deals]) for x in xs}
    public_key = generation.finalise(generation.aggregate(public))
    return Federation(threshold, secrets, public_key, shares, KeyWrapping(public_key))


def sum_of(keys: Sequence[BulkKey]) -> NDArray[np.int64]:
    total = np.zeros_like(keys[0].coefficients)
    for key in keys:
        total = total + key.coefficients
    return total
