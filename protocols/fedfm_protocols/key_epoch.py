"""Making a collective key: who holds it, what a dealer seals, what everybody ends up with.

A round of kind ``keys`` makes the key of an epoch.  Each holder-to-be commits to its part b_i of
the public key in its offer, shows it once all offers are fixed, and deals Shamir shares of the
secret behind it; nobody ever has that secret, or a sum of them, in one place.
Source: Mouchet et al. 2021/2022; protocols/README.md, section "Key epochs".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfm_crypto.aead import open_sealed, seal
from fedfm_crypto.agreement import AgreementKey
from fedfm_crypto.codec import decode, encode
from fedfm_crypto.errors import CodecError, CryptoError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret
from fedfm_protocols.context import Names
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.errors import EquivocationError
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_messages import (
    GroupKey,
    KeyDealing,
    KeyDelivery,
    KeyShareContents,
    SealedKeyShare,
)
from fedfm_protocols.key_ring import EpochKeys
from fedfm_protocols.masking import RoundSecrets
from fedfm_protocols.message_fields import KEY_SHARE_BYTES
from fedfm_protocols.messages import KeyOffer


def holders_of(federation: Federation, offering: Sequence[str]) -> tuple[str, ...]:
    """Who of those on the key roster (sorted) will hold a share: all of them in a small
    federation, the first ``committee`` of a large one.

    Who it is does not matter for secrecy: colluders alone are fewer than the key threshold,
    wherever they sit.
    """
    return tuple(offering)[: federation.thresholds.committee]


def group_commitment(context: bytes, dealer: str, group: bytes) -> bytes:
    """A dealer's commitment to its proposal for the group key, which has 256 random bits."""
    return hash_parts(Label.GROUP_COMMITMENT, context, dealer.encode(), group)


def key_hash(
    context: bytes, epoch: int, dealers: Sequence[str], public_key_hash: bytes, group: bytes
) -> bytes:
    """Name of an epoch's key: all that its clients hold in common, ``group`` by its commitment."""
    return hash_parts(
        Label.KEY_EPOCH,
        context,
        epoch.to_bytes(4, "big"),
        encode(Names(tuple(dealers))),
        public_key_hash,
        group,
    )


def sealing_key(
    context: bytes, own_key: AgreementKey, peer: bytes, dealer: str, recipient: str
) -> Secret:
    """What a dealer's share for one recipient is sealed with; ``own_key`` is that of either."""
    exchanged = own_key.exchange(peer)
    return derive_key(Label.KEY_SHARE, exchanged, context, dealer.encode(), recipient.encode())


def associated_data(context: bytes, dealer: str, recipient: str) -> bytes:
    """What a sealed share is bound to."""
    return hash_parts(Label.KEY_SHARE, context, dealer.encode(), recipient.encode())


def deal_key(
    encryption: Encryption,
    federation: Federation,
    *,
    context: bytes,
    dealer: str,
    secrets: RoundSecrets,
    offers: Mapping[str, KeyOffer],
    earlier: tuple[GroupKey, ...],
    random: RandomSource,
) -> KeyDealing:
    """Step K1: what one dealer says to everybody on the key roster."""
    if secrets.contribution is None:
        raise EquivocationError("this site has no part in the key it is asked to deal")
    recipients = tuple(sorted(offers))
    holders = holders_of(federation, recipients)
    points = [federation.share_index[name] for name in holders]
    threshold = federation.thresholds.key_threshold
    shares = dict(
        zip(
            holders,
            encryption.deal(secrets.contribution, threshold, points, random),
            strict=True,
        )
    )
    group = random(32)
    entries = []
    for name in recipients:
        contents = encode(KeyShareContents(shares.get(name, b""), group, earlier))
        key = sealing_key(context, secrets.share_key, offers[name].share_key, dealer, name)
        sealed = seal(key, contents, associated_data(context, dealer, name), random)
        entries.append(SealedKeyShare(name, sealed))
    commitment = group_commitment(context, dealer, group)
    return KeyDealing(secrets.contribution.public_share, commitment, tuple(entries))


