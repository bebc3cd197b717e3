"""Compiled inner loops: modular arithmetic, NTT, and the two ends of the bulk encryption.

All words are ``uint64``; primes have at most 60 bits, so that four times a prime fits a word with
room to spare. Polynomials come as arrays [M, K, N]: M polynomials, K primes, N coefficients.

One file on purpose: numba's cache notices a change of the file a function is in, not of the files
that it calls.

Sources: Harvey, "Faster arithmetic for number-theoretic transforms" (2014) for lazy reduction and
the multiplication by a constant w with w' = floor(w 2^64 / q) that he credits to Shoup; Longa and
Naehrig, "Speeding up the number theoretic transform" (2016) for the merged negacyclic form and the
bit-reversed order of roots that SEAL uses too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = [
    "add",
    "add_message",
    "combine_residues",
    "forward",
    "inverse",
    "multiply",
    "scale",
    "shoup_constants",
    "subtract",
]

Words = NDArray[np.uint64]
_F = TypeVar("_F", bound=Callable[..., Any])
_U = np.uint64


def _compiled(function: _F) -> _F:
    """Compile at the first call, keep the machine code beside the source, release the GIL."""
    return cast(_F, njit(cache=True, nogil=True)(function))


def _inlined(function: _F) -> _F:
    return cast(_F, njit(inline="always")(function))


def _high_product_typed(typing_context: Any, x: Any, y: Any) -> Any:
    """The upper 64 bits of the 128-bit product x y."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


