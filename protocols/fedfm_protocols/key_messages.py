"""Bodies of the messages that make a collective key and open a sum under it.

Conventions as in ``messages``; the numbers are the steps of protocols/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fedfm_crypto.codec import U32, Bytes32, MaxCount, MaxLength, Name
from fedfm_protocols.message_fields import (
    KEY_SHARE_BYTES,
    MAX_DECRYPTORS,
    MAX_EARLIER_KEYS,
    MAX_OPENING_BYTES,
    MAX_OPENING_ENVELOPE_BYTES,
    MAX_PARTICIPANTS,
    MAX_SEALED_BYTES,
    MAX_WRAP_BYTES,
    MAX_WRAP_ENVELOPE_BYTES,
    PUBLIC_SHARE_BYTES,
    Names,
)

PublicShare = Annotated[bytes, MaxLength(PUBLIC_SHARE_BYTES)]
SealedBytes = Annotated[bytes, MaxLength(MAX_SEALED_BYTES)]
WrapEnvelopes = Annotated[
    tuple[Annotated[bytes, MaxLength(MAX_WRAP_ENVELOPE_BYTES)], ...], MaxCount(MAX_PARTICIPANTS)
]
OpeningEnvelopes = Annotated[
    tuple[Annotated[bytes, MaxLength(MAX_OPENING_ENVELOPE_BYTES)], ...], MaxCount(MAX_DECRYPTORS)
]


# ---- key epochs (rounds of kind ``keys``)


@dataclass(frozen=True, slots=True)
class GroupKey:
    """The clients' group key of one epoch; never travels in clear.

    Source: protocols/README.md, section "Key epochs".
    """

    epoch: U32
    key: Bytes32 = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyShareContents:
    """What a dealer seals for one recipient: its share of the dealer's secret (empty for who will
    hold none), the dealer's proposal for the group key, and the group keys of earlier epochs.

    Source: protocols/README.md, section "Key epochs".
    """

    share: Annotated[bytes, MaxLength(KEY_SHARE_BYTES)] = field(repr=False)
    group: Bytes32 = field(repr=False)
    earlier: Annotated[tuple[GroupKey, ...], MaxCount(MAX_EARLIER_KEYS)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedKeyShare:
    """A sealed :class:`KeyShareContents` and whom it is for.

    Source: protocols/README.md, section "Key epochs".
    """

    recipient: Name
    sealed: SealedBytes


@dataclass(frozen=True, slots=True)
class KeyDealing:
    """Step K1, client: shows its part of the public key, which it committed to in its offer, and
    deals shares of the secret behind it, one entry per client of the key roster, sorted."""

    public_share: PublicShare = field(repr=False)
    group_commitment: Bytes32
    shares: Annotated[tuple[SealedKeyShare, ...], MaxCount(MAX_PARTICIPANTS)]


@dataclass(frozen=True, slots=True)
class KeyDelivery:
    """Step K2, coordinator to one client: who dealt, what everybody may see of it, and what was
    sealed for this client; all three in the order of ``dealers``."""

    dealers: Names
    public_shares: Annotated[tuple[PublicShare, ...], MaxCount(MAX_PARTICIPANTS)] = field(
        repr=False
    )
    group_commitments: Annotated[tuple[Bytes32, ...], MaxCount(MAX_PARTICIPANTS)]
    sealed: Annotated[tuple[SealedBytes, ...], MaxCount(MAX_PARTICIPANTS)]


# ---- a sum under the key


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """Step 4c, client, with encryption: the key of its upload under the collective key; refers to
    the UploadSet."""

    wrap: Annotated[bytes, MaxLength(MAX_WRAP_BYTES)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """Step 11, coordinator to an active set of holders, with encryption: the signed WrappedKeys of
    exactly the accepted clients; refers to the active set's hash."""

    active: Annotated[tuple[Name, ...], MaxCount(MAX_DECRYPTORS)]
    wraps: WrapEnvelopes


@dataclass(frozen=True, slots=True)
class KeyOpening:
    """Step 11, holder: its partial decryption of the sum of the wrapped keys, sealed under the
    clients' group key; refers to the active set's hash."""

    sealed: Annotated[bytes, MaxLength(MAX_OPENING_BYTES)]