@dataclass(frozen=True, slots=True)
class MadeKey:
    """What a client has at the end of a round of kind ``keys``.

    Source: protocols/README.md, section "Key epochs".
    """

    keys: EpochKeys
    passed_on: tuple[GroupKey, ...]


def take_key(
    encryption: Encryption,
    federation: Federation,
    delivery: KeyDelivery,
    *,
    context0: bytes,
    context: bytes,
    epoch: int,
    name: str,
    own_key: AgreementKey,
    offers: Mapping[str, KeyOffer],
) -> MadeKey:
    """Step K2, client: check what was dealt, add it up.

    Raises
    ------
    EquivocationError
        naming the dealer whose part does not fit what it committed to, or is not there.
    """
    dealers = delivery.dealers
    check_public_shares(encryption, delivery, context0=context0, offers=offers)
    holder = name in dealers
    shares: list[bytes] = []
    passed_on: list[GroupKey] = []
    group = b""
    for dealer, sealed in zip(dealers, delivery.sealed, strict=True):
        key = sealing_key(context, own_key, offers[dealer].share_key, dealer, name)
        try:
            data = open_sealed(key, sealed, associated_data(context, dealer, name))
            contents = decode(KeyShareContents, data)
        except (CryptoError, CodecError) as error:
            raise EquivocationError(
                f"the key share that {dealer} sealed for {name} does not open: {error}"
            ) from error
        if len(contents.share) != (KEY_SHARE_BYTES if holder else 0):
            raise EquivocationError(
                f"{dealer} dealt {name} a key share of {len(contents.share)} bytes"
            )
        shares.append(contents.share)
        passed_on += contents.earlier
        group = group or contents.group
    commitment = delivery.group_commitments[0]
    if group_commitment(context, dealers[0], group) != commitment:
        raise EquivocationError(f"{dealers[0]} gave {name} another group key than it committed to")
    try:
        public_key = encryption.public_key(context0, delivery.public_shares)
        share = encryption.collect(federation.share_index[name], shares) if holder else b""
    except CryptoError as error:
        raise EquivocationError(f"what was dealt makes no key: {error}") from error
    digest = hashlib.sha256(public_key).digest()
    name_of_key = key_hash(context, epoch, dealers, digest, commitment)
    keys = EpochKeys(epoch, name_of_key, dealers, public_key, group, share)
    return MadeKey(keys, tuple(entry for entry in passed_on if entry.epoch < epoch))


def check_public_shares(
    encryption: Encryption,
    delivery: KeyDelivery,
    *,
    context0: bytes,
    offers: Mapping[str, KeyOffer],
) -> None:
    """Refuse a public share that is not the one its owner committed to in its offer.

    Whoever could choose its share after seeing the others' could make the sum a key of its own.

    Raises
    ------
    EquivocationError
        naming whose it is, or if the lists do not belong together.
    """
    lengths = {
        len(delivery.dealers),
        len(delivery.public_shares),
        len(delivery.group_commitments),
        len(delivery.sealed),
    }
    if len(lengths) != 1:
        raise EquivocationError("the key delivery must hold one entry of each kind per dealer")
    for dealer, public_share in zip(delivery.dealers, delivery.public_shares, strict=True):
        if not opens_commitment(encryption, context0, dealer, public_share, offers[dealer]):
            raise EquivocationError(f"{dealer} shows another public share than it committed to")


def opens_commitment(
    encryption: Encryption, context0: bytes, dealer: str, public_share: bytes, offer: KeyOffer
) -> bool:
    """Whether a public share is well-formed and the one that its dealer committed to."""
    try:
        return encryption.commitment(context0, dealer, public_share) == offer.key_commitment
    except CryptoError:
        return False
