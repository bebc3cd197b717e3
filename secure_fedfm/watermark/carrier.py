"""A federation's adapter as the carrier of marks: which of its tensors are LoRA factors, and where
their values lie in the flat vector that a round adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.claim import TargetModule
from fedfm_audit.watermark.suspect import FloatArray, LowRank
from secure_fedfm.errors import ModelError
from secure_fedfm.learning.adapter_state import Adapter
from secure_fedfm.learning.payload import TensorLayout

_PREFIX, _A_END, _B_END = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class Carrier:
    """Where marks go: into B of every LoRA layer, and nowhere else.

    Attributes:
        layout: of the flat vector. scale: what every B A is multiplied with (alpha / rank).
        transposed: whether the base model stores weights as (inputs, outputs).
    """

    layout: TensorLayout
    scale: float
    transposed: bool = False

    def factors(self, adapter: Mapping[str, FloatArray]) -> dict[str, LowRank]:
        """The LoRA layers by module name, as claims name them; none where only a head is
        trained."""
        found = {}
        for name in adapter:
            if name.endswith(_B_END):
                stem = name.removesuffix(_B_END)
                module = stem.removeprefix(_PREFIX)
                found[module] = LowRank(adapter[name], adapter[stem + _A_END], self.scale)
        return found

    def modules(self, adapter: Mapping[str, FloatArray]) -> tuple[TargetModule, ...]:
        """The LoRA layers as a claim lists them, sorted."""
        return tuple(
            TargetModule(name, one.b.shape[0], one.a.shape[1], one.b.shape[1], self.transposed)
            for name, one in sorted(self.factors(adapter).items())
        )

    def flat(self, changes: Mapping[str, FloatArray]) -> NDArray[np.float64]:
        """Changes of B by module as one vector, float64 (layout.size,), zero elsewhere.

        Raises:
            ModelError: a module whose B is not trained, so that nothing can be written there.
        """
        vector = np.zeros(self.layout.size, np.float64)
        places = self._places()
        for module, change in changes.items():
            if module not in places:
                raise ModelError(f"B of module {module} is not trained here; it carries no mark")
            vector[places[module]] = change.astype(np.float64).ravel()
        return vector

    def only_carriers(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """``total`` (float64, (layout.size,)) with zeros outside of every B: the round of marks
        writes nothing else, whatever somebody adds to it."""
        kept = np.zeros_like(total)
        for where in self._places().values():
            kept[where] = total[where]
        return kept

    def _places(self) -> dict[str, slice]:
        layout, found = self.layout, {}
        for name, shape, start in zip(layout.names, layout.shapes, layout.offsets, strict=True):
            if name.endswith(_B_END):
                module = name.removesuffix(_B_END).removeprefix(_PREFIX)
                found[module] = slice(start, start + int(np.prod(shape)))
        return found


def add(adapter: Adapter, layout: TensorLayout, total: NDArray[np.float64]) -> Adapter:
    """The adapter with ``total`` added: one float32 rounding and one float32 addition a value, so
    that all clients arrive at the same bits."""
    return adapter.moved(layout, total.astype(np.float32))
