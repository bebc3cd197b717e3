"""Microsoft SEAL's serialised parameters, keys and ciphertexts, read and written byte for byte.

SEAL's own deserialiser is not made for hostile input, so nothing received goes there: a received
object is read here, field by field against what it must be, and what SEAL then loads was written
here from the residues alone. One object has exactly one accepted form: version 4.3, not compressed
(SEAL would inflate a few bytes to gigabytes; uniform residues do not shrink anyway), no seed in
place of a polynomial. The length is known before a byte is read.

Layout, little-endian. Every object is a 16-byte header (magic 0xA15E, header size 16, major, minor,
compression, two reserved bytes, total size in 8 bytes) and a body:

- modulus: value (8). Parameters: scheme (1), N (8), number of primes (8), their moduli, that of t.
- ciphertext and public key: parameter id (32), transformed? (1), polynomials (8), N (8), primes
  (8), scale (8, double), correction factor (8), then an array: header, count (8), residues (8
  each).
- secret key: parameter id (32), count (8), scale (8), array.

The parameter id is BLAKE2b-256 over scheme, N, the primes and t, 8 bytes each.

Sources: SEAL 4.x ``serialization.h``, ``encryptionparams.h``, ``ciphertext.cpp``, ``plaintext.h``.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError
from fedfm_crypto.lattice.residues import read_residues, write_residues

__all__ = ["ObjectLayout", "Scheme", "SealParameters", "ciphertext_layout", "public_key_layout"]

Words = NDArray[np.uint64]

_MAGIC = 0xA15E
_VERSION = (4, 3)
_COMPRESSION = {0: "none", 1: "zlib", 2: "zstandard"}
_HEADER = struct.Struct("<HBBBBHQ")
_FIELDS = struct.Struct("<32sBQQQ8sQ")
_COUNT = struct.Struct("<Q")
_DOUBLE = struct.Struct("<d")
_FIELD_NAMES = (
    "parameter id", "transformed flag", "number of polynomials", "degree", "number of primes",
    "scale", "correction factor",
)  # fmt: skip


class Scheme(IntEnum):
    """SEAL's numbers for its schemes."""

    BFV = 1
    CKKS = 2


@dataclass(frozen=True, slots=True)
class SealParameters:
    """Encryption parameters: what SEAL calls the key level, and the data level below it.

    Args:
        scheme: BFV or CKKS.
        degree: N.
        primes: the chain; the last one serves key switching only and is dropped at the data level
            (unless it is the only one).
        plain_modulus: t of BFV, 0 for CKKS.
    """

    scheme: Scheme
    degree: int
    primes: tuple[int, ...]
    plain_modulus: int = 0

    @property
    def data_primes(self) -> tuple[int, ...]:
        """The primes of ciphertexts."""
        return self.primes[:-1] or self.primes

    def identifier(self, primes: tuple[int, ...]) -> bytes:
        """Return the parameter id (32 bytes) of the level with these primes."""
        words = (int(self.scheme), self.degree, *primes, self.plain_modulus)
        encoded = b"".join(_COUNT.pack(word) for word in words)
        return hashlib.blake2b(encoded, digest_size=32).digest()

    def write(self) -> bytes:
        """Return the serialised parameters."""
        moduli = b"".join(_object(_COUNT.pack(q)) for q in (*self.primes, self.plain_modulus))
        head = struct.pack("<BQQ", int(self.scheme), self.degree, len(self.primes))
        return _object(head + moduli)

    def write_secret_key(self, transformed: Words) -> bytes:
        """Return a secret key, [K, N] at the key level in transformed form. Never received."""
        head = struct.pack("<32sQd", self.identifier(self.primes), transformed.size, 1.0)
        residues = write_residues(transformed, self.primes, "secret key")
        return _object(head + _object(_COUNT.pack(transformed.size) + residues))


