"""What a round is to the coordinator, whatever phase it is in: its identity, its record, who takes
part, and what it has achieved so far.

Source: protocols/README.md, sections "A round" and "Sessions".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from fedfm_crypto.envelope import CheckpointSeen, Envelope, SignedHeader
from fedfm_protocols.context import NO_HASH, RoundIdentity, judged_keys_hash
from fedfm_protocols.errors import RoundAborted
from fedfm_protocols.key_messages import KeyDealing, KeyDelivery
from fedfm_protocols.messages import (
    Cohort,
    GraphNonce,
    GraphNonces,
    KeyOffer,
    KeyRoster,
    RoundAck,
    RoundClose,
    RoundOpen,
    ShareBundle,
    ShareDelivery,
    read_body,
    type_name,
)
from fedfm_protocols.neighbourhood import Neighbourhoods
from fedfm_protocols.robust_messages import SketchKey
from fedfm_protocols.sketch_keys import SketchEpoch

# What comes once in a round, before its first step.
_SETUP = frozenset(
    type_name(body)
    for body in (
        RoundOpen,
        SketchKey,
        KeyOffer,
        KeyRoster,
        GraphNonce,
        GraphNonces,
        ShareBundle,
        ShareDelivery,
        KeyDealing,
        KeyDelivery,
    )
)


@dataclass(frozen=True, slots=True)
class CollectiveKey:
    """What the coordinator knows about the key of an epoch: its name, and who holds shares of it.

    Source: protocols/README.md, section "Key epochs".
    """

    epoch: int
    key_hash: bytes
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One signed message as evidence: its header, its signature, and the body where public.

    Source: protocols/README.md, section "Transcript".
    """

    signed: SignedHeader
    body: bytes | None


@dataclass(frozen=True, slots=True)
class RoundTranscript:
    """All signed messages of a round: those of the key setup, of every step, and the close.

    Source: protocols/README.md, section "Transcript".
    """

    setup: tuple[TranscriptEntry, ...] = field(default=(), repr=False)
    steps: tuple[tuple[TranscriptEntry, ...], ...] = field(default=(), repr=False)
    close: tuple[TranscriptEntry, ...] = field(default=(), repr=False)

    @property
    def entries(self) -> tuple[TranscriptEntry, ...]:
        """All of them, in this order."""
        return (*self.setup, *(entry for step in self.steps for entry in step), *self.close)

    def add(self, entry: TranscriptEntry) -> RoundTranscript:
        """With one message more."""
        header = entry.signed.header
        if header.type == type_name(RoundClose):
            return replace(self, close=(*self.close, entry))
        if header.type in _SETUP:
            return replace(self, setup=(*self.setup, entry))
        steps = (*self.steps, ()) if header.step == len(self.steps) else self.steps
        grown = (*steps[header.step], entry)
        return replace(self, steps=(*steps[: header.step], grown, *steps[header.step + 1 :]))


