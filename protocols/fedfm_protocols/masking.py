"""Double masks: what hides one client's update from everyone, and what takes them off the sum.

Client i adds to its words a self-mask grown from a seed of its own and, for every other dealer j,
a mask that it shares with j: added if i < j, subtracted otherwise, so that pairs cancel in the
sum.  A survivor's self-mask comes off by rebuilding its seed, a vanished client's pairwise masks
by rebuilding its mask key; never both for one client, or its update would lie bare.
Source: Bonawitz et al. 2017, section 4; protocols/README.md, section "Masks".

All words are uint32 arrays of shape ``[values]``, sums are modulo ``2**lane_bits``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.mask import Sign
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret
from fedfm_protocols.encryption import KeyContribution

Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class StepSecrets:
    """One step's mask key and self-mask seed; neither ever serves another step."""

    mask_key: AgreementKey = field(repr=False)
    seed: Secret


@dataclass(frozen=True, slots=True)
class RoundSecrets:
    """Everything a client draws for one round, gone when the round is.

    Source: protocols/README.md, section "Masks".
    """

    share_key: AgreementKey = field(repr=False)
    steps: tuple[StepSecrets, ...]
    nonce: Secret
    graph_nonce: Secret
    contribution: KeyContribution | None = field(default=None, repr=False)

    @classmethod
    def draw(
        cls, steps: int, random: RandomSource, contribution: KeyContribution | None = None
    ) -> RoundSecrets:
        """Fresh secrets for a round of ``steps`` steps; ``contribution`` where it makes a key."""
        return cls(
            share_key=AgreementKey.generate(random),
            steps=tuple(
                StepSecrets(AgreementKey.generate(random), Secret(random(32))) for _ in range(steps)
            ),
            nonce=Secret(random(32)),
            graph_nonce=Secret(random(32)),
            contribution=contribution,
        )


def seed_commitment(context0: bytes, client: str, step: int, seed: Secret) -> bytes:
    """Commitment to a self-mask seed; hiding because the seed has 256 random bits."""
    return hash_parts(
        Label.SEED_COMMITMENT, context0, client.encode(), step.to_bytes(2, "big"), seed.reveal()
    )


def nonce_commitment(context0: bytes, client: str, nonce: Secret) -> bytes:
    """Commitment to a client's part of the beacon."""
    return hash_parts(Label.NONCE_COMMITMENT, context0, client.encode(), nonce.reveal())


def graph_commitment(context0: bytes, client: str, nonce: bytes) -> bytes:
    """Commitment to a client's part of the masking graph's randomness."""
    return hash_parts(Label.GRAPH_COMMITMENT, context0, client.encode(), nonce)


def self_mask_key(context: bytes, client: str, step: int, seed: Secret) -> Secret:
    """Key of the self-mask that ``client`` grows from ``seed`` for ``step``."""
    return derive_key(Label.SELF_MASK, seed, context, client.encode(), step.to_bytes(2, "big"))


def pairwise_mask_key(
    context: bytes, own: str, own_key: AgreementKey, peer: str, peer_public: bytes, step: int
) -> Secret:
    """Key of the mask that two clients share for ``step``; the same from either side."""
    low, high = sorted((own, peer))
    return derive_key(
        Label.PAIRWISE_MASK,
        own_key.exchange(peer_public),
        context,
        low.encode(),
        high.encode(),
        step.to_bytes(2, "big"),
    )


def pair_sign(own: str, peer: str) -> Sign:
    """+1 if ``own`` adds the pair's mask, -1 if it subtracts it."""
    return 1 if own < peer else -1


def mask_keys(
    *,
    context: bytes,
    client: str,
    step: int,
    secrets: StepSecrets,
    peers: Mapping[str, bytes],
) -> list[tuple[Secret, Sign]]:
    """What an update is masked with: keys and signs of its self-mask and of the pairwise masks
    with all ``peers`` (name -> public mask key; the client itself is skipped)."""
    masks: list[tuple[Secret, Sign]] = [(self_mask_key(context, client, step, secrets.seed), 1)]
    for peer, public in peers.items():
        if peer != client:
            key = pairwise_mask_key(context, client, secrets.mask_key, peer, public, step)
            masks.append((key, pair_sign(client, peer)))
    return masks


def peeling_keys(
    *,
    context: bytes,
    step: int,
    seeds: Mapping[str, Secret],
    removed_keys: Mapping[str, AgreementKey],
    neighbours: Callable[[str], Collection[str]],
    public_keys: Mapping[str, bytes],
) -> Iterator[tuple[Secret, Sign]]:
    """What takes the masks off the sum of the accepted uploads when it is added to it.

    ``seeds`` has the rebuilt seed of every accepted client; ``removed_keys`` the rebuilt mask key
    of every dealer that is not in the sum, whose pairwise masks with its ``neighbours`` therefore
    did not cancel.  ``public_keys`` are all dealers' public mask keys.
    """
    for client, seed in seeds.items():
        yield self_mask_key(context, client, step, seed), -1
    for removed, own_key in removed_keys.items():
        for client in neighbours(removed):
            if client in seeds:
                public = public_keys[client]
                key = pairwise_mask_key(context, removed, own_key, client, public, step)
                yield key, pair_sign(removed, client)
