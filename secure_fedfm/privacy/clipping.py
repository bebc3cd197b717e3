"""Each row's gradient bounded to L2 norm C, then summed: what one row can change is at most C.

Per row, never per batch: clipping a sum bounds the sum, and a row could still turn it round. All
arithmetic after the backward pass is in float64, so that its rounding stays below 1e-12 of C. What
the float32 forward pass does to a row's gradient depends on its neighbours (padding, blocking of
matrix products) by about 1e-6 of its size; the paired audit measures this for the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.batches import Batch, RowIndices
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.privacy.gradients import Gradients, RowGradients


@dataclass(frozen=True, eq=False)
class ClippedSum:
    """The clipped sum of one step. PRIVATE, all of it, counts and loss included.

    Fields:
        total: float64 (layout.size,), in layout order.
        rows: how many rows took part. clipped: how many had a norm above C.
        dropped: how many had a gradient that is not finite and count as zero.
        loss: sum of the rows' losses, of those that are finite.
    """

    total: npt.NDArray[np.float64]
    rows: int
    clipped: int
    dropped: int
    loss: float

    @classmethod
    def empty(cls, layout: TensorLayout) -> ClippedSum:
        """The sum over no rows."""
        return cls(np.zeros(layout.size), 0, 0, 0, 0.0)

    def plus(self, other: ClippedSum) -> ClippedSum:
        """The sum over the rows of both."""
        return ClippedSum(
            self.total + other.total,
            self.rows + other.rows,
            self.clipped + other.clipped,
            self.dropped + other.dropped,
            self.loss + other.loss,
        )

    def __repr__(self) -> str:
        return f"ClippedSum({self.total.size} values)"


def row_norms(gradients: RowGradients) -> torch.Tensor:
    """L2 norm of each row's gradient over all tensors together: float64 (B,)."""
    squares = torch.zeros(len(gradients), dtype=torch.float64)
    for tensor in gradients.tensors.values():
        # In double squares of floats cannot overflow. (The norm's own dtype argument is slower.)
        norms = torch.linalg.vector_norm(tensor.flatten(1).double(), dim=1)
        squares += norms * norms
    return squares.sqrt()


def clip_and_sum(gradients: RowGradients, layout: TensorLayout, clip: float) -> ClippedSum:
    """sum_i g_i min(1, C / |g_i|), with a g_i that is not finite taken as zero and counted.

    Raises:
        ConfigurationError: a clip that is not positive and finite.
    """
    if not 0 < clip < float("inf"):
        raise ConfigurationError(f"clip {clip}; expected a positive finite number")
    norms = row_norms(gradients)
    finite = torch.isfinite(norms)
    # max(|g|, C) is never zero, and C over it never above one.
    factors = torch.where(finite, clip / norms.clamp(min=clip), torch.zeros_like(norms))
    total = np.empty(layout.size)
    start = 0
    for name in layout.names:
        rows = gradients.tensors[name].flatten(1)
        if not bool(finite.all()):  # zero times infinity is not zero
            rows = torch.where(finite.unsqueeze(1), rows, torch.zeros_like(rows))
        part = factors @ rows.double()
        total[start : start + part.numel()] = part.numpy()
        start += part.numel()
    losses = gradients.losses.double()
    return ClippedSum(
        total,
        len(gradients),
        int((finite & (norms > clip)).sum()),
        int((~finite).sum()),
        float(losses[torch.isfinite(losses)].sum()),
    )


def clipped_sum(
    chosen: RowIndices,
    lengths: RowIndices,
    make: Callable[[RowIndices], Batch],
    gradients: Gradients,
    layout: TensorLayout,
    clip: float,
    physical_batch: int,
) -> ClippedSum:
    """The clipped sum of a logical batch of any size, zero rows included.

    It is worked through in physical batches of bounded size, rows of similar length together.

    Args:
        chosen: rows of this step, int64 (B,). lengths: tokens of EVERY row, int64 (N,).
        make: from row indices to a batch (`learning.training.ready` yields it).
        gradients: what `per_row_gradients` yields.
        clip: C. physical_batch: rows whose gradients are in memory at once.
    """
    found = ClippedSum.empty(layout)
    ordered = chosen[np.argsort(lengths[chosen], kind="stable")]
    for start in range(0, len(ordered), physical_batch):
        batch = make(ordered[start : start + physical_batch])
        found = found.plus(clip_and_sum(gradients(batch), layout, clip))
    return found