def _ones_typed(typing_context: Any, x: Any) -> Any:
    """The number of one bits of x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


_high_product: Callable[..., Any] = intrinsic(_high_product_typed)
_ones: Callable[..., Any] = intrinsic(_ones_typed)


@_inlined
def _times_constant(x: Any, w: Any, w_shoup: Any, q: Any) -> Any:
    """x w mod q, plus possibly q: in [0, 2q) for any 64-bit x (Harvey, section 3)."""
    return x * w - _high_product(x, w_shoup) * q


@_inlined
def _once(x: Any, q: Any) -> Any:
    """x mod q for x < 2q."""
    return x - q if x >= q else x


@_compiled
def shoup_constants(values: Words, q: Any) -> Words:
    """Return floor(v 2^64 / q) for each v < q, by long division, bit by bit."""
    out = np.empty_like(values)
    for i in range(values.size):
        rest = values[i]
        quotient = _U(0)
        for _ in range(64):
            rest = rest << _U(1)
            quotient = quotient << _U(1)
            if rest >= q:
                rest -= q
                quotient |= _U(1)
        out[i] = quotient
    return out


@_compiled
def forward(values: Words, primes: Words, roots: Words, shoup: Words) -> None:
    """Transform in place: [M, K, N] below 4q in, below q out, bit-reversed order (SEAL's)."""
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            a = values[poly, k]
            q = primes[k]
            q2 = q + q
            half = a.shape[0]
            groups = 1
            while groups < a.shape[0]:
                half >>= 1
                for group in range(groups):
                    w = roots[k, groups + group]
                    ws = shoup[k, groups + group]
                    start = 2 * group * half
                    # Slices: indices that count from 0 need no check for being negative.
                    left, right = a[start : start + half], a[start + half : start + 2 * half]
                    for j in range(half):
                        u = _once(left[j], q2)
                        v = _times_constant(right[j], w, ws, q)
                        left[j] = u + v
                        right[j] = u + q2 - v
                groups <<= 1
            for j in range(a.shape[0]):
                a[j] = _once(_once(a[j], q2), q)


@_compiled
def inverse(
    values: Words, primes: Words, roots: Words, shoup: Words, sizes: Words, sizes_shoup: Words
) -> None:
    """Undo :func:`forward` in place; ``sizes`` holds 1/N modulo each prime."""
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            a = values[poly, k]
            q = primes[k]
            q2 = q + q
            half = 1
            groups = a.shape[0]
            while groups > 1:
                groups >>= 1
                for group in range(groups):
                    w = roots[k, groups + group]
                    ws = shoup[k, groups + group]
                    start = 2 * group * half
                    left, right = a[start : start + half], a[start + half : start + 2 * half]
                    for j in range(half):
                        u = left[j]
                        v = right[j]
                        left[j] = _once(u + v, q2)
                        right[j] = _times_constant(u + q2 - v, w, ws, q)
                half <<= 1
            for j in range(a.shape[0]):
                a[j] = _once(_times_constant(a[j], sizes[k], sizes_shoup[k], q), q)


@_compiled
def multiply(values: Words, factor: Words, primes: Words, inverses: Words, bits: Words) -> Words:
    """Return [M, K, N] times [K, N], coefficient by coefficient, residues below q (Barrett).

    With b the bits of q and mu = floor(2^(62+b) / q) < 2^63, the product p is cut to
    t = floor(p / 2^(b-2)) < 2^(b+2), and z = floor(t mu / 2^64) satisfies p/q - 2 < z <= p/q: the
    cut of p costs below mu / 2^64 <= 1/2, that of mu below t / 2^64 <= 1/4, the last one below 1.
    So p - z q lies in [0, 2q).
    """
    out = np.empty_like(values)
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            q = primes[k]
            mu = inverses[k]
            low = bits[k] - _U(2)
            high = _U(64) - low
            for j in range(values.shape[2]):
                x = values[poly, k, j]
                y = factor[k, j]
                product = x * y
                cut = (_high_product(x, y) << high) | (product >> low)
                out[poly, k, j] = _once(product - _high_product(cut, mu) * q, q)
    return out


@_compiled
def scale(values: Words, factors: Words, shoup: Words, primes: Words) -> Words:
    """Return [M, K, N] times one constant a prime; any 64-bit values in, below q out."""
    out = np.empty_like(values)
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            q = primes[k]
            for j in range(values.shape[2]):
                x = _times_constant(values[poly, k, j], factors[k], shoup[k], q)
                out[poly, k, j] = _once(x, q)
    return out


@_compiled
def add(values: Words, other: Words, primes: Words) -> Words:
    """Return the sum of two [M, K, N] modulo each prime."""
    out = np.empty_like(values)
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            for j in range(values.shape[2]):
                out[poly, k, j] = _once(values[poly, k, j] + other[poly, k, j], primes[k])
    return out


@_compiled
def subtract(values: Words, other: Words, primes: Words) -> Words:
    """Return the difference of two [M, K, N] modulo each prime."""
    out = np.empty_like(values)
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            q = primes[k]
            for j in range(values.shape[2]):
                out[poly, k, j] = _once(values[poly, k, j] + q - other[poly, k, j], q)
    return out


@_compiled
def add_message(
    values: Words,
    words: NDArray[np.uint32],
    noise: Words,
    multiples: Words,
    primes: Words,
    reciprocals: Words,
    shift: Words,
    shift_shoup: Words,
) -> None:
    """Add T e + m to [M, K, N] in place, residues below q.

    ``words`` are 96-bit messages, three 32-bit limbs each, lowest first, for as many of the M N
    coefficients as there are; the others have m = 0. ``noise`` is one random word a coefficient, of
    which the lowest 42 bits make e (centred binomial, +-21); ``multiples`` [K, 43] holds T e;
    ``reciprocals`` floor(2^64 / q); ``shift`` 2^64 mod q.
    """
    lowest = (_U(1) << _U(21)) - _U(1)
    degree = values.shape[2]
    messages = words.size // 3
    for poly in range(values.shape[0]):
        for k in range(values.shape[1]):
            q = primes[k]
            for j in range(degree):
                position = poly * degree + j
                bits = noise[position]
                e = _U(21) + _ones(bits & lowest) - _ones((bits >> _U(21)) & lowest)
                x = values[poly, k, j] + multiples[k, e]
                if position < messages:
                    limb = 3 * position
                    low = _U(words[limb]) | (_U(words[limb + 1]) << _U(32))
                    x += _times_constant(low, _U(1), reciprocals[k], q)
                    x += _times_constant(_U(words[limb + 2]), shift[k], shift_shoup[k], q)
                # Below 6q by now, which is below 2^63.
                values[poly, k, j] = _once(_times_constant(x, _U(1), reciprocals[k], q), q)


@_compiled
def combine_residues(
    values: Words, primes: Words, constants: Words, words: NDArray[np.uint32]
) -> tuple[int, int]:
    """Write the lowest 96 bits of each centred value; return the extremes of what is above them.

    ``values`` is [M, 2, N]; x = x0 + q0 ((x1 - x0) / q0 mod q1) by the Chinese remainder theorem
    (Garner), then minus Q if above Q/2. ``constants``: 1/q0 mod q1 and its Shoup constant, Q high,
    Q low, Q/2 high, Q/2 low (64-bit halves). Returned: least and largest floor(x / 2^96).
    """
    q0, q1 = primes[0], primes[1]
    degree = values.shape[2]
    least: Any = 1 << 62
    largest: Any = -(1 << 62)
    for poly in range(values.shape[0]):
        for j in range(degree):
            x0, x1 = values[poly, 0, j], values[poly, 1, j]
            # q0 is the larger prime and below 2 q1, so one subtraction reduces x0 modulo q1.
            difference = _once(x1 + q1 - _once(x0, q1), q1)
            u = _once(_times_constant(difference, constants[0], constants[1], q1), q1)
            low = q0 * u
            high = _high_product(q0, u)
            low += x0
            if low < x0:
                high += _U(1)
            if high > constants[4] or (high == constants[4] and low > constants[5]):
                if low < constants[3]:
                    high -= _U(1)
                low -= constants[3]
                high -= constants[2]
            limb = 3 * (poly * degree + j)
            words[limb] = low & _U(0xFFFFFFFF)
            words[limb + 1] = low >> _U(32)
            words[limb + 2] = high & _U(0xFFFFFFFF)
            above: Any = np.int64(high) >> np.int64(32)
            least = min(least, above)
            largest = max(largest, above)
    return least, largest
