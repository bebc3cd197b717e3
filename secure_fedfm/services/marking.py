"""Marks at a running client: what it writes and finds (what a coordinator hears: mark_words.py)."""

from __future__ import annotations

import logging

from fedfm_audit.watermark.triggers import TRIGGERS
from fedfm_protocols.client_states import ClientMemory, ClientSite
from fedfm_protocols.federation import Federation
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.learner import LocalLearner
from secure_fedfm.learning.specs import AdapterSpec
from secure_fedfm.services.learning_specs import LearningSpecs
from secure_fedfm.storage.site import Site
from secure_fedfm.watermark.carrier import Carrier
from secure_fedfm.watermark.owned import load_marks
from secure_fedfm.watermark.trigger_training import TriggerTraining
from secure_fedfm.watermark.writing import MarkWriter, TriggerWriter, words

LOG = logging.getLogger("secure_fedfm.marks")


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
