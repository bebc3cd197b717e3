"""What a demo measures once the federation is over: accuracies, and a central baseline.

The baseline trains on the pooled rows, which no institution could do: it is there to show what
federation costs, from the same initial adapter and with the same number of example passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedfm_protocols.catchup import verify_catch_up
from fedfm_protocols.federation import Federation
from fedfm_protocols.key_ring import KeyRing
from fedfm_protocols.messages import CatchUp
from secure_fedfm.demo.attack import probe, target_label
from secure_fedfm.demo.workspace import Workspace
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.central import train_centrally
from secure_fedfm.learning.evaluate import AdapterEvaluator, evaluate_folder
from secure_fedfm.learning.learner import load_adapted
from secure_fedfm.learning.training import TrainingProgress
from secure_fedfm.services.client_memory import ClientJournal
from secure_fedfm.services.encryption import encryption_for
from secure_fedfm.services.evidence import catch_up_records
from secure_fedfm.services.learning_specs import LearningSpecs


@dataclass(frozen=True, slots=True)
class Measured:
    """Test accuracies in [0, 1]; ``federated`` is of the exported folder, through PEFT's API, and
    so is the attack's success rate where somebody attacks."""

    federated: float
    central: float | None
    untrained: float
    per_round: list[float]
    attack_success: float | None = None


def measure(workspace: Workspace, *, central: bool, say: Callable[[str], None]) -> Measured:
    """Evaluate the exported adapter, the adapter after every round, and the baseline."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    federation = Federation.of(workspace.charter)
    specs = LearningSpecs.of(federation)
    evaluator = AdapterEvaluator(
        specs.model, specs.adapter, specs.task, workspace.data.test,
        max_tokens=specs.plan.max_tokens,
    )  # fmt: skip
    adapters = _adapters(workspace, federation, specs)
    accuracies = [evaluator.evaluate(adapter).accuracy for adapter in adapters]
    exported = evaluate_folder(workspace.root / "adapter", workspace.data.test)
    baseline = None
    if central:
        trained = train_centrally(
            specs.model,
            specs.adapter,
            specs.task,
            specs.plan,
            workspace.data.train,
            workspace.charter.rounds,
            private=None if specs.private is None else specs.private.pooled(len(workspace.clients)),
            progress=_every_round(say),
        )
        baseline = evaluator.evaluate(trained).accuracy
    success = None
    if workspace.attackers:
        target = target_label(workspace.charter.task.labels)
        asked = probe(workspace.data.test, target)
        success = evaluate_folder(workspace.root / "adapter", asked).accuracy
    return Measured(exported.accuracy, baseline, accuracies[0], accuracies[1:], success)


def _every_round(say: Callable[[str], None]) -> Callable[[int, TrainingProgress], None]:
    def progress(number: int, done: TrainingProgress) -> None:
        if done.step == done.steps:
            say(f"central baseline: round {number} of training done")

    return progress


def _keys_of_a_client(workspace: Workspace, federation: Federation) -> KeyRing:
    database = workspace.sites[workspace.clients[0]].database()
    try:
        memory = ClientJournal(database, federation.charter_hash.hex()).recall()
    finally:
        database.close()
    return KeyRing() if memory is None else memory.keys


def _adapters(workspace: Workspace, federation: Federation, specs: LearningSpecs) -> list[Adapter]:
    """The adapter before round 1 and after every completed round, repeated from the sums exactly
    as a client that catches up repeats them: with encryption the coordinator's records alone would
    not do, a client's key ring is needed to open them."""
    model = load_adapted(specs.model, specs.adapter, specs.task)
    updater = specs.updater(model.layout)
    adapters = [model.state()]
    optimiser = updater.initial_state()
    for missed in verify_catch_up(
        federation,
        CatchUp(tuple(catch_up_records(workspace.coordinator))),
        last_applied=0,
        adapter_hash=adapters[0].hash(),
        keys=_keys_of_a_client(workspace, federation),
        encryption=encryption_for(federation),
    ):
        adapter = adapters[-1]
        for one in missed.sums:
            adapter, optimiser = updater.advance(adapter, optimiser, one.total, one.accepted)
        adapters.append(adapter)
    return adapters
