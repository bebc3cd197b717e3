"""Clipped sums of a linear head's gradients, in closed form: no backward pass, no hooks.

With x a row's pooled states, p its class probabilities and r = p - onehot(label), the gradient of
its loss is r x^T for the weights and r for the bias, of squared norm |r|^2 (|x|^2 + 1); the clipped
sum is one matrix product over the batch.  Used where nothing below the head moves: a head that is
trained alone (`shared_noise`), and the first rounds of mode `local` where the charter keeps LoRA
still meanwhile (`dp_sgd`, `PrivatePlan.head_rounds`).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import HEAD_PREFIX
from secure_fedfm.learning.batches import RowIndices
from secure_fedfm.learning.lower_blocks import PooledStates, compute_pooled_states
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.training import PreparedRows, ready
from secure_fedfm.privacy.clipping import ClippedSum

Doubles = npt.NDArray[np.float64]

WEIGHT, BIAS = f"{HEAD_PREFIX}weight", f"{HEAD_PREFIX}bias"


def check_linear_head(model: AdaptedModel) -> torch.nn.Linear:
    """The linear head of `model`.

    Raises:
        ConfigurationError: the model has a head of its own, or none.
    """
    if model.head is None:
        raise ConfigurationError(
            f"training.private.head_rounds: a model of family {model.base.family} has no linear "
            "head to train alone; leave head_rounds at 0"
        )
    return model.head


class HeadGradients:
    """Closed-form gradients of a linear head on pooled states, in double precision.

    The sums have the whole layout; everything but the head is zero in them.
    """

    def __init__(
        self, layout: TensorLayout, states: PooledStates, labels: RowIndices, clip: float
    ) -> None:
        """
        Args:
            states: of every row. labels: class of every row, int64 (N,). clip: C.
        """
        self._layout, self._clip, self._labels = layout, clip, labels
        self._states: Doubles = states.values.detach().double().numpy()
        self._squares: Doubles = np.einsum("ij,ij->i", self._states, self._states) + 1.0

    def sum_of(
        self, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], chosen: RowIndices
    ) -> ClippedSum:
        """The clipped sum of the rows `chosen`, int64 (B,), at this head: (C, H) and (C,)."""
        states, labels = self._states[chosen], self._labels[chosen]
        with np.errstate(all="ignore"):  # rows that overflow are dropped below
            scores = states @ weight.T.astype(np.float64) + bias.astype(np.float64)
            scores -= scores.max(axis=1, keepdims=True, initial=-np.inf)
            residual = np.exp(scores)
            masses = residual.sum(axis=1, keepdims=True)
            everyone = np.arange(len(chosen))
            losses = np.log(masses[:, 0]) - scores[everyone, labels]
            residual /= masses
            residual[everyone, labels] -= 1.0
            norms = np.sqrt(np.einsum("ij,ij->i", residual, residual) * self._squares[chosen])
            finite = np.isfinite(norms)
            factors = np.where(finite, self._clip / np.maximum(norms, self._clip), 0.0)
        if not finite.all():  # zero times infinity is not zero
            residual[~finite], states[~finite] = 0.0, 0.0
        residual *= factors[:, np.newaxis]
        parts = {WEIGHT: residual.T @ states, BIAS: residual.sum(axis=0)}
        return ClippedSum(
            np.concatenate(
                [
                    parts[name].ravel() if name in parts else np.zeros(int(np.prod(shape)))
                    for name, shape in zip(self._layout.names, self._layout.shapes, strict=True)
                ]
            ),
            len(chosen),
            int((finite & (norms > self._clip)).sum()),
            int((~finite).sum()),
            float(losses[np.isfinite(losses)].sum()),
        )


class HeadStates:
    """Pooled states of one set of rows, for the LoRA tensors that are loaded.

    Kept from call to call while those stay the same bits: rounds that leave LoRA alone need one
    pass over the blocks in all.
    """

    def __init__(self) -> None:
        self._known: tuple[PreparedRows, bytes, PooledStates] | None = None

    def of(self, model: AdaptedModel, rows: PreparedRows) -> PooledStates:
        """What enters the head of `model` as it is now, from cached lower blocks where there are.

        Raises:
            ConfigurationError: no linear head.
        """
        head = check_linear_head(model)
        if isinstance(rows.hidden, PooledStates):
            return rows.hidden
        digest = _below_the_head(model)
        if self._known is not None and self._known[0] is rows and self._known[1] == digest:
            return self._known[2]
        with ready(model, rows) as make:
            states = compute_pooled_states(
                rows.encoded, head, lambda batch: model.scorer.scores(make(batch.rows))
            )
        self._known = (rows, digest, states)
        return states


def _below_the_head(model: AdaptedModel) -> bytes:
    state, hashed = model.state(), hashlib.sha256()
    for name in sorted(set(state) - {WEIGHT, BIAS}):
        hashed.update(state[name].tobytes())
    return hashed.digest()
