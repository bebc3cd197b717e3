"""Key offers: what a client puts forward for a round, and what everyone demands of the set.

Source: protocols/README.md, steps 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfm_crypto.agreement import check_agreement_public
from fedfm_crypto.errors import InvalidKeyError
from fedfm_protocols.context import NO_HASH, RoundIdentity
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.errors import EquivocationError
from fedfm_protocols.federation import Federation
from fedfm_protocols.masking import (
    RoundSecrets,
    graph_commitment,
    nonce_commitment,
    seed_commitment,
)
from fedfm_protocols.messages import KeyOffer, StepOffer


@dataclass(frozen=True, slots=True)
class OfferRules:
    """What a round demands of every offer: mask keys for so many steps, a share key at all, a
    commitment to a part of a collective key.

    Source: protocols/README.md, step 1.
    """

    steps: int
    share_key: bool
    key_commitment: bool

    @classmethod
    def of(cls, federation: Federation, identity: RoundIdentity) -> OfferRules:
        """The rules of one round."""
        if identity.makes_keys:
            return cls(steps=0, share_key=True, key_commitment=True)
        masked = federation.masked
        return cls(identity.steps if masked else 0, share_key=masked, key_commitment=False)


def make_offer(
    federation: Federation,
    identity: RoundIdentity,
    name: str,
    secrets: RoundSecrets,
    encryption: Encryption | None,
) -> KeyOffer:
    """The public half of a round's secrets; without keys where none are needed."""
    rules, context0 = OfferRules.of(federation, identity), identity.context0()
    steps = tuple(
        StepOffer(step.mask_key.public, seed_commitment(context0, name, index, step.seed))
        for index, step in enumerate(secrets.steps[: rules.steps])
    )
    commitment = NO_HASH
    if secrets.contribution is not None and encryption is not None:
        commitment = encryption.commitment(context0, name, secrets.contribution.public_share)
    drawn = federation.sparse and not identity.makes_keys
    return KeyOffer(
        share_key=secrets.share_key.public if rules.share_key else NO_HASH,
        steps=steps,
        nonce_commitment=nonce_commitment(context0, name, secrets.nonce),
        graph_commitment=(
            graph_commitment(context0, name, secrets.graph_nonce.reveal()) if drawn else NO_HASH
        ),
        key_commitment=commitment,
    )


def _check_point(public: bytes, owner: str) -> None:
    try:
        check_agreement_public(public)
    except InvalidKeyError as error:
        raise EquivocationError(f"{owner} offered a key that is no valid point: {error}") from error


def check_offers(offers: Mapping[str, KeyOffer], rules: OfferRules) -> None:
    """Refuse key offers that repeat a key, hold a bad point or break the round's rules.

    Raises
    ------
    EquivocationError
        naming whose offer is wrong.
    """
    owners: dict[bytes, str] = {}
    for name, offer in offers.items():
        owners.update(check_offer(name, offer, owners, rules))


def check_offer(
    name: str, offer: KeyOffer, owners: Mapping[bytes, str], rules: OfferRules
) -> dict[bytes, str]:
    """Check one offer beside the keys that are known (key -> owner); returns its own keys.

    Raises
    ------
    EquivocationError
        if the offer is wrong, or repeats a key.
    """
    if len(offer.steps) != rules.steps:
        raise EquivocationError(
            f"{name} offered keys for {len(offer.steps)} steps, the round has {rules.steps}"
        )
    if (offer.key_commitment != NO_HASH) != rules.key_commitment:
        raise EquivocationError(
            f"{name} committed to a part of a collective key in a round that makes none"
            if not rules.key_commitment
            else f"{name} did not commit to its part of the collective key"
        )
    own: dict[bytes, str] = {}
    points = (offer.share_key, *(step.mask_key for step in offer.steps)) if rules.share_key else ()
    for public in points:
        _check_point(public, name)
    for unique in (*points, *((offer.key_commitment,) if rules.key_commitment else ())):
        if unique in own or unique in owners:
            raise EquivocationError(
                f"{name} offered a key that {owners.get(unique, name)} offered too; every key "
                "serves one client, one purpose and one step"
            )
        own[unique] = name
    return own
