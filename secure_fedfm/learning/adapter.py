"""PEFT LoRA on a base model: which modules, which initial values, and state in and out.

The initial adapter is a public function of the charter: A from `public_uniform`, B zero, the linear
head zero, a native head from `public_uniform`. So every client starts from the same bits, whatever
its machine and thread count, and the charter can pin their hash.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from secure_fedfm.errors import ConfigurationError, ModelError
from secure_fedfm.learning.adapter_state import HEAD_PREFIX, Adapter
from secure_fedfm.learning.forward import Scorer
from secure_fedfm.learning.model import BaseModel
from secure_fedfm.learning.payload import TensorLayout
from secure_fedfm.learning.seeds import public_uniform
from secure_fedfm.learning.specs import ALL_LINEAR, AdapterSpec, TaskSpec

_TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "native": "SEQ_CLS", "causal-lm": "CAUSAL_LM"}
_LOADED = ".default"  # PEFT's name for the one adapter while it is in memory


@dataclass(frozen=True)
class BlockStack:
    """The transformer blocks of a model: `getattr(owner, attribute)` is their ModuleList.

    `first_adapted` is the index of the lowest block with a LoRA layer: all below is constant. It
    is the number of blocks if there is no such layer (a head trained alone).
    """

    owner: nn.Module
    attribute: str
    first_adapted: int

    @property
    def blocks(self) -> nn.ModuleList:
        found = getattr(self.owner, self.attribute)
        assert isinstance(found, nn.ModuleList)  # noqa: S101
        return found


class AdaptedModel:
    """A base model with its LoRA layers and, for the encoder family, a linear head.

    Attributes:
        base: what it was built on. peft: the PEFT model, or the plain one under a head alone.
        head: the linear head, or None. scorer: calls the two on a batch.
        layout: layout of the trained tensors. stack: the transformer blocks.
        config: the PEFT configuration as it will be exported, None without LoRA layers.
    """

    def __init__(self, base: BaseModel, spec: AdapterSpec, task: TaskSpec) -> None:
        """
        Raises:
            ConfigurationError: the targets name no module of this model.
            ModelError: the blocks of this model cannot be found.
        """
        self.base = base
        path, count = _find_blocks(base.module)
        first = max(0, count - spec.last_layers) if spec.last_layers else 0
        targets = [] if spec.head_only else _target_names(base.module, spec, path, first)
        self.config: Any = _peft_config(base, spec, targets) if targets else None
        self.peft: Any = base.module
        if targets:
            with torch.random.fork_rng(devices=[]), quiet_peft():
                self.peft = peft.get_peft_model(base.module, self.config)
        self.peft.eval()
        self.head: nn.Linear | None = None
        if base.family == "encoder":
            self.head = nn.Linear(base.hidden_size, len(task.labels))
        owner_path, _, attribute = path.rpartition(".")
        self.stack = BlockStack(
            base.module.get_submodule(owner_path),
            attribute,
            min((_block_of(t, path) for t in targets), default=count),
        )
        self.scorer = Scorer(base.family, self.peft, self.head)
        self._parameters = self._collect(spec)
        self.load(self._initial(spec))
        self.layout = TensorLayout.of(
            {n: p.detach().numpy() for n, p in self._parameters.items() if p.requires_grad}
        )

    def _collect(self, spec: AdapterSpec) -> dict[str, nn.Parameter]:
        """Saved name -> parameter, for all that the adapter consists of; sets requires_grad."""
        found: dict[str, nn.Parameter] = {}
        for name, parameter in self.peft.named_parameters():
            own = ".lora_A." in name or ".lora_B." in name or ".modules_to_save." in name
            parameter.requires_grad_(own and not (spec.train == "b-only" and ".lora_A." in name))
            if own:
                saved = name.replace(f".modules_to_save{_LOADED}.", ".").replace(f"{_LOADED}.", ".")
                found[saved] = parameter
        if self.head is not None:
            found.update({HEAD_PREFIX + n: p for n, p in self.head.named_parameters()})
        return found

    def _initial(self, spec: AdapterSpec) -> Adapter:
        fresh = {f"base_model.model.{name}" for name in self.base.fresh}
        tensors: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
        for name, parameter in self._parameters.items():
            shape = tuple(parameter.shape)
            if ".lora_A." in name or (name in fresh and len(shape) > 1):
                bound = 1.0 / math.sqrt(shape[-1])
                tensors[name] = public_uniform(shape, bound, "initial adapter", spec.seed, name)
            elif ".lora_B." in name or name in fresh or name.startswith(HEAD_PREFIX):
                tensors[name] = np.zeros(shape, np.float32)
            else:  # a native head that the weights file does hold goes on from there
                tensors[name] = parameter.detach().numpy().copy()
        return Adapter(tensors)

    @property
    def head_only(self) -> bool:
        """Whether nothing but the linear head is trained."""
        return self.config is None

    def state(self) -> Adapter:
        """The adapter as it is now, copied out."""
        return Adapter({n: p.detach().numpy() for n, p in self._parameters.items()})

    def load(self, adapter: Adapter) -> None:
        """Set every adapter tensor.

        Raises:
            ModelError: other names or shapes than this model's adapter.
        """
        if set(adapter) != set(self._parameters):
            wrong = sorted(set(adapter) ^ set(self._parameters))
            raise ModelError(
                f"the adapter does not fit this model: {len(wrong)} tensors differ, the first is "
                f"{wrong[0]!r}; use the charter that the adapter was made under"
            )
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if tuple(parameter.shape) != adapter[name].shape:
                    raise ModelError(
                        f"adapter tensor {name!r} has shape {adapter[name].shape}; "
                        f"expected {tuple(parameter.shape)}"
                    )
                parameter.copy_(torch.from_numpy(adapter[name].copy()))

    def trained(self) -> dict[str, nn.Parameter]:
        """Saved name -> parameter, for those that training moves, in layout order."""
        return {name: self._parameters[name] for name in self.layout.names}


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Drop peft's warning that it uses a name which transformers renames: nothing for a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _find_blocks(module: nn.Module) -> tuple[str, int]:
    """Path and length of the ModuleList of transformer blocks: the one as long as the config says.

    Raises:
        ModelError: none, or no linear layer in it.
    """
    expected = getattr(module.config, "num_hidden_layers", None)
    for path, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and len(child) == expected:
            return path, len(child)
    raise ModelError(
        f"found no list of {expected} transformer blocks in {type(module).__name__}; "
        "only models built as a stack of blocks can be adapted"
    )


def _block_of(name: str, path: str) -> int:
    return int(name.removeprefix(f"{path}.").split(".", 1)[0])


def _target_names(module: nn.Module, spec: AdapterSpec, path: str, first: int) -> list[str]:
    linear = [
        name
        for name, child in module.named_modules()
        if isinstance(child, (nn.Linear, Conv1D))
        and name.startswith(f"{path}.")
        and _block_of(name, path) >= first
    ]
    chosen = [
        name
        for name in linear
        if spec.targets == ALL_LINEAR
        or any(name == target or name.endswith(f".{target}") for target in spec.targets)
    ]
    if not chosen:
        known = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ConfigurationError(
            f"adapter.targets {spec.targets!r} match no linear layer of {type(module).__name__}; "
            f"its blocks have {', '.join(known)}"
        )
    return chosen


def _peft_config(base: BaseModel, spec: AdapterSpec, targets: list[str]) -> Any:
    # A fresh layer outside `classifier` and `score`, which PEFT saves by itself for SEQ_CLS, is
    # random in every client unless it travels too (DistilBERT's pre_classifier, BERT's pooler).
    owners = {name.rsplit(".", 1)[0] for name in base.fresh}
    usual = {"classifier", "score"}
    extra = sorted(owner for owner in owners if owner.split(".")[0] not in usual)
    if base.family == "causal-lm" and extra:
        raise ModelError(
            f"the weights lack {', '.join(extra)}; a language model needs its head: use another"
        )
    fused = any(isinstance(base.module.get_submodule(name), Conv1D) for name in targets)
    return peft.LoraConfig(
        task_type=_TASK_TYPES[base.family],
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,
        fan_in_fan_out=fused,
        modules_to_save=extra or None,
        inference_mode=False,
    )
