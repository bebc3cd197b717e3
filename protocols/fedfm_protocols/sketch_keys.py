"""The validator's public keys as clients and coordinator hold them, and how they come to.

They belong to no round: signed by the validator under context_link, numbered by epoch, passed on
by the coordinator before a round uses them.  What a round's signatures bind is the hash of the
SketchKey body (``context.judged_keys_hash``), so nobody encrypts for another key than the others.
Source: protocols/README.md, section "Sketch keys".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fedfm_crypto.agreement import check_agreement_public
from fedfm_crypto.codec import U32, Bytes32, MaxLength
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CryptoError
from fedfm_protocols.checks import check_place, verify_signature
from fedfm_protocols.errors import (
    EquivocationError,
    MalformedMessage,
    ReplayedMessage,
    UnknownSender,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.message_fields import MAX_PUBLIC_KEY_BYTES
from fedfm_protocols.messages import read_body
from fedfm_protocols.robust_messages import SketchEvaluationKeys, SketchKey
from fedfm_protocols.sketching import Sketching

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class HeldSketchKey:
    """The newest sketch key that a client has accepted; ``key_hash`` is the SHA-256 of its body.

    Source: protocols/README.md, section "Sketch keys".
    """

    epoch: U32
    key_hash: Bytes32
    public_key: Annotated[bytes, MaxLength(MAX_PUBLIC_KEY_BYTES)] = field(repr=False)
    box_key: Bytes32


@dataclass(frozen=True, slots=True)
class SketchEpoch:
    """What the coordinator holds of one epoch: the validator's signed key as it passes it on, and
    the keys to multiply with.

    Source: protocols/README.md, section "Sketch keys".
    """

    envelope: Envelope
    key: HeldSketchKey
    evaluation: bytes = field(repr=False)


def read_sketch_key(
    federation: Federation, sketching: Sketching, envelope: Envelope, held: HeldSketchKey | None
) -> HeldSketchKey:
    """The key in ``envelope``, if the validator signed it and it is newer than the one ``held``.

    Raises
    ------
    MessageRefused
        if it is not, or no key.
    EquivocationError
        if the validator signed another key of the epoch that is held.
    """
    key = _open(federation, envelope, SketchKey)
    digest = envelope.header.body_hash
    if held is not None and digest == held.key_hash:
        raise ReplayedMessage(f"the sketch key of epoch {key.epoch} was taken already")
    if held is not None and key.epoch == held.epoch:
        raise EquivocationError(
            f"{federation.validator} signed two sketch keys of epoch {key.epoch}: "
            f"{held.key_hash.hex()[:16]} and {digest.hex()[:16]}"
        )
    if held is not None and key.epoch < held.epoch:
        raise ReplayedMessage(
            f"the sketch key of epoch {key.epoch} is older than that of epoch {held.epoch}"
        )
    if envelope.header.sequence != key.epoch:
        raise MalformedMessage(
            f"sketch key of epoch {key.epoch} is numbered {envelope.header.sequence}; its sequence "
            "number must be its epoch"
        )
    try:
        check_agreement_public(key.box_key)
        sketching.check_key(key.public_key)
    except CryptoError as error:
        raise MalformedMessage(f"the sketch key of {federation.validator}: {error}") from error
    return HeldSketchKey(key.epoch, digest, key.public_key, key.box_key)


def read_sketch_epoch(
    federation: Federation,
    sketching: Sketching,
    envelope: Envelope,
    evaluation: Envelope,
    held: SketchEpoch | None,
) -> SketchEpoch:
    """Both halves of an epoch's keys, for the coordinator; raises as :func:`read_sketch_key`."""
    key = read_sketch_key(federation, sketching, envelope, None if held is None else held.key)
    body = _open(federation, evaluation, SketchEvaluationKeys)
    signed = read_body(envelope, SketchKey).evaluation_hash
    if body.epoch != key.epoch or hashlib.sha256(body.keys).digest() != signed:
        raise MalformedMessage(
            f"the evaluation keys of epoch {body.epoch} are not those that the sketch key of epoch "
            f"{key.epoch} names"
        )
    try:
        sketching.check_evaluation(key.public_key, body.keys)
    except CryptoError as error:
        raise MalformedMessage(f"the evaluation keys: {error}") from error
    return SketchEpoch(envelope, key, body.keys)


def _open(federation: Federation, envelope: Envelope, expected: type[B]) -> B:
    if not federation.robust or envelope.header.sender != federation.validator:
        raise UnknownSender(
            f"{envelope.header.type} from {envelope.header.sender}; sketch keys are the "
            f"validator's to make ({federation.validator or 'there is none'})"
        )
    verify_signature(envelope, federation)
    check_place(envelope, context=federation.link_context, step=0)
    return read_body(envelope, expected)
