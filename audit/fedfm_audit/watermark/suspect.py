"""What a suspect is to a judge: for each module of a claim, the change that was made to it.

A change is given either as LoRA factors or as rows of a matrix; where from is a matter of
``adapter_suspect`` and ``merged_suspect``. Suspects in memory serve embedding and benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.claim import TargetModule
from fedfm_audit.watermark.errors import SuspectError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change scale * B A. ``b`` is float32 (rows, r), ``a`` float32 (r, columns)."""

    b: FloatArray
    a: FloatArray
    scale: float = 1.0

    def product(self) -> FloatArray:
        """The whole matrix, float32 (rows, columns)."""
        return (self.b @ self.a) * np.float32(self.scale)


@dataclass(frozen=True, slots=True)
class DenseRows:
    """Some rows of a change, from row ``start`` on; with ``transposed``, of its transpose."""

    start: int
    values: FloatArray
    transposed: bool = False


Piece = LowRank | DenseRows


class Suspect(Protocol):
    """Something that may carry a mark."""

    def locate(self, modules: Sequence[TargetModule]) -> Mapping[str, str]:
        """Name in the claim -> name in the suspect, for those of these modules that it has.

        Raises:
            SuspectError: it has none, or one name would stand for two modules.
        """
        ...

    def pieces(self, module: TargetModule, name: str) -> Iterable[Piece]:
        """The change of a module, known as ``name`` to the suspect, in parts that add up to it.

        Raises:
            SuspectError: it has another shape than the claim says, or cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class LowRankSuspect:
    """LoRA factors in memory, by module name."""

    factors: Mapping[str, LowRank]

    def locate(self, modules: Sequence[TargetModule]) -> Mapping[str, str]:
        """As :class:`Suspect` says."""
        return NameIndex(self.factors).all(modules)

    def pieces(self, module: TargetModule, name: str) -> Iterator[Piece]:
        """As :class:`Suspect` says."""
        yield fitting(module, self.factors[name])


@dataclass(frozen=True, slots=True)
class DenseSuspect:
    """Changes in memory, float32 (rows, columns), by module name."""

    changes: Mapping[str, FloatArray]

    def locate(self, modules: Sequence[TargetModule]) -> Mapping[str, str]:
        """As :class:`Suspect` says."""
        return NameIndex(self.changes).all(modules)

    def pieces(self, module: TargetModule, name: str) -> Iterator[Piece]:
        """As :class:`Suspect` says."""
        change = self.changes[name]
        if change.shape != (module.rows, module.columns):
            raise wrong_shape(module, change.shape)
        yield DenseRows(0, change)


def fitting(module: TargetModule, factors: LowRank) -> LowRank:
    """``factors``, if their product has the shape of the module.

    Raises:
        SuspectError: it has not, or the rank is above what such a matrix can have.
    """
    b, a = factors.b.shape, factors.a.shape
    if b[0] != module.rows or a[1] != module.columns or b[1] != a[0]:
        raise wrong_shape(module, (*b, *a))
    if b[1] > min(module.rows, module.columns):
        raise SuspectError(
            f"module {module.name} has factors of rank {b[1]}, above that of any "
            f"{module.rows} x {module.columns} matrix; merge it and compare with the base"
        )
    return factors


def wrong_shape(module: TargetModule, found: Sequence[int]) -> SuspectError:
    """The error for a suspect of another architecture."""
    return SuspectError(
        f"module {module.name} of the suspect has shape {tuple(found)}, the claim is about "
        f"{module.rows} x {module.columns}; is it of the claim's base model?"
    )


class NameIndex:
    """Module names of a file against those of a claim.

    Exporters put prefixes in front (``bert.``, ``base_model.model.``) or leave them out, so a name
    also matches where one of the two is the end of the other at a dot, if only one name does.
    """

    __slots__ = ("_exact", "_suffixes")

    _suffixes: dict[str, str | None]

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = frozenset(names)
        self._suffixes = {}  # None: the end of several names
        for name in sorted(self._exact):
            for suffix in _proper_suffixes(name):
                self._suffixes[suffix] = None if suffix in self._suffixes else name

    def find(self, wanted: str) -> str | None:
        """The name that stands for ``wanted``, or None."""
        if wanted in self._exact:
            return wanted
        longer = self._suffixes.get(wanted)
        if longer is not None or wanted in self._suffixes:
            return longer
        # A single component ("dense") is the end of too much to mean anything.
        shorter = (s for s in _proper_suffixes(wanted) if "." in s and s in self._exact)
        return next(shorter, None)

    def all(self, modules: Sequence[TargetModule]) -> dict[str, str]:
        """Module name -> name in the file, for the modules that are there.

        Raises:
            SuspectError: one name would stand for two modules, or none is there at all.
        """
        found = {module.name: self.find(module.name) for module in modules}
        present = {name: there for name, there in found.items() if there is not None}
        if len(set(present.values())) != len(present):
            raise SuspectError(
                "one tensor of the suspect would stand for two modules of the claim; rename its "
                "tensors as in the base model"
            )
        if not present:
            raise SuspectError(
                f"the suspect has none of the claim's {len(modules)} modules, the first of which "
                f"is {modules[0].name}; rename its tensors as in the base model"
            )
        return present


_MAX_COMPONENTS = 32


def _proper_suffixes(name: str) -> Iterator[str]:
    """What is left of a dotted name without its first components, longest first."""
    parts = name.split(".", _MAX_COMPONENTS)
    for start in range(1, len(parts)):
        yield ".".join(parts[start:])
