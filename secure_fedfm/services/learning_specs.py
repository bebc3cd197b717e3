"""The sections of a charter that say what is learned and how, parsed."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm_protocols.federation import Federation
from fedfm_protocols.privacy import LocalPrivacy, SharedNoisePrivacy
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import AdapterUpdater, OptimiserSpec, read_optimiser
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
from secure_fedfm.learning.votes import VoteSpec
from secure_fedfm.privacy.plan import PrivatePlan, PrivateTraining, SharedNoisePlan
from secure_fedfm.robust.charter_rule import rule_of


@dataclass(frozen=True, slots=True)
class LearningSpecs:
    """The learning sections of a charter, parsed."""

    model: ModelSpec
    adapter: AdapterSpec
    task: TaskSpec
    plan: TrainingPlan
    private: PrivatePlan | SharedNoisePlan | None
    optimiser: OptimiserSpec

    @classmethod
    def of(cls, federation: Federation) -> LearningSpecs:
        """Read them strictly from the charter.

        Mode ``local`` takes its noise from the privacy section, and how its noised gradients are
        used from ``training.private``; mode ``shared-noise`` has both in the privacy section and
        in ``server_optimiser``, which then says how an opened gradient is used.

        Raises
        ------
        ConfigurationError
            if a section is wrong, does not go with the privacy mode, or names a robust rule that
            cannot work there.
        """
        charter = federation.charter
        if federation.robust:
            rule_of(charter)
        training = dict(charter.training)
        private = training.pop("private", None)
        optimiser = read_optimiser(charter.server_optimiser)
        shared = isinstance(charter.privacy, SharedNoisePrivacy)
        if shared != isinstance(optimiser, StepOptimiserSpec):
            raise ConfigurationError(
                f"server_optimiser.kind is {optimiser.kind} in privacy mode "
                f"{charter.privacy.mode}: sums of gradients (mode shared-noise) take sgd or adam, "
                "sums of updates fedavg, fedavgm, fedadam or votes"
            )
        if isinstance(optimiser, VoteSpec) and charter.privacy.mode != "none":
            raise ConfigurationError(
                f"server_optimiser.kind is votes in privacy mode {charter.privacy.mode}: noise "
                "would decide the votes; take fedavg, fedavgm or fedadam"
            )
        return cls(
            ModelSpec(charter.model.name, charter.model.sha256),
            AdapterSpec.from_json(charter.adapter),
            TaskSpec.from_json(charter.task.model_dump(mode="json")),
            TrainingPlan.from_json(training),
            _shared_plan(federation, optimiser)
            if isinstance(optimiser, StepOptimiserSpec)
            else _private_plan(charter.privacy, private, charter.rounds),
            optimiser,
        )

    @property
    def votes(self) -> VoteSpec | None:
        """What clients send instead of updates, if they vote."""
        return self.optimiser if isinstance(self.optimiser, VoteSpec) else None

    def updater(self, layout: TensorLayout) -> AdapterUpdater:
        """How every party applies an opened sum to an adapter of this layout."""
        batch = self.private.batch if isinstance(self.private, SharedNoisePlan) else None
        return AdapterUpdater(layout, self.optimiser, batch)


def _shared_plan(federation: Federation, optimiser: StepOptimiserSpec) -> SharedNoisePlan:
    privacy, quantiser = federation.charter.privacy, federation.charter.quantiser
    assert isinstance(privacy, SharedNoisePrivacy)  # noqa: S101
    if "private" in federation.charter.training:
        raise ConfigurationError("training.private is for privacy mode local only")
    return SharedNoisePlan(
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=privacy.sampling_rate,
        steps_per_round=privacy.steps_per_round,
        clip=privacy.clip,
        batch=privacy.batch,
        mechanism=privacy.mechanism,
        honest_shares=privacy.honest_shares,
        scale=quantiser.scale,
        bound=quantiser.clip,
        optimiser=optimiser,
    )


def _private_plan(privacy: object, training: object, rounds: int) -> PrivatePlan | None:
    """The plan of mode ``local``; None in the others.

    Raises
    ------
    ConfigurationError
        if the charter says one half of it only, or never trains LoRA.
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
    found = PrivateTraining.from_json(training)
    found.check_rounds(rounds)
    return found.plan(
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=privacy.sampling_rate,
        steps_per_round=privacy.steps_per_round,
        clip=privacy.clip,
    )
