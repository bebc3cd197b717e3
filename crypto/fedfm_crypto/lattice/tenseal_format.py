"""The door to TenSEAL: contexts and vectors written by hand, ciphertexts read back by residue.

What goes in was written by ``seal_format`` from checked residues; TenSEAL's protobuf envelope is
written here and never parsed from outside. What comes out is read through the bindings' element
access, not through ``serialize()``: that is always zstandard-compressed, and so a decompressor is
needed nowhere.

``ts.context()`` always makes its own key pair and relinearisation keys; a hand-written context
holds a public key alone, which is all that encryption and addition need, or a secret key.

Source: TenSEAL 0.3.18, ``tenseal/proto/tensealcontext.proto`` and ``tensors.proto``. The pinned
version matters: the format changes between releases.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import tenseal
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError
from fedfm_crypto.lattice.seal_format import ObjectLayout, SealParameters

__all__ = [
    "load_vector", "open_context", "read_ciphertext", "tenseal_reals", "tenseal_vector",
    "write_context", "write_vector",
]  # fmt: skip

Words = NDArray[np.uint64]

_VARINT, _FIXED64, _BYTES = 0, 1, 2
# TenSEALPublicProto.context_parameters: automatic rescaling, relinearisation, modulus switching.
_AUTOMATIC = 7
_NO_SCALE = -1.0
_PUBLIC_KEY_ENCRYPTION = 0


def write_context(
    parameters: SealParameters,
    public_key: bytes,
    secret_key: bytes | None = None,
    scale: float | None = None,
) -> bytes:
    """Return a serialised TenSEAL context without evaluation keys.

    Args:
        parameters: encryption parameters.
        public_key: as ``seal_format`` writes it.
        secret_key: likewise; only where something is decrypted or decoded.
        scale: global CKKS scale.
    """
    public = _field(1, public_key) + _key(2, _VARINT) + _varint(_AUTOMATIC)
    public += _key(3, _FIXED64) + struct.pack("<d", _NO_SCALE if scale is None else scale)
    context = _field(1, parameters.write()) + _field(2, public)
    if secret_key is not None:
        context += _field(3, _field(1, secret_key))
    return context + _key(4, _VARINT) + _varint(_PUBLIC_KEY_ENCRYPTION)


def write_vector(size: int, ciphertext: bytes, scale: float | None = None) -> bytes:
    """Return a serialised BFV or CKKS vector (with its scale) of one ciphertext."""
    vector = _field(1, _varint(size)) + _field(2, ciphertext)
    if scale is not None:
        vector += _key(3, _FIXED64) + struct.pack("<d", scale)
    return vector


def open_context(serialised: bytes) -> Any:
    """Return the TenSEAL context of :func:`write_context`; one thread, no evaluation keys."""
    return tenseal.context_from(serialised, 1)


def tenseal_vector(context: Any, values: Sequence[int]) -> Any:
    """Return the encryption of integers as a TenSEAL BFV vector."""
    return tenseal.bfv_vector(context, values)


def tenseal_reals(context: Any, values: Sequence[float]) -> Any:
    """Return the encryption of reals as a TenSEAL CKKS vector, at the context's scale."""
    return tenseal.ckks_vector(context, values)


def load_vector(context: Any, layout: ObjectLayout, values: Words, size: int) -> Any:
    """Return a TenSEAL BFV vector of ``size`` values that holds the ciphertext ``values``."""
    return tenseal.bfv_vector_from(context, write_vector(size, layout.write(values)))


def read_ciphertext(vector: Any, layout: ObjectLayout) -> Words:
    """Return the residues [2, K, N] of a TenSEAL vector of one ciphertext.

    Raises:
        CiphertextError: the vector has several ciphertexts, or one of another shape.
    """
    ciphertexts = vector.ciphertext()
    polynomials, primes, degree = layout.shape
    found = [
        (c.size(), c.coeff_modulus_size(), c.poly_modulus_degree(), c.is_ntt_form())
        for c in ciphertexts
    ]
    if found != [(polynomials, primes, degree, layout.transformed)]:
        raise CiphertextError(
            f"TenSEAL holds ciphertexts {found}, expected one of {layout.shape}, transformed "
            f"{layout.transformed}"
        )
    count = polynomials * primes * degree
    residues = map(ciphertexts[0].__getitem__, range(count))
    return np.fromiter(residues, dtype=np.uint64, count=count).reshape(layout.shape)


def _varint(value: int) -> bytes:
    """Return a protobuf varint: seven bits a byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content
