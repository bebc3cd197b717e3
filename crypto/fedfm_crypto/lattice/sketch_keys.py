"""The validator's key pair for sketches: CKKS, N = 8192, primes of 60, 40, 40 and 60 bits.

Three objects. The secret key (32 bytes of seed) stays with the validator. Clients need the
encryption key (b, a) with b = -(a s) + e. The coordinator needs the evaluation key too, which turns
a product of two ciphertexts, of degree 2 in s, into one of degree 1: for each data prime q_j

    b_j = -(a_j s) + e_j + P s^2 (modulo q_j only, 0 modulo the other primes),

P being the last prime. Rotation (Galois) keys, usually 12 more of that size for a sum over 4096
slots, are not needed: ``scores`` reads sums off coefficients.

Every ``a`` is uniform from a public seed, so it does not travel: an encryption key is 262,176
bytes, an evaluation key 786,464. A received key is read here, exact length and every residue below
its prime, before anything is computed with it or TenSEAL sees it.

The keys are ours rather than ``ts.context()``'s because that draws its randomness itself, builds
what is not needed, and writes only compressed. Chain and security are those of the context
[60, 40, 40, 60]: 200 bits, 218 allowed for 128-bit classical security with ternary secrets.

Sources: Cheon et al., "Homomorphic encryption for arithmetic of approximate numbers" (2017) and
their full RNS variant (2018, section 4) for CKKS and its key switching; SEAL 4.x
``keygenerator.cpp`` for the form of the key; Homomorphic Encryption Standard (2018), table 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import InvalidKeyError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.lattice.ntt import Ring, ring
from fedfm_crypto.lattice.residues import read_residues, write_residues
from fedfm_crypto.lattice.sampling import Sampler
from fedfm_crypto.lattice.seal_format import public_key_layout
from fedfm_crypto.lattice.sketch_format import PARAMETERS
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = [
    "PUBLIC_KEY", "EncryptionKey", "EvaluationKey", "SketchSecretKey", "data_ring", "key_ring",
]  # fmt: skip

Words = NDArray[np.uint64]

PUBLIC_KEY = public_key_layout(PARAMETERS)
"""Layout of the public key for TenSEAL."""

_SEED_SIZE = 32
_DIGITS = len(PARAMETERS.data_primes)


def key_ring() -> Ring:
    """Return the ring of keys: all four primes."""
    return ring(PARAMETERS.degree, PARAMETERS.primes)


def data_ring() -> Ring:
    """Return the ring of fresh ciphertexts: the first three primes."""
    return ring(PARAMETERS.degree, PARAMETERS.data_primes)


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """What clients encrypt sketches under: public.

    Args:
        seed: of ``a``, 32 public bytes.
        b: transformed, uint64 [4, N].

    Raises:
        InvalidKeyError: the seed has another length.
        CiphertextError: another shape, or a residue that is not below its prime.
    """

    seed: bytes
    b: Words = field(repr=False)

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        PUBLIC_KEY.write(np.stack([self.b, self.b]))

    @property
    def pair(self) -> Words:
        """(b, a), [2, 4, N]."""
        return np.stack([self.b, _public_polynomials(self.seed)[0]])

    def to_bytes(self) -> bytes:
        """Return the wire form (262,176 bytes)."""
        return self.seed + write_residues(self.b, PARAMETERS.primes, "sketch encryption key")

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> EncryptionKey:
        """Return the key; raise CiphertextError unless ``data`` is exactly one."""
        seed, b = _split(data, 1, "sketch encryption key")
        return cls(seed, b[0])


@dataclass(frozen=True, slots=True)
class EvaluationKey:
    """What the coordinator multiplies with: public, under the seed of its encryption key.

    Args:
        seed: of the a_j, 32 public bytes.
        b: b_j for each data prime, transformed, uint64 [3, 4, N].

    Raises:
        InvalidKeyError: the seed has another length.
        CiphertextError: another shape, or a residue that is not below its prime.
    """

    seed: bytes
    b: Words = field(repr=False)

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        self.to_bytes()

    @property
    def pairs(self) -> Words:
        """(b_j, a_j), [3, 2, 4, N]."""
        return np.stack([self.b, _public_polynomials(self.seed)[1:]], axis=1)

    def to_bytes(self) -> bytes:
        """Return the wire form (786,464 bytes)."""
        shape = (_DIGITS, len(PARAMETERS.primes), PARAMETERS.degree)
        if self.b.shape != shape or self.b.dtype != np.uint64:
            raise InvalidKeyError(
                f"sketch evaluation key: {self.b.dtype} {self.b.shape}, expected uint64 {shape}"
            )
        return self.seed + write_residues(self.b, PARAMETERS.primes, "sketch evaluation key")

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> EvaluationKey:
        """Return the key; raise CiphertextError unless ``data`` is exactly one."""
        return cls(*_split(data, _DIGITS, "sketch evaluation key"))


@dataclass(frozen=True, slots=True)
class SketchSecretKey:
    """The validator's secret: everything else follows from its seed. Never leaves the validator.

    Args:
        seed: 32 random bytes, a new one for each key epoch.

    Raises:
        InvalidKeyError: the seed has another length.
    """

    seed: Secret

    def __post_init__(self) -> None:
        if len(self.seed) != _SEED_SIZE:
            raise InvalidKeyError(f"sketch key seed of {len(self.seed)} bytes, expected 32")

    @classmethod
    def generate(cls, random: RandomSource) -> SketchSecretKey:
        """Return a fresh key."""
        return cls(Secret(draw(random, _SEED_SIZE)))

    def ternary(self) -> NDArray[np.int64]:
        """Return s: its N coefficients in {-1, 0, 1}, int64 [N]."""
        key = derive_key(Label.SKETCH_SECRET, self.seed, b"secret")
        return Sampler(key).ternary(PARAMETERS.degree)

    def transformed(self) -> Words:
        """Return s at the key level, transformed, [4, N]."""
        return key_ring().forward(key_ring().residues(self.ternary()))

    def public_keys(self) -> tuple[EncryptionKey, EvaluationKey]:
        """Return both public keys; the same ones every time."""
        ring_, secret = key_ring(), self.transformed()
        seed = derive_key(Label.SKETCH_SECRET, self.seed, b"public seed").reveal()
        noise = Sampler(derive_key(Label.SKETCH_SECRET, self.seed, b"noise"))
        rows = []
        for public in _public_polynomials(seed):
            error = ring_.forward(ring_.residues(noise.centred_binomial(PARAMETERS.degree)))
            rows.append(ring_.subtract(error, ring_.multiply(public, secret)))
        encryption = EncryptionKey(seed, rows[0])
        square = ring_.scale(ring_.multiply(secret, secret), [PARAMETERS.primes[-1]] * 4)
        digits = np.stack(rows[1:])
        for j in range(_DIGITS):
            only = ring_.zeros()
            only[j] = square[j]
            digits[j] = ring_.add(digits[j], only)
        return encryption, EvaluationKey(seed, digits)


@lru_cache(maxsize=4)
def _public_polynomials(seed: bytes) -> Words:
    """Return a and the a_j of a seed, transformed, [4, 4, N]; not to be written to."""
    sampler = Sampler(Secret(hash_parts(Label.SKETCH_PUBLIC, seed)))
    return np.stack([sampler.uniform_polynomial(key_ring()) for _ in range(1 + _DIGITS)])


def _check_seed(seed: bytes) -> None:
    if len(seed) != _SEED_SIZE:
        raise InvalidKeyError(f"public seed of {len(seed)} bytes, expected {_SEED_SIZE}")


def _split(data: bytes | memoryview, polynomials: int, what: str) -> tuple[bytes, Words]:
    """Return the seed and the residues [polynomials, 4, N] of a received key."""
    view = memoryview(data).cast("B")
    primes, degree = PARAMETERS.primes, PARAMETERS.degree
    shape = (polynomials, len(primes), degree)
    return bytes(view[:_SEED_SIZE]), read_residues(view[_SEED_SIZE:], shape, primes, what)
