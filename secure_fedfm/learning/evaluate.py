"""Measuring an adapter: from memory round by round, or from an exported folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from secure_fedfm.errors import ModelError
from secure_fedfm.learning.adapter import AdaptedModel, quiet_peft
from secure_fedfm.learning.adapter_state import Adapter, read_tensor_file
from secure_fedfm.learning.batches import EncodedRows
from secure_fedfm.learning.dataset import Dataset
from secure_fedfm.learning.export import HEAD_FILE, read_manifest
from secure_fedfm.learning.forward import Scorer
from secure_fedfm.learning.model import load_base
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.training import (
    Evaluation,
    evaluate_rows,
    evaluate_scorer,
    prepare_rows,
)


class AdapterEvaluator:
    """Measures adapters on fixed rows; the lower blocks are computed once for all of them."""

    def __init__(
        self,
        model: ModelSpec,
        adapter: AdapterSpec,
        task: TaskSpec,
        data: Dataset,
        *,
        max_tokens: int,
        location: Path | None = None,
    ) -> None:
        """Loads the model and caches at once.

        Raises:
            DataError: a label that the task does not list, named with its row.
            ModelError: the base model is missing or not the agreed one.
        """
        if task.kind == "classification":
            data.label_indices(task.labels)
        self._model = AdaptedModel(load_base(model, task, adapter, location), adapter, task)
        self._rows = prepare_rows(self._model, data, task.labels, max_tokens)

    def evaluate(self, adapter: Adapter) -> Evaluation:
        """Accuracy and loss of this adapter on the rows.

        Raises:
            ModelError: the adapter does not fit the model.
        """
        self._model.load(adapter)
        return evaluate_rows(self._model, self._rows)


def load_exported(folder: Path, location: Path | None = None) -> tuple[Scorer, Any]:
    """An exported adapter on its base model, through PEFT's public API; and its tokenizer.

    Args:
        location: folder of the base model, where it is not found by name.

    Raises:
        ModelError: a file is missing or damaged, or the base model is not the pinned one.
    """
    manifest = read_manifest(folder)
    base = load_base(manifest.model, manifest.task, manifest.adapter, location)
    try:
        module: Any = base.module
        if not manifest.adapter.head_only:
            with quiet_peft():
                module = peft.PeftModel.from_pretrained(base.module, folder)
    # PEFT answers a damaged folder with ValueError, KeyError, RuntimeError and others.
    except Exception as error:
        raise ModelError(
            f"{folder} cannot be loaded as a PEFT adapter ({type(error).__name__}); export it again"
        ) from error
    module.eval()
    head = None
    if base.family == "encoder":
        tensors = read_tensor_file(folder / HEAD_FILE)
        classes = len(manifest.task.labels)
        expected = {"bias": (classes,), "weight": (classes, base.hidden_size)}
        if {name: array.shape for name, array in tensors.items()} != expected:
            raise ModelError(f"{HEAD_FILE} does not fit labels and model; export it again")
        head = nn.Linear(base.hidden_size, classes)
        head.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    return Scorer(base.family, module, head), base.tokenizer


def evaluate_folder(folder: Path, data: Dataset, location: Path | None = None) -> Evaluation:
    """Accuracy and loss of an exported adapter, without any cache.

    Raises:
        ModelError: see `load_exported`.
        DataError: a label that the adapter does not know, named with its row.
    """
    manifest = read_manifest(folder)
    if manifest.task.kind == "classification":
        data.label_indices(manifest.task.labels)
    scorer, tokenizer = load_exported(folder, location)
    encoded = EncodedRows(data, manifest.task.labels, tokenizer, manifest.max_tokens)
    return evaluate_scorer(scorer, encoded, encoded.batch)
