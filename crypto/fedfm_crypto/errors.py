"""The exceptions of secure-fedfm: one tree, rooted here, drawn once.

::

    FedFMError
    |-- CryptoError              a primitive refused its input
    |   |-- InvalidKeyError      a key of wrong length, encoding or order
    |   |-- SignatureError       a signature that does not verify
    |   |-- DecryptionError      a ciphertext that does not authenticate
    |   |-- ShareError           secret shares that cannot be used or do not fit together
    |   |-- CapacityError        integers that do not fit their lanes
    |   |-- CiphertextError      a lattice ciphertext, key or share outside its format
    |   |-- SensitivityError     a vector above the sensitivity that its noise is made for
    |   `-- NonFiniteError       NaN or infinity where a number is needed (also a ValueError)
    |-- CodecError               bytes or values outside the canonical encoding
    |   `-- CanonicalJSONError   JSON that is not RFC 8785 canonical
    |-- MerkleError              a tree, index or proof that does not hold
    |-- NoteError                a signed note, checkpoint or verifier key that is malformed
    `-- DSSEError                a DSSE envelope that is malformed or not signed as required

The packages above hang their own branches on the root: ``ProtocolError`` in
``fedfm_protocols.errors``, ``AuditError`` in ``fedfm_audit.errors`` and ``ApplicationError`` in
``secure_fedfm.errors``. A message names what was found, what was expected and what to do, and
never holds secret bytes.
"""

from __future__ import annotations

__all__ = [
    "CanonicalJSONError",
    "CapacityError",
    "CiphertextError",
    "CodecError",
    "CryptoError",
    "DSSEError",
    "DecryptionError",
    "FedFMError",
    "InvalidKeyError",
    "MerkleError",
    "NonFiniteError",
    "NoteError",
    "SensitivityError",
    "ShareError",
    "SignatureError",
]


class FedFMError(Exception):
    """Root of every exception that secure-fedfm raises on purpose."""


class CryptoError(FedFMError):
    """A cryptographic primitive refused its input."""


class InvalidKeyError(CryptoError):
    """A key has the wrong length, a non-canonical encoding or a small order."""


class SignatureError(CryptoError):
    """A signature does not verify."""


class DecryptionError(CryptoError):
    """A ciphertext does not authenticate under the key and the associated data given."""


class ShareError(CryptoError):
    """Secret shares are malformed, too few, repeated or inconsistent."""


class CapacityError(CryptoError):
    """Integers do not fit the lanes that should carry them or their sum."""


class CiphertextError(CryptoError):
    """A lattice ciphertext, key or share does not have its exact format."""


class SensitivityError(CryptoError):
    """A vector's norm is above the sensitivity that its noise is made for."""


class NonFiniteError(CryptoError, ValueError):
    """A value is NaN or infinite and cannot be quantised."""


class CodecError(FedFMError):
    """Bytes or values lie outside the canonical encoding."""


class CanonicalJSONError(CodecError):
    """JSON text is not the RFC 8785 canonical form of a value."""


class MerkleError(FedFMError):
    """A Merkle tree size, index or proof does not hold."""


class NoteError(FedFMError):
    """A signed note, checkpoint or verifier key is malformed or not signed as required."""


class DSSEError(FedFMError):
    """A DSSE envelope is malformed or not signed as required."""
