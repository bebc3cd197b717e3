"""Generator of malformed lattice objects: each case is invalid by construction and says why.

Cases are numbered; number and target give the same bytes everywhere.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from fedfm_crypto.lattice.bulk_format import POLYNOMIAL_BYTES, check_polynomials
from fedfm_crypto.lattice.bulk_format import PRIMES as BULK_PRIMES
from fedfm_crypto.lattice.bulk_keys import BulkKey, PublicPolynomials
from fedfm_crypto.lattice.collective import (
    PARAMETERS,
    PUBLIC_KEY,
    CollectivePublicKey,
    PublicKeyShare,
)
from fedfm_crypto.lattice.key_additive import encrypt
from fedfm_crypto.lattice.score_opening import ScoreOpening
from fedfm_crypto.lattice.seal_format import ObjectLayout
from fedfm_crypto.lattice.sketch_encryption import SketchEncryption, sum_sketches
from fedfm_crypto.lattice.sketch_format import PARAMETERS as SKETCH_PARAMETERS
from fedfm_crypto.lattice.sketch_format import SKETCH, SKETCH_SUM, PackedLayout
from fedfm_crypto.lattice.sketch_keys import EncryptionKey, EvaluationKey
from fedfm_crypto.lattice.threshold import DecryptionShare, KeyShare
from fedfm_crypto.lattice.wide_words import to_wide
from fedfm_crypto.lattice.wrapping import WRAP, check_wrap
from fedfm_crypto.random_source import SeededRandom
from tests.crypto.lattice.federation import make_federation
from tests.crypto.lattice.sketching import example_scale, example_sketch, make_validator

_HEADERS = 16 + 73 + 16 + 8
"""Bytes of a SEAL ciphertext before its first residue: header, fields, header, count."""


@dataclass(frozen=True)
class HostileTarget:
    """A reader and a valid object for it to be damaged."""

    name: str
    valid: bytes
    read: Callable[[bytes], Any]
    damages: tuple[Callable[[bytes, Random], bytes], ...]

    def case(self, number: int) -> tuple[str, bytes]:
        """The name of the damage and the damaged bytes of one case."""
        random = Random(f"{self.name} {number}")  # noqa: S311
        damage = self.damages[number % len(self.damages)]
        return f"{self.name} {number}: {damage.__name__}", damage(self.valid, random)


def truncated(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def truncated_a_little(data: bytes, random: Random) -> bytes:
    return data[: -random.randint(1, 200)]


def with_trailing_bytes(data: bytes, random: Random) -> bytes:
    return data + random.randbytes(random.randint(1, 1000))


def twice(data: bytes, random: Random) -> bytes:
    return data + data + random.randbytes(1)


def with_a_changed_header_byte(data: bytes, random: Random) -> bytes:
    at, flip = random.randrange(_HEADERS), random.randint(1, 255)
    return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]


def with_a_huge_number_in_the_header(data: bytes, random: Random) -> bytes:
    """Sizes, counts and degrees of up to 2^64 - 1, each at its place."""
    at = random.choice([8, 16 + 33, 16 + 41, 16 + 49, 16 + 57, 16 + 65, 16 + 73 + 8, 16 + 73 + 16])
    number = random.choice([2**64 - 1, 2**63, 2**40, 0, 7, random.getrandbits(64)])
    return data[:at] + struct.pack("<Q", number) + data[at + 8 :]


def compressed(data: bytes, random: Random) -> bytes:
    """SEAL's own zlib form: a small body that inflates to whatever the sender likes."""
    body = zlib.compress(bytes(random.choice([1 << 10, 1 << 20])))
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 1, 0, 16 + len(body)) + body


def marked_compressed(data: bytes, random: Random) -> bytes:
    return data[:5] + bytes([random.choice([1, 2, 3, 255])]) + data[6:]


def of_another_version(data: bytes, random: Random) -> bytes:
    return data[:3] + bytes(random.choice([(3, 6), (4, 2), (4, 4), (5, 0)])) + data[5:]


def random_bytes(data: bytes, random: Random) -> bytes:
    return random.randbytes(random.choice([0, 1, 16, 113, 5000]))


