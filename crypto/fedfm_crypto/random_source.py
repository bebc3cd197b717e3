"""Where randomness comes from: always a parameter, never a global.

A :data:`RandomSource` is a function from a number of bytes to that many bytes. Production code
passes :func:`system_random`; tests, benchmarks and scripted scenarios may pass a
:class:`SeededRandom` to be reproducible.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedfm_crypto.errors import CryptoError

__all__ = ["RandomSource", "SeededRandom", "draw", "system_random"]

RandomSource = Callable[[int], bytes]


def system_random(count: int) -> bytes:
    """Return ``count`` bytes from the operating system's generator (``os.urandom``)."""
    return os.urandom(count)


def draw(random: RandomSource, count: int) -> bytes:
    """Return exactly ``count`` bytes from ``random``.

    A source that returns too little would shorten a key without anybody noticing, so the length
    is checked at this one place.

    Raises:
        CryptoError: ``random`` returned another type or another number of bytes.
    """
    drawn = random(count)
    if not isinstance(drawn, bytes) or len(drawn) != count:
        found = f"{len(drawn)} bytes" if isinstance(drawn, bytes) else type(drawn).__name__
        raise CryptoError(
            f"the random source returned {found}, expected {count} bytes; use system_random"
        )
    return drawn


class SeededRandom:
    """A reproducible random source for tests, benchmarks and scripted scenarios only.

    The stream is AES-256-CTR under SHA-256 of the seed. Whoever knows the seed knows every key
    drawn from it: production code never uses this class.

    Args:
        seed: any integer or byte string; equal seeds give equal streams.
    """

    __slots__ = ("_encryptor",)

    def __init__(self, seed: int | bytes) -> None:
        text = seed if isinstance(seed, bytes) else b"integer:%d" % seed
        key = hashlib.sha256(b"secure-fedfm seeded random source\n" + text).digest()
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def __call__(self, count: int) -> bytes:
        """Return the next ``count`` bytes of the stream."""
        return self._encryptor.update(bytes(count))
