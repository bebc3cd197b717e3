"""Sketches that hide nothing, for scenarios and tests: never for a deployment.

Everything a :class:`~fedfm_protocols.sketching.Sketching` does, exact and in the clear: a
ciphertext is the sketch itself behind random bytes, scores are the Gram matrix.  So a base install
plays robust rounds, and a test sees every number.  The rule is a bound on norms: whoever's exceeds
``factor`` times the (lower) median is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret
from fedfm_crypto.sketch import SLOTS, SketchLayout, inner_products, sketch
from fedfm_protocols.federation import Federation
from fedfm_protocols.sketching import Integers, Judgement, Question, SketchKeyPair

_PUBLIC = b"open sketch key: "
_SALT = 16
_SIZE = _SALT + 8 * SLOTS


@dataclass(frozen=True, slots=True)
class OpenSketches:
    """Sketching in the clear; ``random`` salts ciphertexts, so that no two are equal."""

    layout: SketchLayout
    factor: float
    random: RandomSource

    @classmethod
    def of(cls, federation: Federation, random: RandomSource) -> OpenSketches:
        """For one robust federation, with the charter's layout and the parameter ``factor``."""
        section = federation.charter.robustness
        if section is None:
            raise CryptoError("a federation without a rule sketches nothing")
        layout = section.layout(federation.charter.quantiser.values)
        return cls(layout, float(section.parameters.get("factor", 2.0)), random)

    def sketch(self, values: Integers, beacon: bytes) -> Integers:
        """The real sketch."""
        return sketch(values, beacon, self.layout)

    def check_key(self, public_key: bytes) -> None:
        """It says what it is."""
        if not public_key.startswith(_PUBLIC):
            raise CryptoError(f"no open sketch key: {public_key[:16]!r}")

    def encrypt(self, sketch: Integers, public_key: bytes) -> bytes:
        """Random bytes, then the integers."""
        self.check_key(public_key)
        return self.random(_SALT) + sketch.astype("<i8").tobytes()

    def check_evaluation(self, public_key: bytes, evaluation: bytes) -> None:
        """It is the public key."""
        if evaluation != public_key:
            raise CryptoError("these evaluation keys belong to another key")

    def check_sketch(self, ciphertext: bytes) -> None:
        """It has the length."""
        if len(ciphertext) != _SIZE:
            raise CryptoError(f"a sketch of {len(ciphertext)} bytes, expected {_SIZE}")

    def scores(self, sketches: Sequence[bytes], public_key: bytes, evaluation: bytes) -> bytes:
        """The Gram matrix, float64, row by row."""
        self.check_evaluation(public_key, evaluation)
        read = [self.integers(data) for data in sketches]
        groups = len(self.layout.groups)
        return b"".join(
            inner_products(one, other, groups).sum().astype("<f8").tobytes()
            for one in read
            for other in read
        )

    def add(self, sketches: Sequence[bytes]) -> bytes:
        """The sum, with a salt of zeros."""
        total = np.sum([self.integers(data) for data in sketches], axis=0, dtype=np.int64)
        return bytes(_SALT) + total.astype("<i8").tobytes()

    def make_keys(self, random: RandomSource) -> SketchKeyPair:
        """A secret that opens nothing, and its hash."""
        secret = Secret(random(32))
        public = _PUBLIC + hashlib.sha256(secret.reveal()).digest()
        return SketchKeyPair(secret, public, public)

    def judge(self, secret: Secret, scores: bytes, question: Question) -> Judgement:
        """Whose norm is too large is removed; the memory counts the rounds judged."""
        names = question.names
        if len(scores) != 8 * len(names) ** 2:
            raise CryptoError(f"scores of {len(scores)} bytes for {len(names)} clients")
        gram = np.frombuffer(scores, "<f8").reshape(len(names), len(names))
        norms = np.sqrt(np.maximum(np.diag(gram), 0))
        bound = self.factor * float(np.sort(norms)[(len(norms) - 1) // 2])
        bounds = question.bounds or (bound,) * len(names)
        far = {n for n, norm, most in zip(names, norms, bounds, strict=True) if norm > most}
        judged = (question.memory or b"\x00")[0] + (not question.bounds)
        return Judgement(
            accepted=tuple(name for name in names if name not in far),
            removed=tuple((name, "norm") for name in names if name in far),
            rows=tuple(row.tobytes() for row in gram),
            memory=bytes([judged & 0xFF]),
        )

    def matches(self, secret: Secret, total: bytes, expected: Integers) -> bool:
        """Equality."""
        return bool(np.array_equal(self.integers(total), expected))

    def integers(self, ciphertext: bytes) -> Integers:
        """What a ciphertext hides from nobody."""
        self.check_sketch(ciphertext)
        return np.frombuffer(ciphertext[_SALT:], "<i8").astype(np.int64)
