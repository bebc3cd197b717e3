"""Local training: rows made ready once, then AdamW over shuffled, length-bucketed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from secure_fedfm.errors import ModelError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.batches import Batch, EncodedRows, RowIndices
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.forward import Scorer
from secure_fedfm.learning.lower_blocks import (
    TOLERANCE,
    HiddenStates,
    PooledStates,
    Progress,
    bytes_needed,
    compute_hidden_states,
    compute_pooled_states,
    upper_blocks_only,
)
from secure_fedfm.learning.plan import TrainingPlan
from secure_fedfm.learning.seeds import generator

CACHE_LIMIT = 2 * 1024**3  # bytes of hidden states; beyond, the model runs whole in every pass
_EVALUATION_BATCH = 128
_CHECKED_ROWS = 8


@dataclass(frozen=True)
class PreparedRows:
    """Encoded rows, with the results of what is frozen below where they could be cached."""

    encoded: EncodedRows
    hidden: HiddenStates | PooledStates | None

    def __len__(self) -> int:
        return len(self.encoded)

    def part(self, rows: RowIndices) -> PreparedRows:
        """Some of the rows, numbered from 0 in this order; nothing is computed again."""
        hidden = None if self.hidden is None else self.hidden.part(rows)
        return PreparedRows(self.encoded.part(rows), hidden)

    def batch(self, rows: RowIndices) -> Batch:
        """The batch of these rows, hidden states attached where cached."""
        batch = self.encoded.batch(rows)
        return batch if self.hidden is None else self.hidden.attach(batch)


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a round of local training stands; `loss` is the mean of the last batch."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Means over the rows. For causal-lm, `accuracy` is the share of next tokens predicted."""

    accuracy: float
    loss: float
    rows: int


def prepare_rows(
    model: AdaptedModel,
    data: Dataset,
    labels: tuple[str, ...],
    max_tokens: int,
    *,
    cache_limit: int = CACHE_LIMIT,
    progress: Progress | None = None,
) -> PreparedRows:
    """Tokenise, and cache the frozen lower blocks if there are any, they fit, and it is exact.

    Args:
        cache_limit: bytes; 0 switches caching off.
        progress: called with (rows cached, rows).

    Raises:
        DataError: a label that the task does not list.
    """
    encoded = EncodedRows(data, labels, model.base.tokenizer, max_tokens)
    width = model.base.hidden_size
    if model.head_only and model.head is not None and cache_limit:
        pooled = compute_pooled_states(encoded, model.head, model.scorer.scores, progress)
        return PreparedRows(encoded, pooled)
    whole = model.head_only or model.stack.first_adapted == 0
    if whole or bytes_needed(encoded, width) > cache_limit:
        return PreparedRows(encoded, None)

    hidden = compute_hidden_states(encoded, model.stack, width, model.scorer.scores, progress)
    cached = PreparedRows(encoded, hidden)
    return cached if _same_result(model, cached) else PreparedRows(encoded, None)


def _same_result(model: AdaptedModel, rows: PreparedRows) -> bool:
    """Whether a few rows come out of the last block alike with and without the cache."""
    results: list[torch.Tensor] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        # Blocks return a tensor, or a tuple that begins with it, depending on the model.
        found = output[0] if isinstance(output, tuple) else output
        assert isinstance(found, torch.Tensor)  # noqa: S101
        results.append(found)

    sample = np.arange(min(_CHECKED_ROWS, len(rows)), dtype=np.int64)
    hook = model.stack.blocks[-1].register_forward_hook(keep)
    try:
        with torch.no_grad():
            batch = rows.encoded.batch(sample)
            model.scorer.scores(batch)
            with ready(model, rows) as make:
                model.scorer.scores(make(sample))
    finally:
        hook.remove()
    real = batch.attention_mask.bool()
    whole, short = (result[real] for result in results)
    return torch.allclose(whole, short, atol=TOLERANCE, rtol=TOLERANCE)


