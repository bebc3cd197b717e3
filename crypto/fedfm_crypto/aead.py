"""AES-256-GCM sealing with a random nonce and the associated data that binds it to its place.

One key seals few messages here (each box key serves one dealer, one recipient, one round), far from
the 2^32 messages at which random 96-bit nonces become a worry (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedfm_crypto.errors import CryptoError, DecryptionError, InvalidKeyError
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = ["MAX_SEALED", "NONCE_SIZE", "OVERHEAD", "TAG_SIZE", "open_sealed", "seal"]

NONCE_SIZE = 12
TAG_SIZE = 16
OVERHEAD = NONCE_SIZE + TAG_SIZE
"""Bytes by which a sealed message is longer than its plaintext."""
MAX_SEALED = 2**31 - 1
"""Bytes: the most that the library takes in one call."""

_KEY_SIZE = 32


def seal(key: Secret, plaintext: bytes, associated: bytes, random: RandomSource) -> bytes:
    """Return nonce (12 bytes) || ciphertext || tag (16 bytes).

    Args:
        key: 32 bytes.
        plaintext: what to hide.
        associated: what to bind it to; the opener must give the same bytes.
        random: source of the nonce.

    Raises:
        InvalidKeyError: the key is not 32 bytes.
        CryptoError: the plaintext is too long.
    """
    cipher = _cipher(key)
    if len(plaintext) > MAX_SEALED - OVERHEAD or len(associated) > MAX_SEALED:
        raise CryptoError(f"plaintext of {len(plaintext)} bytes, expected at most 2^31 in all")
    nonce = draw(random, NONCE_SIZE)
    return nonce + cipher.encrypt(nonce, plaintext, associated)


def open_sealed(key: Secret, sealed: bytes, associated: bytes) -> bytes:
    """Return the plaintext of :func:`seal`.

    Raises:
        InvalidKeyError: the key is not 32 bytes.
        DecryptionError: too short, altered, or sealed under another key or associated data; which
            of these is not said, because it cannot be known.
    """
    cipher = _cipher(key)
    if not OVERHEAD <= len(sealed) <= MAX_SEALED:
        raise DecryptionError(f"sealed message of {len(sealed)} bytes, expected {OVERHEAD} or more")
    try:
        return cipher.decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], associated)
    except InvalidTag:
        raise DecryptionError(
            "sealed message does not authenticate: altered, or another key or context"
        ) from None


def _cipher(key: Secret) -> AESGCM:
    if len(key) != _KEY_SIZE:
        raise InvalidKeyError(f"AES-256-GCM key of {len(key)} bytes, expected {_KEY_SIZE}")
    return AESGCM(key.reveal())
