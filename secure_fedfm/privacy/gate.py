"""Before the first private step: does this model give the gradients that the proof is about?

    1. nothing that is known not to work (gradients.check_supported)
    2. every trained tensor has one gradient per row, equal to plain autograd row by row
    3. one step moves every trained tensor
    4. saved and loaded again, the adapter gives the same scores

All on public sentences, never on private rows, so passing or failing tells nobody anything. In
double precision, where a wrong gradient and a rounded one cannot be confused: float32 alone differs
by some 1e-6 after six blocks. And from public random values of the trained tensors, because at the
initial ones (B and head zero) most gradients are zero and everything would agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from secure_fedfm.errors import PrivacyGateError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.dataset import UNLABELLED, Dataset
from secure_fedfm.learning.payload import FloatArray
from secure_fedfm.learning.seeds import public_uniform
from secure_fedfm.learning.specs import TaskSpec
from secure_fedfm.learning.training import PreparedRows, prepare_rows, ready
from secure_fedfm.privacy.dp_sgd import apply_gradient, new_private_optimiser
from secure_fedfm.privacy.gradients import check_supported, one_by_one, per_row_gradients
from secure_fedfm.privacy.plan import PrivatePlan

TOLERANCE = 1e-6
"""Relative L2 error of one row's gradient of one tensor."""
_TEXTS = (
    "the card is late",
    "where is my money now, and who can help me with it please",
    "pay",
    "my bill was found again after it had been lost for the whole of last week, thank you",
    "please help me now",
    "is it stolen",
)
_SPREAD = 0.05
_STEP = PrivatePlan(
    noise_multiplier=0.0,
    sampling_rate=1.0,
    steps_per_round=1,
    clip=1.0,
    expected_batch=1.0,
    optimiser="sgd",
    adapter_learning_rate=0.1,
    head_learning_rate=0.1,
)


@dataclass(frozen=True, slots=True)
class GateReport:
    """A model that passed: how many tensors and values are trained, and the worst error found."""

    tensors: int
    values: int
    rows: int
    worst_error: float


def public_rows(task: TaskSpec) -> Dataset:
    """Sentences of different lengths that nobody owns, labelled in turn."""
    labels = task.labels or (UNLABELLED,)
    return Dataset(_TEXTS, tuple(labels[i % len(labels)] for i in range(len(_TEXTS))))


def check_model(model: AdaptedModel, task: TaskSpec, max_tokens: int) -> GateReport:
    """Run the whole gate; the adapter is as before when this returns or raises.

    Raises:
        PrivacyGateError: names the tensors or the layer, and what is wrong with them.
    """
    check_supported(model)
    data = public_rows(task)
    before = model.state()
    try:
        model.load(_spread(model, before))
        with _double(model):
            rows = prepare_rows(model, data, task.labels, max_tokens)
            mean, worst = _check_gradients(model, rows)
        _check_step(model, mean)
        _check_reload(model, prepare_rows(model, data, task.labels, max_tokens))
    finally:
        model.load(before)
    return GateReport(len(model.layout.names), model.layout.size, len(data), worst)


def _spread(model: AdaptedModel, before: Adapter) -> Adapter:
    moved = {
        name: before[name] + public_uniform(shape, _SPREAD, "privacy gate", name)
        for name, shape in zip(model.layout.names, model.layout.shapes, strict=True)
    }
    return Adapter({**before, **moved})


@contextmanager
def _double(model: AdaptedModel) -> Iterator[None]:
    """Everything in float64 meanwhile; back again it is bit for bit what it was."""
    parts = [model.peft] + ([model.head] if model.head is not None else [])
    for part in parts:
        part.double()
    try:
        yield
    finally:
        for part in parts:
            part.float()


def _check_gradients(model: AdaptedModel, rows: PreparedRows) -> tuple[FloatArray, float]:
    """Compare with the loop; returns the mean gradient, flat, and the worst relative error.

    The batch goes the way of training, cached blocks included; the loop runs the model whole.
    """
    everyone = np.arange(len(rows), dtype=np.int64)
    with ready(model, rows) as make, per_row_gradients(model) as gradients:
        found = gradients(make(everyone)).tensors
    wrong: dict[str, float] = {}
    still = set(found)
    worst = 0.0
    for row in everyone:
        expected = one_by_one(model, rows.encoded.batch(everyone[row : row + 1]))
        for name, gradient in expected.items():
            size = float(gradient.norm())
            if size > 0:
                still.discard(name)
            error = float((found[name][int(row)] - gradient).norm()) / max(size, 1e-12)
            worst = max(worst, error)
            if not error <= TOLERANCE:  # NaN is wrong too
                wrong[name] = max(error, wrong.get(name, 0.0))
    if wrong:
        raise PrivacyGateError(
            f"gradients per row differ from one row at a time by up to {max(wrong.values()):.1e} "
            f"(at most {TOLERANCE:.0e} is rounding) in {_list(wrong)}: the model uses these "
            "weights past their layers, or mixes rows; clipping would not bound a row there"
        )
    if still:
        raise PrivacyGateError(
            f"no row has a gradient in {_list(still)}: trained, but unused; freeze them"
        )
    mean = {n: t.mean(dim=0).to(torch.float32).contiguous().numpy() for n, t in found.items()}
    return model.layout.flatten(mean), worst


def _check_step(model: AdaptedModel, mean: FloatArray) -> None:
    before = model.state()
    # Normalised: a small gradient must not vanish in the rounding of float32.
    size = float(np.linalg.norm(mean)) / np.sqrt(mean.size)
    apply_gradient(model, new_private_optimiser(model, _STEP), (mean / size).astype(np.float32))
    after = model.state()
    stuck = [name for name in model.layout.names if np.array_equal(before[name], after[name])]
    if stuck:
        raise PrivacyGateError(f"a training step does not change {_list(stuck)}; freeze them")


def _check_reload(model: AdaptedModel, rows: PreparedRows) -> None:
    """What leaves as an adapter is all that training changed."""
    everyone = np.arange(len(rows), dtype=np.int64)
    saved = model.state().to_bytes()
    trained = _scores(model, rows, everyone)
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.zero_()
    if torch.equal(_scores(model, rows, everyone), trained):
        raise PrivacyGateError(
            "the scores do not depend on the adapter at all; check the adapter's targets"
        )
    model.load(Adapter.from_bytes(saved))
    if not torch.equal(_scores(model, rows, everyone), trained):
        raise PrivacyGateError(
            "a saved and reloaded adapter gives other scores: something outside the adapter "
            "changed or was trained; the release would not cover it"
        )


def _scores(
    model: AdaptedModel, rows: PreparedRows, chosen: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> torch.Tensor:
    with torch.no_grad(), ready(model, rows) as make:
        return model.scorer.scores(make(chosen)).clone()


def _list(names: dict[str, float] | set[str] | list[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
