"""Catching up: a client that missed rounds repeats their sums and checks every result.

The coordinator hands over the opened sums of the missed rounds; nothing it says is believed
unless a quorum of clients signed that they computed exactly this adapter from exactly this sum.
Source: protocols/README.md, section "Catching up".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.codec import decode
from fedfm_crypto.envelope import NO_CHECKPOINT, CheckpointSeen, Envelope
from fedfm_crypto.errors import CodecError
from fedfm_protocols.checks import check_place, open_signed_set, verify_signature
from fedfm_protocols.client_decrypt import open_aggregate
from fedfm_protocols.client_result import plain_total
from fedfm_protocols.client_session import needed
from fedfm_protocols.context import TRAIN, RoundIdentity, context1, rotation_seed
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.errors import BelowThreshold, MalformedMessage, MissingGroupKey, RoundRefused
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.messages import (
    Aggregate,
    CatchUp,
    CatchUpRound,
    RoundAck,
    RoundOpen,
    read_body,
)
from fedfm_protocols.split_view import check_echo


@dataclass(frozen=True, slots=True)
class MissedSum:
    """One step's opened sum: ``total`` (float64 ``[values]``) of ``accepted`` updates.

    Source: protocols/README.md, section "Catching up".
    """

    accepted: int
    total: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True, slots=True)
class MissedRound:
    """One missed round, verified: apply its ``sums`` one after the other, beginning with adapter
    ``adapter_before``; the last result must hash to ``adapter_after``.

    Source: protocols/README.md, section "Catching up".
    """

    round: int
    adapter_before: bytes
    adapter_after: bytes
    sums: tuple[MissedSum, ...] = field(repr=False)
    kind: str = TRAIN


def verify_catch_up(
    federation: Federation,
    catch_up: CatchUp,
    *,
    last_applied: int,
    adapter_hash: bytes,
    keys: KeyRing,
    encryption: Encryption | None,
    head: CheckpointSeen = NO_CHECKPOINT,
    note: bytes = b"",
) -> Iterator[MissedRound]:
    """Verify missed rounds one after the other, as a chain from the adapter at hand.

    With encryption the sums are opened here, under the group key of each round's epoch.  ``head``
    is what this site has seen of the log, ``note`` the log's note of it.

    Raises
    ------
    SplitView
        if those who acknowledged a round echo another history of the log than this site saw.
    ProtocolError
        at the first round whose evidence does not hold.
    """
    for missed in catch_up.rounds:
        verified = _verify(federation, missed, keys, encryption, head, note)
        if verified.round <= last_applied:
            raise RoundRefused(f"round {verified.round} was applied before")
        if verified.adapter_before != adapter_hash:
            raise RoundRefused(
                f"round {verified.round} starts from adapter "
                f"{verified.adapter_before.hex()[:16]}, this site holds {adapter_hash.hex()[:16]}"
            )
        yield verified
        last_applied, adapter_hash = verified.round, verified.adapter_after


def _verify(
    federation: Federation,
    missed: CatchUpRound,
    keys: KeyRing,
    encryption: Encryption | None,
    head: CheckpointSeen,
    note: bytes,
) -> MissedRound:
    try:
        envelope = Envelope.decode(missed.opened)
        aggregates = [decode(Aggregate, body) for body in missed.aggregates]
    except CodecError as error:
        raise MalformedMessage(f"a missed round does not decode: {error}") from error
    verify_signature(envelope, federation)
    opened = read_body(envelope, RoundOpen)
    identity = RoundIdentity.of(federation.charter_hash, opened)
    context0 = identity.context0()
    check_place(envelope, context=context0, step=0)
    if not 1 <= len(aggregates) <= opened.steps:
        raise MalformedMessage(
            f"{len(aggregates)} sums of missed round {opened.round}, which had {opened.steps} steps"
        )
    last = len(aggregates) - 1
    context = context1(context0, missed.roster_hash, missed.key_hash)
    acks = open_signed_set(
        missed.acks,
        RoundAck,
        federation=federation,
        allowed=federation.clients,
        context=context,
        step=last,
    )
    for member, _ in acks.values():
        check_echo(envelope.header.checkpoint, b"", member)
        if member.header.checkpoint_size == head.size > 0:
            check_echo(head, note, member)
    # What a quorum acknowledges of the last sum covers all: its adapter comes of every one.
    digest = hashlib.sha256(missed.aggregates[last]).digest()
    counts: dict[bytes, int] = {}
    for member, ack in acks.values():
        if member.header.refers_to == digest:
            counts[ack.adapter_hash] = counts.get(ack.adapter_hash, 0) + 1
    quorum = federation.thresholds.vote_quorum
    agreed = [adapter for adapter, count in counts.items() if count >= quorum]
    if not agreed:
        raise BelowThreshold(
            f"no quorum of {quorum} clients acknowledges one result of round {opened.round}"
        )
    sums = tuple(
        MissedSum(aggregate.accepted, total)
        for aggregate, total in zip(
            aggregates,
            _open(
                federation,
                aggregates,
                context,
                keys.group_keys(opened.key_epoch),
                encryption,
                opened,
            ),
            strict=True,
        )
    )
    return MissedRound(opened.round, opened.adapter_hash, agreed[0], sums, opened.kind)


def _open(
    federation: Federation,
    aggregates: Sequence[Aggregate],
    context: bytes,
    group_keys: tuple[bytes, ...],
    encryption: Encryption | None,
    opened: RoundOpen,
) -> Iterator[NDArray[np.float64]]:
    """The sums of all steps, opened with the group keys of their epoch."""
    if federation.encrypted and not group_keys:
        raise MissingGroupKey(opened.key_epoch)
    for step, aggregate in enumerate(aggregates):
        if federation.encrypted:
            words = open_aggregate(
                needed(encryption, federation),
                federation,
                aggregate,
                open_set=open_signed_set,
                holders=None,
                group_keys=group_keys,
                context=context,
                step=step,
                cohort_hash=None,
            )
        else:
            words = plain_total(aggregate, federation.lanes.lane_bits, federation.lane_count)
        yield federation.encoding_of(opened.kind).decode(words, rotation_seed(context, step))
