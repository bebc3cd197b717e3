"""The federation's adapter: every tensor that leaves training, and its hash.

Names are those of PEFT's adapter_model.safetensors (frozen A included, so that the hash covers all
that an exported adapter depends on); the linear head, which PEFT does not know, is "head.weight"
and "head.bias". An adapter is immutable: a round gives a new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedfm_crypto.hashing import hash_tensors
from secure_fedfm.errors import ModelError
from secure_fedfm.learning.payload import FloatArray, TensorLayout

HEAD_PREFIX = "head."


@dataclass(frozen=True)
class Adapter(Mapping[str, FloatArray]):
    """An immutable mapping from tensor name to a read-only little-endian float32 array."""

    tensors: Mapping[str, FloatArray]

    def __post_init__(self) -> None:
        frozen: dict[str, FloatArray] = {}
        for name in sorted(self.tensors):
            array = np.array(self.tensors[name], dtype="<f4", order="C")
            array.flags.writeable = False
            frozen[name] = array
        object.__setattr__(self, "tensors", MappingProxyType(frozen))

    def __getitem__(self, name: str) -> FloatArray:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        values = sum(array.size for array in self.tensors.values())
        return f"Adapter({len(self)} tensors, {values} values, {self.hash().hex()[:16]})"

    def __hash__(self) -> int:
        return int.from_bytes(self.hash()[:8], "big")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapter) and self.hash() == other.hash()

    def hash(self) -> bytes:
        """The canonical 32-byte tensor hash that charter, messages and evidence carry."""
        return hash_tensors(self.tensors)

    def moved(self, layout: TensorLayout, step: FloatArray) -> Adapter:
        """A new adapter with `step` (float32, shape (layout.size,)) added to the trained tensors.

        Raises:
            ModelError: the step does not fit the layout or the layout not this adapter.
        """
        trained = layout.unflatten(layout.flatten(self.tensors) + step)
        return Adapter({**self.tensors, **trained})

    def peft_tensors(self) -> dict[str, FloatArray]:
        """The part that belongs into adapter_model.safetensors."""
        return {n: a for n, a in self.tensors.items() if not n.startswith(HEAD_PREFIX)}

    def head_tensors(self) -> dict[str, FloatArray]:
        """The linear head without its prefix ("weight", "bias"); empty for a native head."""
        return {
            n.removeprefix(HEAD_PREFIX): a
            for n, a in self.tensors.items()
            if n.startswith(HEAD_PREFIX)
        }

    def to_bytes(self) -> bytes:
        """safetensors bytes, for durable state."""
        return save(dict(self.tensors))

    @classmethod
    def from_bytes(cls, data: bytes) -> Adapter:
        """The inverse of `to_bytes`.

        Raises:
            ModelError: not safetensors.
        """
        return cls(read_tensors(data, "adapter"))


def read_tensors(data: bytes, what: str) -> dict[str, FloatArray]:
    """Parse safetensors bytes into float32 arrays, or raise ModelError naming `what`."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ModelError(f"{what} is not a safetensors file ({error}); restore it") from error
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise ModelError(f"{what}: tensor {name!r} is {array.dtype}; expected float32")
    return tensors


def read_tensor_file(path: Path) -> dict[str, FloatArray]:
    """`read_tensors` of a file; a missing one is a ModelError too."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; give an adapter folder") from error
    return read_tensors(data, path.name)
