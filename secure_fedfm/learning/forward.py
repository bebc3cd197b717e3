"""From a batch to scores, losses and hits, for the three model families.

Losses come one per row, never averaged over the tokens of a batch: what one row contributes must
not depend on its neighbours, or a per-example clip would not bound it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from secure_fedfm.learning.batches import Batch
from secure_fedfm.learning.model import Family


@dataclass(frozen=True)
class Scorer:
    """A model ready to be called: `module` (PEFT or plain) and, for encoders, the linear head."""

    family: Family
    module: Any
    head: nn.Linear | None

    def scores(self, batch: Batch) -> torch.Tensor:
        """Class scores (B, C), or for causal-lm the token scores (B, L, V)."""
        if self.head is not None and batch.pooled is not None:
            known: torch.Tensor = self.head(batch.pooled)
            return known
        options = {"use_cache": False} if self.family == "causal-lm" else {}
        output = self.module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, **options
        )
        if self.head is None:
            logits: torch.Tensor = output.logits
            return logits
        pooled = masked_mean(output.last_hidden_state, batch.attention_mask)
        classes: torch.Tensor = self.head(pooled)
        return classes

    def row_losses(self, batch: Batch, found: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each row (B,): of its label, or the mean over its own next tokens."""
        if self.family != "causal-lm":
            return functional.cross_entropy(found, batch.labels, reduction="none")
        targets, real = _next_tokens(batch)
        tokens = functional.cross_entropy(found[:, :-1].transpose(1, 2), targets, reduction="none")
        return (tokens * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)

    def row_hits(self, batch: Batch, found: torch.Tensor) -> torch.Tensor:
        """Share of each row that is predicted right (B,): 0 or 1, or of its next tokens."""
        if self.family != "causal-lm":
            return (found.argmax(dim=-1) == batch.labels).to(torch.float32)
        targets, real = _next_tokens(batch)
        hits = (found[:, :-1].argmax(dim=-1) == targets).to(torch.float32)
        return (hits * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over real tokens: (B, L, H), (B, L) -> (B, H)."""
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    total: torch.Tensor = (hidden * weights).sum(dim=1)
    return total / weights.sum(dim=1)


def _next_tokens(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets (B, L-1) and which of them are real tokens. The mask, not the pad id, decides:
    GPT-2 pads with its end token, which is also a real one."""
    return batch.input_ids[:, 1:], batch.attention_mask[:, 1:].to(torch.float32)
