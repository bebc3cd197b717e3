"""What the protocol needs of homomorphic encryption, in bytes: injected, like the randomness.

Suites ``sealed`` and ``layered`` encrypt what is uploaded under a key that nobody holds alone.
The state machines know only these operations; ``lattice_encryption`` carries them out with
``fedfm_crypto.lattice`` and needs numba and TenSEAL, which a client of the other suites, a
scenario without encryption and an auditor do without.
Source: protocols/README.md, sections "Key epochs" and "The bulk layer".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.mask import Sign
from fedfm_crypto.random_source import RandomSource
from fedfm_crypto.secret import Secret

MAX_ACTIVE_SETS = 2
"""How many sets of holders may touch one ciphertext: each tells a little about their shares."""

LaneWords = NDArray[np.uint32]
Masks = Iterable[tuple[Secret, Sign]]


@dataclass(frozen=True, slots=True)
class KeyContribution:
    """One client's part of a collective key: the secret that it deals in shares (opaque to the
    protocol), and the public half that it commits to before it shows it.

    Source: protocols/README.md, section "Key epochs".
    """

    secret: Any = field(repr=False)
    public_share: bytes


@dataclass(frozen=True, slots=True)
class ProtectedUpdate:
    """A client's update, encrypted under a key for this step alone, and that key, wrapped.

    Source: protocols/README.md, step 4.
    """

    bulk: bytes = field(repr=False)
    wrap: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ActiveSet:
    """The holders that open one key sum together: their share points, and how many it takes.

    Source: protocols/README.md, step 11.
    """

    points: tuple[int, ...]
    threshold: int


class Encryption(Protocol):
    """Collective keys, key-additive encryption of updates, and opening their sum.

    All errors are ``fedfm_crypto.errors.CryptoError``.  ``lane_bits`` is 24 or 32, ``values`` the
    number of lanes, ``seed`` 32 public bytes that are the same for every client of the step.

    Source: protocols/README.md, sections "Key epochs" and "The bulk layer".
    """

    # ---- key epochs

    def contribute(self, context: bytes, random: RandomSource) -> KeyContribution:
        """A fresh contribution to the key of ``context`` (which also fixes the public ``a``)."""
        ...

    def commitment(self, context: bytes, name: str, public_share: bytes) -> bytes:
        """What ``name`` commits to, 32 bytes; refuses a share that is malformed."""
        ...

    def public_key(self, context: bytes, public_shares: Sequence[bytes]) -> bytes:
        """The collective public key of all contributions."""
        ...

    def deal(
        self,
        contribution: KeyContribution,
        threshold: int,
        points: Sequence[int],
        random: RandomSource,
    ) -> tuple[bytes, ...]:
        """One share of the contribution's secret for each point."""
        ...

    def collect(self, point: int, shares: Sequence[bytes]) -> bytes:
        """A holder's share of the collective key, from what every dealer gave it."""
        ...

    # ---- one step

    def prepare(
        self,
        *,
        values: int,
        lane_bits: int,
        masks: Masks,
        seed: bytes,
        public_key: bytes,
        random: RandomSource,
    ) -> Any:
        """All of an upload that does not depend on its words, for :meth:`protect`: its masks, its
        fresh key, that key wrapped, the ciphertext of nothing.  May run in another thread."""
        ...

    def protect(self, prepared: Any, words: LaneWords, lane_bits: int) -> ProtectedUpdate:
        """Put lane words into what was prepared for them; only once."""
        ...

    def check_upload(self, bulk: bytes, values: int, lane_bits: int) -> None:
        """Refuse a ciphertext of another length, or with a residue out of range."""
        ...

    def check_wrap(self, wrap: bytes) -> None:
        """Refuse what is no wrapped key."""
        ...

    def add(self, total: Any, bulk: bytes) -> Any:
        """``total`` (``None`` for nothing yet) plus a checked ciphertext, as a new value."""
        ...

    def peel(self, total: Any, masks: Masks, values: int, lane_bits: int) -> bytes:
        """The serialised ciphertext sum with masks (signs as in ``add_masks``) added to it."""
        ...

    def open_share(
        self,
        wraps: Sequence[bytes],
        *,
        public_key: bytes,
        share: bytes,
        point: int,
        active: ActiveSet,
        random: RandomSource,
    ) -> bytes:
        """A flooded partial decryption of the sum of ``wraps``.  The first point of the active
        set adds the ciphertext's own part, so that the shares alone add up to the plaintext."""
        ...

    def open_sum(
        self,
        bulk: bytes,
        *,
        shares: Sequence[tuple[int, bytes]],
        active: ActiveSet,
        clients: int,
        seed: bytes,
        values: int,
        lane_bits: int,
    ) -> LaneWords:
        """Lane words of the sum of ``clients`` updates, from a ciphertext sum without masks."""
        ...
