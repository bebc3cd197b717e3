"""One institution's round of DP-SGD in mode `local`: T noisy steps, and nothing else.

    1. draw the rows of the step (sampling), possibly none
    2. one gradient per row (gradients), clipped and summed (clipping)
    3. round, add noise (release)
    4. divide by a public constant and let the optimiser move (post-processing)

From 4 on everything is a function of the noised sums: learning rates, momentum and Adam's moments
cost no privacy. An empty draw takes steps 3 and 4 like any other. Nothing here accounts: whoever
calls has reserved T steps in the ledger BEFORE, and reserves again to repeat a round, since the
randomness of a repetition is fresh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedfm_crypto.random_source import RandomSource, system_random
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.batches import RowIndices
from secure_fedfm.learning.payload import FloatArray
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.training import PreparedRows, TrainingProgress, parameter_groups, ready
from secure_fedfm.privacy.clipping import ClippedSum, clipped_sum
from secure_fedfm.privacy.gradients import per_row_gradients
from secure_fedfm.privacy.plan import PrivatePlan
from secure_fedfm.privacy.release import NoiseGrid, Release, mean_gradient, release_sum
from secure_fedfm.privacy.sampling import poisson_sample


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What happened in one step, for the audit on this machine. PRIVATE: it never leaves it.

    Fields:
        step: from 1. chosen: the sampled rows. clipped: their clipped sum.
        release: the sum on the grid without and with noise. gradient: what the optimiser got.
    """

    step: int
    chosen: RowIndices
    clipped: ClippedSum
    release: Release
    gradient: FloatArray

    def __repr__(self) -> str:
        return f"StepRecord(step {self.step})"


def new_private_optimiser(model: AdaptedModel, private: PrivatePlan) -> torch.optim.Optimizer:
    """The optimiser of the noised gradients, the head in a group of its own; no weight decay."""
    groups = parameter_groups(model, private)
    if private.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=private.momentum, foreach=True)
    return torch.optim.Adam(groups, betas=(private.momentum, private.beta2), foreach=True)


def apply_gradient(
    model: AdaptedModel,
    optimiser: torch.optim.Optimizer,
    gradient: FloatArray,
    factor: float = 1.0,
) -> None:
    """One optimiser step on a released mean gradient, float32 (layout.size,), in layout order.

    Post-processing: it reads nothing but its arguments. Also for a sum that several institutions
    noised together, where every one of them applies the same step.

    Args:
        factor: multiplies the peak learning rates.
    """
    parts = model.layout.unflatten(gradient)
    for name, parameter in model.trained().items():
        parameter.grad = torch.from_numpy(parts[name])
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def train_private_round(
    model: AdaptedModel,
    rows: PreparedRows,
    plan: TrainingPlan,
    private: PrivatePlan,
    round_number: int,
    *,
    random: RandomSource = system_random,
    optimiser: torch.optim.Optimizer | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    observe: Callable[[StepRecord], None] | None = None,
) -> None:
    """`private.steps_per_round` noisy steps on `rows`, in place.

    Of `plan` only the learning rate schedule is used: epochs and batch size have no meaning here.

    Args:
        round_number: from 1; sets the learning rates.
        random: CSPRNG for sampling, dither and noise. A seed here is for tests and audits: whoever
            knows it can subtract the noise.
        optimiser: continue with this one; by default a fresh one, so that no state but the adapter
            lasts from round to round.
        progress: as in `train_round`; its `loss` is a PRIVATE figure (the mean over the step's
            rows, 0 for none) and must not leave the institution.
        observe: sees every step as it is; for the audit.

    Raises:
        PrivacyGateError: a model that `per_row_gradients` refuses.
    """
    optimiser = optimiser if optimiser is not None else new_private_optimiser(model, private)
    grid = NoiseGrid.of(private, model.layout.size)
    steps = private.steps_per_round
    with ready(model, rows) as make, per_row_gradients(model) as gradients:
        for step in range(1, steps + 1):
            chosen = poisson_sample(len(rows), private.sampling_rate, random)
            clipped = clipped_sum(
                chosen,
                rows.encoded.lengths,
                make,
                gradients,
                model.layout,
                private.clip,
                private.physical_batch,
            )
            released = release_sum(clipped.total, grid, random)
            gradient = mean_gradient(released.noised, grid, private.expected_batch)
            factor = plan.learning_rate_factor(round_number, (step - 1) / steps)
            apply_gradient(model, optimiser, gradient, factor)
            if observe is not None:
                observe(StepRecord(step, chosen, clipped, released, gradient))
            if progress is not None:
                loss = clipped.loss / max(1, clipped.rows)
                progress(TrainingProgress(step, steps, loss))
