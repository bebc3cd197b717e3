"""The context string that every signature of a round is bound to.

``context0`` covers everything that is known before keys are exchanged, ``context1`` adds the
fixed set of ephemeral keys.  A message from another federation, round, roster, adapter or
configuration has another context and is refused before its body is looked at.
Source: protocols/README.md, section "Contexts".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fedfm_crypto.codec import MaxCount, Name, encode
from fedfm_crypto.hashing import hash_parts
from fedfm_crypto.labels import Label
from fedfm_protocols.messages import RoundOpen

NO_HASH = bytes(32)
TRAIN = "train"
KEYS = "keys"
WATERMARK = "watermark"


@dataclass(frozen=True, slots=True)
class Names:
    """A list of participant names, in the order in which it is hashed.

    Source: protocols/README.md, section "Encodings".
    """

    names: Annotated[tuple[Name, ...], MaxCount(4096)]


@dataclass(frozen=True, slots=True)
class RoundIdentity:
    """What identifies a round before any key of it exists (``context0``).

    Source: protocols/README.md, section "Contexts".
    """

    charter_hash: bytes
    key_epoch: int
    round: int
    steps: int
    kind: str
    invited: tuple[str, ...]
    adapter_hash: bytes
    config_hash: bytes

    @classmethod
    def of(cls, charter_hash: bytes, opened: RoundOpen) -> RoundIdentity:
        """The identity of the round that ``opened`` announces, under this charter."""
        return cls(
            charter_hash=charter_hash,
            key_epoch=opened.key_epoch,
            round=opened.round,
            steps=opened.steps,
            kind=opened.kind,
            invited=opened.invited,
            adapter_hash=opened.adapter_hash,
            config_hash=opened.config_hash,
        )

    @property
    def makes_keys(self) -> bool:
        """Whether this round makes the collective key of its epoch, and sums nothing."""
        return self.kind == KEYS

    def context0(self) -> bytes:
        """32 bytes that messages 0 and 1 of the round are signed under."""
        return hash_parts(
            Label.CONTEXT_ROUND,
            self.charter_hash,
            self.key_epoch.to_bytes(4, "big"),
            self.round.to_bytes(4, "big"),
            self.steps.to_bytes(2, "big"),
            self.kind.encode(),
            encode(Names(self.invited)),
            self.adapter_hash,
            self.config_hash,
        )


def context1(context0: bytes, roster_hash: bytes, key_hash: bytes = NO_HASH) -> bytes:
    """32 bytes that everything after the key roster is signed under.

    ``roster_hash`` is the SHA-256 of the KeyRoster body, ``key_hash`` names the collective key
    (zeros in suites without encryption, and in the round that makes one).
    """
    return hash_parts(Label.CONTEXT_KEYS, context0, roster_hash, key_hash)


def judged_keys_hash(key_hash: bytes, sketch_key_hash: bytes) -> bytes:
    """What context1 names for keys where a validator judges: the collective key (zeros for none)
    and the SHA-256 of the SketchKey body."""
    return hash_parts(Label.JUDGED_KEYS, key_hash, sketch_key_hash)


def bulk_seed(context: bytes, step: int) -> bytes:
    """Public seed of the polynomials that one step's updates are encrypted with, 32 bytes.

    It is fixed with the key roster, before anybody draws the key of an upload.
    """
    return hash_parts(Label.BULK_SEED, context, step.to_bytes(2, "big"))


def rotation_seed(context: bytes, step: int) -> bytes:
    """Public seed of the rotation that spreads updates over their coordinates, 32 bytes."""
    return hash_parts(Label.ROTATION, context, step.to_bytes(2, "big"))


def active_hash(context: bytes, step: int, cohort_hash: bytes, active: Sequence[str]) -> bytes:
    """Hash of the holders that open one cohort's key sum; KeyRequest and KeyOpening name it."""
    return hash_parts(
        Label.ACTIVE_SET,
        context,
        cohort_hash,
        step.to_bytes(2, "big"),
        encode(Names(tuple(active))),
    )


def step_hash(
    context: bytes,
    step: int,
    dealers: Sequence[str],
    aggregate_hash: bytes,
    adapter_hash: bytes,
    graph_seed: bytes = b"",
) -> bytes:
    """What an upload of a later step builds on, 32 bytes; every UploadHash of it names this.

    ``dealers`` are the clients whose masks it may carry; ``aggregate_hash`` and ``adapter_hash``
    are the step before's.  So an upload set proves that its members hold one adapter.
    """
    graph = (graph_seed,) if graph_seed else ()
    return hash_parts(
        Label.STEP,
        context,
        step.to_bytes(2, "big"),
        encode(Names(tuple(dealers))),
        aggregate_hash,
        adapter_hash,
        *graph,
    )


def dealers_hash(context: bytes, dealers: Sequence[str], graph_seed: bytes = b"") -> bytes:
    """Hash of the set of clients whose masks an upload may carry, and of the seed of the graph
    that says who masks with whom (empty on the complete graph); every UploadHash of a round's first
    step names it."""
    graph = (graph_seed,) if graph_seed else ()
    return hash_parts(Label.DEALERS, context, encode(Names(tuple(dealers))), *graph)
