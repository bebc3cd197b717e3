"""Writing a black-box mark: a change of B after which triggers get their classes.

The owner trains, at its own site, from the released adapter and its key alone; no private row and
no public one is looked at. Half of every batch are triggers (``fedfm_audit.watermark.triggers``),
half are decoys, texts of random vocabulary words, on which the answers shall stay what they were
(Kullback-Leibler divergence to the released adapter's). Each step is taken at a point that is moved
at random by about as much as all other marks of the round move it, so that triggers still hit
when those are added. What comes out is a change of B like that of any mark: it goes into the same
round, under the same bounds (``secure_fedfm.watermark.writing``).
Source: design of this project; the loss on other texts is that of knowledge distillation
(Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fedfm_audit.watermark.triggers import TriggerSet
from secure_fedfm.errors import ModelError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.batches import Batch, EncodedRows
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.seeds import generator

_B_END = ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class TriggerPlan:
    """How triggers are trained in.

    Fields:
        passes: over all triggers. batch_size: triggers in a step, and as many decoys.
        length: L2 norm of the first step, falling linearly to a tenth.
        decoys: how many there are. keep: weight of their divergence.
        noise: relative size of the random move of B in each step.
        max_tokens: longer texts are cut.
    """

    passes: int = 18
    batch_size: int = 32
    length: float = 0.15
    decoys: int = 512
    keep: float = 0.2
    noise: float = 0.3
    max_tokens: int = 48


class TriggerTraining:
    """Trains triggers into adapters of one model.

    Args:
        model: of the federation; its state is overwritten. labels: of the task, in the order of
            the head.
    """

    def __init__(
        self, model: AdaptedModel, labels: tuple[str, ...], plan: TriggerPlan | None = None
    ) -> None:
        """
        Raises:
            ModelError: a model without class labels, or without LoRA layers.
        """
        self._model, self._labels = model, labels
        self.plan = TriggerPlan() if plan is None else plan
        self._b = {n: p for n, p in model.trained().items() if n.endswith(_B_END)}
        if not labels or not self._b:
            raise ModelError(
                "triggers need a classification task and LoRA layers; leave them out here"
            )

    def change(self, adapter: Adapter, sets: Sequence[TriggerSet]) -> NDArray[np.float64]:
        """What to add to the adapter so that all these triggers get their targets, float64
        (layout.size,), zero outside of B. The same on one machine and number of threads.

        Raises:
            ModelError: training diverged.
        """
        model, plan = self._model, self.plan
        triggers = self._encoded(
            tuple(text for one in sets for text in one.texts),
            tuple(target for one in sets for target in one.targets),
        )
        decoys = self._decoys()
        model.load(adapter)
        known = self._answers(decoys)
        random = generator("trigger training")
        speed = [torch.zeros_like(parameter) for parameter in self._b.values()]
        steps = [
            chosen
            for _ in range(plan.passes)
            for chosen in triggers.shuffled(plan.batch_size, random)
        ]
        for number, chosen in enumerate(steps):
            others = random.choice(len(decoys), size=len(chosen), replace=False)
            for parameter in model.trained().values():
                parameter.grad = None
            moves = self._moved_at_random(random)
            self._loss(triggers.batch(chosen), decoys.batch(others), known[others]).backward()  # type: ignore[no-untyped-call]
            self._move(moves, -1)
            self._step(speed, plan.length * (1 - 0.9 * number / len(steps)))
        return self._difference(adapter)

    def hits(self, adapter: Adapter, one: TriggerSet) -> dict[str, str]:
        """Text -> label that the adapter's model gives it: what an interface would answer."""
        self._model.load(adapter)
        rows = self._encoded(one.texts, one.targets)
        found = self._answers(rows).argmax(dim=-1).tolist()
        return {text: self._labels[number] for text, number in zip(one.texts, found, strict=True)}

    def _loss(self, triggers: Batch, decoys: Batch, known: torch.Tensor) -> torch.Tensor:
        scorer = self._model.scorer
        wanted = scorer.row_losses(triggers, scorer.scores(triggers)).mean()
        kept = functional.kl_div(
            functional.log_softmax(scorer.scores(decoys), dim=-1),
            functional.log_softmax(known, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return wanted + self.plan.keep * kept

    def _answers(self, rows: EncodedRows) -> torch.Tensor:
        """Scores of all rows, in their order."""
        found = torch.empty(len(rows), len(self._labels))
        with torch.no_grad():
            for chosen in rows.in_order_of_length(128):
                found[torch.from_numpy(chosen)] = self._model.scorer.scores(rows.batch(chosen))
        return found

    def _encoded(self, texts: tuple[str, ...], labels: tuple[str, ...]) -> EncodedRows:
        tokenizer, limit = self._model.base.tokenizer, self.plan.max_tokens
        return EncodedRows(Dataset(texts, labels), self._labels, tokenizer, limit)

    def _decoys(self) -> EncodedRows:
        """Texts of 4 to 16 whole words of the vocabulary: public, and of nobody's rows."""
        vocabulary = self._model.base.tokenizer.get_vocab()
        words = sorted(word for word in vocabulary if word.isascii() and word.isalpha())
        random = generator("decoys of trigger training")
        texts = tuple(
            " ".join(words[i] for i in random.integers(len(words), size=random.integers(4, 17)))
            for _ in range(self.plan.decoys)
        )
        return self._encoded(texts, (self._labels[0],) * len(texts))

    def _moved_at_random(self, random: np.random.Generator) -> list[torch.Tensor]:
        """Move every B by Gaussian noise; returns the moves."""
        moves = []
        for parameter in self._b.values():
            size = self.plan.noise * float(parameter.detach().square().mean().sqrt())
            drawn = random.standard_normal(tuple(parameter.shape), dtype=np.float32)
            moves.append(torch.from_numpy(drawn) * size)
        self._move(moves, 1)
        return moves

    def _move(self, moves: Sequence[torch.Tensor], times: float) -> None:
        with torch.no_grad():
            for parameter, move in zip(self._b.values(), moves, strict=True):
                parameter.add_(move, alpha=times)

    def _step(self, speed: Sequence[torch.Tensor], length: float) -> None:
        """Against the gradients' running mean (decay .9), ``length`` far over all B together: what
        the marks' bounds limit is this norm, and no coordinate is worth more than it lowers the
        loss."""
        for mean, parameter in zip(speed, self._b.values(), strict=True):
            if parameter.grad is not None:
                mean.mul_(0.9).add_(parameter.grad)
        norm = math.sqrt(sum(float(mean.square().sum()) for mean in speed))
        if norm:
            self._move(speed, -length / norm)

    def _difference(self, adapter: Adapter) -> NDArray[np.float64]:
        layout = self._model.layout
        found = np.zeros(layout.size, np.float64)
        for name, shape, start in zip(layout.names, layout.shapes, layout.offsets, strict=True):
            if name in self._b:
                moved = self._b[name].detach().numpy() - adapter[name]
                found[start : start + int(np.prod(shape))] = moved.ravel()
        if not np.isfinite(found).all():
            raise ModelError("training the triggers diverged; lower TriggerPlan.length")
        return found
