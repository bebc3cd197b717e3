"""Checks that both sides make on signed sets of messages: rosters, upload sets, votes, acks.

A set travels as the original signed envelopes, sorted by sender, so that every receiver verifies
for itself what each member said.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import CodecError, SignatureError
from fedfm_protocols.errors import (
    EquivocationError,
    MalformedMessage,
    UnknownSender,
    WrongContext,
)
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_messages import KeyOpening, KeyRequest
from fedfm_protocols.messages import read_body, type_name
from fedfm_protocols.robust_messages import Verdict

B = TypeVar("B")

PER_ACTIVE_SET = frozenset({type_name(KeyRequest), type_name(KeyOpening)})


def verify_signature(envelope: Envelope, federation: Federation) -> None:
    """Check that an enrolled party signed this envelope, body included.

    Raises
    ------
    UnknownSender
        if the sender is not enrolled or the signature is not by its key.
    """
    sender = envelope.header.sender
    key = federation.identities.get(sender)
    if key is None:
        raise UnknownSender(f"{envelope.header.type} from {sender}, who is not in the charter")
    try:
        envelope.verify(key)
    except (SignatureError, CodecError) as error:
        raise UnknownSender(
            f"{envelope.header.type} that claims to be from {sender} is not signed by the key "
            f"enrolled for {sender}: {error}"
        ) from error


def check_place(envelope: Envelope, *, context: bytes, step: int) -> None:
    """Check that an envelope was signed for this round and step.

    Raises
    ------
    WrongContext
        if it belongs elsewhere.
    """
    header = envelope.header
    if header.context != context:
        raise WrongContext(
            f"{header.type} from {header.sender} was signed for context "
            f"{header.context.hex()[:16]}, this round has {context.hex()[:16]}"
        )
    if header.step != step:
        raise WrongContext(
            f"{header.type} from {header.sender} is of step {header.step}, expected {step}"
        )


def place_of(envelope: Envelope) -> str:
    """What an envelope is one of a kind of, within its context and step: its type; for what an
    active set of key holders asks and answers, also which set (a step may need a second one)."""
    header = envelope.header
    if header.type in PER_ACTIVE_SET:
        return f"{header.type} {header.refers_to.hex()}"
    return header.type


def open_signed_set(
    encoded: Sequence[bytes],
    expected: type[B],
    *,
    federation: Federation,
    allowed: Collection[str],
    context: bytes,
    step: int,
) -> dict[str, tuple[Envelope, B]]:
    """Verify a set of signed envelopes of one type.

    Returns sender -> (envelope, body).  Every signature is checked, every sender is in
    ``allowed``, senders are sorted and distinct, all were signed for ``context`` and ``step``.

    Raises
    ------
    MalformedMessage, UnknownSender, WrongContext
        naming the member that breaks the set.
    """
    members: dict[str, tuple[Envelope, B]] = {}
    last = ""
    for data in encoded:
        try:
            envelope = Envelope.decode(data)
        except CodecError as error:
            raise MalformedMessage(f"a member of the set does not decode: {error}") from error
        sender = envelope.header.sender
        if sender <= last:
            raise MalformedMessage(
                f"the set must be sorted and hold each sender once; {sender} follows {last}"
            )
        last = sender
        if sender not in allowed:
            raise UnknownSender(f"{sender} is in the set but may not be")
        body = read_body(envelope, expected)
        check_place(envelope, context=context, step=step)
        verify_signature(envelope, federation)
        members[sender] = (envelope, body)
    return members


class OpenSet(Protocol):
    """How a party opens signed sets: :func:`open_signed_set`, with its arguments and errors.

    Source: protocols/README.md, section "Sets".
    """

    def __call__(
        self,
        encoded: Sequence[bytes],
        expected: type[B],
        *,
        federation: Federation,
        allowed: Collection[str],
        context: bytes,
        step: int,
    ) -> dict[str, tuple[Envelope, B]]: ...


def is_sorted_unique(names: Sequence[str]) -> bool:
    """Whether names are strictly increasing."""
    return all(a < b for a, b in pairwise(names))


def check_verdict(verdict: Verdict, candidates: frozenset[str]) -> None:
    """Refuse a verdict that contradicts itself or speaks of somebody without a nonce.

    Raises
    ------
    EquivocationError
        saying what is wrong with it.
    """
    if not is_sorted_unique(verdict.accepted) or not is_sorted_unique(verdict.removed_names):
        raise EquivocationError("a verdict must be sorted and hold each name once")
    both = sorted(set(verdict.accepted) & set(verdict.removed_names))
    if both:
        raise EquivocationError(f"the verdict accepts and removes {', '.join(both)}")
    strangers = sorted(set(verdict.judged) - candidates)
    if strangers:
        raise EquivocationError(f"the verdict is about {', '.join(strangers)}, no candidate")
    judged = len(verdict.judged)
    if len(verdict.sketches) != judged or len(verdict.commitments) != judged:
        raise EquivocationError(
            f"the verdict has {len(verdict.sketches)} sketches and {len(verdict.commitments)} "
            f"commitments for {judged} candidates"
        )
