"""Ed25519 identity keys (RFC 8032), strict about what they accept.

pyca/cryptography (OpenSSL) loads any 32 bytes as a public key: points of small order, encodings of
y >= p, and values that are no point at all. With the identity point as the key, the signature
R = identity, S = 0 verifies every message. :class:`IdentityPublicKey` therefore refuses, before a
key is ever used,

* a length other than 32 bytes,
* an encoding that is not canonical (y >= 2^255 - 19, or x = 0 with the sign bit set),
* the eight points of small order,
* a y that belongs to no point of the curve.

Points with a component of small order on top of a large one are accepted, as RFC 8032 does: telling
them apart costs a scalar multiplication, and they let nobody forge a signature. Signatures with
S >= L are refused (malleability, RFC 8032 5.1.7), and so are those whose R has small order.

Source: RFC 8032; Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs" (2020/1244).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from fedfm_crypto.errors import InvalidKeyError, SignatureError
from fedfm_crypto.labels import Label
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = ["PUBLIC_KEY_SIZE", "SIGNATURE_SIZE", "IdentityKey", "IdentityPublicKey"]

PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64
_SEED_SIZE = 32

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = (-121665 * pow(121666, -1, _P)) % _P
_SIGN_BIT = 1 << 255

# y of the eight points of small order: 1 (identity), -1 (order 2), 0 (order 4, two signs) and
# the two y of order 8 (two signs each). tests/crypto/test_identity.py finds them independently.
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _P - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)


def _small_order(encoded: bytes) -> bool:
    return int.from_bytes(encoded, "little") % _SIGN_BIT in _SMALL_ORDER_Y


@lru_cache(maxsize=4096)  # the same few parties' keys are read again with every document
def _check_point(raw: bytes) -> None:
    """Raise InvalidKeyError unless ``raw`` is the canonical encoding of a point of large order."""
    y = int.from_bytes(raw, "little") % _SIGN_BIT
    if y >= _P:
        raise InvalidKeyError(
            f"identity key {raw.hex()} is not canonical (y >= 2^255 - 19); ask its owner for the "
            "key as its own software prints it"
        )
    # x = 0 happens only at y = 1 and y = -1, both of small order, so this also covers the second
    # non-canonical form, a sign bit on x = 0.
    if y in _SMALL_ORDER_Y:
        raise InvalidKeyError(
            f"identity key {raw.hex()} has small order, anybody could sign for it; refuse its owner"
        )
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if pow(x_squared, (_P - 1) // 2, _P) != 1:
        raise InvalidKeyError(f"identity key {raw.hex()} is not a point of the curve")


@dataclass(frozen=True, slots=True)
class IdentityPublicKey:
    """An Ed25519 public key that passed the checks of this module.

    Args:
        raw: 32 bytes, RFC 8032 encoding.

    Raises:
        InvalidKeyError: wrong length, not canonical, small order or not on the curve.
    """

    raw: bytes
    _key: Ed25519PublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.raw, bytes) or len(self.raw) != PUBLIC_KEY_SIZE:
            found = (
                f"{len(self.raw)} bytes" if isinstance(self.raw, bytes) else type(self.raw).__name__
            )
            raise InvalidKeyError(f"identity key: found {found}, expected {PUBLIC_KEY_SIZE} bytes")
        _check_point(self.raw)
        object.__setattr__(self, "_key", Ed25519PublicKey.from_public_bytes(self.raw))

    @classmethod
    def from_hex(cls, text: str) -> IdentityPublicKey:
        """Return the key written as 64 lowercase hexadecimal digits."""
        try:
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b""
        if raw.hex() != text:
            raise InvalidKeyError(
                f"identity key {text[:80]!r}: expected {2 * PUBLIC_KEY_SIZE} lowercase hex digits"
            )
        return cls(raw)

    @property
    def hex(self) -> str:
        """The key as 64 lowercase hexadecimal digits."""
        return self.raw.hex()

    def __repr__(self) -> str:
        return f"IdentityPublicKey({self.hex})"

    def verify(self, label: Label, signature: bytes, message: bytes) -> None:
        """Check a signature made by :meth:`IdentityKey.sign`; raise SignatureError if it fails."""
        self.verify_raw(signature, _labelled(label, message))

    def verify_raw(self, signature: bytes, message: bytes) -> None:
        """Check a plain Ed25519 signature; raise SignatureError if it fails."""
        if len(signature) != SIGNATURE_SIZE:
            raise SignatureError(f"signature of {len(signature)} bytes, expected {SIGNATURE_SIZE}")
        if int.from_bytes(signature[32:], "little") >= _L:
            raise SignatureError("signature with S >= L, which is not canonical (RFC 8032 5.1.7)")
        if _small_order(signature[:32]):
            raise SignatureError("signature whose R has small order, which no honest signer makes")
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            raise SignatureError(f"signature does not verify under identity {self.hex}") from None


class IdentityKey:
    """An Ed25519 signing key. Its repr shows the public key only."""

    __slots__ = ("_key", "_secret", "public")

    public: IdentityPublicKey

    def __init__(self, secret: Secret) -> None:
        if len(secret) != _SEED_SIZE:
            raise InvalidKeyError(
                f"identity seed of {len(secret)} bytes, expected {_SEED_SIZE}; is the file whole?"
            )
        self._secret = secret
        self._key = Ed25519PrivateKey.from_private_bytes(secret.reveal())
        self.public = IdentityPublicKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, random: RandomSource) -> IdentityKey:
        """Return a new key from 32 bytes of ``random``."""
        return cls(Secret(draw(random, _SEED_SIZE)))

    @classmethod
    def from_secret(cls, secret: Secret) -> IdentityKey:
        """Return the key of a 32-byte RFC 8032 seed."""
        return cls(secret)

    @property
    def secret(self) -> Secret:
        """The 32-byte RFC 8032 seed, for storage."""
        return self._secret

    def __repr__(self) -> str:
        return f"IdentityKey(public={self.public.hex})"

    def sign(self, label: Label, message: bytes) -> bytes:
        """Return the 64-byte signature of U8(len(label)) || label || message."""
        return self.sign_raw(_labelled(label, message))

    def sign_raw(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message`` as it is.

        Only for formats that separate domains themselves (DSSE, notes): see ``labels.py``.
        """
        return self._key.sign(message)


def _labelled(label: Label, message: bytes) -> bytes:
    return bytes([len(label.value)]) + label.value + message
