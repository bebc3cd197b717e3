"""What owners say of their marks, as a coordinator hears it.

Apart from marking.py because a coordinator has no adapter, and loads no PyTorch.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from fedfm_audit.mark_predicates import MarkCheckPredicate
from fedfm_audit.statements import open_leaf
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import FedFMError
from fedfm_protocols.errors import MalformedMessage
from fedfm_protocols.federation import Federation
from fedfm_protocols.mark_messages import MarkCheck
from fedfm_protocols.messages import read_body
from secure_fedfm.services.evidence import History

LOG = logging.getLogger("secure_fedfm.marks")
MAX_MARK_ROUNDS = 3
"""Rounds of marks that may fail before the federation ends without marks."""


def hear_owner(
    history: History, federation: Federation, sender: str, envelope: Envelope
) -> tuple[str, bytes]:
    """What an owner says of which of its marks, as a leaf for the log.

    Raises
    ------
    MalformedMessage
        if it is not the sender's word about a mark of its own in the adapter in force, or comes
        before marks are written or after the conclusion.
    """
    leaf = read_body(envelope, MarkCheck).leaf
    own = federation.identities[sender]
    try:
        said = open_leaf(leaf, {own.hex: own}).statement.predicate
    except FedFMError as error:
        raise MalformedMessage(f"what {sender} says of its mark: {error}") from error
    section = federation.charter.watermark
    marks = () if section is None else section.marks_of(sender)
    if not isinstance(said, MarkCheckPredicate) or said.client != sender:
        raise MalformedMessage(f"{sender} says something else than what it found of its mark")
    if said.mark not in {owner.mark for owner in marks}:
        raise MalformedMessage(f"{sender} speaks of a {said.mark} mark, which it does not own")
    expected = (federation.charter_hash.hex(), history.adapter_hash.hex())
    if not history.marked or history.concluded or (said.charter, said.adapter) != expected:
        raise MalformedMessage(f"{sender} speaks of another adapter than the marked one in force")
    if not said.present:
        LOG.error("%s complains: its %s mark is missing", sender, said.mark)
    return said.mark, leaf


def silent_owners(
    federation: Federation,
    history: History,
    ready: Collection[str],
    words: Collection[tuple[str, str]],
) -> tuple[str, ...]:
    """Who of the ``ready`` owns a mark and has not said of every one whether it is there, neither
    in the log nor in the ``words`` (client, mark) that came since."""
    section = federation.charter.watermark
    if section is None or not history.marked:
        return ()
    silent = {
        owner.client
        for owner in section.owners
        if owner.client in ready
        and (owner.client, owner.mark) not in history.heard
        and (owner.client, owner.mark) not in words
    }
    return tuple(sorted(silent))
