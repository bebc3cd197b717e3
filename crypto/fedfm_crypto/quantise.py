"""Floats to lane words: clip, scale, round without bias, and a sum that cannot overflow.

A value x is clipped to [-c, c] and becomes floor(x s + u) with u uniform in [0, 1), so that its
expectation is x s. Here 1 - u = (k + 1/2) / 2^32, where k are 32 bits of an AES-256-CTR keystream
under a fresh key, and the value goes up where 1 - u <= x s - floor(x s), which is the same without
the rounding error of x s + u. Hence the bias of one rounded value is at
most 2^-33 of a quantisation step (plus the rounding of x s to a double, relative 2^-53; none when
s is a power of two), exact integers stay exact, and |q| <= ceil(s c) < s c + 1.

With n clients the sum fits its lane if n (s c + 1) < 2^(lane_bits - 1): the capacity rule of
PARAMETERS.md, checked in exact arithmetic before a round starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.errors import CapacityError, CryptoError, NonFiniteError
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.lanes import check_lane_bits, from_lanes
from fedfm_crypto.mask import Keystream
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = ["Quantiser", "stochastic_round"]

# Values per chunk: the temporaries of one chunk (about 1 MiB) stay in cache.
_CHUNK = 1 << 15
_EXACT = 2.0**52
"""Up to here every double has an exact integer part and fraction."""


@dataclass(frozen=True, slots=True)
class Quantiser:
    """The agreed map between update values and lane words.

    Args:
        clip: c_inf, the largest magnitude kept; finite and positive.
        scale: s, quantisation steps per unit; a power of two loses nothing in the product.
        lane_bits: 24 or 32.

    Raises:
        CapacityError: not even one client's value fits, or a parameter is out of range.
    """

    clip: float
    scale: int
    lane_bits: int

    def __post_init__(self) -> None:
        check_lane_bits(self.lane_bits)
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise CapacityError(f"clip {self.clip}, expected a positive finite number")
        if isinstance(self.scale, bool) or not isinstance(self.scale, int) or self.scale < 1:
            raise CapacityError(f"scale {self.scale!r}, expected an integer of at least 1")
        self.check_capacity(1)

    @property
    def _per_client(self) -> Fraction:
        """s c + 1, above the magnitude of any quantised value; exact."""
        return self.scale * Fraction(self.clip) + 1

    def largest_cohort(self) -> int:
        """Return the largest number of clients whose sum fits for certain."""
        return math.ceil(Fraction(1 << (self.lane_bits - 1)) / self._per_client) - 1

    def check_capacity(self, clients: int) -> None:
        """Raise CapacityError unless clients * (s c + 1) < 2^(lane_bits - 1)."""
        if clients < 1:
            raise CapacityError(f"{clients} clients, expected at least 1")
        if clients * self._per_client >= 1 << (self.lane_bits - 1):
            raise CapacityError(
                f"the sum of {clients} clients at clip {self.clip} and scale {self.scale} does not "
                f"fit lanes of {self.lane_bits} bits, which take {self.largest_cohort()}; lower "
                "the scale or the clip, or use wider lanes"
            )

    def quantise(self, values: NDArray[Any], random: RandomSource) -> NDArray[np.uint32]:
        """Return the lane words of ``values`` after clipping.

        Args:
            values: 1-D float32 or float64.
            random: source of the 32-byte rounding key.

        Raises:
            NonFiniteError: a value is NaN or infinite.
            CryptoError: the array has another dtype or shape.
        """
        _check_floats(values)
        # s c rounded toward zero, so that rounding up cannot pass ceil(s c).
        bound = float(self.scale * self.clip)
        if Fraction(bound) > self.scale * Fraction(self.clip):
            bound = math.nextafter(bound, 0.0)
        words = np.empty(values.size, dtype=np.uint32)
        lane = np.uint32((1 << self.lane_bits) - 1)
        for start, rounded in _rounded_chunks(values, self.scale, random, self.clip, bound):
            # Within int32, since the capacity rule holds for one client; reduced to the lane.
            signed = rounded.astype(np.int32)
            np.bitwise_and(signed.view(np.uint32), lane, out=words[start : start + rounded.size])
        return words

    def count_clipped(self, values: NDArray[Any]) -> int:
        """Return how many of ``values`` lie outside [-clip, clip]; arguments as in quantise."""
        _check_floats(values)
        clipped = 0
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK]
            # The usual chunk has nothing to count; a NaN makes the comparison fail as well.
            if float(chunk.max()) <= self.clip and float(chunk.min()) >= -self.clip:
                continue
            chunk = _finite(values, start)
            clipped += int(np.count_nonzero(np.abs(chunk).astype(np.float64) > self.clip))
        return clipped

    def dequantise(self, words: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return the values that (sums of) lane words stand for: signed integer / scale.

        Args:
            words: 1-D uint32, each below 2^lane_bits; a sum modulo 2^lane_bits of a cohort within
                :meth:`largest_cohort`.
        """
        values = np.empty(words.size, dtype=np.float64)
        # By chunks: whole-array integers in between would cost more memory traffic than the sum.
        for start in range(0, words.size, _CHUNK):
            stop = start + _CHUNK
            signed = from_lanes(words[start:stop], self.lane_bits)
            np.divide(signed, float(self.scale), out=values[start:stop])
        return values


