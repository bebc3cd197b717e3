"""One gradient per row, of every trained tensor, for a whole batch in one backward pass.

Opacus' hooks keep what enters a linear layer and what flows back into its output; the product of
the two, row by row, is the row's gradient (Goodfellow 2015, arXiv 1510.01799). Only that is taken
from Opacus. The hooks see a layer only if it is called as a module: a weight that is used past its
module gets a wrong gradient silently, which is what the gate is for. What is known beforehand not
to work is refused here, by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from opacus.grad_sample import GradSampleHooks
from torch import nn

from secure_fedfm.errors import PrivacyGateError
from secure_fedfm.learning.adapter import AdaptedModel
from secure_fedfm.learning.batches import Batch

_SUPPORTED: tuple[type[nn.Module], ...] = (nn.Linear, nn.LayerNorm)
_KNOWN_BAD = {
    "lora_magnitude_vector": "DoRA multiplies the weights themselves; use plain LoRA",
    "lora_embedding_": "LoRA on embeddings has no per-row gradient here; leave embeddings out",
}


@dataclass(frozen=True)
class RowGradients:
    """What one backward pass gave.

    Fields:
        tensors: saved name -> float tensor (B, *shape), every trained tensor, in layout order.
        losses: (B,), detached. A row whose loss or gradient is not finite is still in here.
    """

    tensors: Mapping[str, torch.Tensor]
    losses: torch.Tensor

    def __len__(self) -> int:
        return int(self.losses.shape[0])


Gradients = Callable[[Batch], RowGradients]


def check_supported(model: AdaptedModel) -> None:
    """Refuse what would fail or be wrong under the hooks, naming layer and reason.

    Raises:
        PrivacyGateError: DoRA or another LoRA variant, LoRA on embeddings, a trainable layer that
            is neither linear nor a layer norm, a tensor that two layers share, a trainable tensor
            outside the layout, gradient checkpointing, or batch statistics.
    """
    released = {id(parameter) for parameter in model.trained().values()}
    owner: dict[int, str] = {}
    for name, module in _container(model).named_modules():
        kinds = _lora_variants(module)
        if kinds:
            raise PrivacyGateError(
                f"{name} uses the LoRA variant {kinds}, whose weights bypass its layers; "
                "private training needs plain LoRA"
            )
        if getattr(module, "gradient_checkpointing", False):
            raise PrivacyGateError(
                f"gradient checkpointing is on in {name}: it runs layers twice, which doubles "
                "per-row gradients; switch it off for private training"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise PrivacyGateError(
                f"{name} is a batch norm, which mixes the rows of a batch; use another model"
            )
        for own, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            full = f"{name}.{own}"
            for part, reason in _KNOWN_BAD.items():
                if part in full:
                    raise PrivacyGateError(f"trainable tensor {full}: {reason}")
            if type(module) not in _SUPPORTED:
                raise PrivacyGateError(
                    f"trainable layer {name} is a {type(module).__name__}; private training "
                    "supports Linear and LayerNorm: freeze it or choose other targets"
                )
            if id(parameter) not in released:
                raise PrivacyGateError(
                    f"tensor {full} is trainable but outside the release: its changes would leave "
                    "without noise; freeze it or make it part of the adapter"
                )
            if id(parameter) in owner:
                raise PrivacyGateError(
                    f"{full} and {owner[id(parameter)]} are one shared tensor; untie them"
                )
            owner[id(parameter)] = full


@contextmanager
def per_row_gradients(model: AdaptedModel) -> Iterator[Gradients]:
    """Within this context the yielded function gives the gradients of each row's own loss.

    It may be called inside `learning.training.ready`, on batches with cached lower blocks too. The
    model is left as it was found: no hooks, no attributes, no `.grad`.

    Raises:
        PrivacyGateError: see `check_supported`; on entering.
    """
    check_supported(model)
    trained = model.trained()
    container = _container(model)
    # Opacus records training layers only. These have no behaviour of their own in training, so
    # dropout, which sits in other modules, stays off.
    owners = [
        module
        for module in container.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    before = [module.training for module in owners]
    hooks = GradSampleHooks(container, loss_reduction="sum", strict=True)
    try:
        for module in owners:
            module.training = True

        def gradients(batch: Batch) -> RowGradients:
            for parameter in trained.values():
                parameter.grad_sample = None  # type: ignore[attr-defined]
                parameter._forward_counter = 0  # type: ignore[attr-defined]
            losses = model.scorer.row_losses(batch, model.scorer.scores(batch))
            with warnings.catch_warnings():
                # Expected: what enters the lowest adapted layer is a constant.
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                losses.sum().backward()  # type: ignore[no-untyped-call]
            found = {name: _taken(name, parameter, batch) for name, parameter in trained.items()}
            return RowGradients(found, losses.detach())

        yield gradients
    finally:
        hooks.cleanup()
        for module, training in zip(owners, before, strict=True):
            module.training = training
            if hasattr(module, "activations"):
                del module.activations
        for parameter in trained.values():
            parameter.grad = None


def one_by_one(model: AdaptedModel, batch: Batch) -> dict[str, torch.Tensor]:
    """The gradient of one row's loss by plain autograd: the oracle of everything above.

    Args:
        batch: a single row.
    """
    trained = model.trained()
    loss = model.scorer.row_losses(batch, model.scorer.scores(batch)).sum()
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(trained.items(), found, strict=True)
    }


def _lora_variants(module: nn.Module) -> str:
    """Names of what a PEFT layer does beyond plain LoRA, as new and old versions of PEFT say it."""
    found = {type(one).__name__ for one in (getattr(module, "lora_variant", None) or {}).values()}
    if any((getattr(module, "use_dora", None) or {}).values()):
        found.add("DoRA")
    return ", ".join(sorted(found))


def _container(model: AdaptedModel) -> nn.ModuleDict:
    parts: dict[str, nn.Module] = {"model": model.peft}
    if model.head is not None:
        parts["head"] = model.head
    return nn.ModuleDict(parts)


def _taken(name: str, parameter: nn.Parameter, batch: Batch) -> torch.Tensor:
    """The row gradients that the hooks left on a parameter, taken off it."""
    found = parameter.grad_sample  # type: ignore[attr-defined]
    parameter.grad_sample = None  # type: ignore[attr-defined]
    parameter.grad = None
    expected = (len(batch.rows), *parameter.shape)
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != expected:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else "none at all"
        raise PrivacyGateError(
            f"tensor {name!r} is trained, but its gradients per row are {shape}; expected "
            f"{expected}. It is unused, or used past its layer: freeze it or choose other targets"
        )
    return found
