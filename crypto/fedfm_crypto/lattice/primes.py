"""Primes that support the negacyclic NTT, chosen as Microsoft SEAL chooses them.

A prime q supports the transform of degree N (a power of two) if q = 1 modulo 2N, so that the field
holds a primitive 2N-th root of unity psi. SEAL takes the largest such primes of a given bit length,
in descending order, and for each the smallest primitive root. Choosing the same values makes our
arrays and SEAL's interchangeable.

Source: SEAL 4.x, ``util/numth.cpp`` (get_primes, try_minimal_primitive_root).
"""

from __future__ import annotations

from collections.abc import Collection

from fedfm_crypto.errors import CryptoError

__all__ = ["LARGEST_PRIME_BITS", "is_prime", "minimal_root", "ntt_primes"]

LARGEST_PRIME_BITS = 60
"""SEAL's own limit; the arithmetic in ``kernels`` needs four times a prime to fit 63 bits."""

# Miller-Rabin with these bases is exact below 3.3e24 (Sorenson and Webster 2015).
_BASES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)


def is_prime(candidate: int) -> bool:
    """Return whether ``candidate`` (below 2^64) is prime; exact, not probabilistic."""
    if candidate < 2:
        return False
    for base in _BASES:
        if candidate % base == 0:
            return candidate == base
    twos = ((candidate - 1) & -(candidate - 1)).bit_length() - 1
    odd = (candidate - 1) >> twos
    for base in _BASES:
        power = pow(base, odd, candidate)
        if power in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % candidate
            if power == candidate - 1:
                break
        else:
            return False
    return True


def ntt_primes(degree: int, bits: int, count: int, skip: Collection[int] = ()) -> tuple[int, ...]:
    """Return the ``count`` largest primes of ``bits`` bits that are 1 modulo 2 * degree.

    Args:
        degree: a power of two, at least 2.
        bits: bit length of each prime, at most :data:`LARGEST_PRIME_BITS`.
        count: how many.
        skip: primes in use elsewhere in the same chain.

    Raises:
        CryptoError: an argument is out of range, or there are too few such primes.
    """
    if degree < 2 or degree & (degree - 1):
        raise CryptoError(f"degree {degree}, expected a power of two of at least 2")
    if not degree.bit_length() < bits <= LARGEST_PRIME_BITS:
        raise CryptoError(
            f"primes of {bits} bits for degree {degree}, expected "
            f"{degree.bit_length() + 1}..{LARGEST_PRIME_BITS}"
        )
    found: list[int] = []
    candidate = (1 << bits) + 1
    while len(found) < count:
        candidate -= 2 * degree
        if candidate.bit_length() < bits:
            raise CryptoError(
                f"only {len(found)} primes of {bits} bits are 1 modulo {2 * degree}, {count} "
                "wanted; use more bits"
            )
        if candidate not in skip and is_prime(candidate):
            found.append(candidate)
    return tuple(found)


def minimal_root(degree: int, prime: int) -> int:
    """Return the smallest primitive root of unity of order 2 * degree modulo ``prime``.

    Raises:
        CryptoError: ``prime`` is no prime that is 1 modulo 2 * degree.
    """
    if (prime - 1) % (2 * degree) or not is_prime(prime):
        raise CryptoError(f"{prime} is no prime that is 1 modulo {2 * degree}")
    # r = g^((q-1)/2N) has order 2N exactly if r^N = -1; half of all g give one.
    generator = 2
    while pow(root := pow(generator, (prime - 1) // (2 * degree), prime), degree, prime) != (
        prime - 1
    ):
        generator += 1
    # The primitive roots are the odd powers of any one of them.
    square = root * root % prime
    smallest = root
    for _ in range(degree):
        root = root * square % prime
        smallest = min(smallest, root)
    return smallest
