"""Merged weights as a suspect: what was added to the base model, read in strips of rows.

Both sides are safetensors: one file, or a folder of shards. The difference is a matrix of full rank
that also holds what quantisation or further training did; responses are taken of all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedfm_audit.watermark.claim import TargetModule
from fedfm_audit.watermark.errors import SuspectError
from fedfm_audit.watermark.suspect import DenseRows, NameIndex, Piece, wrong_shape
from fedfm_audit.watermark.tensor_file import TensorFile

MAX_SHARDS = 1024
_STRIP_VALUES = 1 << 23  # 32 MiB of float32 each for the suspect, the base and their difference
_END = ".weight"


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a model by name, over one file or several."""

    files: Mapping[str, TensorFile]

    @classmethod
    def open(cls, place: Path) -> Weights:
        """A safetensors file, or a folder with some (adapters in it are left aside).

        Raises:
            SuspectError: none there, too many, one is damaged, or a name is in two of them.
        """
        paths = [place]
        if place.is_dir():
            paths = sorted(
                path for path in place.glob("*.safetensors") if not path.name.startswith("adapter_")
            )
        if not 0 < len(paths) <= MAX_SHARDS:
            raise SuspectError(
                f"{place} holds {len(paths)} safetensors files, expected 1 to {MAX_SHARDS}; "
                "pickled weights are never loaded: convert them first"
            )
        files: dict[str, TensorFile] = {}
        for path in paths:
            file = TensorFile.open(path)
            for name in file:
                if name in files:
                    raise SuspectError(f"{place}: {ascii(name)[:120]} is in two files; keep one")
                files[name] = file
        return cls(files)

    def index(self) -> NameIndex:
        """Names of its linear layers (what ends in ``.weight``)."""
        return NameIndex(name.removesuffix(_END) for name in self.files if name.endswith(_END))


@dataclass(frozen=True, slots=True)
class MergedSuspect:
    """Weights of a model against those of the base model that it was made from."""

    suspect: Weights
    base: Weights
    base_names: NameIndex

    @classmethod
    def open(cls, suspect: Path, base: Path) -> MergedSuspect:
        """Errors as :meth:`Weights.open`."""
        original = Weights.open(base)
        return cls(Weights.open(suspect), original, original.index())

    def locate(self, modules: Sequence[TargetModule]) -> Mapping[str, str]:
        """As ``Suspect`` says."""
        return self.suspect.index().all(modules)

    def pieces(self, module: TargetModule, name: str) -> Iterator[Piece]:
        """As ``Suspect`` says."""
        there = name + _END
        found = self.base_names.find(module.name)
        if found is None:
            raise SuspectError(
                f"the base model has no tensor for module {module.name}, or several; give the "
                "base model that the claim names"
            )
        here = found + _END
        ours, theirs = self.base.files[here], self.suspect.files[there]
        shape = (module.rows, module.columns)
        stored = shape[::-1] if module.transposed else shape
        for file, tensor in ((ours, here), (theirs, there)):
            if file.shape(tensor) != stored:
                raise wrong_shape(module, file.shape(tensor))
        height = max(8, _STRIP_VALUES // stored[1] // 8 * 8)
        for start in range(0, stored[0], height):
            stop = min(start + height, stored[0])
            change = theirs.rows(there, start, stop)
            change -= ours.rows(here, start, stop)
            yield DenseRows(start, change, module.transposed)
