"""Vectorised sampling of a log-concave law on the integers, with a computed distance to it.

The integers are cut into blocks of 2^m, m such that the standard deviation spans 32 to 64 blocks
(m = 0 below 64). A block's *start* is its integer nearest to the mode, so the law is largest
there. One sample:

1. Choose a block with probability proportional to the law at its start: inversion of a table of
   cumulative weights, integers over 2^128, against 128 random bits. A guide over the first 16 bits
   answers 97 times of 100, a binary search over 64 bits the rest; the other 64 bits are drawn
   only on a tie.
2. Draw the place within the block: m random bits, exactly uniform.
3. Accept with probability law(place) / law(start): 64 random bits against a double. Closer than
   2^-32 (the double's error is below 2^-42, see :mod:`fedfm_crypto.noise_laws`), 64 bits more are
   drawn and compared with the ratio computed with 90 digits. So floating point decides nothing
   that it could decide wrongly, and no result depends on a library's exp beyond those 2^-32.

With m = 0 there is only step 1. Otherwise a candidate is accepted with probability over 0.98.
(A base law times a uniform place with rejection: Ducas, Durmus, Lepoint and Lyubashevsky 2013; lazy
comparison: von Neumann 1951, Karney 2013.)

**Statistical distance.** Let q be the ideal block probabilities, r those of the table, N the
number of blocks. Boundaries are rounded down to multiples of 2^-128 and weights are off by less
than 2^-190 of themselves, so sum |q - r| <= 2 (1.01 N 2^-128 + tail), where tail bounds the mass of
blocks beyond the table by a geometric series (the law is log-concave). Step 3 is off by less than
2^-127. With acceptance probability Z the accepted sample is within (sum |q - r| + 2^-127) / Z of
the law, and Z >= 1 - 2 max q, since each block holds at least 2^m times the next start's weight.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.mask import Keystream
from fedfm_crypto.noise_laws import DIGITS, Exponent, Law
from fedfm_crypto.secret import Secret

__all__ = ["BlockTable", "WordStream", "build_table"]

_CHUNK = 1 << 15
"""Candidates per pass: temporaries stay near the cache, and memory stays bounded."""
_MARGIN = 2.0**-32
"""Acceptance decisions closer than this are made with 90 digits."""
_GUIDE_BITS = 16
_NEGLIGIBLE = Decimal(2) ** -140
"""Blocks lighter than this, relative to the mode, are left to the tail."""
_WEIGHT_UNIT = Decimal(2) ** 200
_ONE = 1 << 128
_BLOCKS_PER_DEVIATION = 32

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


class WordStream:
    """64-bit words (little-endian) of one AES-256-CTR stream.

    Args:
        key: 32 bytes, used for nothing else.
    """

    __slots__ = ("_stream",)

    def __init__(self, key: Secret) -> None:
        self._stream = Keystream(key, 8 * _CHUNK)

    def words(self, count: int) -> Words:
        """Return the next ``count`` words; at most 2^15."""
        self._stream.fill(8 * count)
        return self._stream.buffer[: 8 * count].view("<u8").astype(np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class BlockTable:
    """A law's blocks; made by :func:`build_table`, public and reusable."""

    law: Law
    block_bits: int
    """m: a block has 2^m integers."""
    starts: Integers
    """Start of each block, int64[N], as an offset from the mode."""
    steps: Integers
    """+1 where a block goes up from its start, -1 where down, int64[N]."""
    boundaries: tuple[int, ...] = field(repr=False)
    """Cumulative probability of blocks 0..i, times 2^128, for i below N - 1."""
    distance: float
    """Upper bound on the statistical distance of one sample to the law."""
    _high: Words = field(repr=False)
    _guide: NDArray[np.int16] = field(repr=False)
    _exponent: Exponent = field(repr=False)

    def sample(self, size: int, stream: WordStream) -> Integers:
        """Return ``size`` independent samples, int64, as offsets from the mode."""
        samples = np.empty(size, dtype=np.int64)
        filled = 0
        while filled < size:
            accepted = self._pass(min(_CHUNK, size - filled), stream)
            samples[filled : filled + accepted.size] = accepted
            filled += accepted.size
        return samples

    def _pass(self, count: int, stream: WordStream) -> Integers:
        """Return the accepted ones of ``count`` candidates."""
        blocks = self._choose_blocks(stream.words(count), stream)
        if self.block_bits == 0:
            return self.starts[blocks]
        delta = (stream.words(count) >> np.uint64(64 - self.block_bits)).astype(np.int64)
        delta *= self.steps[blocks]
        keep = self._accept(blocks, delta, stream.words(count), stream)
        delta += self.starts[blocks]
        return delta[keep]

    def _choose_blocks(self, words: Words, stream: WordStream) -> NDArray[np.intp]:
        """Step 1: the number of boundaries at or below the 128 bits that ``words`` begin."""
        blocks = self._guide[(words >> np.uint64(64 - _GUIDE_BITS)).view(np.int64)].astype(np.intp)
        unsure = np.flatnonzero(blocks < 0)
        if unsure.size:
            searched = words[unsure]
            found = np.searchsorted(self._high, searched, side="left")
            within = np.minimum(found, self._high.size - 1)
            for tie in np.flatnonzero(self._high[within] == searched):
                drawn = int(searched[tie]) << 64 | int(stream.words(1)[0])
                found[tie] = bisect_right(self.boundaries, drawn)
            blocks[unsure] = found
        return blocks

    def _accept(
        self, blocks: NDArray[np.intp], delta: Integers, words: Words, stream: WordStream
    ) -> NDArray[np.bool_]:
        """Step 3."""
        probability = self._exponent(blocks, delta.astype(np.float64))
        np.negative(probability, out=probability)
        np.exp(probability, out=probability)
        uniform = words * 2.0**-64
        uniform -= probability
        keep = uniform < 0
        for close in np.flatnonzero(np.abs(uniform) < _MARGIN):
            start = int(self.starts[blocks[close]])
            with localcontext(DIGITS):
                ratio = self.law.ratio(start, start + int(delta[close]))
                drawn = int(words[close]) << 64 | int(stream.words(1)[0])
                keep[close] = drawn < int(ratio * _ONE)
        return keep


