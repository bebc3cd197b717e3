"""The adapter as it leaves the federation: a normal PEFT folder, and what PEFT has no place for.

adapter_config.json, adapter_model.safetensors   PEFT's own; PeftModel.from_pretrained loads them
                       (a head trained alone: no config, and no tensor in the other)
head.safetensors       the linear head, "weight" (C, H) and "bias" (C,); encoder family only
labels.json            the labels in class order
secure_fedfm.json      model pin, task, adapter and token limit: what `evaluate` needs
README.md              the model card
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save_file

from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.model_card import CardFacts, model_card
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec

CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
HEAD_FILE = "head.safetensors"
LABELS_FILE = "labels.json"
MANIFEST_FILE = "secure_fedfm.json"
CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an exported folder says about itself."""

    model: ModelSpec
    task: TaskSpec
    adapter: AdapterSpec
    max_tokens: int


def export_adapter(
    folder: Path, model: AdaptedModel, adapter: Adapter, manifest: Manifest, facts: CardFacts
) -> None:
    """Write the folder (made if need be; files of these names are replaced).

    adapter_config.json names the base model as the charter does, not by its path on this machine.

    Raises:
        ModelError: the adapter does not fit the model, or the folder cannot be written.
    """
    model.load(adapter)  # refuses a misfit before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not model.head_only:
            _write_config(folder, model, manifest.model.name)
        save_file(adapter.peft_tensors(), folder / ADAPTER_FILE, metadata={"format": "pt"})
        if adapter.head_tensors():
            save_file(adapter.head_tensors(), folder / HEAD_FILE, metadata={"format": "pt"})
        _write_json(folder / LABELS_FILE, list(manifest.task.labels))
        _write_json(
            folder / MANIFEST_FILE,
            {
                "version": 1,
                "model": manifest.model.to_json(),
                "task": manifest.task.to_json(),
                "adapter": manifest.adapter.to_json(),
                "max_tokens": manifest.max_tokens,
            },
        )
        card = model_card(manifest.model, manifest.task, manifest.adapter, adapter, facts)
        (folder / CARD_FILE).write_text(card, "utf-8")
    except OSError as error:
        raise ModelError(f"cannot write the adapter to {folder}: {error.strerror}") from error


def read_manifest(folder: Path) -> Manifest:
    """Read secure_fedfm.json of an exported folder.

    Raises:
        ModelError: missing, not JSON, or not of this form.
    """
    path = folder / MANIFEST_FILE
    try:
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict) or data.get("version") != 1:
            raise ModelError(f"{path} is not of version 1; export it with this version")
        tokens = data["max_tokens"]
        if not isinstance(tokens, int) or tokens < 1:
            raise ModelError(f"{path}: max_tokens is {tokens!r}; expected a positive integer")
        return Manifest(
            ModelSpec.from_json(data["model"]),
            TaskSpec.from_json(data["task"]),
            AdapterSpec.from_json(data["adapter"]),
            tokens,
        )
    except OSError as error:
        raise ModelError(
            f"no {MANIFEST_FILE} in {folder}; give a folder that secure-fedfm exported"
        ) from error
    except (ValueError, KeyError, ConfigurationError) as error:
        raise ModelError(f"{path} is damaged ({error}); export the adapter again") from error


def _write_config(folder: Path, model: AdaptedModel, name: str) -> None:
    config = copy.deepcopy(model.config)
    config.base_model_name_or_path = name
    config.inference_mode = True
    config.save_pretrained(folder)
    # PEFT writes sets in hash order; sorted, equal adapters give equal folders.
    path = folder / CONFIG_FILE
    written = json.loads(path.read_text("utf-8"))
    for key, value in written.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            written[key] = sorted(value)
    _write_json(path, written)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
