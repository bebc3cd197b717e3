"""The one signed envelope around every protocol message.

The signature covers the header only, and the header carries the SHA-256 of the body: a transcript
can therefore show the signed header of a message whose body is secret. Field order and sizes are
normative (protocols/README.md).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated

from fedfm_crypto.codec import (
    U8,
    U16,
    U32,
    U64,
    Bytes32,
    Bytes64,
    MaxLength,
    Name,
    Text32,
    decode,
    encode,
)
from fedfm_crypto.errors import CodecError, SignatureError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_crypto.labels import Label
from fedfm_crypto.merkle import EMPTY_ROOT

__all__ = [
    "MAX_BODY",
    "NO_CHECKPOINT",
    "NO_REFERENCE",
    "VERSION",
    "CheckpointSeen",
    "Envelope",
    "Header",
    "SignedHeader",
    "seal_envelope",
]

VERSION = 1
MAX_BODY = 1 << 30
"""Bytes: the largest body of any message. A receiver passes the smaller limit of its state."""
NO_REFERENCE = bytes(32)
"""``refers_to`` of a message that refers to no earlier one."""


@dataclass(frozen=True, slots=True)
class CheckpointSeen:
    """The latest log checkpoint that a sender has verified: tree size and root."""

    size: U64
    root: Bytes32


NO_CHECKPOINT = CheckpointSeen(0, EMPTY_ROOT)
"""What a sender echoes before it has seen a checkpoint: the empty tree."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the signature covers.

    Raises:
        CodecError: ``version`` is not :data:`VERSION`.
    """

    version: U8
    context: Bytes32
    type: Text32
    sender: Name
    step: U16
    sequence: U32
    refers_to: Bytes32
    body_hash: Bytes32
    checkpoint_size: U64
    checkpoint_root: Bytes32

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise CodecError(
                f"envelope version {self.version}, expected {VERSION}; update secure-fedfm"
            )

    @property
    def checkpoint(self) -> CheckpointSeen:
        """The checkpoint that the sender echoes."""
        return CheckpointSeen(self.checkpoint_size, self.checkpoint_root)


@dataclass(frozen=True, slots=True)
class SignedHeader:
    """A header and its signature, without the body: what a transcript shows of every message."""

    header: Header
    signature: Bytes64

    def verify(self, public: IdentityPublicKey, *, encoded: bytes | None = None) -> None:
        """Check the signature under ``Label.ENVELOPE``; raise SignatureError if it fails.

        ``encoded`` is the encoded header, from a caller that has it already.
        """
        try:
            header = encode(self.header) if encoded is None else encoded
            public.verify(Label.ENVELOPE, self.signature, header)
        except SignatureError as error:
            raise SignatureError(
                f"{self.header.type} number {self.header.sequence} from {self.header.sender}: "
                f"{error}"
            ) from None

    def check_body(self, body: bytes) -> None:
        """Raise SignatureError unless ``body`` is the one whose hash was signed."""
        if hashlib.sha256(body).digest() != self.header.body_hash:
            raise SignatureError(
                f"{self.header.type} number {self.header.sequence} from {self.header.sender}: "
                "the body does not have the signed hash"
            )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A header, its signature and the body."""

    header: Header
    signature: Bytes64
    body: Annotated[bytes, MaxLength(MAX_BODY)] = field(repr=False)

    @property
    def signed_header(self) -> SignedHeader:
        """The envelope without its body."""
        return SignedHeader(self.header, self.signature)

    def verify(self, public: IdentityPublicKey) -> None:
        """Check the signature and the hash of the body; raise SignatureError if either fails."""
        self.signed_header.verify(public)
        self.signed_header.check_body(self.body)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return encode(self)

    @classmethod
    def decode(cls, data: bytes | memoryview, *, max_body: int = MAX_BODY) -> Envelope:
        """Return the envelope that ``data`` encodes; it is not verified yet.

        Raises:
            CodecError: malformed bytes, or a body above ``max_body`` bytes.
        """
        # The header is small, so the total length bounds the body before anything is copied.
        if len(data) > max_body + _MAX_OVERHEAD:
            raise CodecError(f"envelope of {len(data)} bytes, expected a body within {max_body}")
        envelope = decode(cls, data)
        if len(envelope.body) > max_body:
            raise CodecError(f"body of {len(envelope.body)} bytes, expected at most {max_body}")
        return envelope


_MAX_OVERHEAD = 1024


def seal_envelope(
    key: IdentityKey,
    *,
    context: bytes,
    type: str,
    sender: str,
    step: int,
    sequence: int,
    body: bytes,
    refers_to: bytes = NO_REFERENCE,
    checkpoint: CheckpointSeen = NO_CHECKPOINT,
    body_hash: bytes | None = None,
) -> Envelope:
    """Return the signed envelope of a message.

    Args:
        key: the sender's identity key.
        context: ctx0 or ctx1 of the round (32 bytes).
        type: the message's type, for example ``"KeyOffer"``.
        sender: the sender's name.
        step: step of the session, from 0.
        sequence: the sender's message number within the context, from 0.
        body: the encoded message.
        refers_to: hash of what the message answers, or :data:`NO_REFERENCE`.
        checkpoint: the latest checkpoint that the sender verified.
        body_hash: SHA-256 of ``body`` where the caller has it already, so that megabytes are not
            hashed twice; with a wrong one nobody accepts the envelope.

    Raises:
        CodecError: a field is outside its bounds.
    """
    header = Header(
        version=VERSION,
        context=context,
        type=type,
        sender=sender,
        step=step,
        sequence=sequence,
        refers_to=refers_to,
        body_hash=hashlib.sha256(body).digest() if body_hash is None else body_hash,
        checkpoint_size=checkpoint.size,
        checkpoint_root=checkpoint.root,
    )
    return Envelope(header, key.sign(Label.ENVELOPE, encode(header)), body)
