"""The one binary codec: frozen dataclasses to canonical bytes and back.

A message is a dataclass whose annotations say how each field is encoded; fields follow each other
in declaration order, without tags or padding::

    U8 U16 U32 U64        unsigned, big-endian
    bool                  one byte, 0 or 1
    Bytes32, Bytes64      fixed length
    Annotated[bytes, MaxLength(n)]          U32 length || bytes
    Annotated[str, MaxLength(n)]            U32 length || UTF-8 (n counts bytes)
    Name                                    the same, and it must match NAME_PATTERN
    Annotated[tuple[T, ...], MaxCount(n)]   U32 count || items
    T | None              one byte, 0 or 1, then T if 1
    a dataclass           its fields inline

Every value has exactly one encoding and every accepted byte string is the encoding of its value:
``encode(decode(cls, data)) == data``. ``decode`` compares each length with the limit and with the
bytes that are left before it allocates anything, and refuses leftovers. ``encode`` checks the same
limits. Types cannot contain themselves, so the nesting of the input is bounded by the type.

Dataclasses must live at module level, because their annotations are resolved by name. A class
without a usable layout is a programming error (``TypeError``), not a ``CodecError``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from fedfm_crypto.codings import (
    BoolCoding,
    Coding,
    DataclassCoding,
    FixedBytesCoding,
    OptionalCoding,
    Reader,
    TextCoding,
    TupleCoding,
    UnsignedCoding,
    VarBytesCoding,
)
from fedfm_crypto.errors import CodecError

__all__ = [
    "NAME_PATTERN",
    "U8",
    "U16",
    "U32",
    "U64",
    "Bytes32",
    "Bytes64",
    "FixedLength",
    "MaxCount",
    "MaxLength",
    "Name",
    "Pattern",
    "Text16",
    "Text32",
    "Text512",
    "Unsigned",
    "decode",
    "encode",
]

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Unsigned:
    """Marks an int as unsigned with so many bits."""

    bits: int


@dataclasses.dataclass(frozen=True, slots=True)
class FixedLength:
    """Marks bytes as having exactly this length."""

    length: int


@dataclasses.dataclass(frozen=True, slots=True)
class MaxLength:
    """Bounds the length in bytes of bytes or of the UTF-8 of a string."""

    length: int


@dataclasses.dataclass(frozen=True, slots=True)
class MaxCount:
    """Bounds the number of items of a tuple."""

    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """Requires a string to match this regular expression as a whole."""

    expression: str


NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
"""What names a federation or a participant: safe in file names, URLs and note key names."""

U8 = Annotated[int, Unsigned(8)]
U16 = Annotated[int, Unsigned(16)]
U32 = Annotated[int, Unsigned(32)]
U64 = Annotated[int, Unsigned(64)]
Bytes32 = Annotated[bytes, FixedLength(32)]
Bytes64 = Annotated[bytes, FixedLength(64)]
Text16 = Annotated[str, MaxLength(16)]
Text32 = Annotated[str, MaxLength(32)]
Text512 = Annotated[str, MaxLength(512)]
Name = Annotated[str, MaxLength(63), Pattern(NAME_PATTERN)]


def encode(obj: object) -> bytes:
    """Return the canonical bytes of a dataclass instance.

    Raises:
        CodecError: a value has the wrong type or is outside its bounds; the field is named.
        TypeError: the class has no layout.
    """
    pieces: list[bytes] = []
    kind: type = type(obj)
    _layout(kind).write(obj, pieces)
    return b"".join(pieces)


def decode(cls: type[_T], data: bytes | memoryview) -> _T:
    """Return the instance of ``cls`` that ``data`` encodes.

    Raises:
        CodecError: the bytes are truncated, oversized, non-canonical or have leftovers; the field
            is named.
        TypeError: the class has no layout.
    """
    reader = Reader(memoryview(data))
    kind: type = cls
    value = _layout(kind).read(reader)
    if reader.left:
        raise CodecError(f"{cls.__name__}: {reader.left} bytes left over, expected none")
    return typing.cast(_T, value)


@cache
def _layout(cls: type) -> DataclassCoding:
    """Return the coding of a dataclass, built once a class."""
    return _dataclass_coding(cls, ())


def _dataclass_coding(cls: type, outer: tuple[type, ...]) -> DataclassCoding:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass and has no layout")
    if cls in outer:
        raise TypeError(f"{cls.__name__} contains itself; the codec has no recursive types")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = []
    for field in dataclasses.fields(cls):
        where = f"{cls.__name__}.{field.name}"
        if not field.init:
            raise TypeError(f"{where}: a field outside __init__ cannot be decoded")
        fields.append((field.name, _coding(hints[field.name], where, (*outer, cls))))
    return DataclassCoding(cls, tuple(fields))


def _coding(hint: Any, where: str, outer: tuple[type, ...]) -> Coding:
    """Return the coding that an annotation asks for."""
    marks: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        marks = tuple(rest)
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        if len(options) != 1 or len(get_args(hint)) != 2:
            raise TypeError(f"{where}: a union must be T | None")
        return OptionalCoding(_coding(options[0], where, outer))
    if get_origin(hint) is tuple:
        item, *ellipsis = get_args(hint)
        if ellipsis != [Ellipsis]:
            raise TypeError(f"{where}: a tuple must be tuple[T, ...]")
        return TupleCoding(_coding(item, where, outer), _mark(marks, MaxCount, where).count)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass_coding(hint, outer)
    return _scalar_coding(hint, marks, where)


def _scalar_coding(hint: Any, marks: tuple[Any, ...], where: str) -> Coding:
    if hint is bool:
        return BoolCoding()
    if hint is int:
        return UnsignedCoding(_mark(marks, Unsigned, where).bits)
    if hint is bytes:
        fixed = [mark for mark in marks if isinstance(mark, FixedLength)]
        if fixed:
            return FixedBytesCoding(fixed[0].length)
        return VarBytesCoding(_mark(marks, MaxLength, where).length)
    if hint is str:
        patterns = [mark.expression for mark in marks if isinstance(mark, Pattern)]
        limit = _mark(marks, MaxLength, where).length
        return TextCoding(limit, patterns[0] if patterns else None)
    raise TypeError(f"{where}: the codec has no encoding for {hint!r}")


def _mark(marks: tuple[Any, ...], kind: type[_T], where: str) -> _T:
    for mark in marks:
        if isinstance(mark, kind):
            return mark
    raise TypeError(f"{where}: annotate it with {kind.__name__}(...), so that it is bounded")
