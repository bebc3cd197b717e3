"""The sketch of an opened sum, boxed to the validator: the coordinator passes it on unread.

Ephemeral X25519 with the validator's box key, HKDF-SHA-256, AES-256-GCM; bound to context, step,
sender and aggregate.  A sum is public among the clients and secret from the coordinator in suites
with encryption, and 4096 linear measurements of it are therefore secret too.
Source: protocols/README.md, step 13.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedfm_crypto.aead import open_sealed, seal
from fedfm_crypto.agreement import AGREEMENT_KEY_SIZE, AgreementKey, check_agreement_public
from fedfm_crypto.errors import CryptoError
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.kdf import derive_key
from fedfm_crypto.labels import Label
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret
from fedfm_crypto.sketch import SLOTS
from fedfm_protocols.sketching import Integers

_INTEGER = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Place:
    """What a box is bound to.

    Source: protocols/README.md, step 13.
    """

    context: bytes
    step: int
    sender: str
    aggregate_hash: bytes

    @property
    def parts(self) -> tuple[bytes, ...]:
        """In the order in which they are hashed."""
        return self.context, self.step.to_bytes(2, "big"), self.sender.encode(), self.aggregate_hash


def seal_sum(sketch: Integers, box_key: bytes, place: Place, random: RandomSource) -> bytes:
    """Ephemeral public key (32 bytes), then the sealed integers (8 bytes each, little-endian)."""
    ephemeral = AgreementKey.generate(random)
    key = _key(ephemeral.exchange(box_key), ephemeral.public, box_key, place)
    plain = np.ascontiguousarray(sketch, _INTEGER).tobytes()
    return ephemeral.public + seal(key, plain, _associated(place), random)


def open_sum(sealed: bytes, box: AgreementKey, place: Place) -> bytes:
    """The integers in a box, as bytes.

    Raises
    ------
    CryptoError
        if it is not sealed for this place, or does not hold a sketch.
    """
    public, rest = sealed[:AGREEMENT_KEY_SIZE], sealed[AGREEMENT_KEY_SIZE:]
    check_agreement_public(public)
    key = _key(box.exchange(public), public, box.public, place)
    plain = open_sealed(key, rest, _associated(place))
    if len(plain) != SLOTS * _INTEGER.itemsize:
        raise CryptoError(f"a sketch of {len(plain)} bytes, expected {SLOTS * _INTEGER.itemsize}")
    return plain


def _key(shared: Secret, ephemeral: bytes, box_key: bytes, place: Place) -> Secret:
    return derive_key(Label.SUM_SKETCH, shared, ephemeral, box_key, *place.parts)


def _associated(place: Place) -> bytes:
    return hash_parts(Label.SUM_SKETCH, *place.parts)


@dataclass(frozen=True, slots=True)
class Agreed:
    """The sketch of the sum that most clients report, how many they are, and who deviates.

    Source: protocols/README.md, step 13.
    """

    value: bytes = field(repr=False)
    count: int
    deviators: tuple[str, ...]

    @property
    def sketch(self) -> Integers:
        """As integers, int64 ``[4096]``."""
        return np.frombuffer(self.value, _INTEGER).astype(np.int64)


def most_report(reports: Mapping[str, bytes]) -> Agreed:
    """What most report (name -> integers as bytes, empty for a box that did not open)."""
    counts = Counter(value for value in reports.values() if value)
    value, count = max(counts.items(), key=lambda item: (item[1], item[0]), default=(b"", 0))
    return Agreed(value, count, tuple(sorted(n for n, said in reports.items() if said != value)))
