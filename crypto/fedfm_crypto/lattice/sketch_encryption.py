"""One client's sketch in one CKKS ciphertext, sums of such, and the check of a sum.

TenSEAL encodes and encrypts the 4096 integers of a sketch, enlarged so that the squares of the
largest measured norms just fit (``sketch_format.SketchScale``). What is received is read by
``sketch_format`` before anything is computed with it.

A sum of sketches keeps two primes. Only its holder of the secret key opens it, to answer one bit:
whether it is what the opened sum of updates gives. Never publish what it decrypts to: its low
digits carry the noise, and two such vectors give the secret key away (Li and Micciancio 2021;
``tests/adversarial/test_ckks_sums_leak_the_key``). The bit, too, is an answer about a ciphertext
that others made: an equality of 4096 real numbers *and* of their imaginary parts. TenSEAL's own
decryption drops those, and a sketch x + iy would measure |x|^2 - |y|^2 for a norm.

Sources: Cheon et al. 2017 for CKKS; SEAL 4.x ``ckks.cpp`` for the order of slots (slot k is the
value at zeta^(3^k)).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CryptoError
from fedfm_crypto.lattice.ntt import ring
from fedfm_crypto.lattice.seal_format import ciphertext_layout
from fedfm_crypto.lattice.sketch_format import (
    NORM_BITS,
    PARAMETERS,
    SCALE,
    SKETCH,
    SKETCH_SUM,
    SketchScale,
)
from fedfm_crypto.lattice.sketch_keys import PUBLIC_KEY, EncryptionKey, SketchSecretKey, data_ring
from fedfm_crypto.lattice.tenseal_format import (
    open_context,
    read_ciphertext,
    tenseal_reals,
    write_context,
)
from fedfm_crypto.sketch import SLOTS

__all__ = ["SketchEncryption", "binding_holds", "open_sum", "sum_sketches"]

Words = NDArray[np.uint64]

_SEAL = ciphertext_layout(PARAMETERS, SCALE)
# Sketches measure norms with an error of 2.2 % (rms); products wrap at 1.41 times the largest.
_ALLOWANCE = 1.2
_EXACT = 0.5


class SketchEncryption:
    """A client's encryption of its sketch; holds TenSEAL's context.

    Args:
        key: the validator's encryption key.
        scale: of this round.
    """

    __slots__ = ("_amplitude", "_context")

    def __init__(self, key: EncryptionKey, scale: SketchScale) -> None:
        self._amplitude = scale.amplitude
        self._context: Any = open_context(
            write_context(PARAMETERS, PUBLIC_KEY.write(key.pair), scale=SCALE)
        )

    def encrypt(self, sketch: NDArray[np.int64]) -> bytes:
        """Return the ciphertext of a sketch, int64[4096]; its randomness is SEAL's own.

        Raises:
            CapacityError: the vector's norm is above the bound.
            CryptoError: another dtype or shape.
        """
        if sketch.shape != (SLOTS,) or sketch.dtype != np.int64:
            raise CryptoError(f"sketch of {sketch.dtype} {sketch.shape}, expected int64 ({SLOTS},)")
        values = sketch.astype(np.float64) * self._amplitude
        norm = float(np.linalg.norm(values)) / 2.0**NORM_BITS
        if norm > _ALLOWANCE:
            raise CapacityError(
                f"the sketch's norm is {norm:.2f} times the largest that is measured; clip the "
                "update as the charter says, or raise the bound"
            )
        return SKETCH.write(read_ciphertext(tenseal_reals(self._context, values.tolist()), _SEAL))


def sum_sketches(ciphertexts: Sequence[bytes | memoryview]) -> bytes:
    """Return the encrypted sum of sketches, of the accepted clients, at two primes.

    Its randomness is the sum of theirs: it shows its opener the sum and nothing more of the parts.

    Raises:
        CiphertextError: one is malformed.
        CryptoError: there are fewer than two: the sum would be one client's sketch.
    """
    if len(ciphertexts) < 2:
        raise CryptoError(f"{len(ciphertexts)} sketches to add, expected at least two")
    total = SKETCH.read(ciphertexts[0])
    for data in ciphertexts[1:]:
        total = data_ring().add(total, SKETCH.read(data))
    return SKETCH_SUM.write(np.ascontiguousarray(total[:, : len(SKETCH_SUM.primes)]))


def open_sum(
    secret: SketchSecretKey, data: bytes | memoryview, scale: SketchScale
) -> NDArray[np.complex128]:
    """Return the slots of a sum of sketches in integer steps, complex128[4096].

    For :func:`binding_holds` and for tests: what this returns must not leave the validator.

    Raises:
        CiphertextError: it is malformed.
    """
    first, second = SKETCH_SUM.primes
    ring_ = ring(PARAMETERS.degree, SKETCH_SUM.primes)
    values = SKETCH_SUM.read(data)
    key = ring_.forward(ring_.residues(secret.ternary()))
    plain = ring_.inverse(ring_.add(values[0], ring_.multiply(values[1], key)))
    low, high = plain[0].astype(object), plain[1].astype(object)
    whole = low + first * ((high - low) * pow(first, -1, second) % second)
    modulus = first * second
    coefficients = np.where(whole > modulus // 2, whole - modulus, whole).astype(np.float64)
    twist, order = _embedding()
    slots = np.fft.ifft(coefficients * twist)[order]
    opened: NDArray[np.complex128] = slots * (PARAMETERS.degree / SCALE / scale.amplitude)
    return opened


def binding_holds(
    secret: SketchSecretKey,
    data: bytes | memoryview,
    expected: NDArray[np.int64],
    scale: SketchScale,
) -> bool:
    """Return whether a sum of sketches encrypts ``expected``, the sketch of the opened sum.

    Sketches are integers and decrypt with an error far below half a step, so half a step is the
    tolerance: stricter than a part in 10^4 of the clip. Imaginary parts must be zero as exactly.

    Args:
        secret: the validator's key.
        data: what :func:`sum_sketches` gave, over the accepted clients.
        expected: sketch of the opened sum, int64[4096], as vote_quorum clients report it.
        scale: as the clients used it.

    Raises:
        CiphertextError: ``data`` is malformed.
        CryptoError: ``expected`` has another dtype or shape.
    """
    if expected.shape != (SLOTS,) or expected.dtype != np.int64:
        raise CryptoError(f"sketch of {expected.dtype} {expected.shape}, expected int64 ({SLOTS},)")
    opened = open_sum(secret, data, scale)
    return bool(np.abs(opened - expected).max() < _EXACT)


@lru_cache(maxsize=1)
def _embedding() -> tuple[NDArray[np.complex128], NDArray[np.int64]]:
    """Return zeta^j for j < N, and for each slot k the index t with 2t + 1 = 3^k modulo 2N."""
    degree = PARAMETERS.degree
    exponents = np.empty(SLOTS, dtype=np.int64)
    power = 1
    for slot in range(SLOTS):
        exponents[slot] = power
        power = power * 3 % (2 * degree)
    return np.exp(1j * np.pi * np.arange(degree) / degree), exponents // 2