@contextmanager
def ready(model: AdaptedModel, rows: PreparedRows) -> Iterator[Callable[[RowIndices], Batch]]:
    """Within this context `scores` works on the batches that the yielded function makes."""
    if not isinstance(rows.hidden, HiddenStates):
        yield rows.batch
        return
    with upper_blocks_only(model.stack) as use:

        def make(chosen: RowIndices) -> Batch:
            batch = rows.batch(chosen)
            use(batch)
            return batch

        yield make


class LearningRates(Protocol):
    """What both kinds of training plan say about learning rates."""

    @property
    def adapter_learning_rate(self) -> float: ...

    @property
    def head_learning_rate(self) -> float: ...


def parameter_groups(model: AdaptedModel, rates: LearningRates) -> list[dict[str, Any]]:
    """An optimiser's groups: adapter and head, those that exist, each with its `peak` rate."""
    adapter: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, parameter in model.trained().items():
        (adapter if ".lora_" in name else head).append(parameter)
    return [
        {"params": parameters, "lr": rate, "peak": rate}
        for parameters, rate in (
            (adapter, rates.adapter_learning_rate),
            (head, rates.head_learning_rate),
        )
        if parameters
    ]


def new_optimiser(model: AdaptedModel, plan: TrainingPlan) -> torch.optim.AdamW:
    """AdamW with the head in a group of its own (see `TrainingPlan`)."""
    groups = parameter_groups(model, plan)
    return torch.optim.AdamW(
        groups, betas=(0.9, plan.beta2), weight_decay=plan.weight_decay, foreach=True
    )


def train_round(
    model: AdaptedModel,
    rows: PreparedRows,
    plan: TrainingPlan,
    round_number: int,
    order: str,
    *,
    draw: int | None = None,
    optimiser: torch.optim.AdamW | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> None:
    """`plan.epochs` passes over `rows`, in place.

    Deterministic for given arguments and number of threads.

    Args:
        round_number: from 1; sets the learning rates.
        order: names this client, so that clients shuffle differently.
        draw: what no other training of this client has, so that a round that is repeated trains on
            other batches; by default the round's number.
        optimiser: continue with this one (the central baseline does); by default a fresh one.

    Raises:
        ModelError: the loss is not finite.
    """
    continued = optimiser is not None
    optimiser = optimiser if optimiser is not None else new_optimiser(model, plan)
    random = generator("batch order", plan.seed, order, draw or round_number)
    passes = [rows.encoded.shuffled(plan.batch_size, random) for _ in range(plan.epochs)]
    batches = [batch for one_pass in passes for batch in one_pass]
    scorer = model.scorer
    warmup = plan.warmup_steps if not continued or round_number == 1 else 0
    with ready(model, rows) as make:
        for step, chosen in enumerate(batches):
            factor = plan.learning_rate_factor(round_number, step / len(batches))
            if step < warmup:
                factor *= (step + 1) / (warmup + 1)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor
            batch = make(chosen)
            loss = scorer.row_losses(batch, scorer.scores(batch)).mean()
            value = float(loss.detach())
            if not np.isfinite(value):
                raise ModelError(
                    f"the loss is {value} in round {round_number}, step {step + 1}; "
                    "lower the learning rates in the training plan"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if progress is not None:
                progress(TrainingProgress(step + 1, len(batches), value))


def evaluate_rows(model: AdaptedModel, rows: PreparedRows) -> Evaluation:
    """Accuracy and loss of the model as it is now, over all rows."""
    with ready(model, rows) as make:
        return evaluate_scorer(model.scorer, rows.encoded, make)


def evaluate_scorer(
    scorer: Scorer, encoded: EncodedRows, make: Callable[[RowIndices], Batch]
) -> Evaluation:
    """Accuracy and loss of any scorer; `make` turns row indices into its batches."""
    hits = losses = 0.0
    with torch.no_grad():
        for chosen in encoded.in_order_of_length(_EVALUATION_BATCH):
            batch = make(chosen)
            found = scorer.scores(batch)
            hits += float(scorer.row_hits(batch, found).sum())
            losses += float(scorer.row_losses(batch, found).sum())
    return Evaluation(hits / len(encoded), losses / len(encoded), len(encoded))
