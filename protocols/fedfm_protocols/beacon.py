"""The beacon that fixes a step's sketches: nobody could know it when the uploads were committed.

Every client commits to a nonce before keys are exchanged and opens it when all uploads are fixed by
their hashes.  The hash of all opened nonces draws the sketch, so neither the last one to upload nor
the coordinator chooses its directions; whoever withholds a nonce has one bit of influence, and is
removed for it.
Source: protocols/README.md, step 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedfm_crypto.codec import encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_crypto.secret import Secret
from fedfm_protocols.context import Names
from fedfm_protocols.masking import nonce_commitment
from fedfm_protocols.messages import KeyOffer
from fedfm_protocols.robust_messages import BeaconNonce
from fedfm_protocols.sketching import Integers


@dataclass(frozen=True, slots=True)
class BeaconPart:
    """A client's own nonce until it is opened, and what everybody committed to (name -> hash).

    Source: protocols/README.md, step 5.
    """

    nonce: Secret
    commitments: Mapping[str, bytes]

    @classmethod
    def of(cls, nonce: Secret, offers: Mapping[str, KeyOffer]) -> BeaconPart:
        """The part of a client that was shown these offers."""
        return cls(nonce, {name: offer.nonce_commitment for name, offer in offers.items()})


def opens_nonce(context0: bytes, name: str, nonce: bytes, commitment: bytes) -> bool:
    """Whether ``nonce`` is what ``name`` committed to in its key offer."""
    return nonce_commitment(context0, name, Secret(nonce)) == commitment


def beacon(context: bytes, step: int, upload_set: bytes, nonces: Mapping[str, bytes]) -> bytes:
    """32 bytes that fix the sketch of a step: of the uploads that were committed, and of the
    candidates' nonces (name -> 32 bytes)."""
    names = tuple(sorted(nonces))
    return hash_parts(
        Label.BEACON,
        context,
        step.to_bytes(2, "big"),
        upload_set,
        encode(Names(names)),
        *(nonces[name] for name in names),
    )


def nonces_of(members: Mapping[str, tuple[Envelope, BeaconNonce]]) -> dict[str, bytes]:
    """Name -> nonce of a signed set that was opened."""
    return {name: body.nonce for name, (_, body) in members.items()}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a client keeps of its update until it is sketched: the integers in its upload (int64
    ``[values]``), and its part of the beacon.

    Source: protocols/README.md, step 6.
    """

    integers: Integers = field(repr=False)
    part: BeaconPart
