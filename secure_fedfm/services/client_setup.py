"""Everything a client needs before its first message, checked in the order that fails cheapest.

Charter against policy, keys against charter, data against labels, model against hash, initial
adapter against charter: each mismatch is one clear error before anything is sent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from fedfm_crypto.identity import IdentityKey
from fedfm_protocols.client_states import ClientMemory
from fedfm_protocols.errors import CharterError
from fedfm_protocols.federation import Federation
from fedfm_protocols.witness import NOTHING_SEEN
from secure_fedfm.config import SiteConfig
from secure_fedfm.errors import ConfigurationError, DataError, ModelError
from secure_fedfm.learning.data import load_training_rows
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.export import Manifest, export_adapter
from secure_fedfm.learning.learner import LocalLearner, load_adapted
from secure_fedfm.learning.model_card import CardFacts
from secure_fedfm.learning.specs import TaskSpec
from secure_fedfm.services.adapter_keeper import AdapterKeeper
from secure_fedfm.services.client_memory import ClientJournal
from secure_fedfm.services.learning_specs import LearningSpecs
from secure_fedfm.services.limits import limits_for
from secure_fedfm.services.marking import open_marks
from secure_fedfm.services.party import check_party
from secure_fedfm.services.privacy import RoundLedger, open_ledger
from secure_fedfm.services.split_views import refuse_after_split_view
from secure_fedfm.storage.database import Database
from secure_fedfm.storage.site import Site
from secure_fedfm.transport.curve import CurveKeyPair
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.watermark.writing import MarkSum, MarkWriter

LOG = logging.getLogger("secure_fedfm.client")


@dataclass(frozen=True, slots=True)
class ClientSetup:
    """A client that is ready to connect."""

    name: str
    identity: IdentityKey = field(repr=False)
    transport_keys: CurveKeyPair = field(repr=False)
    federation: Federation
    specs: LearningSpecs
    config: SiteConfig
    learner: LocalLearner = field(repr=False)
    keeper: AdapterKeeper = field(repr=False)
    database: Database = field(repr=False)
    journal: ClientJournal = field(repr=False)
    memory: ClientMemory
    ledger: RoundLedger | None
    marks: MarkWriter | None
    limits: TransportLimits

    def close(self) -> None:
        """Release the state file."""
        self.database.close()


def set_up_client(site: Site, config: SiteConfig) -> ClientSetup:
    """Check and load everything; takes as long as loading the model and caching take.

    Raises
    ------
    FedFMError
        at the first thing that is wrong.
    """
    federation = Federation.of(site.charter().charter)
    config.policy.site_policy().check_charter(federation.charter)
    refuse_after_split_view(site)
    identity, keys = check_party(site, config, federation)
    specs = LearningSpecs.of(federation)
    if config.data is None:
        raise ConfigurationError("a client needs `data` in site.toml or --data")
    rows = load_training_rows(
        config.data,
        text_column=config.text_column,
        label_column=config.label_column,
        labelled=specs.task.kind == "classification",
    )
    if specs.task.kind == "classification":
        _check_labels(rows, specs.task, config.data)
    learner = LocalLearner(
        specs.model,
        specs.adapter,
        specs.task,
        specs.plan,
        rows,
        client=config.name,
        location=config.model,
        threads=config.threads,
        private=specs.private,
        votes=specs.votes,
    )
    learner.prepare(_caching_progress)
    _check_initial(federation, learner)
    marks = open_marks(
        site, federation, config.name, specs.adapter, learner, triggers=config.mark_triggers
    )
    database = site.database()
    journal = ClientJournal(database, federation.charter_hash.hex())
    keeper = AdapterKeeper(
        site.adapter_folder,
        specs.updater(learner.layout),
        learner.initial_adapter(),
        site.write,
        None if marks is None else MarkSum(marks.carrier, marks.terms),
    )
    ledger = open_ledger(
        federation, identity, config.name, database, learner.layout, specs.private, rows.digest()
    )
    if ledger is not None:
        ledger.objection()  # seconds; remembered for the first opening, when others would wait
    return ClientSetup(
        name=config.name,
        identity=identity,
        transport_keys=keys,
        federation=federation,
        specs=specs,
        config=config,
        learner=learner,
        keeper=keeper,
        database=database,
        journal=journal,
        memory=_restore(journal, keeper),
        ledger=ledger,
        marks=marks,
        limits=limits_for(federation),
    )


def _check_labels(rows: Dataset, task: TaskSpec, source: object) -> None:
    try:
        rows.label_indices(task.labels)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _caching_progress(done: int, of: int) -> None:
    LOG.info(
        "preparing rows: %d of %d", done, of, extra={"kind": "preparing", "done": done, "of": of}
    )


def _check_initial(federation: Federation, learner: LocalLearner) -> None:
    charter = federation.charter
    found = learner.initial_adapter().hash().hex()
    if found != charter.initial_adapter:
        raise ModelError(
            f"the initial adapter built here has hash {found[:16]}, the charter says "
            f"{charter.initial_adapter[:16]}: another model, torch or peft version than the "
            "founders used; run `secure-fedfm doctor`"
        )
    if learner.layout.size != charter.quantiser.values:
        raise CharterError(
            f"the charter's quantiser has {charter.quantiser.values} values, the adapter trains "
            f"{learner.layout.size}"
        )


def _restore(journal: ClientJournal, keeper: AdapterKeeper) -> ClientMemory:
    memory = journal.recall()
    if memory is None:
        return ClientMemory(0, 0, 0, keeper.initial_hash, NOTHING_SEEN)
    if keeper.restore(memory.adapter_hash):
        return memory
    LOG.warning("the adapter of round %d is not on disk; catching up", memory.last_applied)
    return replace(memory, last_applied=0, completed=0, adapter_hash=keeper.initial_hash)


def export_result(site: Site, setup: ClientSetup) -> None:
    """Write the adapter in force as a PEFT folder with a model card."""
    specs, charter = setup.specs, setup.federation.charter
    model = load_adapted(specs.model, specs.adapter, specs.task, setup.config.model)
    facts = CardFacts(
        federation=charter.federation,
        data="private rows of the participating institutions",
        clients=len(charter.roster),
        rounds=charter.rounds,
        suite=charter.suite,
        privacy=charter.privacy.mode,
        charter_sha256=setup.federation.charter_hash.hex(),
    )
    manifest = Manifest(specs.model, specs.task, specs.adapter, specs.plan.max_tokens)
    export_adapter(site.export_folder, model, setup.keeper.adapter, manifest, facts)
