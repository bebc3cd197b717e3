"""Verifier keys of signed notes: a name, an algorithm and an Ed25519 public key on one line.

``<name>+<key id in hex>+<base64(algorithm || public key)>`` with the key id the first four bytes of
SHA-256(name || 0x0A || algorithm || public key). The id says which key a signature line means; it
proves nothing.

Source: c2sp.org/signed-note (verifier keys, signature types), c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum

from fedfm_crypto.errors import InvalidKeyError, NoteError
from fedfm_crypto.identity import IdentityPublicKey
from fedfm_crypto.strict_base64 import decode_base64, encode_base64

__all__ = [
    "KEY_ID_SIZE",
    "NoteAlgorithm",
    "VerifierKey",
    "check_key_name",
    "format_vkey",
    "note_key_id",
    "parse_vkey",
]

KEY_ID_SIZE = 4
_KEY_ID_HEX = re.compile(r"[0-9a-f]{8}")


class NoteAlgorithm(IntEnum):
    """The signature type byte of a note key."""

    ED25519 = 0x01
    COSIGNATURE_V1 = 0x04


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named key that may sign notes, with the algorithm that it signs with."""

    name: str
    algorithm: NoteAlgorithm
    public: IdentityPublicKey

    def __post_init__(self) -> None:
        check_key_name(self.name, "key name")

    @property
    def key_id(self) -> bytes:
        """The four bytes that stand before each of its signatures."""
        return note_key_id(self.name, self.algorithm, self.public)


def note_key_id(name: str, algorithm: NoteAlgorithm, public: IdentityPublicKey) -> bytes:
    """Return SHA-256(name || 0x0A || algorithm || public key)[:4]."""
    material = name.encode() + b"\n" + bytes([algorithm]) + public.raw
    return hashlib.sha256(material).digest()[:KEY_ID_SIZE]


def format_vkey(
    name: str,
    public: IdentityPublicKey,
    algorithm: NoteAlgorithm = NoteAlgorithm.ED25519,
) -> str:
    """Return the verifier key line: name+hex(key id)+base64(algorithm || public key)."""
    key = VerifierKey(name, algorithm, public)
    return f"{name}+{key.key_id.hex()}+{encode_base64(bytes([algorithm]) + public.raw)}"


def parse_vkey(text: str) -> VerifierKey:
    """Return the key of a verifier key line.

    Raises:
        NoteError: malformed text, an unknown algorithm, a refused public key, or a key id that
            does not fit.
    """
    parts = text.split("+", 2)
    if len(parts) != 3 or _KEY_ID_HEX.fullmatch(parts[1]) is None:
        raise NoteError(f"verifier key {text[:120]!r}, expected name+key id+base64")
    name, key_id, encoded = parts
    material = decode_base64(encoded, "verifier key", NoteError)
    try:
        algorithm = NoteAlgorithm(material[0] if material else 0)
        public = IdentityPublicKey(material[1:])
    except (ValueError, InvalidKeyError) as error:
        raise NoteError(f"verifier key of {name[:80]!r}: {error}") from None
    key = VerifierKey(name, algorithm, public)
    if key.key_id.hex() != key_id:
        raise NoteError(
            f"verifier key of {name!r} has key id {key_id}, expected {key.key_id.hex()}; copy it "
            "again"
        )
    return key


def check_key_name(name: str, what: str = "key name") -> None:
    """Raise NoteError unless ``name`` is printable, without spaces and plus signs."""
    if not name or not name.isprintable() or any(c.isspace() or c == "+" for c in name):
        raise NoteError(f"{what} {name[:80]!r}, expected text without spaces and plus signs")
