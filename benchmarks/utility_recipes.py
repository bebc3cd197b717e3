"""What the privacy utility benchmark trains, whatever the privacy mode: adapters, steps, rates.

A recipe fixes everything but noise and rates. Rates are chosen with ``--tune`` on rows that its
runs do not train on; RATES are what that chose when the documented table was made, for a start
without the row file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fedfm_audit.privacy.calibration import noise_multiplier_for
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.specs import HEAD_ONLY, AdapterSpec
from secure_fedfm.privacy.plan import PrivatePlan

DELTA = 1e-5
CLIP = 1.0
EPSILONS = (math.inf, 8.0, 3.0, 1.0)
MAX_TOKENS = 64
QUERY_VALUE = ("query", "value")
ADAPTERS = {
    "head": AdapterSpec(targets=HEAD_ONLY),
    "ffa": AdapterSpec(targets=QUERY_VALUE, last_layers=1, train="b-only"),
    "lora": AdapterSpec(targets=QUERY_VALUE, last_layers=1, train="a-and-b"),
}

Calibration = Literal["all", "honest"]
"""What shared noise is made for: every institution's share, or those that the design's defaults
count on (colluding and dropped ones taken off)."""

Rates = tuple[float, float]
"""Learning rates of the head and of LoRA."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Public settings of one adapter.

    Fields:
        rounds, steps: rounds, and steps in each. sampling_rate: q.
        head_rounds: so many rounds at first train the head alone, on embeddings that stay as they
            are; LoRA joins afterwards. All steps have the same noise and sampling, so the ledger
            is that of rounds * steps equal steps either way.
        head_rates: what the head's rate is chosen from, for each epsilon.
        lora_ratios: what LoRA's rate over the head's is chosen from, at epsilon TUNED_AT only.
    """

    rounds: int
    steps: int
    sampling_rate: float
    head_rounds: int
    head_rates: tuple[float, ...] = ()
    lora_ratios: tuple[float, ...] = ()

    @property
    def all_steps(self) -> int:
        """Steps of a whole run, which is what the budget is for."""
        return self.rounds * self.steps


@dataclass(frozen=True, slots=True)
class Limits:
    """A federation's size, the failures it tolerates, and how many shares carry all noise."""

    clients: int
    colluding: int
    dropouts: int
    honest_shares: int


def limits_of(institutions: int, calibration: Calibration) -> Limits:
    """``all``: nobody colludes in the promise and nobody may drop out; ``honest``: one of each is
    tolerated, from 20 institutions on three."""
    if calibration == "all":
        return Limits(institutions, 1, 0, institutions)
    few = 3 if institutions >= 20 else 1
    return Limits(institutions, few, few, institutions - 2 * few)


TUNED_AT = 8.0
# SGD with momentum throughout: it leaves the noise as it is, where Adam would scale it up in every
# coordinate that carries little else.
RECIPES = {
    "head": Recipe(10, 15, 0.1, head_rounds=10, head_rates=(0.7, 2.0, 5.0, 12.0)),
    "ffa": Recipe(10, 15, 0.1, head_rounds=7, lora_ratios=(0.03, 0.1, 0.3)),
    "lora": Recipe(10, 15, 0.1, head_rounds=7, lora_ratios=(0.03, 0.1, 0.3)),
}
HEAD_RATES = {math.inf: 12.0, 8.0: 5.0, 3.0: 2.0, 1.0: 0.7}
# Of shared noise, which is tuned once for all: its first calibration, in the clear, with so many
# institutions.  Whatever their number and the protection, the opened sum is the same.
SHARED_TUNED = ("shared-all", 5)
SHARED_HEAD_RATES = {math.inf: 12.0, 8.0: 5.0, 3.0: 2.0, 1.0: 1.0}
SHARED_TRIED = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
LORA_RATIOS = {"ffa": 0.3, "lora": 0.1}
SHARED_LORA_RATIOS = {"ffa": 0.03, "lora": 0.3}


def epsilon_text(epsilon: float) -> str:
    """8.0 -> "8"; infinity -> "inf"."""
    return f"{epsilon:g}"


@lru_cache(maxsize=64)
def noise_for(epsilon: float, sampling_rate: float, steps: int) -> float:
    """The noise multiplier that stays within epsilon at DELTA."""
    if math.isinf(epsilon):
        return 0.0

    return noise_multiplier_for(epsilon, DELTA, sampling_rate=sampling_rate, steps=steps)


def private_plan(
    recipe: Recipe, rates: Rates, noise_multiplier: float, nominal_rows: int
) -> PrivatePlan:
    """The recipe with noise and rates; `nominal_rows` stands for the charter's public number of
    rows: of one institution, or of all where one step is of all."""
    return PrivatePlan(
        noise_multiplier=noise_multiplier,
        sampling_rate=recipe.sampling_rate,
        steps_per_round=recipe.steps,
        clip=CLIP,
        expected_batch=recipe.sampling_rate * nominal_rows,
        optimiser="sgd",
        head_learning_rate=rates[0],
        adapter_learning_rate=rates[1],
    )


def schedule(recipe: Recipe) -> TrainingPlan:
    """Rates fall linearly to a tenth over the rounds; of the plan nothing else is used."""
    return TrainingPlan(
        schedule="linear",
        schedule_rounds=recipe.rounds,
        final_factor=0.1,
        max_tokens=MAX_TOKENS,
    )
