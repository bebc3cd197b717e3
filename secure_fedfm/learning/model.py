"""Loading a base model and its tokenizer, in one of three families.

    encoder     AutoModel, masked mean of the last hidden states, a linear head of ours (default)
    native      AutoModelForSequenceClassification with its own head
    causal-lm   AutoModelForCausalLM, one loss per sequence

Only safetensors, only code that comes with transformers, float32, dropout off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn

from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.specs import AdapterSpec, ModelSpec, TaskSpec
from secure_fedfm.learning.weights import verified_folder

Family = Literal["encoder", "native", "causal-lm"]


@dataclass(frozen=True)
class BaseModel:
    """A loaded base model: the module, its tokenizer, and tensors that the weights file lacked.

    `fresh` names parameters that transformers initialised at random (a native head, usually); the
    adapter gives them public initial values and trains them.
    """

    family: Family
    module: nn.Module
    tokenizer: Any
    fresh: tuple[str, ...]

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        size: int = self.module.config.hidden_size  # type: ignore[assignment, union-attr]
        return size


def family_of(task: TaskSpec, adapter: AdapterSpec) -> Family:
    """Which family a charter's task and adapter sections ask for.

    Raises:
        ConfigurationError: mean pooling for a causal-lm task.
    """
    if task.kind == "causal-lm":
        if adapter.pooling != "native":
            raise ConfigurationError(
                "adapter.pooling is 'mean' for a causal-lm task; set it to 'native'"
            )
        return "causal-lm"
    return "encoder" if adapter.pooling == "mean" else "native"


def load_base(
    spec: ModelSpec, task: TaskSpec, adapter: AdapterSpec, location: Path | None = None
) -> BaseModel:
    """Check the weights against the pinned hash, then load them.

    Raises:
        ModelError: not found, altered, or not loadable as this family.
    """
    family = family_of(task, adapter)
    folder = verified_folder(spec, location)
    options: dict[str, Any] = {}
    auto = transformers.AutoModel
    if family == "native":
        auto = transformers.AutoModelForSequenceClassification
        options["num_labels"] = len(task.labels)
        options["id2label"] = dict(enumerate(task.labels))
        options["label2id"] = {label: number for number, label in enumerate(task.labels)}
    elif family == "causal-lm":
        auto = transformers.AutoModelForCausalLM
    try:
        # Missing tensors are drawn from torch's global generator: leave the caller's as it was.
        with _quiet(), torch.random.fork_rng(devices=[]):
            module, report = auto.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    # transformers answers a bad folder with anything from KeyError to its own types.
    except Exception as error:
        raise ModelError(
            f"{spec.name} cannot be loaded as {family} model ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no detail'}); "
            "check config.json, tokenizer and weights in its folder"
        ) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"the tokenizer of {spec.name} has no padding and no end token")
        tokenizer.pad_token = tokenizer.eos_token
    if module.config.pad_token_id is None:
        module.config.pad_token_id = tokenizer.pad_token_id
    switch_off_dropout(module)
    module.requires_grad_(False)
    fresh = tuple(sorted(_relevant(report["missing_keys"], family)))
    return BaseModel(family, module, tokenizer, fresh)


def switch_off_dropout(module: nn.Module) -> None:
    """Put every layer in evaluation mode, for good: cached activations are exact only then."""
    module.eval()


def _relevant(missing: Any, family: Family) -> list[str]:
    """Missing tensors that take part: mean pooling never looks at an encoder's own pooler."""
    return [name for name in missing if not (family == "encoder" and "pooler" in name)]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice about untrained heads: they would drown our own output."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
