"""Clients as witnesses of the log: a checkpoint is taken only if it extends the last one seen.

Pure functions; the caller keeps the last checkpoint durably **before** it cosigns, so that no
crash makes a witness sign two histories.  Source: RFC 9162 section 2.1.4, C2SP tlog-cosignature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedfm_crypto.envelope import CheckpointSeen
from fedfm_crypto.errors import MerkleError, NoteError
from fedfm_crypto.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from fedfm_crypto.note import open_note, parse_vkey, split_note
from fedfm_protocols.charter import LogSection
from fedfm_protocols.client_states import ClientMemory
from fedfm_protocols.errors import EquivocationError, SplitView
from fedfm_protocols.federation import Federation
from fedfm_protocols.log_keys import log_in_force
from fedfm_protocols.messages import CheckpointOffer

NOTHING_SEEN = CheckpointSeen(size=0, root=EMPTY_ROOT)


def log_note(note: bytes, log: LogSection) -> bytes:
    """``note`` with no other signature than the log's: what a witness keeps of it as evidence.

    Raises
    ------
    NoteError
        if it is no note.
    """
    text, lines = split_note(note)
    key = parse_vkey(log.key)
    own = [line for line in lines if (line.name, line.key_id) == (key.name, key.key_id)]
    return text + b"\n" + b"".join(line.line() for line in own)


def extend_checkpoint(
    seen: CheckpointSeen,
    note: bytes,
    consistency: Sequence[bytes],
    log: LogSection,
    *,
    own: bytes = b"",
) -> CheckpointSeen:
    """The checkpoint in ``note``, if the log's key signed it and it extends ``seen``; ``own`` is
    the log's note of ``seen``, kept as evidence.

    Raises
    ------
    SplitView
        if it is a note of the log that has the size of ``seen`` and another root.
    EquivocationError
        if the note is not the log's, has shrunk, or is not proved to extend ``seen``.
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
        if seen.size == checkpoint.size:
            raise SplitView(
                f"the log's key signed two heads of size {seen.size}: root "
                f"{seen.root.hex()[:16]} before, {checkpoint.root.hex()[:16]} now",
                notes=(own, log_note(note, log)),
            )
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


def review_offer(
    seen: CheckpointSeen, offer: CheckpointOffer, log: LogSection, *, own: bytes = b""
) -> CheckpointSeen:
    """Check an offered checkpoint and that the offered leaf is in it.

    Raises
    ------
    SplitView
        if the log's key signed two heads of one size; ``own`` is its note of ``seen``.
    EquivocationError
        if either proof fails.
    """
    checkpoint = extend_checkpoint(seen, offer.checkpoint, offer.consistency, log, own=own)
    review_leaf(checkpoint, offer)
    return checkpoint


def take_offer(
    federation: Federation, memory: ClientMemory, offer: CheckpointOffer
) -> ClientMemory:
    """What a client knows of the log after an offer: the checkpoint, and changes of the log's key
    that lie in it.  To be durable before the checkpoint is cosigned.

    The offered leaf is reviewed apart from this (:func:`review_leaf`).

    Raises
    ------
    SplitView
        if the log's key signed two heads of one size.
    EquivocationError
        if the checkpoint is not signed by the key in force at its size, as far as this site can
        know it, does not extend what it has seen, or lacks a change that came with it.
    """
    seen, known = memory.checkpoint, frozenset(memory.log_changes)
    new = [change for change in offer.changes if change.leaf not in known]
    indices = [change.leaf_index for change in new]
    if indices != sorted(set(indices)) or any(index < seen.size for index in indices):
        raise EquivocationError(
            f"changes of the log's key at leaves {indices}, after this site has seen {seen.size}"
        )
    changes = (*memory.log_changes, *(change.leaf for change in new))
    log = log_in_force(federation, changes)
    head = extend_checkpoint(seen, offer.checkpoint, offer.consistency, log, own=memory.note)
    for change in new:
        _check_inclusion(head, change.leaf_index, change.leaf, change.inclusion)
    note = log_note(offer.checkpoint, log)
    return replace(memory, checkpoint=head, note=note, log_changes=changes)


def grown_note(seen: CheckpointSeen, note: bytes, log: LogSection) -> bool:
    """Whether the log's key signed ``note``, of more leaves than ``seen``; says nothing of whether
    one extends the other."""
    try:
        return open_note(note, [log.key], strict=False).checkpoint.size > seen.size
    except NoteError:
        return False


def review_leaf(checkpoint: CheckpointSeen, offer: CheckpointOffer) -> None:
    """Check that the offered leaf is in a checkpoint.

    Raises
    ------
    EquivocationError
        if it is not.
    """
    _check_inclusion(checkpoint, offer.leaf_index, offer.leaf, offer.inclusion)


def _check_inclusion(
    checkpoint: CheckpointSeen, index: int, leaf: bytes, path: Sequence[bytes]
) -> None:
    try:
        verify_inclusion(index, checkpoint.size, leaf_hash(leaf), list(path), checkpoint.root)
    except MerkleError as error:
        raise EquivocationError(
            f"the round's statement is not in the checkpoint offered with it: {error}"
        ) from error
