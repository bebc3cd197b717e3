"""Key-additive encryption of the bulk: ciphertexts add, and the sum opens under the sum of keys.

    c_i = a s_i + T e_i + m_i   modulo Q,      sum c_i - a sum s_i = T sum e_i + sum m_i

``a`` is public and derived from the round's seed, s_i is one client's key for this round alone,
e_i its noise (both centred binomial of 21 + 21 coins), m_i holds N wide words of 96 bits, T = 2^96.
Only the key sum, 4096 small integers, is ever decrypted (``wrapping``). Sources: ACORN (Bell et
al., ePrint 2022/1461) and Google's Willow for key-additive encryption with one-round keys.

**Exactness.** Q is about 2^108 and |sum e_i| <= 21 n. With wide words in [0, T), from whose sum a
mask in [0, T) may be subtracted, the opened value lies in (-(21 n + 1) T, 22 n T). It is right as
long as that stays within +-Q/2, a little below 2^107 = 2048 T: for certain while 22 n < 2048, so up
to 93 clients. Beyond, the sum of 42 n coins obeys Hoeffding's bound, and a coefficient fails with
probability at most exp(-2 (2047 - n)^2 / (42 n)): below 2^-75 at 1,000 clients (10 standard
deviations), below 2^-56 for a million 32-bit values together. More than 1,000 are refused.

**A wrong key is noticed**: it leaves values uniform modulo Q, whose multiples of T lie far outside
the noise of n clients; see ``bulk_keys.noise_bound``.

**Use once.** One key encrypts one message: two under the same ``a`` would give away their
difference, so ``BulkKey`` refuses a second one. Opening the key sum needs at least two honest
clients among the accepted. Not constant-time; no integrity: the protocol signs what it sends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CiphertextError, CryptoError, DecryptionError
from fedfm_crypto.lattice import kernels
from fedfm_crypto.lattice.bulk_format import (
    DEGREE,
    PRIMES,
    add_polynomials,
    read_polynomials,
    write_polynomials,
)
from fedfm_crypto.lattice.bulk_keys import (
    BulkKey,
    KeySum,
    PublicPolynomials,
    bulk_ring,
    noise_bound,
)
from fedfm_crypto.lattice.ntt import shoup_table
from fedfm_crypto.lattice.sampling import BINOMIAL_BOUND, Sampler
from fedfm_crypto.lattice.wide_words import LIMBS, WORD_BITS, Limbs, check_limbs
from fedfm_crypto.random_source import RandomSource

__all__ = ["PreparedCiphertext", "RunningSum", "decrypt", "encrypt", "polynomials_for"]

Words = NDArray[np.uint64]

_T = 1 << WORD_BITS
_Q = PRIMES[0] * PRIMES[1]
_HALF = 1 << 64
# Polynomials at a time: 512 KiB of residues, which stay in a core's cache.
_BATCH = 8
_MODULI = np.array(PRIMES, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class _Constants:
    """Precomputed operands of the compiled loops; names as in ``kernels``."""

    multiples: Words
    reciprocals: Words
    shift: Words
    shift_shoup: Words
    garner: Words

    @classmethod
    def make(cls) -> _Constants:
        noise = range(-BINOMIAL_BOUND, BINOMIAL_BOUND + 1)
        shift = np.array([[_HALF % q] for q in PRIMES], dtype=np.uint64)
        inverse = pow(PRIMES[0], -1, PRIMES[1])
        halves = [(inverse << 64) // PRIMES[1], _Q >> 64, _Q % _HALF]
        halves += [(_Q // 2) >> 64, _Q // 2 % _HALF]
        return cls(
            multiples=np.array([[e * _T % q for e in noise] for q in PRIMES], dtype=np.uint64),
            reciprocals=np.array([_HALF // q for q in PRIMES], dtype=np.uint64),
            shift=shift.reshape(-1),
            shift_shoup=shoup_table(shift, PRIMES).reshape(-1),
            garner=np.array([inverse, *halves], dtype=np.uint64),
        )


@lru_cache(maxsize=1)
def _constants() -> _Constants:
    return _Constants.make()


def polynomials_for(words: int) -> int:
    """Return how many polynomials carry ``words`` wide words."""
    return -(-words // DEGREE)


def encrypt(
    words: Limbs, key: BulkKey, public: PublicPolynomials, random: RandomSource
) -> Iterator[bytes]:
    """Encrypt wide words; yield the ciphertext chunk by chunk, eight polynomials each.

    Noise standard deviation 3.24 T, at most 21 T. Words that do not fill the last polynomial are
    followed by zeros.

    Args:
        words: uint32 limbs, three a word, lowest first (``wide_words``), masked or not.
        key: fresh, spent by this call.
        public: the same for every client of the round and step.
        random: source of the noise key; the same bytes give the same ciphertext.

    Raises:
        CryptoError: ``words`` is empty or no array of wide words.
        InvalidKeyError: the key is spent.
    """
    check_limbs(words)
    if not words.size:
        raise CryptoError("no words to encrypt, expected at least one")
    return _encrypt(words, key.spend(), public, Sampler.fresh(random))


def _encrypt(
    words: Limbs, key: Words, public: PublicPolynomials, sampler: Sampler
) -> Iterator[bytes]:
    total = polynomials_for(words.size // LIMBS)
    for first in range(0, total, _BATCH):
        count = min(_BATCH, total - first)
        values = bulk_ring().inverse(bulk_ring().multiply(public.expand(first, count), key))
        part = words[LIMBS * DEGREE * first : LIMBS * DEGREE * (first + count)]
        _add_message(values, part, sampler.words(count * DEGREE))
        yield write_polynomials(values)


class PreparedCiphertext:
    """The part of a ciphertext that does not depend on the message: a s + T e, made ahead of time.

    Holds 64 KiB a polynomial. One message may be put in, once.

    Args:
        words: how many wide words the message will have.
        key: fresh, spent by this call.
        public: the same for every client of the round and step.
        random: source of the noise key.

    Raises:
        CryptoError: ``words`` is below 1.
        InvalidKeyError: the key is spent.
    """

    __slots__ = ("_values", "_words")

    def __init__(
        self, words: int, key: BulkKey, public: PublicPolynomials, random: RandomSource
    ) -> None:
        total = polynomials_for(words)
        if total < 1:
            raise CryptoError(f"a message of {words} words, expected at least one")
        self._words = words
        values = bulk_ring().zeros(total)
        spent, sampler = key.spend(), Sampler.fresh(random)
        nothing = np.empty(0, dtype=np.uint32)
        for first in range(0, total, _BATCH):
            count = min(_BATCH, total - first)
            part = bulk_ring().inverse(bulk_ring().multiply(public.expand(first, count), spent))
            _add_message(part, nothing, sampler.words(count * DEGREE))
            values[first : first + count] = part
        self._values: Words | None = values

    def __repr__(self) -> str:
        return f"PreparedCiphertext({self._words} words)"

    def encrypt(self, words: Limbs) -> Iterator[bytes]:
        """Put the message in; yield the ciphertext chunk by chunk, as :func:`encrypt` does.

        Raises:
            CryptoError: another number of words than prepared for, or a second message.
        """
        check_limbs(words)
        values, self._values = self._values, None
        if values is None:
            raise CryptoError("this ciphertext holds a message already; prepare another one")
        if words.size != LIMBS * self._words:
            raise CryptoError(f"{words.size // LIMBS} words, prepared for {self._words}")
        return _put_in(words, values)


def _put_in(words: Limbs, values: Words) -> Iterator[bytes]:
    for first in range(0, len(values), _BATCH):
        part = values[first : first + _BATCH]
        message = words[LIMBS * DEGREE * first : LIMBS * DEGREE * (first + len(part))]
        _add_message(part, message, _silence(len(part)))
        yield write_polynomials(part)


def _silence(polynomials: int) -> Words:
    """The bits that make e = 0: none of either kind."""
    return np.zeros(polynomials * DEGREE, dtype=np.uint64)


def _add_message(values: Words, words: Limbs, noise: Words) -> None:
    """Add T e + m to residues [M, 2, N], in place."""
    constants = _constants()
    kernels.add_message(
        values, words, noise, constants.multiples, _MODULI, constants.reciprocals,
        constants.shift, constants.shift_shoup,
    )  # fmt: skip


class RunningSum:
    """A sum of ciphertexts that takes them chunk by chunk: 64 KiB a polynomial, whatever n is.

    Args:
        polynomials: length of the ciphertexts.
    """

    __slots__ = ("_sums",)

    def __init__(self, polynomials: int) -> None:
        if polynomials < 1:
            raise CryptoError(f"a sum of {polynomials} polynomials, expected at least 1")
        self._sums = bulk_ring().zeros(polynomials)

    def __len__(self) -> int:
        return len(self._sums)

    def copy(self) -> RunningSum:
        """Return a sum of its own with the same content."""
        result = RunningSum(len(self._sums))
        result._sums[...] = self._sums
        return result

    def add(self, chunk: bytes | bytearray | memoryview, first: int = 0) -> None:
        """Add a chunk of a serialised ciphertext that starts at polynomial ``first``.

        A chunk that is refused leaves the sum as it was.

        Raises:
            CiphertextError: the chunk is malformed or reaches past the end.
        """
        add_polynomials(chunk, self._sums, first)

    def subtract_words(self, words: Limbs, first: int = 0) -> None:
        """Subtract wide words (the sum of the masks, modulo 2^96) from polynomial ``first`` on.

        The ciphertext stays closed: this needs no key.

        Raises:
            CiphertextError: they reach past the end.
            CryptoError: ``words`` is no array of wide words.
        """
        check_limbs(words)
        total = polynomials_for(words.size // LIMBS)
        self._slice(first, total)
        silence = _silence(_BATCH)
        for start in range(0, total, _BATCH):
            count = min(_BATCH, total - start)
            plain = bulk_ring().zeros(count)
            part = words[LIMBS * DEGREE * start : LIMBS * DEGREE * (start + count)]
            _add_message(plain, part, silence)
            target = self._slice(first + start, count)
            target[...] = bulk_ring().subtract(target, plain)

    def chunks(self) -> Iterator[bytes]:
        """Yield the serialised sum, eight polynomials at a time."""
        for first in range(0, len(self._sums), _BATCH):
            yield write_polynomials(self._sums[first : first + _BATCH])

    def _slice(self, first: int, count: int) -> Words:
        if first < 0 or first + count > len(self._sums):
            raise CiphertextError(
                f"polynomials {first}..{first + count - 1} of a ciphertext of {len(self._sums)}"
            )
        return self._sums[first : first + count]


def decrypt(
    chunk: bytes | bytearray | memoryview,
    key: KeySum,
    public: PublicPolynomials,
    first: int = 0,
) -> Limbs:
    """Return the wide words of a chunk of the sum, 4096 a polynomial, summed modulo 2^96.

    Args:
        chunk: whole polynomials of the serialised sum, from polynomial ``first`` on.
        key: the sum of the keys of exactly the clients in the sum.
        public: what they encrypted with.
        first: index of the chunk's first polynomial.

    Raises:
        CiphertextError: the chunk is malformed.
        DecryptionError: the noise is none that these clients can have made.
    """
    sums = read_polynomials(chunk)
    transformed = bulk_ring().forward(bulk_ring().residues(key.coefficients))
    constants = _constants()
    words = np.empty(LIMBS * DEGREE * len(sums), dtype=np.uint32)
    bound = noise_bound(key.clients)
    for start in range(0, len(sums), _BATCH):
        part = sums[start : start + _BATCH]
        product = bulk_ring().multiply(public.expand(first + start, len(part)), transformed)
        opened = bulk_ring().subtract(part, bulk_ring().inverse(product))
        out = words[LIMBS * DEGREE * start : LIMBS * DEGREE * (start + len(part))]
        least, largest = kernels.combine_residues(opened, _MODULI, constants.garner, out)
        # floor((T E + M) / T) for |E| <= bound and M in (-T, clients T).
        if least < -bound - 1 or largest >= bound + key.clients:
            raise DecryptionError(
                f"noise between {least} and {largest} times 2^{WORD_BITS}, expected within "
                f"{-bound - 1}..{bound + key.clients - 1} for {key.clients} clients; the key sum "
                "does not belong to this ciphertext sum"
            )
    return words
