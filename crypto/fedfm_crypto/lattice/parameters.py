"""Rings and wire layouts of the two ciphertexts of a sum, as numbers alone.

Apart from the code that computes in them, so that whoever only reads and adds ciphertexts (an
auditor) loads neither numba nor TenSEAL.  Why these numbers: ``bulk_format``, ``collective``.
"""

from __future__ import annotations

from fedfm_crypto.lattice.seal_format import Scheme, SealParameters, ciphertext_layout

__all__ = ["BULK_DEGREE", "BULK_PRIMES", "POLYNOMIAL_BYTES", "RESIDUE_BITS", "WRAP", "WRAP_RING"]

BULK_DEGREE = 4096
"""N of the bulk encryption, coefficients of a polynomial."""
BULK_PRIMES = (18014398509309953, 18014398509293569)
"""The two largest primes of 54 bits that are 1 modulo 2N; a test compares."""
RESIDUE_BITS = 54
POLYNOMIAL_BYTES = len(BULK_PRIMES) * BULK_DEGREE * RESIDUE_BITS // 8

WRAP_RING = SealParameters(
    Scheme.BFV,
    8192,
    (1152921504606830593, 1152921504606748673, 1152921504606683137),
    1032193,
)
"""The largest primes of 60 and 20 bits that are 1 modulo 2N; a test compares."""
WRAP = ciphertext_layout(WRAP_RING)
"""Layout of a wrapped key and of a sum of wraps."""
