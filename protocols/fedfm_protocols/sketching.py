"""What the protocol needs of sketches and of their encryption, in bytes: injected, like
:mod:`~fedfm_protocols.encryption`.

The state machines know only these operations.  One implementation is made for one federation: it
knows the charter's layout of groups, norm bound and rule.  What carries them out with
``fedfm_crypto.lattice`` and the registry of rules belongs to the application.
Source: protocols/README.md, section "Robust rounds".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SketchKeyPair:
    """A new key for sketches: the validator's secret, what clients encrypt with, and what the
    coordinator multiplies with.

    Source: protocols/README.md, section "Sketch keys".
    """

    secret: Secret
    public_key: bytes = field(repr=False)
    evaluation: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Question:
    """What a rule is asked: about whom (sorted), with the memory that it returned last (empty
    before the first), and how few may be left.  ``bounds`` is empty but in a round of kind
    ``watermark``: there it is the largest L2 norm of each (in steps of the grid, in the order of
    ``names``), and that alone decides: marks are random, so no rule that compares them says
    anything, and the memory is returned as it was.

    Source: protocols/README.md, step 7.
    """

    round: int
    names: tuple[str, ...]
    min_accepted: int
    memory: bytes = field(repr=False)
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule answers: whom it accepts (sorted), whom not and why (name, code; sorted), every
    candidate's own scores as bytes to commit to (in the order of the question's names; secret),
    and its next memory.

    Source: protocols/README.md, step 7.
    """

    accepted: tuple[str, ...]
    removed: tuple[tuple[str, str], ...]
    rows: tuple[bytes, ...] = field(repr=False)
    memory: bytes = field(repr=False)


class Sketching(Protocol):
    """Sketches, their encryption, scores, and the rule of one federation.

    All errors are ``fedfm_crypto.errors.CryptoError``.  A sketch is int64 ``[4096]``, exact and
    linear: the sketch of a sum is the sum of sketches under one beacon.

    Source: protocols/README.md, section "Robust rounds".
    """

    # ---- everybody

    def sketch(self, values: Integers, beacon: bytes) -> Integers:
        """The sketch of int64 ``[values]`` under 32 public bytes."""
        ...

    # ---- client

    def check_key(self, public_key: bytes) -> None:
        """Refuse what is no key to encrypt sketches with."""
        ...

    def encrypt(self, sketch: Integers, public_key: bytes) -> bytes:
        """The ciphertext of a sketch, with fresh randomness; refuses one beyond the norm bound."""
        ...

    # ---- coordinator

    def check_evaluation(self, public_key: bytes, evaluation: bytes) -> None:
        """Refuse keys to multiply with that do not belong to ``public_key``."""
        ...

    def check_sketch(self, ciphertext: bytes) -> None:
        """Refuse what is no ciphertext of a sketch, before anything is computed with it."""
        ...

    def scores(self, sketches: Sequence[bytes], public_key: bytes, evaluation: bytes) -> bytes:
        """Encrypted inner products of every pair of checked ciphertexts.  Long work, for worker
        processes: the caller of the state machine does it, never the machine itself."""
        ...

    def add(self, sketches: Sequence[bytes]) -> bytes:
        """The encrypted sum of checked ciphertexts."""
        ...

    # ---- validator

    def make_keys(self, random: RandomSource) -> SketchKeyPair:
        """A fresh key pair."""
        ...

    def judge(self, secret: Secret, scores: bytes, question: Question) -> Judgement:
        """Decrypt scores and apply the rule.  Long work, as :meth:`scores`."""
        ...

    def matches(self, secret: Secret, total: bytes, expected: Integers) -> bool:
        """Whether an encrypted sum of sketches is ``expected``."""
        ...
