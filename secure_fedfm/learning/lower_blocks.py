"""Compute the frozen lower blocks once, train on what they gave.

With dropout off, the input of the first adapted block is a constant of each row: computing it once
is exact and saves all of the lower blocks in every later pass. How, without knowing the model: run
it whole once and keep what enters that block; afterwards run it with the lower blocks taken out of
the list and the kept values put in. A first check compares both ways on real rows, since a model
whose blocks depend on their place in the list (alternating attention, say) would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from secure_fedfm.learning.adapter import BlockStack
from secure_fedfm.learning.batches import Batch, EncodedRows, RowIndices

_CACHING_BATCH = 64
TOLERANCE = 1e-4  # float32 rounding over a few blocks stays an order of magnitude below
Forward = Callable[[Batch], torch.Tensor]
Progress = Callable[[int, int], None]


class HiddenStates:
    """What enters the first adapted block, for every row: float32 (total tokens, H), no padding."""

    def __init__(self, values: torch.Tensor, lengths: RowIndices) -> None:
        self._values, self._lengths = values, lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])

    def attach(self, batch: Batch) -> Batch:
        """The batch with its rows' hidden states, zero where it is padding."""
        count, longest = batch.input_ids.shape
        hidden = torch.zeros(count, longest, self._values.shape[1], dtype=self._values.dtype)
        for position, row in enumerate(batch.rows):
            start, length = int(self._starts[row]), int(self._lengths[row])
            hidden[position, :length] = self._values[start : start + length]
        return replace(batch, hidden=hidden)

    def part(self, rows: RowIndices) -> HiddenStates:
        """The states of some rows, numbered from 0 in this order (copies)."""
        places = [
            np.arange(self._starts[row], self._starts[row] + self._lengths[row]) for row in rows
        ]
        tokens = np.concatenate([np.empty(0, np.int64), *places])
        return HiddenStates(self._values[torch.from_numpy(tokens)], self._lengths[rows])


class PooledStates:
    """What enters a head that is trained alone, for every row: float32 (N, H)."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    @property
    def values(self) -> torch.Tensor:
        """All of them, by row."""
        return self._values

    def attach(self, batch: Batch) -> Batch:
        """The batch with its rows' pooled states."""
        return replace(batch, pooled=self._values[torch.from_numpy(batch.rows)])

    def part(self, rows: RowIndices) -> PooledStates:
        """The states of some rows, numbered from 0 in this order (a copy)."""
        return PooledStates(self._values[torch.from_numpy(rows)])


def compute_pooled_states(
    rows: EncodedRows,
    head: nn.Linear,
    forward: Forward,
    progress: Progress | None = None,
) -> PooledStates:
    """One whole pass over the rows, keeping the input of the head; arguments as below."""
    values = torch.empty(len(rows), head.in_features, dtype=head.weight.dtype)
    current: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        current[:] = [args[0]]

    hook = head.register_forward_pre_hook(keep)
    done = 0
    try:
        with torch.no_grad():
            for chosen in rows.in_order_of_length(_CACHING_BATCH):
                forward(rows.batch(chosen))
                values[torch.from_numpy(chosen)] = current[0]
                done += len(chosen)
                if progress is not None:
                    progress(done, len(rows))
    finally:
        hook.remove()
    return PooledStates(values)


def bytes_needed(rows: EncodedRows, hidden_size: int) -> int:
    """Memory that caching these rows takes."""
    return int(rows.lengths.sum()) * hidden_size * 4


def compute_hidden_states(
    rows: EncodedRows,
    stack: BlockStack,
    hidden_size: int,
    forward: Forward,
    progress: Progress | None = None,
) -> HiddenStates:
    """One whole pass over the rows, keeping the input of the first adapted block.

    Args:
        forward: runs the whole model on a batch; the result is not used.
        progress: called with (rows done, rows in all).
    """
    starts = np.concatenate([[0], np.cumsum(rows.lengths)[:-1]])
    # float32, but the gate of private training works in double.
    precision = next(stack.blocks.parameters()).dtype
    values = torch.empty(int(rows.lengths.sum()), hidden_size, dtype=precision)
    done = 0
    with torch.no_grad():
        for chosen in rows.in_order_of_length(_CACHING_BATCH):
            batch = rows.batch(chosen)
            hidden = _entering(stack, forward, batch)
            for position, row in enumerate(chosen):
                start, length = int(starts[row]), int(rows.lengths[row])
                values[start : start + length] = hidden[position, :length]
            done += len(chosen)
            if progress is not None:
                progress(done, len(rows))
    return HiddenStates(values, rows.lengths)


class _Captured(Exception):
    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _entering(stack: BlockStack, forward: Forward, batch: Batch) -> torch.Tensor:
    def capture(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Captured(args[0] if args else kwargs["hidden_states"])

    hook = stack.blocks[stack.first_adapted].register_forward_pre_hook(capture, with_kwargs=True)
    try:
        forward(batch)
    except _Captured as captured:
        return captured.hidden
    finally:
        hook.remove()
    raise AssertionError("the first adapted block was never reached")


@contextmanager
def upper_blocks_only(stack: BlockStack) -> Iterator[Callable[[Batch], None]]:
    """Take the lower blocks out; yields a function to call with each batch before its forward.

    The blocks are back in place when the context ends.
    """
    whole = stack.blocks
    current: list[torch.Tensor] = []

    def put_in(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (current[0], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": current[0]}

    def use(batch: Batch) -> None:
        assert batch.hidden is not None  # noqa: S101
        current[:] = [batch.hidden]

    hook = whole[stack.first_adapted].register_forward_pre_hook(put_in, with_kwargs=True)
    setattr(stack.owner, stack.attribute, nn.ModuleList(list(whole)[stack.first_adapted :]))
    try:
        yield use
    finally:
        hook.remove()
        setattr(stack.owner, stack.attribute, whole)
