"""Marks in the running services: what a client writes and finds, what a coordinator hears."""

from __future__ import annotations

import logging
from collections.abc import Collection

from fedfm_audit.mark_predicates import MarkCheckPredicate
from fedfm_audit.statements import open_leaf
from fedfm_audit.watermark.triggers import TRIGGERS
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.errors import FedFMError
from fedfm_protocols.client_states import ClientMemory, ClientSite
from fedfm_protocols.errors import MalformedMessage
from fedfm_protocols.federation import Federation
from fedfm_protocols.mark_messages import MarkCheck
from fedfm_protocols.messages import read_body
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.learning.specs import AdapterSpec
from secure_fedfm.services.evidence import History
from secure_fedfm.services.learning_specs import LearningSpecs
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.carrier import Carrier
from secure_fedfm.watermark.owned import load_marks
from secure_fedfm.watermark.trigger_training import TriggerTraining
from secure_fedfm.watermark.writing import MarkWriter, TriggerWriter, words

LOG = logging.getLogger("secure_fedfm.marks")
MAX_MARK_ROUNDS = 3
"""Rounds of marks that may fail before the federation ends without marks."""


def open_marks(
    site: Site,
    federation: Federation,
    client: str,
    adapter: AdapterSpec,
    learner: LocalLearner,
    *,
    triggers: bool = False,
) -> MarkWriter | None:
    """This site's marks, checked against the charter and the adapter that is trained; None where
    the charter has none. With ``triggers`` the keeper of the consortium's mark writes a black-box
    mark as well.

    Raises
    ------
    ModelError
        if triggers are asked for and the model gives no labels.
    ConfigurationError, ClaimError
        if triggers are asked for where no consortium's mark is kept, a file is missing or not the
        one committed to, or a claim is of another adapter.
    """
    section = federation.charter.watermark
    if section is None:
        return None
    initial = learner.initial_adapter()
    carrier = Carrier(learner.layout, adapter.alpha / adapter.rank)
    shapes = {(one.name, one.rows, one.columns, one.rank) for one in carrier.modules(initial)}
    marks = load_marks(site, federation, client)
    for mark in marks:
        claimed = {(m.name, m.rows, m.columns, m.rank) for m in mark.committed.claim.modules}
        if not claimed <= shapes:
            raise ConfigurationError(
                f"the {mark.said.mark} mark is of module {min(claimed - shapes)[0]}, which the "
                "charter's adapter does not train in that shape; claim the adapter that is agreed"
            )
    if not triggers:
        return MarkWriter(carrier, section, marks)
    if not any(mark.said.mark == "consortium" for mark in marks):
        raise ConfigurationError(
            "mark_triggers is set, but this site keeps no consortium's mark; take it out of "
            "site.toml"
        )
    labels = LearningSpecs.of(federation).task.labels
    training = TriggerTraining(learner.adapted(), labels)
    return MarkWriter(
        carrier, section, marks, TriggerWriter(labels, training.change, training.hits)
    )


def found_marks(
    marks: MarkWriter, adapter: Adapter, memory: ClientMemory, site: ClientSite
) -> tuple[bytes, ...]:
    """Measure this site's marks in the adapter in force, and say so in signed leaves."""
    found = marks.find(adapter)
    for one in found:
        told = LOG.info if one.present else LOG.error
        told(
            "%s mark: T %.2f of %.2f, %s",
            one.mark.said.mark,
            one.statistic,
            one.threshold,
            "present" if one.present else "MISSING; a complaint goes into the log",
            extra={"kind": "mark", "mark": one.mark.said.mark, "statistic": one.statistic},
        )
        if marks.triggers is not None and one.mark.said.mark == "consortium":
            hits = marks.triggers.hits(adapter, one.mark)
            LOG.info("consortium mark: hits of %d triggers, by set: %s", TRIGGERS, hits)
    federation = site.federation
    return words(found, federation.charter_hash, memory.last_applied, adapter.hash(), site.key)


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
