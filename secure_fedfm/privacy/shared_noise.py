"""One institution's part of a step in mode `shared-noise`: the sum of its clipped gradients.

    1. draw the rows of the step (sampling), possibly none
    2. one gradient per row, clipped and SUMMED (clipping)

Here it ends: rounding, this institution's share of the noise, masks and encryption are the
protocol's (`fedfm_protocols.privacy.UpdateEncoding`), and only the sum over all institutions is
ever opened.  What `step` returns is private and must go nowhere else.  Nothing here accounts:
whoever calls has reserved the session's steps in the ledger BEFORE; every call draws anew.

A head that is trained alone needs no backward pass: see `head_gradients`.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from fedfm_crypto.quantise import stochastic_round
from fedfm_crypto.random_source import RandomSource, system_random
from secure_fedfm.errors import ConfigurationError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.batches import RowIndices
from secure_fedfm.learning.lower_blocks import PooledStates
from secure_fedfm.learning.training import PreparedRows, ready
from secure_fedfm.privacy.clipping import ClippedSum, clipped_sum
from secure_fedfm.privacy.gradients import per_row_gradients
from secure_fedfm.privacy.head_gradients import BIAS, WEIGHT, HeadGradients
from secure_fedfm.privacy.plan import SharedNoisePlan
from secure_fedfm.privacy.sampling import poisson_sample

Sum = npt.NDArray[np.float64]


class SharedNoiseTraining:
    """Steps over one institution's rows, as fast as they come: rows and model are made ready once.

    `model` belongs to this object: between two steps its tensors are those of the last adapter.
    """

    def __init__(
        self,
        model: AdaptedModel,
        rows: PreparedRows,
        plan: SharedNoisePlan,
        random: RandomSource = system_random,
    ) -> None:
        """
        Args:
            random: CSPRNG that rows are sampled with.  A seed here is for tests and audits:
                whoever knows it knows which rows are in a step.
        """
        self._model, self._rows, self._plan, self._random = model, rows, plan, random
        self._head: HeadGradients | None = None
        if model.head_only and isinstance(rows.hidden, PooledStates):
            self._head = HeadGradients(
                model.layout, rows.hidden, rows.encoded.labels, plan.working_clip
            )

    def step(self, adapter: Adapter) -> ClippedSum:
        """Draw the rows of one step and return their clipped sum at `adapter`.

        Raises:
            ModelError: the adapter does not fit.
            PrivacyGateError: a model that `per_row_gradients` refuses.
        """
        chosen = poisson_sample(len(self._rows), self._plan.sampling_rate, self._random)
        return self.sum_of(adapter, chosen)

    def sum_of(self, adapter: Adapter, chosen: RowIndices) -> ClippedSum:
        """The clipped sum of these rows, int64 (B,), at `adapter`; zero for none."""
        if self._head is not None:
            return self._head.sum_of(adapter[WEIGHT], adapter[BIAS], chosen)
        self._model.load(adapter)
        if not len(chosen):
            return ClippedSum.empty(self._model.layout)
        with ExitStack() as stack:
            make = stack.enter_context(ready(self._model, self._rows))
            gradients = stack.enter_context(per_row_gradients(self._model))
            return clipped_sum(
                chosen,
                self._rows.encoded.lengths,
                make,
                gradients,
                self._model.layout,
                self._plan.working_clip,
                self._plan.physical_batch,
            )


def noised_sum(
    total: Sum, plan: SharedNoisePlan, random: RandomSource, *, shares: int = 1
) -> npt.NDArray[np.float64]:
    """What becomes of a sum on its way through the protocol, without protocol: clamped, rounded,
    with so many shares of the noise, and back in units of the gradient; float64 (layout.size,).

    For the central baseline (`plan.pooled` has all noise in one share) and for what a benchmark
    repeats without encryption: the sum of one call for every institution is distributed as an
    opened sum is.

    Args:
        total: float64 (layout.size,), from `SharedNoiseTraining`.
        random: a fresh CSPRNG stream for dither and noise.

    Raises:
        NonFiniteError: a value is not finite.
    """
    if shares < 1:
        raise ConfigurationError(f"{shares} shares of noise; expected at least 1")
    rounded = stochastic_round(np.clip(total, -plan.bound, plan.bound), plan.scale, random)
    noise = plan.shares
    if noise is not None:
        for _ in range(shares):
            rounded += noise.draw(rounded.size, random)
    found: npt.NDArray[np.float64] = rounded / plan.scale
    return found