@dataclass(frozen=True, slots=True)
class ObjectLayout:
    """The one accepted form of a ciphertext or public key: every field but the residues is fixed.

    Args:
        what: the object's name in error messages.
        parameters: its parameters.
        primes: the primes of its level.
        transformed: whether the residues are NTT values.
        scale: CKKS scale; 1.0 for BFV and keys.
    """

    what: str
    parameters: SealParameters
    primes: tuple[int, ...]
    transformed: bool
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(2, K, N): two polynomials modulo each prime."""
        return (2, len(self.primes), self.parameters.degree)

    @property
    def _fields(self) -> tuple[bytes | int, ...]:
        identifier = self.parameters.identifier(self.primes)
        polynomials, primes, degree = self.shape
        scale = _DOUBLE.pack(self.scale)
        return (identifier, int(self.transformed), polynomials, degree, primes, scale, 1)

    @property
    def _count(self) -> int:
        polynomials, primes, degree = self.shape
        return polynomials * primes * degree

    @property
    def size(self) -> int:
        """Length in bytes."""
        return 2 * _HEADER.size + _FIELDS.size + _COUNT.size + 8 * self._count

    def write(self, values: Words) -> bytes:
        """Return the serialised object with these residues, [2, K, N].

        Raises:
            CiphertextError: another shape, or a residue that is not below its prime.
        """
        if values.shape != self.shape or values.dtype != np.uint64:
            raise CiphertextError(
                f"{self.what}: found {values.dtype} {values.shape}, expected uint64 {self.shape}"
            )
        residues = write_residues(values, self.primes, self.what)
        array = _object(_COUNT.pack(self._count) + residues)
        return _object(_FIELDS.pack(*self._fields) + array)

    def read(self, data: bytes | bytearray | memoryview) -> Words:
        """Return the residues [2, K, N] of a serialised object (a new array).

        Raises:
            CiphertextError: any byte differs from this layout, or a residue is not below its prime.
        """
        view = memoryview(data).cast("B")
        if view.nbytes != self.size:
            raise CiphertextError(
                f"{self.what}: {view.nbytes} bytes, expected exactly {self.size}; refuse it"
            )
        self._check_header(view, self.size)
        found = _FIELDS.unpack_from(view, _HEADER.size)
        for name, value, expected in zip(_FIELD_NAMES, found, self._fields, strict=True):
            if value != expected:
                raise CiphertextError(
                    f"{self.what}: {name} {_show(value)}, expected {_show(expected)}; it was made "
                    "for other parameters or is malformed"
                )
        array = view[_HEADER.size + _FIELDS.size :]
        self._check_header(array, array.nbytes)
        (count,) = _COUNT.unpack_from(array, _HEADER.size)
        if count != self._count:
            raise CiphertextError(f"{self.what}: {count} residues, expected {self._count}")
        body = array[_HEADER.size + _COUNT.size :]
        return read_residues(body, self.shape, self.primes, self.what)

    def _check_header(self, view: memoryview, size: int) -> None:
        magic, header, major, minor, compression, reserved, total = _HEADER.unpack_from(view)
        if magic != _MAGIC or header != _HEADER.size or reserved:
            raise CiphertextError(f"{self.what}: no SEAL header; refuse it")
        if (major, minor) != _VERSION:
            raise CiphertextError(
                f"{self.what}: SEAL format {major}.{minor}, expected {_VERSION[0]}.{_VERSION[1]}"
            )
        if compression:
            name = _COMPRESSION.get(compression, str(compression))
            raise CiphertextError(
                f"{self.what}: compressed ({name}), expected plain; compression is refused because "
                "its output has no bound"
            )
        if total != size:
            raise CiphertextError(f"{self.what}: announces {total} bytes, expected {size}")


def ciphertext_layout(parameters: SealParameters, scale: float = 1.0) -> ObjectLayout:
    """Return the layout of a fresh or summed ciphertext of two polynomials."""
    transformed = parameters.scheme is Scheme.CKKS
    return ObjectLayout("ciphertext", parameters, parameters.data_primes, transformed, scale)


def public_key_layout(parameters: SealParameters) -> ObjectLayout:
    """Return the layout of a public key (b, a) with b = -(a s) + e."""
    return ObjectLayout("public key", parameters, parameters.primes, True)


def _object(body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER.size, *_VERSION, 0, 0, _HEADER.size + len(body)) + body


def _show(value: bytes | int) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