@dataclass(frozen=True, slots=True)
class GoodSteps:
    """The steps of a round that a quorum has acknowledged, up to the last of them: its number,
    the Aggregate bodies of all, and who agreed on what.

    Source: protocols/README.md, section "Sessions".
    """

    step: int
    adapter_hash: bytes
    acks: tuple[bytes, ...]
    aggregates: tuple[bytes, ...] = field(repr=False)
    accepted: tuple[str, ...]
    removed: tuple[str, ...]
    dissenters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """What every phase carries.

    ``key`` is the collective key that the round's sums are opened with, ``roster_hash`` the
    SHA-256 of the KeyRoster body, once it is fixed.  ``taken`` maps (sender, step,
    ``checks.place_of``) to the body hash already taken; ``gone`` are participants whose connection
    is lost; ``sent`` counts own messages under ``context``.  ``good`` is what the round has
    achieved: the steps that it can end with.  ``sketch`` are the validator's keys where it judges.

    Source: protocols/README.md, section "A round".
    """

    identity: RoundIdentity
    key: CollectiveKey | None
    context0: bytes
    context: bytes
    step: int
    sent: int
    checkpoint: CheckpointSeen
    opened: Envelope
    taken: Mapping[tuple[str, int, str], bytes]
    gone: frozenset[str]
    transcript: RoundTranscript
    roster_hash: bytes = NO_HASH
    good: GoodSteps | None = None
    sketch: SketchEpoch | None = field(default=None, repr=False)

    @property
    def collective_hash(self) -> bytes:
        """The name of the collective key; zeros for none."""
        return NO_HASH if self.key is None else self.key.key_hash

    @property
    def key_hash(self) -> bytes:
        """What context1 names for keys."""
        if self.sketch is None:
            return self.collective_hash
        return judged_keys_hash(self.collective_hash, self.sketch.key.key_hash)

    def need_sketch(self) -> SketchEpoch:
        """The validator's keys, which a robust round is not opened without.

        Raises
        ------
        RoundAborted
            if there are none.
        """
        if self.sketch is None:
            raise RoundAborted("this round has no sketch key of the validator")
        return self.sketch

    def next_step(self) -> Round:
        """The same round, one step on; what was taken in the step before still counts as taken."""
        taken = {place: digest for place, digest in self.taken.items() if place[1] >= self.step}
        return replace(self, step=self.step + 1, taken=taken)


@dataclass(frozen=True, slots=True)
class Group:
    """Who takes part in a step: the offers of those on the masking graph, the graph, and the
    bundles of those who dealt shares and are still in.

    Source: protocols/README.md, section "Sessions".
    """

    offers: Mapping[str, KeyOffer]
    hood: Neighbourhoods
    bundles: Mapping[str, ShareBundle]

    @property
    def dealers(self) -> tuple[str, ...]:
        """The clients whose masks an upload of this step carries, sorted."""
        return tuple(sorted(self.bundles))

    def only(self, names: Collection[str]) -> Group:
        """The group of the step after one in which ``names`` were accepted."""
        return replace(
            self, bundles={name: self.bundles[name] for name in self.bundles if name in names}
        )


@dataclass(frozen=True, slots=True)
class StepSum:
    """The opened sum of one step, and the acknowledgements of what came of it.

    Source: protocols/README.md, section "Sessions".
    """

    step: int
    cohort: Cohort
    aggregate: bytes = field(repr=False)
    aggregate_hash: bytes
    acks: Mapping[str, Envelope]

    @property
    def everyone(self) -> tuple[str, ...]:
        """Those who were sent the sum."""
        return (*self.cohort.accepted, *self.cohort.removed)

    def adapter_of(self, name: str) -> bytes | None:
        """The adapter that a client acknowledged; None if it has not yet."""
        ack = self.acks.get(name)
        return None if ack is None else read_body(ack, RoundAck).adapter_hash

    def most_agree(self) -> tuple[bytes, int]:
        """The adapter that most clients acknowledged, and how many they are."""
        counts = Counter(read_body(ack, RoundAck).adapter_hash for ack in self.acks.values())
        return max(counts.items(), key=lambda item: (item[1], item[0]), default=(NO_HASH, 0))

    def good(self, adapter_hash: bytes, earlier: GoodSteps | None) -> GoodSteps:
        """This step as the last good one, after those before it."""
        names = sorted(self.acks)
        return GoodSteps(
            step=self.step,
            adapter_hash=adapter_hash,
            acks=tuple(self.acks[name].encode() for name in names),
            aggregates=(*(earlier.aggregates if earlier else ()), self.aggregate),
            accepted=self.cohort.accepted,
            removed=self.cohort.removed,
            dissenters=tuple(n for n in names if self.adapter_of(n) != adapter_hash),
        )


@dataclass(frozen=True, slots=True)
class CompletedRound:
    """What a client that missed this round needs to catch up.

    Source: protocols/README.md, section "Catching up".
    """

    opened: bytes
    roster_hash: bytes
    key_hash: bytes
    aggregates: tuple[bytes, ...] = field(repr=False)
    acks: tuple[bytes, ...]
