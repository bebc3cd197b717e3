"""Tokenised rows and the batches made of them.

Rows are sorted into batches by length, so that little is padding: on short queries that alone
nearly halves the work. Order within and between batches is drawn anew in every pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from secure_fedfm.learning.dataset import Dataset

RowIndices = npt.NDArray[np.int64]

# Batches that are sorted by length together. Larger wastes less padding, smaller mixes better.
_BATCHES_PER_BUCKET = 24


@dataclass(frozen=True)
class Batch:
    """Padded on the right to its longest row.

    Fields:
        rows: indices into the encoded rows, int64 array (B,).
        input_ids, attention_mask: int64 (B, L). labels: int64 (B,), zeros for causal-lm.
        hidden: float32 (B, L, H), cached input of the first adapted block, or None.
        pooled: float32 (B, H), cached input of a head that is trained alone, or None.
    """

    rows: RowIndices
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    hidden: torch.Tensor | None = None
    pooled: torch.Tensor | None = None


class EncodedRows:
    """All rows of a data set as token ids, with their class numbers."""

    def __init__(
        self, data: Dataset, labels: Sequence[str], tokenizer: Any, max_tokens: int
    ) -> None:
        """
        Args:
            labels: the task's labels in order; empty for causal-lm.
            max_tokens: cut longer rows (also at the tokenizer's own limit).

        Raises:
            DataError: a row with a label that is not in `labels`.
        """
        limit = min(max_tokens, int(tokenizer.model_max_length))
        numbers = data.label_indices(labels) if labels else (0,) * len(data)
        ids = tokenizer(list(data.texts), truncation=True, max_length=limit)["input_ids"]
        self.ids = [np.asarray(row, dtype=np.int64) for row in ids]
        self.labels = np.asarray(numbers, dtype=np.int64)
        self.lengths = np.array([len(row) for row in self.ids], dtype=np.int64)
        self._pad = int(tokenizer.pad_token_id)

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: RowIndices) -> EncodedRows:
        """Some of the rows, numbered from 0 in this order."""
        found = copy.copy(self)
        found.ids = [self.ids[row] for row in rows]
        found.labels, found.lengths = self.labels[rows], self.lengths[rows]
        return found

    def batch(self, rows: Sequence[int] | RowIndices) -> Batch:
        """The padded batch of these rows."""
        chosen = np.asarray(rows, dtype=np.int64)
        shape = (len(chosen), int(self.lengths[chosen].max()))
        ids = np.full(shape, self._pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for position, row in enumerate(chosen):
            ids[position, : self.lengths[row]] = self.ids[row]
            mask[position, : self.lengths[row]] = 1
        return Batch(
            chosen,
            torch.from_numpy(ids),
            torch.from_numpy(mask),
            torch.from_numpy(self.labels[chosen]),
        )

    def shuffled(self, batch_size: int, random: np.random.Generator) -> list[RowIndices]:
        """Row indices of one pass: every row once, similar lengths together, in random order."""
        order = random.permutation(len(self))
        span = batch_size * _BATCHES_PER_BUCKET
        batches: list[RowIndices] = []
        for start in range(0, len(order), span):
            bucket = order[start : start + span]
            bucket = bucket[np.argsort(self.lengths[bucket], kind="stable")]
            batches.extend(bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size))
        return [batches[i] for i in random.permutation(len(batches))]

    def in_order_of_length(self, batch_size: int) -> Iterator[RowIndices]:
        """Row indices of one pass without randomness, for evaluation and caching."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]
