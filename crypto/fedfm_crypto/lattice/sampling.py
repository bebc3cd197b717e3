"""The distributions of lattice encryption, drawn from an AES-256-CTR stream.

Every sampler takes whole 64-bit words of the stream (little-endian), so equal keys give equal
samples on every machine. None of it is constant-time: rejection looks at random words, never at
anything else.

Sources: Homomorphic Encryption Standard (2018) for ternary keys and a standard deviation of 3.2 or
more; SEAL 4.x ``util/rlwe.cpp`` for the centred binomial of 21 + 21 bits; Asharov et al. 2012 for
flooding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lattice.ntt import Ring
from fedfm_crypto.mask import MASK_KEY_SIZE, Keystream
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = ["BINOMIAL_BOUND", "BINOMIAL_VARIANCE", "Flooding", "Sampler"]

Words = NDArray[np.uint64]

BINOMIAL_BOUND = 21
"""Largest magnitude of a centred binomial sample: 21 coins against 21 coins."""
BINOMIAL_VARIANCE = 10.5
"""Its variance: 42 coins of variance 1/4; the standard deviation is 3.24."""

_PIECE = 1 << 16
_LOW_BITS = 62
_LEAST_FLOODING, _MOST_FLOODING = 63, 120


@dataclass(frozen=True, slots=True)
class Flooding:
    """Integers high * 2^62 + low, uniform in [-2^bits, 2^bits); secret, so never printed."""

    high: NDArray[np.int64] = field(repr=False)
    low: Words = field(repr=False)

    def residues(self, ring: Ring) -> Words:
        """Return them modulo each prime, [..., K, N]."""
        high = np.stack([np.mod(self.high, q).astype(np.uint64) for q in ring.primes], axis=-2)
        low = np.stack([self.low % np.uint64(q) for q in ring.primes], axis=-2)
        return ring.add(ring.scale(high, [1 << _LOW_BITS] * len(ring.primes)), low)


class Sampler:
    """Samples from one AES-256-CTR stream.

    Args:
        key: 32 bytes, used for nothing else.
        share: a sampler that is done with, whose buffer this one takes over.
    """

    __slots__ = ("_stream",)

    _stream: Keystream

    def __init__(self, key: Secret, share: Sampler | None = None) -> None:
        self._stream = Keystream(key, _PIECE, None if share is None else share._stream)

    @classmethod
    def fresh(cls, random: RandomSource) -> Sampler:
        """Return a sampler under a key drawn from ``random``."""
        return cls(Secret(draw(random, MASK_KEY_SIZE)))

    def words(self, count: int) -> Words:
        """Return the next ``count`` words of the stream."""
        out = np.empty(count, dtype="<u8")
        octets = out.view(np.uint8)
        for start in range(0, octets.size, _PIECE):
            size = min(_PIECE, octets.size - start)
            self._stream.fill(size)
            octets[start : start + size] = self._stream.buffer[:size]
        return out.astype(np.uint64, copy=False)

    def uniform(self, count: int, prime: int) -> Words:
        """Return ``count`` residues uniform modulo ``prime``, exactly: by rejection."""
        values = np.empty(count, dtype=np.uint64)
        self._fill_uniform(values, prime)
        return values

    def uniform_polynomial(self, ring: Ring, out: Words | None = None) -> Words:
        """Return one polynomial uniform modulo each prime, [K, N]; in ``out`` if that is given."""
        if out is None:
            out = np.empty((len(ring.primes), ring.degree), dtype=np.uint64)
        for row, prime in zip(out, ring.primes, strict=True):
            self._fill_uniform(row, prime)
        return out

    def _fill_uniform(self, values: Words, prime: int) -> None:
        np.right_shift(self.words(values.size), np.uint64(64 - prime.bit_length()), out=values)
        if not values.size or int(values.max()) < prime:
            return  # the usual case: our primes lie just below a power of two
        kept = values[values < prime]
        values[: kept.size] = kept
        self._fill_uniform(values[kept.size :], prime)

    def ternary(self, count: int) -> NDArray[np.int64]:
        """Return ``count`` integers uniform in {-1, 0, 1} (int64), exactly: by rejection."""
        octets = self.words(-(-count // 8)).view(np.uint8)[:count]
        # 252 = 84 * 3, so the remainder of an octet below 252 is uniform.
        kept = octets[octets < 252].astype(np.int64) % 3 - 1
        missing = count - kept.size
        return np.concatenate([kept, self.ternary(missing)]) if missing else kept

    def centred_binomial(self, count: int) -> NDArray[np.int64]:
        """Return ``count`` centred binomial integers in -21..21 (int64), variance 10.5.

        One word each: the ones among bits 0..20 minus those among bits 21..41.
        """
        words = self.words(count)
        coins = np.uint64((1 << BINOMIAL_BOUND) - 1)
        heads = np.bitwise_count(words & coins).astype(np.int64)
        tails = np.bitwise_count((words >> np.uint64(BINOMIAL_BOUND)) & coins).astype(np.int64)
        difference: NDArray[np.int64] = heads - tails
        return difference

    def flooding(self, count: int, bits: int) -> Flooding:
        """Return ``count`` integers uniform in [-2^bits, 2^bits).

        Raises:
            CryptoError: ``bits`` is outside 63..120.
        """
        if not _LEAST_FLOODING <= bits <= _MOST_FLOODING:
            raise CryptoError(
                f"flooding of {bits} bits, expected {_LEAST_FLOODING}..{_MOST_FLOODING}"
            )
        above = bits - _LOW_BITS
        high = (self.words(count) >> np.uint64(63 - above)).astype(np.int64) - (1 << above)
        return Flooding(high, self.words(count) >> np.uint64(64 - _LOW_BITS))
