"""Mode ``shared-noise`` in the privacy utility benchmark: its steps with and without encryption.

``encrypted`` runs are sessions of the real state machines in suite ``layered``: key setup, masks,
encryption, cohorts and votes, every client's share of the noise drawn inside the protocol.  What
is spared is only what would be the same for every client of one process: each signed set is
verified once, each sum is opened once.  ``plaintext`` runs add the same rounded sums and the same
shares of noise without the protocol; tests/benchmarks shows that both give one result where the
noise is off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from benchmarks.utility_recipes import CLIP, DELTA, Calibration, Limits, Rates, Recipe, limits_of
from fedfm_crypto.random_source import system_random
from fedfm_protocols.context import KEYS
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.federation import Federation
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.privacy import NoPrivacy
from fedfm_protocols.scenario.federations import Keys, make_federation, make_keys
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import SimulatedClient, Simulation, adapter_of
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.server_optimiser import AdapterUpdater
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
from secure_fedfm.privacy.plan import SharedNoisePlan
from secure_fedfm.privacy.shared_noise import SharedNoiseTraining, noised_sum

if TYPE_CHECKING:
    from benchmarks.utility_runs import Stage

Sum = npt.NDArray[np.float64]

SCALE = 1 << 16
LANE_BITS = 32
FINAL_FACTOR = 0.1


def plan_of(
    recipe: Recipe, rates: Rates, noise_multiplier: float, rows: int, stage: range, limits: Limits
) -> SharedNoisePlan:
    """The public settings of one stage; ``rows`` are those of all institutions together."""
    begin, end = (
        1 + (FINAL_FACTOR - 1) * done / recipe.rounds for done in (stage.start - 1, stage.stop - 1)
    )
    steps = len(stage) * recipe.steps
    batch = recipe.sampling_rate * rows
    return SharedNoisePlan(
        noise_multiplier=noise_multiplier,
        sampling_rate=recipe.sampling_rate,
        steps_per_round=steps,
        clip=CLIP,
        batch=batch,
        mechanism="discrete-gaussian",
        honest_shares=limits.honest_shares,
        scale=SCALE,
        # Far above what an institution's sum reaches in one coordinate: nothing is clamped.
        bound=float(np.ceil(4 * batch / limits.clients)),
        optimiser=StepOptimiserSpec(
            head_learning_rate=rates[0] * begin,
            adapter_learning_rate=rates[1] * begin,
            schedule_steps=steps,
            final_factor=end / begin,
        ),
    )


def train_shared(
    stage: Stage, adapter: Adapter, *, calibration: Calibration, encrypted: bool
) -> Adapter:
    """One stage: a session of as many steps as it has, each a secure sum."""
    case = stage.case
    limits = limits_of(case.institutions, calibration)
    plan = plan_of(
        case.recipe, case.rates, stage.noise_multiplier, stage.rows, stage.rounds, limits
    )
    if not len(stage.rounds):
        return adapter
    # One model is enough: a training loads the adapter of its step before it uses it.
    trainings = [SharedNoiseTraining(stage.model, rows, plan) for rows in stage.parts]
    updater = AdapterUpdater(stage.model.layout, plan.optimiser, plan.batch)
    steps = _Steps(stage.model.layout, plan, limits, trainings, updater)
    return _Encrypted(steps, adapter).trained() if encrypted else _plaintext(steps, adapter)


@dataclass(frozen=True)
class _Steps:
    layout: TensorLayout
    plan: SharedNoisePlan
    limits: Limits
    trainings: list[SharedNoiseTraining]
    updater: AdapterUpdater


def _plaintext(steps: _Steps, adapter: Adapter) -> Adapter:
    state = steps.updater.initial_state()
    for _ in range(steps.plan.steps_per_round):
        total = np.zeros(steps.layout.size)
        for training in steps.trainings:
            total += noised_sum(training.step(adapter).total, steps.plan, system_random)
        adapter, state = steps.updater.advance(adapter, state, total, len(steps.trainings))
    return adapter


class _OpenedOnce:
    """The real encryption, which opens equal sums for all clients of one process together."""

    def __init__(self, encryption: Encryption) -> None:
        self._encryption = encryption
        self._last: tuple[object, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encryption, name)

    def open_sum(self, bulk: bytes, **rest: Any) -> Any:
        asked = (bulk, *(repr(rest[name]) for name in ("active", "seed", "clients")))
        if self._last is None or self._last[0] != asked:
            self._last = (asked, self._encryption.open_sum(bulk, **rest))
        return self._last[1].copy()


class _Encrypted(Simulation):
    """A federation whose clients train on the adapter that the sums before made."""

    def __init__(self, steps: _Steps, adapter: Adapter) -> None:
        keys = make_keys(len(steps.trainings))
        self._steps = steps
        self._trainings = dict(zip(sorted(keys.clients), steps.trainings, strict=True))
        self._adapters = {adapter.hash(): (adapter, steps.updater.initial_state())}
        self._applied: tuple[bytes, Sum, bytes] | None = None
        super().__init__(
            charter_of(steps, keys, adapter.hash()),
            keys.clients,
            keys.coordinator,
            system_random,
            self._train,
            shared_sets=SharedSets(),
            keep_messages=False,
            encryption=cast(Encryption, _OpenedOnce(LatticeEncryption())),
        )

    def trained(self) -> Adapter:
        """Make a key, run one session; the adapter that a quorum acknowledged."""
        self.run_round(1, kind=KEYS)
        finished = self.run_round(2)
        if finished.outcome != "completed" or finished.reason:
            raise RuntimeError(f"the session is {finished.outcome}: {finished.reason}")
        return self._adapters[finished.adapter_hash][0]

    def _train(self, name: str, number: int, step: int) -> Sum:
        del number, step
        adapter, _ = self._adapters[adapter_of(self.clients[name].state)]
        return self._trainings[name].step(adapter).total

    def _apply(self, client: SimulatedClient, total: Sum) -> bytes:
        before = adapter_of(client.state)
        known = self._applied
        if known is not None and known[0] == before and known[1] is total:
            return known[2]
        adapter, state = self._adapters[before]
        made = self._steps.updater.advance(adapter, state, total, len(self._trainings))
        # The step before may have to be gone back to; nothing older is.
        self._adapters = {before: (adapter, state), made[0].hash(): made}
        self._applied = (before, total, made[0].hash())
        return self._applied[2]


def charter_of(steps: _Steps, keys: Keys, initial: bytes) -> Federation:
    """The charter of one session in suite ``layered``; without noise its encoding is silent."""
    plan, limits = steps.plan, steps.limits
    federation = make_federation(
        keys,
        suite="layered",
        limits={"colluding": limits.colluding, "dropouts": limits.dropouts},
        quantiser={
            "values": steps.layout.size,
            "clip": plan.bound,
            "scale": plan.scale,
            "lane_bits": LANE_BITS,
        },
        privacy={
            "mode": "shared-noise",
            "epsilon": 1e6,  # the budget is not what is measured here; noise is the table's
            "delta": DELTA,
            "noise_multiplier": plan.noise_multiplier or 1.0,
            "sampling_rate": plan.sampling_rate,
            "steps_per_round": plan.steps_per_round,
            "clip": plan.clip,
            "mechanism": plan.mechanism,
            "honest_shares": limits.honest_shares,
            "batch": plan.batch,
        },
        initial_adapter=initial.hex(),
    )
    if plan.noise_multiplier:
        return federation
    silent = replace(federation.encoding, privacy=NoPrivacy(mode="none"))
    return replace(federation, encoding=silent)
