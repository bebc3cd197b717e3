"""The statement about a round: how it ended, what it was built on, and what took part in it.

The transcript holds the messages themselves; its digest is the statement's subject.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class RoundCounts:
    """How many messages each phase had, over all steps; ``transcript.count_round`` computes them.

    ``dealers`` sent a ShareBundle or, in a round of kind ``keys``, a KeyDealing; ``openings`` are
    KeyOpenings, which a client may send for each of two active sets of a step.  ``accepted`` are
    the names in the last cohort, ``removed`` those in all of them.
    """

    invited: int
    offers: int
    dealers: int
    uploads: int
    accepted: int
    removed: int
    votes: int
    unmasked: int
    openings: int
    acks: int


@dataclass(frozen=True, slots=True)
class SessionSteps:
    """The steps of a round: how many RoundOpen ``planned``; how many, from the first on, a quorum
    acknowledged (``good``); how many left a message (``recorded``); and the root (hex) of the tree
    over those."""

    planned: int
    good: int
    recorded: int
    root: str


@dataclass(frozen=True, slots=True)
class CheckpointReference:
    """A head of this log that the statement was written on top of (root in hex)."""

    size: int
    root: str


@dataclass(frozen=True, slots=True)
class KeyReference:
    """The collective key of an epoch: the hash that its clients agreed on (hex), and the names
    of those who dealt it and hold its shares, sorted."""

    epoch: int
    hash: str
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoundPredicate:
    """How a round ended, the adapter before and after it (hex), and what it was built on.

    ``key`` is the collective key that a completed round of kind ``keys`` made, or that a round of
    kind ``train`` encrypted under (also if it failed); ``None`` in every other round.
    """

    TYPE: ClassVar[str] = "urn:secure-fedfm:round:v1"
    charter: str
    round: int
    kind: str
    outcome: str
    reason: str
    adapter_in: str
    adapter_out: str
    counts: RoundCounts
    steps: SessionSteps
    previous: CheckpointReference
    key: KeyReference | None = None


def write_round_predicate(predicate: RoundPredicate) -> dict[str, Any]:
    """The predicate as JSON objects; tuples become lists, as they come back from JSON."""
    fields = asdict(predicate)
    if predicate.key is not None:
        fields["key"]["holders"] = list(predicate.key.holders)
    return fields


def read_round_predicate(fields: dict[str, Any]) -> RoundPredicate:
    """Build the dataclass of a predicate that its schema has already accepted."""
    key = fields["key"]
    nested = {
        "counts": RoundCounts(**fields["counts"]),
        "steps": SessionSteps(**fields["steps"]),
        "previous": CheckpointReference(**fields["previous"]),
        "key": None
        if key is None
        else KeyReference(key["epoch"], key["hash"], tuple(key["holders"])),
    }
    return RoundPredicate(**{**fields, **nested})
