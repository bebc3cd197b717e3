"""Encrypted sessions against plain training: the same steps without noise, the claimed noise with.

The sessions are those of the utility benchmark: the real state machines in suite ``layered``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

pytest.importorskip("torch")
pytest.importorskip("tenseal")

from benchmarks.shared_runs import _Encrypted, _Steps
from benchmarks.utility_recipes import Limits
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.simulation import Delivery, SimulatedClient
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.server_optimiser import AdapterUpdater
from secure_fedfm.learning.step_optimiser import StepOptimiserSpec
from secure_fedfm.learning.training import prepare_rows
from secure_fedfm.privacy.clipping import ClippedSum
from secure_fedfm.privacy.plan import SharedNoisePlan
from secure_fedfm.privacy.sampling import poisson_sample
from secure_fedfm.privacy.shared_noise import SharedNoiseTraining
from tests.secure_fedfm.privacy.conftest import Make

CLIENTS, STEPS = 5, 4
LIMITS = Limits(CLIENTS, 1, 1, 3)
PLAN = SharedNoisePlan(
    noise_multiplier=0.0,
    sampling_rate=0.5,
    steps_per_round=STEPS,
    clip=0.5,
    batch=24.0,
    mechanism="discrete-gaussian",
    honest_shares=LIMITS.honest_shares,
    scale=1 << 16,
    bound=50.0,
    optimiser=StepOptimiserSpec(
        adapter_learning_rate=0.5, head_learning_rate=2.0, schedule_steps=STEPS
    ),
)


@pytest.mark.parametrize("shape", ["bert, head alone", "bert, frozen A", "bert, q and v"])
def test_encrypted_steps_are_plain_steps_of_central_training(
    make: Make, shape: str, tickets: Dataset
) -> None:
    """Noise off: every step of a session of five is central DP-SGD's on the same rows, but for
    the rounding of five sums."""
    model, task = make(shape)
    rows = prepare_rows(model, tickets, task.labels, 64)
    everywhere = np.arange(len(rows))
    dealt = [everywhere[start::CLIENTS] for start in range(CLIENTS)]
    trainings = [
        SharedNoiseTraining(model, rows.part(mine), PLAN, SeededRandom(seed))
        for seed, mine in enumerate(dealt)
    ]
    initial = model.state()
    updater = AdapterUpdater(model.layout, PLAN.optimiser, PLAN.batch)
    session = _Encrypted(_Steps(model.layout, PLAN, LIMITS, trainings, updater), initial)
    found = session.trained()

    draws = [SeededRandom(seed) for seed in range(CLIENTS)]
    central = SharedNoiseTraining(model, rows, PLAN)
    adapter, state = initial, updater.initial_state()
    for _ in range(STEPS):
        chosen = np.sort(
            np.concatenate(
                [
                    mine[poisson_sample(len(mine), PLAN.sampling_rate, draw)]
                    for mine, draw in zip(dealt, draws, strict=True)
                ]
            )
        )
        total = central.sum_of(adapter, chosen).total
        adapter, state = updater.advance(adapter, state, total, CLIENTS)
    moved = max(float(np.abs(adapter[name] - initial[name]).max()) for name in adapter)
    # Each of the five sums is off by less than a grid step a coordinate and step; momentum .9
    # adds up at most four of them, at a rate of at most 2.
    rounding = CLIENTS / PLAN.scale / PLAN.batch * 2.0 * 10
    for name in adapter:
        assert np.abs(found[name] - adapter[name]).max() < rounding + 1e-5
    assert moved > 100 * rounding


class _Known(SharedNoiseTraining):
    """An institution whose sums are whole grid steps, known to the test."""

    def __init__(self, number: int, values: int) -> None:
        self._number, self._values, self.sums = number, values, list[NDArray[np.float64]]()

    def step(self, adapter: Adapter) -> ClippedSum:
        del adapter
        seed = [self._number, len(self.sums)]
        whole = np.random.default_rng(seed).integers(-900, 900, self._values)
        self.sums.append(whole / np.float64(PLAN.scale))
        return ClippedSum(self.sums[-1], 1, 0, 0, 0.0)


class _Observed(_Encrypted):
    """Keeps the opened sums; one client is gone from ``gone_at`` on."""

    gone_at: int | None = None

    def lose(self, sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        header = envelope.header
        late = self.gone_at is not None and header.step >= self.gone_at
        if late and header.type == "Upload" and sender == "client-05":
            self._lost = True
        return () if self._lost and "client-05" in (sender, recipient) else ((recipient, envelope),)

    _lost = False


@pytest.mark.parametrize("gone_at", [None, 1])
def test_an_opened_sum_carries_the_claimed_noise(
    gone_at: int | None,
) -> None:
    """Opened minus true sum: variance within 2 % of so many shares, and normal to a chi-square
    test; after a drop only the shares of those who are in the sum are in it."""
    plan = replace(PLAN, noise_multiplier=1.0, clip=1.0)
    values = 30_000
    layout = TensorLayout.of({"head.weight": np.zeros((1, values), np.float32)})
    trainings = [_Known(number, values) for number in range(CLIENTS)]
    updater = AdapterUpdater(layout, plan.optimiser, plan.batch)
    initial = Adapter({"head.weight": np.zeros((1, values), np.float32)})
    steps = _Steps(layout, plan, LIMITS, list(trainings), updater)
    session = _Observed(steps, initial)
    session.gone_at = gone_at
    session.intercept = session.lose
    session.trained()
    client: SimulatedClient = session.clients["client-01"]
    shares = plan.shares
    assert shares is not None
    assert len(client.totals) == STEPS
    for step, total in enumerate(client.totals):
        there = CLIENTS if gone_at is None or step < gone_at else CLIENTS - 1
        true = sum(training.sums[step] for training in trainings[:there])
        noise = np.rint((total - true) * plan.scale)
        claimed = there * shares.variance
        assert claimed >= (plan.noise_multiplier * plan.clip * plan.scale) ** 2
        assert np.var(noise) == pytest.approx(claimed, rel=0.025)
        edges = stats.norm.ppf(np.linspace(0, 1, 41))
        counts, _ = np.histogram(noise / np.sqrt(claimed), edges)
        assert stats.chisquare(counts).pvalue > 1e-5
