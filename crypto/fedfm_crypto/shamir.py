"""Shamir sharing of 32-byte secrets over the prime field of p = 2^256 + 297.

p is the smallest prime above 2^256, so every 32-byte secret is a field element. A sharing with
threshold t is a random polynomial f of degree t - 1 with f(0) = secret; the share of x is
(x, f(x)). Any t shares give f(0) by Lagrange interpolation, fewer say nothing about it.

Python integers are not constant-time; SECURITY.md says what that means here.

Source: Shamir, "How to share a secret" (1979); RFC 9591 appendix C (the same over a group's order).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

from fedfm_crypto.errors import ShareError
from fedfm_crypto.random_source import RandomSource, draw
from fedfm_crypto.secret import Secret

__all__ = ["PRIME", "SECRET_SIZE", "SHARE_SIZE", "Share", "reconstruct", "split"]

PRIME = 2**256 + 297
SECRET_SIZE = 32
SHARE_SIZE = 33
"""Bytes of a share's y: p has 257 bits."""

_LEAST_THRESHOLD = 2


@dataclass(frozen=True, slots=True)
class Share:
    """One share: the point x, which is public, and y = f(x), which is secret and not printed.

    Raises:
        ShareError: x or y is outside 1..p-1 or 0..p-1.
    """

    x: int
    y: int = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.x < PRIME:
            raise ShareError(f"share at x = {self.x}, expected 1..p-1")
        if not 0 <= self.y < PRIME:
            raise ShareError(f"share at x = {self.x} is not canonical: y outside 0..p-1")

    @property
    def y_bytes(self) -> bytes:
        """y as 33 bytes, big-endian."""
        return self.y.to_bytes(SHARE_SIZE, "big")

    @classmethod
    def from_bytes(cls, x: int, y: bytes) -> Share:
        """Return the share with the given 33-byte y; raise ShareError unless y is canonical."""
        if len(y) != SHARE_SIZE:
            raise ShareError(f"share at x = {x} has {len(y)} bytes, expected {SHARE_SIZE}")
        return cls(x, int.from_bytes(y, "big"))


def split(
    secret: Secret, threshold: int, xs: Sequence[int], random: RandomSource
) -> tuple[Share, ...]:
    """Return one share of ``secret`` for each x.

    Args:
        secret: 32 bytes.
        threshold: how many shares reconstruct it, 2 to len(xs); with 1, each share would be the
            secret itself.
        xs: distinct points, none of them 0.
        random: source of the polynomial's coefficients.

    Raises:
        ShareError: an argument is out of range.
    """
    if len(secret) != SECRET_SIZE:
        raise ShareError(f"secret of {len(secret)} bytes, expected {SECRET_SIZE}")
    if not _LEAST_THRESHOLD <= threshold <= len(xs):
        raise ShareError(f"threshold {threshold}, expected {_LEAST_THRESHOLD}..{len(xs)} shares")
    _check_points(xs)
    coefficients = [int.from_bytes(secret.reveal(), "big")]
    coefficients += [_draw_element(random) for _ in range(threshold - 1)]
    return tuple(Share(x, _evaluate(coefficients, x, PRIME)) for x in xs)


def reconstruct(shares: Sequence[Share], threshold: int) -> Secret:
    """Return the secret of at least ``threshold`` shares.

    Shares beyond the threshold are checked against the polynomial of the first ones. With exactly
    ``threshold`` shares a wrong one goes unnoticed: check the result against a commitment or a
    public key, as the protocol does.

    Raises:
        ShareError: too few shares, repeated points, shares that do not lie on one polynomial, or a
            result that is no 32-byte secret.
    """
    if threshold < _LEAST_THRESHOLD:
        raise ShareError(f"threshold {threshold}, expected at least {_LEAST_THRESHOLD}")
    if len(shares) < threshold:
        raise ShareError(f"{len(shares)} shares, expected at least {threshold}")
    _check_points([share.x for share in shares])
    xs = tuple(share.x for share in shares[:threshold])
    ys = [share.y for share in shares[:threshold]]
    for extra in shares[threshold:]:
        if _interpolate(xs, ys, extra.x, PRIME) != extra.y:
            raise ShareError(
                f"the share at x = {extra.x} does not fit those at x = {list(xs)}; at least one of "
                "them is corrupt, check each against its commitment"
            )
    value = _interpolate(xs, ys, 0, PRIME)
    if value >= 1 << (8 * SECRET_SIZE):
        raise ShareError("the shares give no 32-byte secret; at least one of them is corrupt")
    return Secret(value.to_bytes(SECRET_SIZE, "big"))


def _check_points(xs: Sequence[int]) -> None:
    for x in xs:
        if not 0 < x < PRIME:
            raise ShareError(f"share point {x}, expected 1..p-1")
    if len(set(xs)) != len(xs):
        repeated = sorted({x for x in xs if xs.count(x) > 1})
        raise ShareError(f"share points {repeated} appear more than once")


def _draw_element(random: RandomSource) -> int:
    """Return a uniform field element, by rejection: 257 random bits are below p half the time."""
    while True:
        candidate = int.from_bytes(draw(random, SHARE_SIZE), "big") >> 7
        if candidate < PRIME:
            return candidate


def _evaluate(coefficients: Sequence[int], x: int, prime: int) -> int:
    """Return the polynomial with these coefficients (lowest first) at x (Horner)."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % prime
    return value


def _interpolate(xs: tuple[int, ...], ys: Sequence[int], at: int, prime: int) -> int:
    """Return f(at) for the polynomial f of degree < len(xs) through the points (xs, ys)."""
    weights = _lagrange_weights(xs, at, prime)
    return sum(weight * y for weight, y in zip(weights, ys, strict=True)) % prime


@lru_cache(maxsize=64)
def _lagrange_weights(xs: tuple[int, ...], at: int, prime: int) -> tuple[int, ...]:
    """Return prod_{j != i} (at - x_j) / (x_i - x_j) for each i.

    The points are public.  On a complete graph they are the same for every secret of a round, so
    this is paid once; on a sparse one every dealer has its own, so it is made cheap: one inversion
    for all points together (each inverse is the inverse of the product of all, times the others).
    """
    if at in xs:
        return tuple(int(x == at) for x in xs)
    whole = math.prod(at - x for x in xs) % prime
    divisors = [(at - x) * math.prod(x - other for other in xs if other != x) % prime for x in xs]
    products = list(accumulate(divisors, lambda a, b: a * b % prime, initial=1))
    inverse = pow(products[-1], -1, prime)
    weights = []
    for divisor, before in zip(reversed(divisors), reversed(products[:-1]), strict=True):
        weights.append(whole * inverse * before % prime)
        inverse = inverse * divisor % prime
    return tuple(reversed(weights))
