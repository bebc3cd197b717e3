"""Clients as witnesses of the log: a checkpoint is taken only if it extends the last one seen.

Pure functions; the caller keeps the last checkpoint durably **before** it cosigns, so that no
crash makes a witness sign two histories.  Source: RFC 9162 section 2.1.4, C2SP tlog-cosignature.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.errors import MerkleError, NoteError
from fedfm_crypto.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from fedfm_crypto.note import open_note
from fedfm_protocols.charter import LogSection
from fedfm_protocols.errors import EquivocationError
from fedfm_protocols.messages import CheckpointOffer

NOTHING_SEEN = CheckpointSeen(size=0, root=EMPTY_ROOT)


def extend_checkpoint(
    seen: CheckpointSeen, note: bytes, consistency: Sequence[bytes], log: LogSection
) -> CheckpointSeen:
    """The checkpoint in ``note``, if the log's key signed it and it extends ``seen``.

    Raises
    ------
    EquivocationError
        if the note is not the log's, has shrunk, or tells another history than ``seen``.
    """
    try:
        opened = open_note(note, [log.key], strict=False)
        checkpoint = opened.checkpoint
        if checkpoint.origin != log.origin:
            raise EquivocationError(
                f"the checkpoint is of log {checkpoint.origin!r}, the charter names {log.origin!r}"
            )
        if seen == CheckpointSeen(checkpoint.size, checkpoint.root):
            return seen  # a round's opening proves growth from what others saw last
        if seen.size:
            verify_consistency(
                seen.size, checkpoint.size, seen.root, checkpoint.root, list(consistency)
            )
    except (NoteError, MerkleError) as error:
        raise EquivocationError(
            f"the log does not extend the checkpoint of size {seen.size} that this site has "
            f"seen: {error}; keep both notes, they prove a split view"
        ) from error
    return CheckpointSeen(size=checkpoint.size, root=checkpoint.root)


def review_offer(seen: CheckpointSeen, offer: CheckpointOffer, log: LogSection) -> CheckpointSeen:
    """Check an offered checkpoint and that the offered leaf is in it.

    Raises
    ------
    EquivocationError
        if either proof fails.
    """
    checkpoint = extend_checkpoint(seen, offer.checkpoint, offer.consistency, log)
    try:
        verify_inclusion(
            offer.leaf_index,
            checkpoint.size,
            leaf_hash(offer.leaf),
            list(offer.inclusion),
            checkpoint.root,
        )
    except MerkleError as error:
        raise EquivocationError(
            f"the round's statement is not in the checkpoint offered with it: {error}"
        ) from error
    return checkpoint
