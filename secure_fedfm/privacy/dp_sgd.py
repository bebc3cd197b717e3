"""One institution's round of DP-SGD in mode `local`: T noisy steps, and nothing else.

    1. draw the rows of the step (sampling), possibly none
    2. one gradient per row (gradients), clipped and summed (clipping); of the head alone in the
       first `head_rounds` rounds (head_gradients)
    3. round, add noise (release)
    4. divide by a public constant and let the optimiser move (post-processing)

From 4 on everything is a function of the noised sums: learning rates, momentum and Adam's moments
cost no privacy. An empty draw takes steps 3 and 4 like any other. Nothing here accounts: whoever
calls has reserved T steps in the ledger BEFORE, and reserves again to repeat a round, since the
randomness of a repetition is fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from secure_fedfm.privacy.head_gradients import (
    BIAS,
    WEIGHT,
    HeadGradients,
    HeadStates,
    check_linear_head,
)
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
    *,
    head_alone: bool = False,
) -> None:
    """One optimiser step on a released mean gradient, float32 (layout.size,), in layout order.

    Post-processing: it reads nothing but its arguments. Also for a sum that several institutions
    noised together, where every one of them applies the same step.

    Args:
        factor: multiplies the peak learning rates.
        head_alone: drop everything but the head's part; neither the other tensors nor what the
            optimiser keeps of them change.
    """
    parts = model.layout.unflatten(gradient)
    for name, parameter in model.trained().items():
        if not head_alone or name in (WEIGHT, BIAS):
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
    pooled: HeadStates | None = None,
) -> None:
    """`private.steps_per_round` noisy steps on `rows`, in place.

    Of `plan` only the learning rate schedule is used: epochs and batch size have no meaning here.

    Args:
        round_number: from 1, completed rounds counted; sets the learning rates, and whether the
            head is trained alone.
        random: CSPRNG for sampling, dither and noise. A seed here is for tests and audits: whoever
            knows it can subtract the noise.
        optimiser: continue with this one; by default a fresh one, so that no state but the adapter
            lasts from round to round.
        progress: as in `train_round`; its `loss` is a PRIVATE figure (the mean over the step's
            rows, 0 for none) and must not leave the institution.
        observe: sees every step as it is; for the audit.
        pooled: keeps what enters the head from one round of the head alone to the next; None
            computes it anew.

    Raises:
        ConfigurationError: rounds of the head alone for a model without a linear head.
        PrivacyGateError: a model that `per_row_gradients` refuses.
    """
    optimiser = optimiser if optimiser is not None else new_private_optimiser(model, private)
    grid = NoiseGrid.of(private, model.layout.size)
    steps = private.steps_per_round
    alone = round_number <= private.head_rounds
    sums = _sums_of_the_head(model, rows, private, pooled) if alone else _sums(model, rows, private)
    with sums as sum_of:
        for step in range(1, steps + 1):
            chosen = poisson_sample(len(rows), private.sampling_rate, random)
            clipped = sum_of(chosen)
            released = release_sum(clipped.total, grid, random)
            gradient = mean_gradient(released.noised, grid, private.expected_batch)
            factor = plan.learning_rate_factor(round_number, (step - 1) / steps)
            apply_gradient(model, optimiser, gradient, factor, head_alone=alone)
            if observe is not None:
                observe(StepRecord(step, chosen, clipped, released, gradient))
            if progress is not None:
                loss = clipped.loss / max(1, clipped.rows)
                progress(TrainingProgress(step, steps, loss))


_SumOf = Callable[[RowIndices], ClippedSum]


@contextmanager
def _sums(model: AdaptedModel, rows: PreparedRows, private: PrivatePlan) -> Iterator[_SumOf]:
    """Clipped sums over all trained tensors, of any rows, by the hooks."""
    with ready(model, rows) as make, per_row_gradients(model) as gradients:
        yield lambda chosen: clipped_sum(
            chosen,
            rows.encoded.lengths,
            make,
            gradients,
            model.layout,
            private.clip,
            private.physical_batch,
        )


@contextmanager
def _sums_of_the_head(
    model: AdaptedModel, rows: PreparedRows, private: PrivatePlan, pooled: HeadStates | None
) -> Iterator[_SumOf]:
    """Clipped sums of the head's gradients, zero for all else, in closed form."""
    head = check_linear_head(model)
    states = (pooled or HeadStates()).of(model, rows)
    found = HeadGradients(model.layout, states, rows.encoded.labels, private.clip)
    yield lambda chosen: found.sum_of(
        head.weight.detach().numpy(), head.bias.detach().numpy(), chosen
    )
