"""A named set of tensors <-> one flat float32 vector, the form in which a round protects it.

Everything after training (clipping, quantising, masking, summing) sees only the vector; everything
before it only the tensors. The layout is the agreement between the two, so it is hashed.

Order: tensors sorted by name (code points), each in C order, one after the other without padding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfm_crypto.canonical_json import canonical_encode
from secure_fedfm.errors import ModelError

FloatArray = npt.NDArray[np.float32]
Tensors = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Names and shapes of the trained tensors, in payload order (sorted by name)."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes) or not self.names:
            raise ModelError(
                f"a layout of {len(self.names)} names and {len(self.shapes)} shapes; "
                "expected as many of each, and at least one"
            )
        if list(self.names) != sorted(set(self.names)):
            raise ModelError("layout names must be unique and sorted; build it with `of`")

    @classmethod
    def of(cls, tensors: Tensors) -> TensorLayout:
        """The layout of these tensors."""
        names = tuple(sorted(tensors))
        return cls(names, tuple(tuple(tensors[name].shape) for name in names))

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Index in the flat vector at which each tensor begins."""
        offsets, position = [], 0
        for shape in self.shapes:
            offsets.append(position)
            position += math.prod(shape)
        return tuple(offsets)

    def hash(self) -> bytes:
        """SHA-256 over the canonical JSON of [name, shape] pairs: equal iff payloads line up."""
        pairs = [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]
        return hashlib.sha256(canonical_encode(pairs)).digest()

    def flatten(self, tensors: Tensors) -> FloatArray:
        """The tensors of this layout as one float32 vector; other names are left out.

        Raises:
            ModelError: a tensor is missing, of another shape, or not float32.
        """
        vector = np.empty(self.size, dtype=np.float32)
        for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True):
            if name not in tensors:
                raise ModelError(f"tensor {name!r} is missing; the adapter is of another layout")
            tensor = tensors[name]
            if tuple(tensor.shape) != shape or tensor.dtype != np.float32:
                raise ModelError(
                    f"tensor {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                    f"expected float32 of shape {shape}"
                )
            vector[offset : offset + tensor.size] = tensor.ravel()
        return vector

    def unflatten(self, vector: FloatArray) -> dict[str, FloatArray]:
        """The vector cut into tensors (copies).

        Raises:
            ModelError: the vector has another length or dtype.
        """
        if vector.shape != (self.size,) or vector.dtype != np.float32:
            raise ModelError(
                f"payload is {vector.dtype} of shape {vector.shape}; "
                f"expected float32 of shape ({self.size},)"
            )
        return {
            name: vector[offset : offset + math.prod(shape)].reshape(shape).copy()
            for name, shape, offset in zip(self.names, self.shapes, self.offsets, strict=True)
        }


def delta(layout: TensorLayout, before: Tensors, after: Tensors) -> FloatArray:
    """What local training changed: after - before, float32, shape (layout.size,).

    Raises:
        ModelError: a value is not finite. A diverged client must not spoil everyone's sum, and the
            sum would hide who it was.
    """
    difference = layout.flatten(after) - layout.flatten(before)
    if not np.isfinite(difference).all():
        raise ModelError(
            "local training diverged: the update holds values that are not finite; "
            "lower the learning rates in the training plan"
        )
    return difference
