"""Key offers: what a client puts forward for a round, and what everyone demands of the set.

Source: protocols/README.md, steps 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedfm_crypto.agreement import check_agreement_public
from fedfm_crypto.errors import InvalidKeyError
from fedfm_protocols.context import NO_HASH
from fedfm_protocols.errors import EquivocationError
from fedfm_protocols.federation import Federation
from fedfm_protocols.masking import (
    RoundSecrets,
    graph_commitment,
    nonce_commitment,
    seed_commitment,
)
from fedfm_protocols.messages import KeyOffer, StepOffer


def make_offer(
    federation: Federation, context0: bytes, name: str, secrets: RoundSecrets
) -> KeyOffer:
    """The public half of a round's secrets; without keys where uploads carry no masks."""
    nonce = nonce_commitment(context0, name, secrets.nonce)
    if not federation.masked:
        return KeyOffer(NO_HASH, (), nonce, NO_HASH)
    steps = tuple(
        StepOffer(step.mask_key.public, seed_commitment(context0, name, index, step.seed))
        for index, step in enumerate(secrets.steps)
    )
    graph = graph_commitment(context0, name, secrets.graph_nonce.reveal())
    return KeyOffer(secrets.share_key.public, steps, nonce, graph if federation.sparse else NO_HASH)


def _check_point(public: bytes, owner: str) -> None:
    try:
        check_agreement_public(public)
    except InvalidKeyError as error:
        raise EquivocationError(f"{owner} offered a key that is no valid point: {error}") from error


def check_offers(offers: Mapping[str, KeyOffer], *, masked: bool, steps: int) -> None:
    """Refuse key offers that repeat a key, hold a bad point or cover another number of steps.

    Raises
    ------
    EquivocationError
        naming whose offer is wrong.
    """
    owners: dict[bytes, str] = {}
    for name, offer in offers.items():
        owners.update(check_offer(name, offer, owners, masked=masked, steps=steps))


def check_offer(
    name: str, offer: KeyOffer, owners: Mapping[bytes, str], *, masked: bool, steps: int
) -> dict[bytes, str]:
    """Check one offer beside the keys that are known (key -> owner); returns its own keys.

    Raises
    ------
    EquivocationError
        if the offer is wrong, or repeats a key.
    """
    if len(offer.steps) != (steps if masked else 0):
        raise EquivocationError(
            f"{name} offered keys for {len(offer.steps)} steps, the round has {steps}"
        )
    own: dict[bytes, str] = {}
    for public in (offer.share_key, *(step.mask_key for step in offer.steps)) if masked else ():
        _check_point(public, name)
        if public in own or public in owners:
            raise EquivocationError(
                f"{name} offered a key that {owners.get(public, name)} offered too; every key "
                "serves one client, one purpose and one step"
            )
        own[public] = name
    return own
