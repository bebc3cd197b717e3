"""The sections of a charter that say what is learned and how, parsed."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm_protocols.federation import Federation
from fedfm_protocols.privacy import LocalPrivacy
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import ServerOptimiserSpec
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.privacy.plan import PrivatePlan, PrivateTraining


@dataclass(frozen=True, slots=True)
class LearningSpecs:
    """The learning sections of a charter, parsed."""

    model: ModelSpec
    adapter: AdapterSpec
    task: TaskSpec
    plan: TrainingPlan
    private: PrivatePlan | None
    optimiser: ServerOptimiserSpec

    @classmethod
    def of(cls, federation: Federation) -> LearningSpecs:
        """Read them strictly from the charter.

        Mode ``local`` takes its noise from the privacy section, and how its noised gradients are
        used from ``training.private``.
        """
        charter = federation.charter
        training = dict(charter.training)
        private = training.pop("private", None)
        return cls(
            ModelSpec(charter.model.name, charter.model.sha256),
            AdapterSpec.from_json(charter.adapter),
            TaskSpec.from_json(charter.task.model_dump(mode="json")),
            TrainingPlan.from_json(training),
            _private_plan(charter.privacy, private),
            ServerOptimiserSpec.from_json(charter.server_optimiser),
        )


def _private_plan(privacy: object, training: object) -> PrivatePlan | None:
    """The plan of mode ``local``; None in the others.

    Raises
    ------
    ConfigurationError
        if the charter says one half of it only.
    """
    if not isinstance(privacy, LocalPrivacy):
        if training is not None:
            raise ConfigurationError("training.private is for privacy mode local only")
        return None
    if training is None:
        raise ConfigurationError(
            "privacy mode local needs a section training.private: expected_rows, and how the "
            "noised gradients are used"
        )
    return PrivateTraining.from_json(training).plan(
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=privacy.sampling_rate,
        steps_per_round=privacy.steps_per_round,
        clip=privacy.clip,
    )
