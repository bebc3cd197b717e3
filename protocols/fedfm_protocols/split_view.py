"""One history of the log for everybody: what the others echo, held against what this site was
shown.

Everybody who answers one RoundOpen has taken the head that came with it, so everything signed in
the round echoes that head.  Another one in a member of a signed set means that somebody was shown
another history: the round is left before anything of this site's leaves, and what proves it is
kept.  Source: protocols/README.md, section "Witness".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from fedfm_crypto.envelope import CheckpointSeen, Envelope
from fedfm_protocols.checks import OpenSet
from fedfm_protocols.client_states import Session
from fedfm_protocols.errors import SplitView
from fedfm_protocols.federation import Federation

B = TypeVar("B")


def head_text(head: CheckpointSeen) -> str:
    """A head for people: size and the beginning of the root."""
    return f"size {head.size}, root {head.root.hex()[:16]}"


def check_echo(head: CheckpointSeen, note: bytes, envelope: Envelope) -> None:
    """Demand that an envelope echoes the head that this site was shown with it.

    Raises
    ------
    SplitView
        with ``note``, the log's own note of ``head``, and the contradicting signed header.
    """
    header = envelope.header
    if header.checkpoint != head:
        raise SplitView(
            f"{header.type} from {header.sender} echoes the log at {head_text(header.checkpoint)}; "
            f"this site was shown {head_text(head)}: one log has one head in a round, and one root "
            "at a size",
            notes=(note,),
            headers=(envelope.signed_header,),
        )


def one_history(open_set: OpenSet, session: Session) -> OpenSet:
    """``open_set``, which also demands that every member of the set echoes the round's head."""

    def opened(
        encoded: Sequence[bytes],
        expected: type[B],
        *,
        federation: Federation,
        allowed: Collection[str],
        context: bytes,
        step: int,
    ) -> dict[str, tuple[Envelope, B]]:
        members = open_set(
            encoded, expected, federation=federation, allowed=allowed, context=context, step=step
        )
        for envelope, _ in members.values():
            check_echo(session.head, session.note, envelope)
        return members

    return opened