def _residue_words(start: int, primes: tuple[int, ...], degree: int) -> Any:
    """Damage: one 64-bit residue at or above its prime."""

    def with_a_residue_not_below_its_prime(data: bytes, random: Random) -> bytes:
        count = (len(data) - start) // 8
        position = random.randrange(count)
        prime = primes[position // degree % len(primes)]
        bad = random.choice([prime, prime + 1, 2**63, 2**64 - 1, random.randint(prime, 2**64 - 1)])
        at = start + 8 * position
        return data[:at] + struct.pack("<Q", bad) + data[at + 8 :]

    return with_a_residue_not_below_its_prime


def with_a_packed_residue_not_below_its_prime(data: bytes, random: Random) -> bytes:
    """One 54-bit residue at or above its prime, in place."""
    position = random.randrange(len(data) * 8 // 54)
    prime = BULK_PRIMES[position // 4096 % 2]
    bad = random.choice([prime, prime + 1, 2**54 - 1, random.randint(prime, 2**54 - 1)])
    start, stop = 54 * position // 8, (54 * position + 53) // 8 + 1
    window = int.from_bytes(data[start:stop], "little")
    shift = 54 * position - 8 * start
    window = window & ~((2**54 - 1) << shift) | bad << shift
    return data[:start] + window.to_bytes(stop - start, "little") + data[stop:]


_PACKED_HEAD = 32 + 8
"""Bytes of a packed sketch before its first residue: parameter id and scale."""


def with_a_changed_head_byte(data: bytes, random: Random) -> bytes:
    at, flip = random.randrange(_PACKED_HEAD), random.randint(1, 255)
    return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]


def of_another_scale(data: bytes, random: Random) -> bytes:
    scale = random.choice([0.0, 1.0, -(2.0**40), 2.0**41, float("nan"), float("inf")])
    return data[:32] + struct.pack("<d", scale) + data[_PACKED_HEAD:]


def of_another_level(data: bytes, random: Random) -> bytes:
    """The id of another level, or of another scheme's, in front of the same residues."""
    primes = random.choice([SKETCH_PARAMETERS.primes, SKETCH_PARAMETERS.primes[:1]])
    foreign = random.choice([SKETCH_PARAMETERS.identifier(primes), PARAMETERS.identifier(primes)])
    return foreign + data[32:]


def not_encrypted(data: bytes, random: Random) -> bytes:
    """The second polynomial is zero: whoever sees it reads the first."""
    return data[: _PACKED_HEAD + (len(data) - _PACKED_HEAD) // 2].ljust(len(data), b"\0")


def _packed_residue(layout: PackedLayout) -> Any:
    """Damage: one residue of 8 or 5 bytes at or above its prime."""

    def with_a_short_residue_not_below_its_prime(data: bytes, random: Random) -> bytes:
        polynomial, row = random.randrange(2), random.randrange(len(layout.primes))
        widths, degree = layout._widths, SKETCH_PARAMETERS.degree
        prime, width = layout.primes[row], widths[row]
        before = polynomial * sum(widths) + sum(widths[:row])
        at = _PACKED_HEAD + degree * before + width * random.randrange(degree)
        bad = random.choice([prime, prime + 1, 2 ** (8 * width) - 1])
        residue: bytes = bad.to_bytes(width, "little")
        return data[:at] + residue + data[at + width :]

    return with_a_short_residue_not_below_its_prime


_LENGTHS = (truncated, truncated_a_little, with_trailing_bytes, twice, random_bytes)
_SEAL = (
    *_LENGTHS, with_a_changed_header_byte, with_a_huge_number_in_the_header, compressed,
    marked_compressed, of_another_version,
)  # fmt: skip


def _seal_target(name: str, layout: ObjectLayout, valid: bytes, read: Any) -> HostileTarget:
    residue = _residue_words(_HEADERS, layout.primes, layout.parameters.degree)
    return HostileTarget(name, valid, read, (*_SEAL, residue, residue))


def _packed_target(layout: PackedLayout, valid: bytes) -> HostileTarget:
    residue = _packed_residue(layout)
    damages = (
        *_LENGTHS, with_a_changed_head_byte, of_another_scale, of_another_level, not_encrypted,
        residue, residue,
    )  # fmt: skip
    return HostileTarget(layout.what, valid, layout.read, damages)


def _sketch_targets() -> list[HostileTarget]:
    validator = make_validator()
    client = SketchEncryption(validator.encryption, example_scale())
    sketch = client.encrypt(example_sketch(1))
    opening = ScoreOpening(validator.secret, example_scale())
    after_seed = _residue_words(32, SKETCH_PARAMETERS.primes, SKETCH_PARAMETERS.degree)
    at_key = (*_LENGTHS, after_seed)
    return [
        _packed_target(SKETCH, sketch),
        _packed_target(SKETCH_SUM, sum_sketches([sketch, sketch])),
        HostileTarget(
            "sketch encryption key", validator.encryption.to_bytes(), EncryptionKey.from_bytes,
            at_key,
        ),
        HostileTarget(
            "sketch evaluation key", validator.evaluation.to_bytes(), EvaluationKey.from_bytes,
            at_key,
        ),
        HostileTarget("score", bytes(40_965), lambda data: opening.open([data]), _LENGTHS),
    ]  # fmt: skip


def hostile_targets() -> list[HostileTarget]:
    """Every reader of the lattice package that takes bytes from others."""
    federation, random = make_federation(), SeededRandom(1)
    key = BulkKey.generate(random)
    wrap = federation.wrapping.wrap(key)
    words = to_wide(np.arange(5, dtype=np.uint32), 32)
    bulk = b"".join(encrypt(words, key, PublicPolynomials(bytes(32)), random))
    assert len(bulk) == POLYNOMIAL_BYTES
    at_data = (*_LENGTHS, _residue_words(0, PARAMETERS.data_primes, PARAMETERS.degree))
    at_key = (*_LENGTHS, _residue_words(0, PARAMETERS.primes, PARAMETERS.degree))
    share = federation.shares[1].to_bytes()
    return [
        _seal_target("wrapped key", WRAP, wrap, check_wrap),
        _seal_target(
            "public key", PUBLIC_KEY, federation.public_key.to_bytes(),
            CollectivePublicKey.from_bytes,
        ),
        HostileTarget(
            "bulk ciphertext", bulk, check_polynomials,
            (*_LENGTHS, with_a_packed_residue_not_below_its_prime),
        ),
        HostileTarget(
            "public key share",
            PublicKeyShare(federation.public_key.values[0]).to_bytes(),
            PublicKeyShare.from_bytes, at_key,
        ),
        HostileTarget("key share", share, lambda data: KeyShare.from_bytes(1, data), at_data),
        HostileTarget(
            "decryption share", share, lambda data: DecryptionShare.from_bytes(1, data), at_data
        ),
        *_sketch_targets(),
    ]  # fmt: skip
