"""How each kind of field is written and read: the pieces that :mod:`fedfm_crypto.codec` assembles.

Nothing outside the codec uses this module. Every coding checks its bounds in both directions and
raises ``CodecError`` without the content of the value; ``smallest`` is the least number of bytes
that a value takes, which lets a tuple refuse a count that cannot fit what is left.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

from fedfm_crypto.errors import CodecError, FedFMError

__all__ = [
    "BoolCoding",
    "Coding",
    "DataclassCoding",
    "FixedBytesCoding",
    "OptionalCoding",
    "Reader",
    "TextCoding",
    "TupleCoding",
    "UnsignedCoding",
    "VarBytesCoding",
]

_LENGTH_BYTES = 4


class Reader:
    """A cursor over the input that never reads past its end."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: memoryview) -> None:
        self._data = data.cast("B") if data.format != "B" or data.ndim != 1 else data
        self._offset = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._offset

    def take(self, count: int) -> memoryview:
        if count > self.left:
            raise CodecError(f"truncated: {count} bytes needed, {self.left} left")
        start = self._offset
        self._offset = start + count
        return self._data[start : self._offset]

    def unsigned(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")


class Coding(ABC):
    """How one type is written and read; ``smallest`` is its least size in bytes."""

    __slots__ = ("smallest",)
    smallest: int

    @abstractmethod
    def write(self, value: Any, pieces: list[bytes]) -> None: ...

    @abstractmethod
    def read(self, reader: Reader) -> Any: ...


def _found(value: object) -> str:
    """Describe a value of the wrong type without showing its content, which may be secret."""
    return f"found {type(value).__name__}"


class UnsignedCoding(Coding):
    __slots__ = ("_bits",)

    def __init__(self, bits: int) -> None:
        if bits not in (8, 16, 32, 64):
            raise TypeError(f"Unsigned({bits}): expected 8, 16, 32 or 64 bits")
        self._bits = bits
        self.smallest = bits // 8

    def write(self, value: Any, pieces: list[bytes]) -> None:
        if type(value) is not int:
            raise CodecError(f"{_found(value)}, expected int")
        if not 0 <= value < 1 << self._bits:
            raise CodecError(f"integer outside 0..2**{self._bits}-1")
        pieces.append(value.to_bytes(self.smallest, "big"))

    def read(self, reader: Reader) -> int:
        return reader.unsigned(self.smallest)


class BoolCoding(Coding):
    __slots__ = ()

    def __init__(self) -> None:
        self.smallest = 1

    def write(self, value: Any, pieces: list[bytes]) -> None:
        if type(value) is not bool:
            raise CodecError(f"{_found(value)}, expected bool")
        pieces.append(b"\x01" if value else b"\x00")

    def read(self, reader: Reader) -> bool:
        byte = reader.unsigned(1)
        if byte > 1:
            raise CodecError(f"boolean byte {byte}, expected 0 or 1")
        return byte == 1


class FixedBytesCoding(Coding):
    __slots__ = ()

    def __init__(self, length: int) -> None:
        self.smallest = length

    def write(self, value: Any, pieces: list[bytes]) -> None:
        if not isinstance(value, bytes):
            raise CodecError(f"{_found(value)}, expected bytes")
        if len(value) != self.smallest:
            raise CodecError(f"{len(value)} bytes, expected exactly {self.smallest}")
        pieces.append(value)

    def read(self, reader: Reader) -> bytes:
        return bytes(reader.take(self.smallest))


class VarBytesCoding(Coding):
    __slots__ = ("_limit",)

    def __init__(self, limit: int) -> None:
        if not 0 <= limit < 1 << (8 * _LENGTH_BYTES):
            raise TypeError(f"MaxLength({limit}) does not fit a U32 length")
        self._limit = limit
        self.smallest = _LENGTH_BYTES

    def write(self, value: Any, pieces: list[bytes]) -> None:
        if not isinstance(value, bytes):
            raise CodecError(f"{_found(value)}, expected bytes")
        if len(value) > self._limit:
            raise CodecError(f"{len(value)} bytes, expected at most {self._limit}")
        pieces.append(len(value).to_bytes(_LENGTH_BYTES, "big"))
        pieces.append(value)

    def read(self, reader: Reader) -> bytes:
        length = reader.unsigned(_LENGTH_BYTES)
        if length > self._limit:
            raise CodecError(f"{length} bytes announced, expected at most {self._limit}")
        return bytes(reader.take(length))


class TextCoding(Coding):
    __slots__ = ("_bytes", "_expression", "_pattern")

    def __init__(self, limit: int, expression: str | None) -> None:
        self._bytes = VarBytesCoding(limit)
        self._expression = expression
        self._pattern = None if expression is None else re.compile(expression)
        self.smallest = _LENGTH_BYTES

    def _check(self, text: str) -> None:
        if self._pattern is not None and self._pattern.fullmatch(text) is None:
            raise CodecError(f"{text[:80]!r} does not match {self._expression}")

    def write(self, value: Any, pieces: list[bytes]) -> None:
        if not isinstance(value, str):
            raise CodecError(f"{_found(value)}, expected str")
        try:
            data = value.encode("utf-8", "strict")
        except UnicodeEncodeError:
            raise CodecError("text with a lone surrogate, expected valid Unicode") from None
        self._bytes.write(data, pieces)
        self._check(value)

    def read(self, reader: Reader) -> str:
        try:
            text = self._bytes.read(reader).decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise CodecError(f"invalid UTF-8 at byte {error.start} of the text") from None
        self._check(text)
        return text


class TupleCoding(Coding):
    __slots__ = ("_item", "_limit")

    def __init__(self, item: Coding, limit: int) -> None:
        if not item.smallest:
            raise TypeError("items of a tuple must take at least one byte each")
        self._item = item
        self._limit = limit
        self.smallest = _LENGTH_BYTES

    def write(self, value: Any, pieces: list[bytes]) -> None:
        if not isinstance(value, tuple):
            raise CodecError(f"{_found(value)}, expected tuple")
        if len(value) > self._limit:
            raise CodecError(f"{len(value)} items, expected at most {self._limit}")
        pieces.append(len(value).to_bytes(_LENGTH_BYTES, "big"))
        for index, item in enumerate(value):
            try:
                self._item.write(item, pieces)
            except CodecError as error:
                raise CodecError(f"[{index}]: {error}") from None

    def read(self, reader: Reader) -> tuple[Any, ...]:
        count = reader.unsigned(_LENGTH_BYTES)
        if count > self._limit:
            raise CodecError(f"{count} items announced, expected at most {self._limit}")
        if count * self._item.smallest > reader.left:
            raise CodecError(f"truncated: {count} items announced, {reader.left} bytes left")
        items = []
        for index in range(count):
            try:
                items.append(self._item.read(reader))
            except CodecError as error:
                raise CodecError(f"[{index}]: {error}") from None
        return tuple(items)


class OptionalCoding(Coding):
    __slots__ = ("_item",)

    def __init__(self, item: Coding) -> None:
        self._item = item
        self.smallest = 1

    def write(self, value: Any, pieces: list[bytes]) -> None:
        if value is None:
            pieces.append(b"\x00")
        else:
            pieces.append(b"\x01")
            self._item.write(value, pieces)

    def read(self, reader: Reader) -> Any:
        presence = reader.unsigned(1)
        if presence > 1:
            raise CodecError(f"presence byte {presence}, expected 0 or 1")
        return self._item.read(reader) if presence else None


class DataclassCoding(Coding):
    __slots__ = ("_cls", "_fields")

    def __init__(self, cls: type, fields: tuple[tuple[str, Coding], ...]) -> None:
        self._cls = cls
        self._fields = fields
        self.smallest = sum(coding.smallest for _, coding in fields)

    def write(self, value: Any, pieces: list[bytes]) -> None:
        if type(value) is not self._cls:
            raise CodecError(f"{_found(value)}, expected {self._cls.__name__}")
        for name, coding in self._fields:
            try:
                coding.write(getattr(value, name), pieces)
            except CodecError as error:
                raise CodecError(f"{self._cls.__name__}.{name}: {error}") from None

    def read(self, reader: Reader) -> Any:
        values: dict[str, Any] = {}
        for name, coding in self._fields:
            try:
                values[name] = coding.read(reader)
            except CodecError as error:
                raise CodecError(f"{self._cls.__name__}.{name}: {error}") from None
        try:
            return self._cls(**values)
        except CodecError:
            raise
        except (FedFMError, ValueError) as error:
            # A check in __post_init__ refused the values: for the sender's bytes that is a
            # malformed message like any other.
            raise CodecError(f"{self._cls.__name__}: {error}") from error
