"""Polynomials modulo x^N + 1 and several primes, and their negacyclic NTT in SEAL's order.

A :class:`Ring` works on arrays of shape [..., K, N]: K primes (residue number system), N
coefficients or N values of the transform. Position i of a transform holds the value at
psi^(2 r(i) + 1), where r reverses the log2 N bits of i and psi is the smallest primitive 2N-th root
of unity: the order in which SEAL keeps and writes its polynomials. A product of polynomials is the
product of their transforms, value by value.

Every operation returns a new array and leaves its arguments alone. None of it is constant-time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lattice import kernels
from fedfm_crypto.lattice.primes import LARGEST_PRIME_BITS, minimal_root

__all__ = ["Ring", "ring", "shoup_table"]

Words = NDArray[np.uint64]


class Ring:
    """Z_q[x] / (x^N + 1) for each of several primes q; make one with :func:`ring`.

    Args:
        degree: N, a power of two.
        primes: distinct primes of at most 60 bits, each 1 modulo 2N.

    Raises:
        CryptoError: a prime does not support the transform.
    """

    __slots__ = (
        "_barrett", "_bits", "_inverse_roots", "_inverse_shoup", "_moduli", "_roots", "_shoup",
        "_sizes", "_sizes_shoup", "degree", "primes",
    )  # fmt: skip

    def __init__(self, degree: int, primes: Sequence[int]) -> None:
        if len(set(primes)) != len(primes) or not primes:
            raise CryptoError(f"primes {list(primes)}, expected distinct ones")
        if max(primes).bit_length() > LARGEST_PRIME_BITS:
            raise CryptoError(f"a prime has more than {LARGEST_PRIME_BITS} bits")
        self.degree = degree
        self.primes = tuple(primes)
        psi = [minimal_root(degree, prime) for prime in primes]
        self._moduli = np.array(primes, dtype=np.uint64)
        self._roots = self._powers(psi)
        self._inverse_roots = self._powers(
            [pow(root, -1, prime) for root, prime in zip(psi, primes, strict=True)]
        )
        self._shoup = shoup_table(self._roots, primes)
        self._inverse_shoup = shoup_table(self._inverse_roots, primes)
        self._sizes, self._sizes_shoup = self._constants([pow(degree, -1, q) for q in primes])
        self._bits = np.array([q.bit_length() for q in primes], dtype=np.uint64)
        self._barrett = np.array(
            [(1 << (62 + q.bit_length())) // q for q in primes], dtype=np.uint64
        )

    def _powers(self, roots: Sequence[int]) -> Words:
        """Return root^r(i), r the bit reversal, [K, N]."""
        table = np.empty((len(roots), self.degree), dtype=np.uint64)
        width = self.degree.bit_length() - 1
        order = [int(f"{i:0{width}b}"[::-1], 2) for i in range(self.degree)]
        for k, (root, prime) in enumerate(zip(roots, self.primes, strict=True)):
            powers = [1]
            for _ in range(self.degree - 1):
                powers.append(powers[-1] * root % prime)
            table[k] = [powers[i] for i in order]
        return table

    def _constants(self, values: Sequence[int]) -> tuple[Words, Words]:
        """Return one constant a prime and its Shoup form, [K] each."""
        table = np.array(values, dtype=np.uint64).reshape(-1, 1)
        return table.reshape(-1), shoup_table(table, self.primes).reshape(-1)

    def _polynomials(self, values: NDArray[Any], copy: bool = False) -> Words:
        """Return ``values`` as a contiguous [M, K, N], checked."""
        shape = (len(self.primes), self.degree)
        if values.dtype != np.uint64 or values.ndim < 2 or values.shape[-2:] != shape:
            raise CryptoError(
                f"found {values.dtype} of shape {values.shape}, expected uint64 [..., {shape[0]}, "
                f"{shape[1]}]"
            )
        flat = np.array(values, order="C", copy=copy or None)
        return flat.reshape(-1, *shape)

    def forward(self, coefficients: Words) -> Words:
        """Return the transform of coefficients (residues below q), [..., K, N]."""
        values = self._polynomials(coefficients, copy=True)
        kernels.forward(values, self._moduli, self._roots, self._shoup)
        return values.reshape(coefficients.shape)

    def inverse(self, values: Words) -> Words:
        """Return the coefficients of a transform, [..., K, N]."""
        coefficients = self._polynomials(values, copy=True)
        kernels.inverse(
            coefficients, self._moduli, self._inverse_roots, self._inverse_shoup, self._sizes,
            self._sizes_shoup,
        )  # fmt: skip
        return coefficients.reshape(values.shape)

    def multiply(self, values: Words, factor: Words) -> Words:
        """Return values [..., K, N] times factor [K, N], position by position."""
        (row,) = self._polynomials(factor)
        product = kernels.multiply(
            self._polynomials(values), row, self._moduli, self._barrett, self._bits
        )
        return product.reshape(values.shape)

    def scale(self, values: Words, factors: Sequence[int]) -> Words:
        """Return values [..., K, N] times one integer a prime (reduced modulo it)."""
        reduced = [f % q for f, q in zip(factors, self.primes, strict=True)]
        table, shoup = self._constants(reduced)
        scaled = kernels.scale(self._polynomials(values), table, shoup, self._moduli)
        return scaled.reshape(values.shape)

    def add(self, values: Words, other: Words) -> Words:
        """Return values + other, of one shape [..., K, N]."""
        self._same_shape(values, other)
        one, two = self._polynomials(values), self._polynomials(other)
        return kernels.add(one, two, self._moduli).reshape(values.shape)

    def subtract(self, values: Words, other: Words) -> Words:
        """Return values - other, of one shape [..., K, N]."""
        self._same_shape(values, other)
        one, two = self._polynomials(values), self._polynomials(other)
        return kernels.subtract(one, two, self._moduli).reshape(values.shape)

    def residues(self, integers: NDArray[np.int64]) -> Words:
        """Return signed integers [..., N], smaller than every prime, as residues [..., K, N]."""
        columns = self._moduli.astype(np.int64).reshape(-1, 1)
        signed = integers[..., np.newaxis, :]
        if integers.size and int(np.abs(integers).max()) >= min(self.primes):
            raise CryptoError("an integer is as large as a prime; reduce it first")
        return np.where(signed < 0, signed + columns, signed).astype(np.uint64)

    def zeros(self, *shape: int) -> Words:
        """Return polynomials that are zero, [*shape, K, N]."""
        return np.zeros((*shape, len(self.primes), self.degree), dtype=np.uint64)

    @staticmethod
    def _same_shape(values: Words, other: Words) -> None:
        if values.shape != other.shape:
            raise CryptoError(f"shapes {values.shape} and {other.shape}, expected the same")


@lru_cache(maxsize=16)
def ring(degree: int, primes: tuple[int, ...]) -> Ring:
    """Return the ring of these parameters; its tables are built once a process."""
    return Ring(degree, primes)


def shoup_table(values: Words, primes: Sequence[int]) -> Words:
    """Return floor(v 2^64 / q) for a table [K, ...] of residues, row k modulo primes[k]."""
    rows = [
        kernels.shoup_constants(np.ascontiguousarray(row).reshape(-1), np.uint64(q))
        for row, q in zip(values, primes, strict=True)
    ]
    return np.stack(rows).reshape(values.shape)
