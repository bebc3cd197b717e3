"""CurveZMQ key pairs (RFC 26): raw 32-byte X25519 keys, Z85 only where libzmq asks for it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from fedfm_crypto.agreement import check_agreement_public
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.random_source import RandomSource, system_random
from fedfm_crypto.secret import Secret
from secure_fedfm.transport.errors import CurveKeyError

KEY_BYTES = 32
Z85_CHARACTERS = 40


def check_curve_public(raw: bytes) -> bytes:
    """Return `raw` if it can serve as somebody's transport key.

    A low-order or all-zero point would make the handshake's shared secret known to everybody,
    and a non-canonical one would be a second spelling of the same key in the allow-list.

    Raises:
        CurveKeyError: wrong type or length, all zero, non-canonical or of low order.
    """
    if not isinstance(raw, bytes) or len(raw) != KEY_BYTES:
        found = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
        raise CurveKeyError(f"a CURVE public key has {KEY_BYTES} bytes, found {found}")
    if not any(raw):
        raise CurveKeyError("a CURVE public key of zeros authenticates nobody; enrol a real key")
    try:
        check_agreement_public(raw)
    except CryptoError as error:
        raise CurveKeyError(f"CURVE public key {raw.hex()} is unusable: {error}") from error
    return raw


def public_from_z85(text: str) -> bytes:
    """Decode the 40 Z85 characters that ZeroMQ tools print.

    Raises:
        CurveKeyError: wrong length, characters outside Z85, or an unusable key.
    """
    if len(text) != Z85_CHARACTERS:
        raise CurveKeyError(f"a Z85 key has {Z85_CHARACTERS} characters, found {len(text)}")
    try:
        raw = bytes(z85.decode(text))
    except (KeyError, ValueError, struct.error) as error:
        raise CurveKeyError(
            "a key in Z85 holds characters outside its alphabet or a group above 2**32 - 1"
        ) from error
    if len(raw) != KEY_BYTES or public_to_z85(raw) != text:
        raise CurveKeyError("a key in Z85 does not encode back to itself")
    return check_curve_public(raw)


def public_to_z85(raw: bytes) -> str:
    """Encode 32 raw bytes as 40 Z85 characters (RFC 32)."""
    encoded: bytes = z85.encode(raw)
    return encoded.decode("ascii")


def public_from_hex(text: str) -> bytes:
    """Decode a key from the 64 lowercase hexadecimal digits of a charter.

    Raises:
        CurveKeyError: wrong length or digits, or an unusable key.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise CurveKeyError("a transport key in hexadecimal has other characters") from error
    if raw.hex() != text:
        raise CurveKeyError("a transport key is written as 64 lowercase hexadecimal digits")
    return check_curve_public(raw)


@dataclass(frozen=True, slots=True)
class CurveKeyPair:
    """A site's transport key. It authenticates connections, never messages of the protocol."""

    public: bytes
    secret: Secret

    def __post_init__(self) -> None:
        check_curve_public(self.public)
        if len(self.secret) != KEY_BYTES:
            raise CurveKeyError(
                f"a CURVE secret key has {KEY_BYTES} bytes, found {len(self.secret)}"
            )
        if zmq.curve_public(z85.encode(self.secret.reveal())) != z85.encode(self.public):
            raise CurveKeyError(
                f"the secret key does not belong to public key {self.public.hex()}; "
                "the key file is damaged or mixes two keys"
            )

    @classmethod
    def generate(cls, random: RandomSource = system_random) -> CurveKeyPair:
        """Draw a fresh key pair from 32 bytes of `random`."""
        return cls.from_secret(Secret(random(KEY_BYTES)))

    @classmethod
    def from_secret(cls, secret: Secret) -> CurveKeyPair:
        """Rebuild the pair from its 32 secret bytes.

        Raises:
            CurveKeyError: wrong length.
        """
        if len(secret) != KEY_BYTES:
            raise CurveKeyError(f"a CURVE secret key has {KEY_BYTES} bytes, found {len(secret)}")
        public = bytes(z85.decode(zmq.curve_public(z85.encode(secret.reveal()))))
        return cls(public=public, secret=secret)

    @property
    def public_hex(self) -> str:
        """The public key as a charter writes it."""
        return self.public.hex()

    @property
    def public_z85(self) -> str:
        """The public key as ZeroMQ tools write it."""
        return public_to_z85(self.public)