def build_table(law: Law) -> BlockTable:
    """Return the table of ``law``, whose standard deviation is at most 2^40."""
    deviations = law.variance / (_BLOCKS_PER_DEVIATION * _BLOCKS_PER_DEVIATION)
    # 4^m <= variance / 32^2 < 4^(m + 1)
    block_bits = max(0, (int(deviations).bit_length() - 1) // 2)
    with localcontext(DIGITS):
        rising, tail_above = _side(law, 0, 1 << block_bits)
        falling, tail_below = _side(law, -1, -(1 << block_bits))
        weights = [*reversed(falling), *rising]
        cumulative = list(accumulate(int(weight * _WEIGHT_UNIT) for weight in weights))
        total = sum(weights, Decimal(0))
        tail = (tail_above + tail_below) / total
        difference = 2 * (Decimal("1.01") * len(weights) / _ONE + tail)
        if block_bits:
            difference = (difference + 2 / Decimal(_ONE)) / (1 - 2 / total)
        # Half the sum is the distance when nothing is rejected; the rejected case needs it all.
        distance = float(difference if block_bits else difference / 2)
    starts = [-1 - (i << block_bits) for i in reversed(range(len(falling)))]
    starts += [i << block_bits for i in range(len(rising))]
    boundaries = tuple((part << 128) // cumulative[-1] for part in cumulative[:-1])
    with localcontext(DIGITS):
        exponent = law.exponent(starts)
    # A law on one block has no boundary; this word is then a tie that the search resolves.
    high = np.array([part >> 64 for part in boundaries] or [(1 << 64) - 1], dtype=np.uint64)
    return BlockTable(
        law=law,
        block_bits=block_bits,
        starts=np.array(starts, dtype=np.int64),
        steps=np.array([-1] * len(falling) + [1] * len(rising), dtype=np.int64),
        boundaries=boundaries,
        distance=float(np.nextafter(distance, 1.0)),
        _high=high,
        _guide=_guide(high),
        _exponent=exponent,
    )


def _side(law: Law, start: int, stride: int) -> tuple[list[Decimal], Decimal]:
    """Return one side's block weights, from the mode outwards, and a bound on the rest's sum."""
    kept: list[Decimal] = []
    last = Decimal(1)
    for weight in law.weights(start, stride):
        if weight < _NEGLIGIBLE:
            # Log-concave: the quotients of neighbours only fall from here on.
            return kept, weight / (1 - weight / last)
        kept.append(weight)
        last = weight
    raise AssertionError("a law's weights never end")


def _guide(high: Words) -> NDArray[np.int16]:
    """Return, for each value of the first 16 bits, the block they decide, or -1."""
    edges = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(64 - _GUIDE_BITS)
    # Boundaries below the first word of a range; the same at the next range's start means that no
    # boundary lies within, not even one that only the second 64 bits would place.
    below = np.searchsorted(high, edges, side="left")
    following = np.append(below[1:], high.size)
    return np.where(below == following, below, -1).astype(np.int16)
