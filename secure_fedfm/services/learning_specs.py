"""The sections of a charter that say what is learned and how, parsed."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm_protocols.federation import Federation
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import ServerOptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec


@dataclass(frozen=True, slots=True)
class LearningSpecs:
    """The learning sections of a charter, parsed."""

    model: ModelSpec
    adapter: AdapterSpec
    task: TaskSpec
    plan: TrainingPlan
    optimiser: ServerOptimiserSpec

    @classmethod
    def of(cls, federation: Federation) -> LearningSpecs:
        """Read them strictly from the charter."""
        charter = federation.charter
        return cls(
            ModelSpec(charter.model.name, charter.model.sha256),
            AdapterSpec.from_json(charter.adapter),
            TaskSpec.from_json(charter.task.model_dump(mode="json")),
            TrainingPlan.from_json(charter.training),
            ServerOptimiserSpec.from_json(charter.server_optimiser),
        )
