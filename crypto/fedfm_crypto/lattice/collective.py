"""A BFV public key whose secret key nobody holds.

Party i draws a ternary s_i and a noise e_i and publishes b_i = -(a s_i) + e_i for a common public
``a``. The collective public key is (sum b_i, a), a BFV key for s = sum s_i. TenSEAL encrypts under
it like under any other.

Order matters: whoever sees the others' b_j first can choose b_i = b - sum b_j for a key b of its
own. So every party first publishes :meth:`PublicKeyGeneration.commitment` to its share, and reveals
the share when all commitments are there.

Parameters: N = 8192, three primes of 60 bits (180 bits; the Homomorphic Encryption Standard allows
218 for 128-bit classical security with ternary keys), t the largest 20-bit prime that is 1 modulo
2N, so that 8192 integers fit a ciphertext. Noise: e_i centred binomial, standard deviation 3.24.
The sum of n ternary keys is no narrower than one.

Sources: Mouchet et al., "Multiparty homomorphic encryption from ring-learning-with-errors" (PETS
2021), section 4.1 and protocol EncKeyGen; method names after lattigo's ``multiparty``.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError, InvalidKeyError, ShareError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_crypto.lattice.ntt import Ring, ring
from fedfm_crypto.lattice.parameters import WRAP_RING
from fedfm_crypto.lattice.residues import check_residues, read_residues, write_residues
from fedfm_crypto.lattice.sampling import Sampler
from fedfm_crypto.lattice.seal_format import public_key_layout
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret

__all__ = [
    "PARAMETERS", "PUBLIC_KEY", "CollectivePublicKey", "PublicKeyGeneration", "PublicKeyShare",
    "SecretContribution", "data_ring", "key_ring",
]  # fmt: skip

Words = NDArray[np.uint64]

PARAMETERS = WRAP_RING
"""The largest primes of 60 and 20 bits that are 1 modulo 2N."""
PUBLIC_KEY = public_key_layout(PARAMETERS)
"""Layout of the public key."""

_SEED_SIZE = 32


def key_ring() -> Ring:
    """Return the ring of keys: all three primes."""
    return ring(PARAMETERS.degree, PARAMETERS.primes)


def data_ring() -> Ring:
    """Return the ring of ciphertexts: the first two primes."""
    return ring(PARAMETERS.degree, PARAMETERS.data_primes)


@dataclass(frozen=True, slots=True)
class SecretContribution:
    """One party's s_i in transformed form, [3, N]; erase it when its shares are dealt."""

    transformed: Words = field(repr=False)

    @classmethod
    def generate(cls, random: RandomSource) -> SecretContribution:
        """Return a fresh ternary contribution."""
        ternary = Sampler.fresh(random).ternary(PARAMETERS.degree)
        return cls(key_ring().forward(key_ring().residues(ternary)))


@dataclass(frozen=True, slots=True)
class PublicKeyShare:
    """b_i, or a sum of them: public, transformed, [3, N].

    Raises:
        CiphertextError: another shape, or a residue that is not below its prime.
    """

    values: Words = field(repr=False)

    def __post_init__(self) -> None:
        _check_polynomial(self.values, "public key share")

    def to_bytes(self) -> bytes:
        """Return the wire form (196,608 bytes)."""
        return write_residues(self.values, PARAMETERS.primes, "public key share")

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> PublicKeyShare:
        """Return the share; raise CiphertextError unless ``data`` is exactly one."""
        shape = (len(PARAMETERS.primes), PARAMETERS.degree)
        return cls(read_residues(data, shape, PARAMETERS.primes, "public key share"))


@dataclass(frozen=True, slots=True)
class CollectivePublicKey:
    """(b, a), transformed, [2, 3, N].

    Raises:
        CiphertextError: another shape, or a residue that is not below its prime.
    """

    values: Words = field(repr=False)

    def __post_init__(self) -> None:
        PUBLIC_KEY.write(self.values)

    def to_bytes(self) -> bytes:
        """Return it as SEAL writes a public key, not compressed (393,329 bytes)."""
        return PUBLIC_KEY.write(self.values)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> CollectivePublicKey:
        """Return the key; raise CiphertextError unless ``data`` is exactly one."""
        return cls(PUBLIC_KEY.read(data))


class PublicKeyGeneration:
    """The protocol: gen_share, commitment, (reveal,) check_commitment, aggregate, finalise.

    Args:
        context: what this key is for (charter and key epoch); bound into commitments.
        seed: 32 public bytes that ``a`` is derived from; equal for all parties.
    """

    __slots__ = ("_context", "_public")

    def __init__(self, context: bytes, seed: bytes) -> None:
        if len(seed) != _SEED_SIZE:
            raise InvalidKeyError(f"public seed of {len(seed)} bytes, expected {_SEED_SIZE}")
        self._context = context
        key = Secret(hash_parts(Label.KEYGEN_PUBLIC, context, seed))
        self._public = Sampler(key).uniform_polynomial(key_ring())

    def gen_share(self, secret: SecretContribution, random: RandomSource) -> PublicKeyShare:
        """Return b_i = -(a s_i) + e_i."""
        ring_ = key_ring()
        noise = Sampler.fresh(random).centred_binomial(PARAMETERS.degree)
        transformed = ring_.forward(ring_.residues(noise))
        product = ring_.multiply(self._public, secret.transformed)
        return PublicKeyShare(ring_.subtract(transformed, product))

    def commitment(self, party: str, share: PublicKeyShare) -> bytes:
        """Return the commitment (32 bytes) of ``party`` to its share.

        The share has the entropy of a key, so it hides itself; the name keeps one party from
        repeating another's commitment.
        """
        return hash_parts(Label.KEYGEN_COMMITMENT, self._context, party.encode(), share.to_bytes())

    def check_commitment(self, party: str, share: PublicKeyShare, commitment: bytes) -> None:
        """Raise ShareError unless ``share`` is what ``party`` committed to."""
        if not hmac.compare_digest(self.commitment(party, share), commitment):
            raise ShareError(
                f"the public key share of {party} does not open its commitment; start the key "
                "generation again without it"
            )

    def aggregate(self, shares: Sequence[PublicKeyShare]) -> PublicKeyShare:
        """Return the sum of shares (one for each party, each once).

        Raises:
            ShareError: there is none, or two are equal.
        """
        if not shares:
            raise ShareError("no public key shares, expected one for each party")
        if len({share.to_bytes() for share in shares}) != len(shares):
            raise ShareError("two public key shares are equal; each party draws its own")
        total = shares[0].values
        for share in shares[1:]:
            total = key_ring().add(total, share.values)
        return PublicKeyShare(total)

    def finalise(self, total: PublicKeyShare) -> CollectivePublicKey:
        """Return the collective public key of the sum of all shares."""
        return CollectivePublicKey(np.stack([total.values, self._public]))


def _check_polynomial(values: Words, what: str) -> None:
    shape = (len(PARAMETERS.primes), PARAMETERS.degree)
    if values.shape != shape or values.dtype != np.uint64:
        raise CiphertextError(f"{what}: found {values.dtype} {values.shape}, expected {shape}")
    check_residues(values, PARAMETERS.primes, what)
