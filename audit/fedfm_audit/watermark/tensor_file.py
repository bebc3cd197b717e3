"""safetensors files of strangers: bounded, strict, one tensor (or some of its rows) at a time.

The reader is our own: the package's NumPy door knows no bfloat16 and hands out whole tensors.
Layout: U64 little-endian header length, header (JSON: name -> dtype, shape, data_offsets), data.
Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_audit.watermark.errors import SuspectError

FloatArray = NDArray[np.float32]

MAX_HEADER_BYTES = 32 << 20
MAX_TENSORS = 1 << 16
_MAX_DIMENSIONS = 8
_METADATA = "__metadata__"
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_SIZES = {
    8: "F64 I64 U64 C64",
    4: "F32 I32 U32",
    2: "F16 BF16 I16 U16",
    1: "I8 U8 BOOL F8_E4M3 F8_E5M2 F8_E8M0",
}
_ITEM_BYTES = {name: size for size, names in _SIZES.items() for name in names.split()}


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True, slots=True)
class TensorFile:
    """The tensors of one file by name; values are read when asked for."""

    path: Path
    entries: Mapping[str, _Entry]

    @classmethod
    def open(cls, path: Path) -> TensorFile:
        """Read and check the header.

        Raises:
            SuspectError: no regular file, or a header that does not describe it exactly.
        """
        try:
            header, size = _read_header(path)
        except OSError as error:
            raise SuspectError(f"cannot read {path}: {error.strerror}; check the path") from error
        try:
            parsed = json.loads(header, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, f"its header is no JSON ({error})") from None
        return cls(path, _entries(path, parsed, 8 + len(header), size))

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor that is in the file."""
        return self.entries[name].shape

    def rows(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows ``start`` to ``stop`` of a matrix as float32, shape (stop - start, columns).

        Raises:
            SuspectError: not a matrix of floats, a value that is not finite as float32, or the file
                cannot be read.
        """
        entry = self.entries[name]
        if entry.dtype not in _FLOATS or len(entry.shape) != 2:
            raise SuspectError(
                f"{self.path.name}: tensor {_shown(name)} is {entry.dtype} of shape "
                f"{entry.shape}; expected a matrix of {', '.join(_FLOATS)}: convert it first"
            )
        columns, item = entry.shape[1], _ITEM_BYTES[entry.dtype]
        try:
            raw = np.fromfile(
                self.path,
                dtype=_FLOATS[entry.dtype],
                count=(stop - start) * columns,
                offset=entry.begin + start * columns * item,
            )
        except OSError as error:
            raise SuspectError(f"cannot read {self.path}: {error.strerror}") from error
        if raw.size != (stop - start) * columns:
            raise _damaged(self.path, "it became shorter while it was read")
        return self._finite(_as_float32(raw, entry.dtype), name).reshape(stop - start, columns)

    def matrix(self, name: str) -> FloatArray:
        """A whole matrix; errors as :meth:`rows`."""
        shape = self.shape(name)
        return self.rows(name, 0, shape[0] if shape else 0)

    def _finite(self, values: FloatArray, name: str) -> FloatArray:
        # A sum is finite only if all terms are, and costs no second array.
        if not (values.size == 0 or math.isfinite(float(values.sum(dtype=np.float64)))):
            raise SuspectError(
                f"{self.path.name}: tensor {_shown(name)} holds values that are not finite; no "
                "model runs with them, so ask for a working copy"
            )
        return values


def _as_float32(raw: NDArray[Any], dtype: str) -> FloatArray:
    if dtype == "BF16":  # the upper half of a float32
        widened = raw.astype("<u4")
        widened <<= 16
        return widened.view("<f4").astype(np.float32, copy=False)
    with np.errstate(over="ignore"):  # an overflow gives an infinity, which is refused
        return raw.astype(np.float32, copy=False)


def _read_header(path: Path) -> tuple[bytes, int]:
    """The header's bytes and the size of the file."""
    with open(path, "rb", opener=_open_without_waiting) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SuspectError(f"{path} is no regular file; give a safetensors file")
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, status.st_size - 8):
            raise _damaged(path, f"its header claims {length} bytes")
        return stream.read(length), status.st_size


def _open_without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)  # a pipe would wait for a writer for ever


def _entries(path: Path, parsed: object, start: int, size: int) -> dict[str, _Entry]:
    if not isinstance(parsed, dict) or len(parsed) > MAX_TENSORS:
        raise _damaged(path, f"its header is no object of at most {MAX_TENSORS} tensors")
    found: dict[str, _Entry] = {}
    spans: list[tuple[int, int]] = []
    for name, said in parsed.items():
        if name == _METADATA:
            continue
        entry, begin, end = _entry(path, name, said, start)
        found[name] = entry
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _damaged(path, f"its data has a gap or an overlap at byte {position}")
        position = end
    if start + position != size:
        raise _damaged(path, f"it has {size} bytes, its header accounts for {start + position}")
    return found


def _entry(path: Path, name: str, said: object, start: int) -> tuple[_Entry, int, int]:
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"tensor {_shown(name)} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _damaged(path, f"tensor {_shown(name)} has the unknown dtype {_shown(dtype)}")
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _damaged(path, f"tensor {_shown(name)} has no valid shape")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _damaged(path, f"tensor {_shown(name)} has no valid offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise _damaged(path, f"tensor {_shown(name)} has {end - begin} bytes for its shape")
    return _Entry(dtype, tuple(shape), start + begin), begin, end


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 48 for one in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name appears twice")
    return members


def _shown(text: object) -> str:
    return ascii(text)[:120]


def _damaged(path: Path, what: str) -> SuspectError:
    return SuspectError(f"{path} is no valid safetensors file: {what}; get the file again")
