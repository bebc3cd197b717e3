"""Sharing the collective secret key t of n, and decrypting with any t of the shares.

**Sharing.** For each data prime and each of the N values of its transformed s_i, party i draws a
polynomial of degree t - 1 with that value at 0 and sends party j its value at x_j. Party j adds
what it got: its share sigma_j of s = sum s_i. Fewer than t shares are independent of s. Shares are
semi-honest: a dealer that deals nonsense spoils the decryption, which ``wrapping`` notices without
naming the dealer.

**Decryption** of (c0, c1) by an active set S of at least t parties, lambda_j Lagrange's weight of
x_j at 0 within S:

    d_j = lambda_j c1 sigma_j + f_j,  f_j uniform in [-2^90, 2^90),
    c0 + sum d_j = (Q/t) m + v + sum f_j.

**Noise.** A fresh encryption under a key of n ternary parts, switched down by SEAL's special prime,
has |v| <= (N n + 1) / 2 + 2: the rounding of the switch against |s| <= n dominates (the noise
before it, at most 21 (2 N n + 1), is divided by 2^60). A sum of K wraps has at most K times as
much, 2^32 for n = K = 1000. Decryption is right while K |v| + k 2^90 < Q / (2 t), about 2^99, for k
active parties: up to 520; 500 are allowed.

**What a share tells.** Beside f_j the noise moves the distribution of c0 + sum d_j by at most
K |v| / 2^91 a coefficient: 2^-59 for n = K = 1000, 2^-74 for five clients (times N for a whole
ciphertext, an estimate from above). Each active set that touches one ciphertext tells 29 bits about
the 120-bit values c1 sigma_j, because lambda_j differs: two sets leave 62 bits in the dark, five
leave none and give sigma_j away. PROTOCOL.md allows two, and a repeated answer must be the same
bytes. All of this holds for a c1 that honest rules made; a crafted one makes a share an oracle.
Commitments before uploads keep a crafted c1 from depending on honest ones; one that is crafted
blindly they do not prevent (``wrapping.check_noise``, docs/adr/0016).

Sources: Shamir 1979; Mouchet et al. 2021/2022 (multiparty BFV, t-out-of-n access); Asharov et al.
2012 for flooding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import ShareError
from fedfm_crypto.lattice.collective import PARAMETERS, SecretContribution, data_ring
from fedfm_crypto.lattice.residues import check_residues, read_residues, write_residues
from fedfm_crypto.lattice.sampling import Sampler
from fedfm_crypto.random_source import RandomSource

__all__ = [
    "FLOODING_BITS", "MOST_ACTIVE", "DecryptionShare", "KeyShare", "KeySharing",
    "ThresholdDecryption", "lagrange_weights",
]  # fmt: skip

Words = NDArray[np.uint64]

FLOODING_BITS = 90
MOST_ACTIVE = 500
"""Most parties in one active set: 500 * 2^90 + 2^32 < Q / (2 t)."""

_LEAST_THRESHOLD = 2
_MOST_POINT = 1 << 32
_SHAPE = (len(PARAMETERS.data_primes), PARAMETERS.degree)


@dataclass(frozen=True, slots=True)
class _Share:
    """Residues [2, N] that belong to the party at point x.

    Raises:
        ShareError: x is outside 1..2^32 - 1 or the residues have another shape.
        CiphertextError: a residue is not below its prime.
    """

    x: int
    values: Words = field(repr=False)

    def __post_init__(self) -> None:
        _check_points([self.x])
        if self.values.shape != _SHAPE or self.values.dtype != np.uint64:
            raise ShareError(
                f"share of {self.values.dtype} {self.values.shape}, expected uint64 {_SHAPE}"
            )
        check_residues(self.values, PARAMETERS.data_primes, f"share at x = {self.x}")

    def to_bytes(self) -> bytes:
        """Return the wire form of the residues (131,072 bytes); x travels by itself."""
        return write_residues(self.values, PARAMETERS.data_primes, f"share at x = {self.x}")


@dataclass(frozen=True, slots=True)
class KeyShare(_Share):
    """A share of s_i (as dealt) or of s (as added up): secret, transformed."""

    @classmethod
    def from_bytes(cls, x: int, data: bytes | memoryview) -> KeyShare:
        """Return the share; raise CiphertextError unless ``data`` is exactly one."""
        return cls(x, read_residues(data, _SHAPE, PARAMETERS.data_primes, f"share at x = {x}"))


@dataclass(frozen=True, slots=True)
class DecryptionShare(_Share):
    """d_j: a flooded partial decryption, coefficients. For the clients, not for the coordinator."""

    @classmethod
    def from_bytes(cls, x: int, data: bytes | memoryview) -> DecryptionShare:
        """Return the share; raise CiphertextError unless ``data`` is exactly one."""
        return cls(x, read_residues(data, _SHAPE, PARAMETERS.data_primes, f"share at x = {x}"))


class KeySharing:
    """The protocol: gen_shares at each party, aggregate at each recipient.

    Args:
        threshold: shares that decrypt, at least 2.
        xs: the points of all parties, distinct, 1..2^32 - 1.

    Raises:
        ShareError: an argument is out of range.
    """

    __slots__ = ("_threshold", "_xs")

    def __init__(self, threshold: int, xs: Sequence[int]) -> None:
        _check_points(xs)
        if not _LEAST_THRESHOLD <= threshold <= len(xs):
            raise ShareError(
                f"key threshold {threshold} of {len(xs)} parties, expected "
                f"{_LEAST_THRESHOLD}..{len(xs)}"
            )
        self._threshold = threshold
        self._xs = tuple(xs)

    def gen_shares(self, secret: SecretContribution, random: RandomSource) -> tuple[KeyShare, ...]:
        """Return one share of s_i for each party, in the order of ``xs``."""
        return self._deal(secret.transformed[: _SHAPE[0]], random)

    @staticmethod
    def aggregate(shares: Sequence[KeyShare]) -> KeyShare:
        """Return the sum of what all dealers, one or more, gave to one party.

        A recipient needs neither the threshold nor the points of the others for it.

        Raises:
            ShareError: there are none, or they belong to different parties.
        """
        if not shares or len({share.x for share in shares}) != 1:
            raise ShareError(
                f"key shares at x = {sorted({share.x for share in shares})}, expected one party's"
            )
        return KeyShare(shares[0].x, _sum(shares))

    def _deal(self, secret: Words, random: RandomSource) -> tuple[KeyShare, ...]:
        ring_ = data_ring()
        sampler = Sampler.fresh(random)
        higher = [sampler.uniform_polynomial(ring_) for _ in range(self._threshold - 1)]
        shares = []
        for x in self._xs:
            value = higher[-1]
            for coefficient in (*higher[-2::-1], secret):
                value = ring_.add(ring_.scale(value, [x] * _SHAPE[0]), coefficient)
            shares.append(KeyShare(x, value))
        return tuple(shares)


class ThresholdDecryption:
    """The protocol: gen_share at each active party, aggregate, finalise.

    Args:
        threshold: key threshold of the sharing.
        active: points of the parties that take part.

    Raises:
        ShareError: too few or too many of them, or one twice.
    """

    __slots__ = ("_active",)

    def __init__(self, threshold: int, active: Sequence[int]) -> None:
        _check_points(active)
        if not max(threshold, _LEAST_THRESHOLD) <= len(active) <= MOST_ACTIVE:
            raise ShareError(
                f"{len(active)} active parties, expected {threshold}..{MOST_ACTIVE}; wait for more "
                "or ask fewer"
            )
        self._active = tuple(active)

    def gen_share(
        self, share: KeyShare, ciphertext: Words, random: RandomSource
    ) -> DecryptionShare:
        """Return d_j for a ciphertext [2, 2, N] that the party added up itself.

        Answering again must repeat these bytes: fresh flooding averages out.

        Raises:
            ShareError: the party is not in the active set.
        """
        ring_ = data_ring()
        weights = lagrange_weights(self._active, share.x)
        key = ring_.scale(share.values, weights)
        product = ring_.inverse(ring_.multiply(ring_.forward(ciphertext[1]), key))
        flood = Sampler.fresh(random).flooding(PARAMETERS.degree, FLOODING_BITS)
        return DecryptionShare(share.x, ring_.add(product, flood.residues(ring_)))

    def aggregate(self, shares: Sequence[DecryptionShare]) -> Words:
        """Return the sum of the shares, [2, N].

        Raises:
            ShareError: not exactly one of each active party.
        """
        found = sorted(share.x for share in shares)
        if found != sorted(self._active):
            raise ShareError(
                f"decryption shares at x = {found}, expected those at {sorted(self._active)}"
            )
        return _sum(shares)

    def finalise(self, ciphertext: Words, total: Words) -> Words:
        """Return (Q/t) m + noise, [2, N] coefficients, for ``wrapping.open_key_sum``."""
        return data_ring().add(ciphertext[0], total)


def lagrange_weights(points: Sequence[int], x: int) -> list[int]:
    """Return the product of y / (y - x) over the other points, modulo each data prime.

    Raises:
        ShareError: ``x`` is not one of the points, or a point appears twice or is out of range.
    """
    _check_points(points)
    if x not in points:
        raise ShareError(f"the party at x = {x} is not among the active {sorted(points)}")
    others = [y for y in points if y != x]
    return [prod(others) * pow(prod(y - x for y in others), -1, q) % q for q in
            PARAMETERS.data_primes]  # fmt: skip


def _sum(shares: Sequence[_Share]) -> Words:
    total = shares[0].values
    for share in shares[1:]:
        total = data_ring().add(total, share.values)
    return total


def _check_points(xs: Sequence[int]) -> None:
    for x in xs:
        if not 0 < x < _MOST_POINT:
            raise ShareError(f"share point {x}, expected 1..2^32 - 1")
    if len(set(xs)) != len(xs):
        raise ShareError(f"share points {sorted(xs)} are not distinct")