def stochastic_round(values: NDArray[Any], scale: int, random: RandomSource) -> NDArray[np.int64]:
    """Return floor(values * scale + u), u uniform in [0, 1), without clipping (int64, 1-D).

    Args:
        values: 1-D float32 or float64.
        scale: quantisation steps per unit.
        random: source of the 32-byte rounding key.

    Raises:
        NonFiniteError: a value is NaN or infinite.
        CapacityError: a scaled value is 2^52 or more in magnitude, where doubles have no fraction.
        CryptoError: the array has another dtype or shape.
    """
    _check_floats(values)
    if values.size and max(float(values.max()), -float(values.min())) >= _EXACT / scale:
        for start in range(0, values.size, _CHUNK):
            _finite(values, start)
        raise CapacityError("a scaled value is 2^52 or more in magnitude; lower the scale")
    rounded = np.empty(values.size, dtype=np.int64)
    for start, chunk in _rounded_chunks(values, scale, random, math.inf, _EXACT):
        rounded[start : start + chunk.size] = chunk
    return rounded


def _rounded_chunks(
    values: NDArray[Any], scale: int, random: RandomSource, clip: float, bound: float
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield (start, rounded chunk): values clipped to +-clip, scaled, limited to +-bound.

    A chunk holds integers, as doubles, and is overwritten by the next one.
    """
    key = derive_key(Label.ROUNDING, Secret(draw(random, 32)))
    size = min(_CHUNK, values.size)
    stream = Keystream(key, 4 * size)
    bits = stream.buffer[: 4 * size].view("<u4")
    scaled, whole, uniform = (np.empty(size, dtype=np.float64) for _ in range(3))
    up = np.empty(size, dtype=np.bool_)
    # Rounding is monotone, so clipped values times the scale cannot pass clip times the scale.
    limited = bound < clip * scale
    for start in range(0, values.size, _CHUNK):
        chunk = _finite(values, start)
        n = chunk.size
        x, floor, complement = scaled[:n], whole[:n], uniform[:n]
        np.copyto(x, chunk)
        np.clip(x, -clip, clip, out=x)
        np.multiply(x, float(scale), out=x)
        if limited:
            np.clip(x, -bound, bound, out=x)
        np.floor(x, out=floor)
        np.subtract(x, floor, out=x)  # the fraction, exact below 2^52
        stream.fill(4 * n)
        np.add(bits[:n], 0.5, out=complement)
        np.multiply(complement, 2.0**-32, out=complement)  # 1 - u
        np.less_equal(complement, x, out=up[:n])
        np.add(floor, up[:n], out=floor)
        yield start, floor


def _finite(values: NDArray[Any], start: int) -> NDArray[Any]:
    """Return the chunk at ``start``, refusing NaN and infinities by their position."""
    chunk = values[start : start + _CHUNK]
    finite = np.isfinite(chunk)
    if not finite.all():
        position = start + int(np.argmin(finite))
        raise NonFiniteError(
            f"value {position} is NaN or infinite; check the training step that produced it"
        )
    return chunk


def _check_floats(values: NDArray[Any]) -> None:
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise CryptoError(
            f"found {values.ndim}-D {values.dtype}, expected a 1-D float32 or float64 array"
        )
