"""Measured recipes: what a charter says unless somebody chooses otherwise.

A federated round of AdamW moves the fresh linear head only as far as its own few batches carry it,
so the head's rate decides how soon averaging catches up with central training: on frozen MiniLM
embeddings of BANKING77, five clients, a rate of .01 is a point behind .02 after three rounds, and
from .02 up plain averaging ends where central training ends. Momentum on the server or a
server rate above 1 gained nothing over FedAvg there.

Private training has a recipe of its own (`private_recipe`; its steps: `privacy.recipe`): what
noise costs grows with the values trained, so LoRA is on two projections of the last block only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.server_optimiser import ServerOptimiserSpec
from secure_fedfm.learning.specs import ALL_LINEAR, HEAD_ONLY, AdapterSpec
from secure_fedfm.learning.votes import VoteSpec


@dataclass(frozen=True, slots=True)
class Recipe:
    """Adapter, local training, server step and number of rounds, as a charter states them."""

    adapter: AdapterSpec
    plan: TrainingPlan
    server: ServerOptimiserSpec
    rounds: int

    @property
    def passes(self) -> int:
        """Example passes in all; what the central baseline gets too."""
        return self.rounds * self.plan.epochs


def recipe_for(rows: int, rounds: int | None = None) -> Recipe:
    """The recipe for a data set of `rows` training rows over all clients.

    Small sets take two passes a round in small batches (three rounds are the demo's default),
    larger ones a single pass. The rates fall linearly to a tenth over the rounds.

    Args:
        rounds: None for the measured default (3 or 4).
    """
    small = rows < SMALL_ROWS
    chosen = rounds if rounds is not None else (3 if small else 4)
    return Recipe(
        adapter=AdapterSpec(),
        plan=TrainingPlan(
            epochs=2 if small else 1,
            batch_size=16 if small else 32,
            adapter_learning_rate=2e-3 if small else 4e-3,
            head_learning_rate=2e-2,
            schedule="linear",
            schedule_rounds=chosen,
            final_factor=0.1,
        ),
        server=ServerOptimiserSpec(kind="fedavg"),
        rounds=chosen,
    )


STEPS_OF_A_VOTE = 6.0
"""Learning rates that a value moves by where clients agree. A local epoch of AdamW moves one by
about 4; those where all agree are among the ones that move further."""


def votes_for(plan: TrainingPlan, rounds: int) -> VoteSpec:
    """Votes that move as far as the plan's trainings do, over so many rounds."""
    return VoteSpec(
        adapter_step=STEPS_OF_A_VOTE * plan.adapter_learning_rate,
        head_step=STEPS_OF_A_VOTE * plan.head_learning_rate,
        schedule_rounds=rounds,
        final_factor=plan.final_factor,
    )


def private_recipe(rounds: int | None = None) -> Recipe:
    """The recipe of the demo's model in privacy mode ``local``: FFA-LoRA on the query and value
    projections of the last block, and the head.

    How steps, rates and noise are chosen stands in `privacy.recipe`; of the plan only the
    schedule, the tokens and the seed are used.

    Args:
        rounds: None for 3.
    """
    plain = recipe_for(0, rounds)
    adapter = AdapterSpec(targets=("query", "value"), last_layers=1)
    return replace(plain, adapter=adapter, plan=replace(plain.plan, epochs=1))


def shared_noise_recipe(rounds: int | None = None) -> Recipe:
    """The recipe of the demo's model in privacy mode ``shared-noise``: the head alone, since every
    step is a secure sum and one of the head takes milliseconds to compute.

    Rounds are sessions; their steps, and the optimiser that takes the place of `server`, are those
    of `privacy.recipe.SharedNoiseRequest`.

    Args:
        rounds: None for 2.
    """
    plain = recipe_for(0, 2 if rounds is None else rounds)
    return replace(
        plain, adapter=AdapterSpec(targets=HEAD_ONLY), plan=replace(plain.plan, epochs=1)
    )


def sketchable(adapter: AdapterSpec) -> AdapterSpec:
    """The adapter, of rank 10 at least: robust rules sketch updates of 65,536 values or more, and
    LoRA of rank 8 on the last two blocks of the demo's model has 55,296 without the head."""
    rank = max(adapter.rank, 10)
    return replace(adapter, targets=ALL_LINEAR, last_layers=2, rank=rank, alpha=2 * rank)


SMALL_ROWS = 4000
