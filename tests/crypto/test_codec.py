"""The codec: one encoding per value, everything else refused, no allocation before a check."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfm_crypto.codec import (
    U8,
    U16,
    U32,
    U64,
    Bytes32,
    Bytes64,
    FixedLength,
    MaxCount,
    MaxLength,
    Name,
    Text16,
    Unsigned,
    decode,
    encode,
)
from fedfm_crypto.errors import CodecError


@dataclass(frozen=True, slots=True)
class Inner:
    name: Name
    flag: bool
    value: Annotated[bytes, MaxLength(5)] | None


@dataclass(frozen=True, slots=True)
class Everything:
    a: U8
    b: U16
    c: U32
    d: U64
    flag: bool
    digest: Bytes32
    signature: Bytes64
    blob: Annotated[bytes, MaxLength(20)]
    text: Text16
    name: Name
    numbers: Annotated[tuple[U16, ...], MaxCount(4)]
    texts: Annotated[tuple[Annotated[str, MaxLength(8)], ...], MaxCount(3)]
    inner: Inner
    inners: Annotated[tuple[Inner, ...], MaxCount(3)]
    maybe: Inner | None
    nested: Annotated[tuple[Annotated[tuple[bool, ...], MaxCount(2)], ...], MaxCount(2)] | None


def utf8(limit: int) -> st.SearchStrategy[str]:
    return st.text(max_size=limit).filter(lambda text: len(text.encode()) <= limit)


LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"
NAMES = st.builds(str.__add__, st.sampled_from(LOWER), st.text(LOWER + "._-", max_size=62))
INNERS = st.builds(Inner, name=NAMES, flag=st.booleans(), value=st.none() | st.binary(max_size=5))
EVERYTHING = st.builds(
    Everything,
    a=st.integers(0, 2**8 - 1),
    b=st.integers(0, 2**16 - 1),
    c=st.integers(0, 2**32 - 1),
    d=st.integers(0, 2**64 - 1),
    flag=st.booleans(),
    digest=st.binary(min_size=32, max_size=32),
    signature=st.binary(min_size=64, max_size=64),
    blob=st.binary(max_size=20),
    text=utf8(16),
    name=NAMES,
    numbers=st.lists(st.integers(0, 2**16 - 1), max_size=4).map(tuple),
    texts=st.lists(utf8(8), max_size=3).map(tuple),
    inner=INNERS,
    inners=st.lists(INNERS, max_size=3).map(tuple),
    maybe=st.none() | INNERS,
    nested=st.none()
    | st.lists(st.lists(st.booleans(), max_size=2).map(tuple), max_size=2).map(tuple),
)
EXAMPLE = Everything(
    a=1,
    b=2,
    c=3,
    d=4,
    flag=True,
    digest=b"d" * 32,
    signature=b"s" * 64,
    blob=b"blob",
    text="é",
    name="clinic-1",
    numbers=(5, 6),
    texts=("x", ""),
    inner=Inner("a", False, b"v"),
    inners=(Inner("b", True, None),),
    maybe=None,
    nested=((True,), ()),
)


def test_the_layout_is_the_documented_one() -> None:
    assert encode(EXAMPLE) == b"".join(
        [
            b"\x01",
            b"\x00\x02",
            b"\x00\x00\x00\x03",
            b"\x00\x00\x00\x00\x00\x00\x00\x04",
            b"\x01",
            b"d" * 32,
            b"s" * 64,
            b"\x00\x00\x00\x04blob",
            b"\x00\x00\x00\x02\xc3\xa9",
            b"\x00\x00\x00\x08clinic-1",
            b"\x00\x00\x00\x02\x00\x05\x00\x06",
            b"\x00\x00\x00\x02\x00\x00\x00\x01x\x00\x00\x00\x00",
            b"\x00\x00\x00\x01a\x00\x01\x00\x00\x00\x01v",
            b"\x00\x00\x00\x01\x00\x00\x00\x01b\x01\x00",
            b"\x00",
            b"\x01\x00\x00\x00\x02\x00\x00\x00\x01\x01\x00\x00\x00\x00",
        ]
    )


@given(EVERYTHING)
def test_round_trip(value: Everything) -> None:
    data = encode(value)
    assert decode(Everything, data) == value
    assert decode(Everything, memoryview(data)) == value


@given(EVERYTHING, EVERYTHING)
def test_encoding_is_injective(one: Everything, other: Everything) -> None:
    assert (encode(one) == encode(other)) is (one == other)


def decode_is_canonical(cls: type, data: bytes) -> bool:
    """Whether the bytes were accepted; if so they must be the encoding of what came out."""
    try:
        value: object = decode(cls, data)
    except CodecError:
        return False
    assert encode(value) == data
    return True


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_random_bytes_are_refused_or_canonical(data: bytes) -> None:
    decode_is_canonical(Everything, data)
    decode_is_canonical(Inner, data)


@given(value=EVERYTHING, data=st.data())
@settings(max_examples=100)
def test_mutated_bytes_are_refused_or_canonical(value: Everything, data: st.DataObject) -> None:
    original = encode(value)
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        match data.draw(st.sampled_from(["set", "insert", "delete"])):
            case "set":
                mutated[position] = data.draw(st.integers(0, 255))
            case "insert":
                mutated[position:position] = data.draw(st.binary(min_size=1, max_size=4))
            case "delete" if len(mutated) > 1:
                del mutated[position]
    decode_is_canonical(Everything, bytes(mutated))


def test_every_single_byte_change_of_an_example_is_refused_or_canonical() -> None:
    original = encode(EXAMPLE)
    accepted = sum(
        decode_is_canonical(
            Everything, original[:position] + bytes([byte]) + original[position + 1 :]
        )
        for position in range(len(original))
        for byte in (0, 1, 2, 0x7F, 0xFF)
    )
    assert 0 < accepted < 5 * len(original)


def test_every_truncation_and_every_leftover_is_refused() -> None:
    data = encode(EXAMPLE)
    for length in range(len(data)):
        with pytest.raises(CodecError):
            decode(Everything, data[:length])
    for extra in (b"\0", b"\xff" * 40):
        with pytest.raises(CodecError, match=f"{len(extra)} bytes left over"):
            decode(Everything, data + extra)


@dataclass(frozen=True, slots=True)
class Flag:
    flag: bool


@dataclass(frozen=True, slots=True)
class Maybe:
    value: U8 | None


@dataclass(frozen=True, slots=True)
class Word:
    text: Annotated[str, MaxLength(4)]


@dataclass(frozen=True, slots=True)
class Named:
    name: Name


def test_booleans_and_presence_are_zero_or_one_only() -> None:
    for byte in range(2, 256):
        with pytest.raises(CodecError, match=r"Flag\.flag: boolean byte"):
            decode(Flag, bytes([byte]))
        with pytest.raises(CodecError, match=r"Maybe\.value: presence byte"):
            decode(Maybe, bytes([byte, 0]))
    assert decode(Flag, b"\x01") == Flag(True)
    assert decode(Maybe, b"\x00") == Maybe(None)


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3"]
)
def test_malformed_overlong_and_surrogate_utf8_is_refused(text: bytes) -> None:
    with pytest.raises(CodecError, match=r"Word\.text: invalid UTF-8"):
        decode(Word, len(text).to_bytes(4, "big") + text)


def test_text_is_bounded_in_bytes_and_unicode_is_kept_as_it_is() -> None:
    assert encode(Word("€x")) == b"\x00\x00\x00\x04\xe2\x82\xacx"
    with pytest.raises(CodecError, match="5 bytes, expected at most 4"):
        encode(Word("€xy"))
    with pytest.raises(CodecError, match="surrogate"):
        encode(Word("\ud800"))
    composed, decomposed = Word("\u00e9"), Word("e\u0301")
    assert encode(composed) != encode(decomposed)


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a/b", "a b", "a\n", "ä", "a" * 64, "\n"])
def test_names_outside_the_pattern_are_refused_both_ways(name: str) -> None:
    with pytest.raises(CodecError, match=r"Named\.name"):
        encode(Named(name))
    raw = name.encode()
    with pytest.raises(CodecError, match=r"Named\.name"):
        decode(Named, len(raw).to_bytes(4, "big") + raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": 256}, r"Everything\.a: integer outside 0\.\.2\*\*8-1"),
        ({"a": -1}, r"Everything\.a: integer outside"),
        ({"a": True}, r"Everything\.a: found bool, expected int"),
        ({"d": 2**64}, r"Everything\.d"),
        ({"d": 1.0}, r"Everything\.d: found float"),
        ({"flag": 1}, r"Everything\.flag: found int, expected bool"),
        ({"digest": b"d" * 31}, r"Everything\.digest: 31 bytes, expected exactly 32"),
        ({"digest": bytearray(32)}, r"found bytearray, expected bytes"),
        ({"blob": b"x" * 21}, r"Everything\.blob: 21 bytes, expected at most 20"),
        ({"text": b"x"}, r"Everything\.text: found bytes, expected str"),
        ({"numbers": [1]}, r"Everything\.numbers: found list, expected tuple"),
        ({"numbers": (1,) * 5}, r"5 items, expected at most 4"),
        ({"numbers": (1, 2**16)}, r"Everything\.numbers: \[1\]: integer outside"),
        ({"inner": None}, r"Everything\.inner: found NoneType, expected Inner"),
        ({"inners": (Inner("A", True, None),)}, r"inners: \[0\]: Inner\.name"),
        ({"maybe": 3}, r"Everything\.maybe: found int, expected Inner"),
    ],
)
def test_encode_checks_the_same_bounds_and_names_the_field(
    changes: dict[str, Any], message: str
) -> None:
    values = {name: getattr(EXAMPLE, name) for name in Everything.__dataclass_fields__}
    with pytest.raises(CodecError, match=message):
        encode(Everything(**{**values, **changes}))


def test_decode_checks_the_limits_of_fields_that_are_whole() -> None:
    data = encode(EXAMPLE)
    blob, numbers = b"\0\0\0\4blob", b"\0\0\0\2\0\5\0\6"
    assert data.count(blob) == data.count(numbers) == 1
    with pytest.raises(CodecError, match=r"Everything\.blob: 21 bytes announced"):
        decode(Everything, data.replace(blob, b"\0\0\0\x15" + b"x" * 21))
    with pytest.raises(CodecError, match=r"Everything\.numbers: 5 items announced"):
        decode(Everything, data.replace(numbers, b"\0\0\0\5" + bytes(10)))
    decode(Everything, data.replace(blob, b"\0\0\0\x14" + b"x" * 20))
    decode(Everything, data.replace(numbers, b"\0\0\0\4" + bytes(8)))


def test_errors_do_not_show_the_content_of_byte_fields() -> None:
    with pytest.raises(CodecError) as caught:
        encode(Inner("a", True, b"secret"))
    assert "secret" not in str(caught.value)


@dataclass(frozen=True, slots=True)
class Wide:
    numbers: Annotated[tuple[U64, ...], MaxCount(2**32 - 1)]
    blob: Annotated[bytes, MaxLength(2**32 - 1)]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff" + bytes(1000),
        (126).to_bytes(4, "big") + bytes(1000),
        bytes(4) + b"\xff\xff\xff\xff" + bytes(1000),
        bytes(4) + (997).to_bytes(4, "big") + bytes(996),
        (100_001).to_bytes(4, "big") + bytes(800_000),
    ],
)
def test_announced_sizes_are_compared_with_what_is_left_before_allocating(data: bytes) -> None:
    decode(Wide, bytes(8))  # builds the layout outside the measurement
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(CodecError, match="truncated"):
            decode(Wide, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000
    assert time.perf_counter() - started < 1


@dataclass(frozen=True, slots=True)
class Checked:
    value: U8

    def __post_init__(self) -> None:
        if self.value > 9:
            raise ValueError(f"value {self.value}, expected at most 9")


def test_a_check_in_post_init_makes_received_bytes_malformed() -> None:
    assert decode(Checked, b"\x09") == Checked(9)
    with pytest.raises(CodecError, match="Checked: value 10"):
        decode(Checked, b"\x0a")


@dataclass(frozen=True)
class Unbounded:
    value: bytes


@dataclass(frozen=True)
class UnboundedTuple:
    value: tuple[U8, ...]


@dataclass(frozen=True)
class PlainInt:
    value: int


@dataclass(frozen=True)
class Mapped:
    value: dict[str, int]


@dataclass(frozen=True)
class FixedPair:
    value: Annotated[tuple[U8, U8], MaxCount(2)]


@dataclass(frozen=True)
class Either:
    value: U8 | bool


@dataclass(frozen=True)
class Recursive:
    children: Annotated[tuple[Recursive, ...], MaxCount(2)]


@dataclass(frozen=True)
class Nothing:
    pass


@dataclass(frozen=True)
class Nothings:
    value: Annotated[tuple[Nothing, ...], MaxCount(2**32 - 1)]


@dataclass(frozen=True)
class OddInt:
    value: Annotated[int, Unsigned(7)]


@dataclass(frozen=True)
class TooLong:
    value: Annotated[bytes, MaxLength(2**32)]


@dataclass(frozen=True)
class Computed:
    value: U8 = field(init=False)


@pytest.mark.parametrize(
    "cls",
    [
        Unbounded,
        UnboundedTuple,
        PlainInt,
        Mapped,
        FixedPair,
        Either,
        Recursive,
        Nothings,
        OddInt,
        TooLong,
        Computed,
        int,
    ],
)
def test_a_class_without_a_bounded_layout_is_a_programming_error(cls: type) -> None:
    for _ in range(2):
        with pytest.raises(TypeError):
            decode(cls, b"")


@dataclass(frozen=True)
class Empty:
    digest: Annotated[bytes, FixedLength(0)]


def test_empty_fields_take_no_bytes() -> None:
    assert encode(Empty(b"")) == b""
    assert decode(Empty, b"") == Empty(b"")
