"""X25519 key agreement (RFC 7748), strict about peers' public values.

RFC 7748 asks implementations to accept non-canonical values, and pyca/cryptography does (13 of
Wycheproof's 19), refusing only an all-zero result. Here a public value must be canonical (below
p = 2^255 - 19, hence with the top bit clear), so that a key has one encoding and "the same key
twice" can be compared as bytes, and it must not have small order, so that no peer can force the
shared secret.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedfm_crypto.errors import InvalidKeyError
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = ["AGREEMENT_KEY_SIZE", "AgreementKey", "check_agreement_public"]

AGREEMENT_KEY_SIZE = 32

_P = 2**255 - 19
# The canonical u of small order on the curve or its twist: 0, 1, -1 and the two of order 8.
# tests/crypto/test_agreement.py finds them independently.
_SMALL_ORDER_U = frozenset(
    {
        0,
        1,
        _P - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


def check_agreement_public(raw: bytes) -> None:
    """Raise InvalidKeyError unless ``raw`` is a canonical X25519 public value of large order."""
    if not isinstance(raw, bytes) or len(raw) != AGREEMENT_KEY_SIZE:
        found = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
        raise InvalidKeyError(f"X25519 key: found {found}, expected {AGREEMENT_KEY_SIZE} bytes")
    u = int.from_bytes(raw, "little")
    if u >= _P:
        raise InvalidKeyError(
            f"X25519 key {raw.hex()} is not canonical (>= 2^255 - 19); refuse its sender"
        )
    if u in _SMALL_ORDER_U:
        raise InvalidKeyError(f"X25519 key {raw.hex()} has small order; refuse its sender")


class AgreementKey:
    """An X25519 private key. Its repr shows the public value only."""

    __slots__ = ("_key", "_secret", "public")

    public: bytes

    def __init__(self, secret: Secret) -> None:
        if len(secret) != AGREEMENT_KEY_SIZE:
            raise InvalidKeyError(
                f"X25519 private key of {len(secret)} bytes, expected {AGREEMENT_KEY_SIZE}"
            )
        self._secret = secret
        self._key = X25519PrivateKey.from_private_bytes(secret.reveal())
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, random: RandomSource) -> AgreementKey:
        """Return a new key from 32 bytes of ``random``."""
        return cls(Secret(draw(random, AGREEMENT_KEY_SIZE)))

    @classmethod
    def from_secret(cls, secret: Secret) -> AgreementKey:
        """Return the key of 32 private bytes (clamped by the algorithm, kept as given)."""
        return cls(secret)

    @property
    def secret(self) -> Secret:
        """The 32 private bytes, for sharing and storage."""
        return self._secret

    def __repr__(self) -> str:
        return f"AgreementKey(public={self.public.hex()})"

    def exchange(self, peer: bytes) -> Secret:
        """Return the 32-byte shared secret with ``peer``; derive keys from it, never use it raw.

        Raises:
            InvalidKeyError: ``peer`` fails :func:`check_agreement_public`.
        """
        check_agreement_public(peer)
        try:
            return Secret(self._key.exchange(X25519PublicKey.from_public_bytes(peer)))
        except ValueError:
            # OpenSSL refuses an all-zero result; check_agreement_public leaves no way to get one.
            raise InvalidKeyError(f"X25519 key {peer.hex()} gives no shared secret") from None
