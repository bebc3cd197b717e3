"""A collective key for measurements: public key and shares, without the messages of a key epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfm_crypto.lattice.collective import (
    CollectivePublicKey,
    PublicKeyGeneration,
    SecretContribution,
    key_ring,
)
from fedfm_crypto.lattice.threshold import KeyShare, KeySharing
from fedfm_crypto.random_source import RandomSource


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """``public_key`` of all parties together; ``shares`` of its secret by point."""

    threshold: int
    public_key: CollectivePublicKey
    shares: Mapping[int, KeyShare]


def make_key_epoch(
    parties: int, threshold: int, points: Sequence[int], random: RandomSource
) -> KeyEpoch:
    """Make the key of ``parties`` contributions and share it among ``points``.

    The sum of the contributions is dealt once.  In the protocol each party deals its own and
    everybody adds what it got, which is a dealing of the sum as well (Shamir's scheme is linear):
    the shares have the same distribution, and a thousand parties need no million shares.
    """
    generation = PublicKeyGeneration(b"benchmark", random(32))
    secret = SecretContribution.generate(random)
    public = generation.gen_share(secret, random)
    for _ in range(parties - 1):
        other = SecretContribution.generate(random)
        public = generation.aggregate([public, generation.gen_share(other, random)])
        secret = SecretContribution(key_ring().add(secret.transformed, other.transformed))
    dealt = KeySharing(threshold, points).gen_shares(secret, random)
    return KeyEpoch(threshold, generation.finalise(public), {share.x: share for share in dealt})
