"""HKDF-SHA-256 (RFC 5869), always under a label."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.hashing import length_prefixed
from fedfm_crypto.labels import Label
from fedfm_crypto.secret import Secret

__all__ = ["MAX_DERIVED", "derive_key", "hkdf_sha256"]

MAX_DERIVED = 255 * 32
"""Bytes: the most that RFC 5869 allows HKDF-SHA-256 to give."""


def derive_key(label: Label, secret: Secret, *context: bytes, length: int = 32) -> Secret:
    """Return ``length`` bytes derived from ``secret`` for one purpose and context.

    HKDF-SHA-256 without salt; info is the label and each context part, length-prefixed
    (``length_prefixed``), so that different contexts never share an info string. Outputs of
    different lengths for the same label and context share a prefix: give each use its own label.

    Args:
        label: what the key is for.
        secret: uniform or high-entropy input, such as an X25519 result.
        context: whatever the key is bound to (round context, names).
        length: bytes wanted, 1 to :data:`MAX_DERIVED`.

    Raises:
        CryptoError: ``length`` is out of range.
    """
    return hkdf_sha256(secret, salt=b"", info=length_prefixed(label, *context), length=length)


def hkdf_sha256(secret: Secret, *, salt: bytes, info: bytes, length: int) -> Secret:
    """Return plain HKDF-SHA-256 output. :func:`derive_key` is the safe form.

    Raises:
        CryptoError: ``length`` is out of range.
    """
    if not 1 <= length <= MAX_DERIVED:
        raise CryptoError(f"HKDF length {length}, expected 1..{MAX_DERIVED}")
    return Secret(HKDF(SHA256(), length, salt, info).derive(secret.reveal()))
