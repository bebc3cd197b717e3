"""RFC 8785: its own samples, and that decoding accepts exactly what encoding writes."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.errors import CanonicalJSONError, CodecError

# RFC 8785 appendix B: IEEE 754 bits and JSON text.
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_rfc_8785_appendix_b_numbers(bits: str, text: str) -> None:
    value = struct.unpack(">d", bytes.fromhex(bits))[0]
    assert canonical_encode(value) == text.encode()
    assert canonical_decode(text.encode()) == value


def test_rfc_8785_section_3_2_2_and_3_2_3_samples() -> None:
    sample = json.loads(
        r"""{
          "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
          "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
          "literals": [null, true, false]
        }"""
    )
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical_encode(sample) == expected.encode()
    assert canonical_decode(expected.encode()) == sample
    names = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    decoded = canonical_decode(canonical_encode(names))
    assert isinstance(decoded, dict)
    assert list(decoded) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_round_trip(value: object) -> None:
    data = canonical_encode(value)
    decoded = canonical_decode(data)
    assert decoded == value
    assert canonical_encode(decoded) == data
    # Another reader agrees on the meaning, with numbers as JSON sees them: doubles.
    assert json.loads(data, parse_int=float) == value


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_decodes_is_canonical(data: bytes) -> None:
    try:
        value = canonical_decode(data)
    except CanonicalJSONError:
        return
    assert canonical_encode(value) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":1,"a":1}', "'a' appears twice"),
        (b'[{"b":{"a":1,"a":2}}]', "'a' appears twice"),
        (b'{"b":1,"a":2}', "not canonical from byte 2"),
        (b'{"a": 1}', "not canonical from byte 5"),
        (b"[1] ", "not canonical from byte 3"),
        (b"\n[1]", "not canonical from byte 0"),
        (b"1.0", "not canonical"),
        (b"1e2", "not canonical"),
        (b"-0", "not canonical"),
        (b"01", "no JSON"),
        (b'"\\u0041"', "not canonical"),
        (b'"\\/"', "not canonical"),
        (b"9007199254740993", "not canonical"),
        (b"1" * 5000, "no canonical JSON form"),
        (b"1e400", "no canonical JSON form"),
        (b"NaN", "NaN is no JSON number"),
        (b"[Infinity]", "Infinity is no JSON number"),
        (b"-Infinity", "-Infinity is no JSON number"),
        (b'"\xff"', "invalid UTF-8 at byte 1"),
        (b'"\\ud800"', "no canonical JSON form"),
        (b'{"\\ud800":1}', "no canonical JSON form"),
        (b"\xef\xbb\xbf1", "no JSON"),
        (b"\xff\xfe1\x00", "invalid UTF-8"),
        (b"", "no JSON"),
        (b"[1", "no JSON"),
        (b"1 2", "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_everything_but_the_canonical_form_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CanonicalJSONError, match=message):
        canonical_decode(data)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        2**53,
        -(2**53),
        b"bytes",
        {1: 2},
        {"a": {3}},
        "\ud800",
        object(),
    ],
)
def test_values_without_a_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(CanonicalJSONError, match="no canonical JSON form"):
        canonical_encode({"value": value})
    assert issubclass(CanonicalJSONError, CodecError)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.text(st.characters(max_codepoint=127)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=4), inner, max_size=4),
        st.dictionaries(st.sampled_from("abcde"), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(VALUES)
def test_the_short_way_writes_what_the_package_writes(value: Any) -> None:
    data = canonical_encode(value)
    assert data == rfc8785.dumps(value)
    assert canonical_encode(canonical_decode(data)) == data


def test_numbers_with_an_exponent_are_told_from_texts_that_look_like_them() -> None:
    values: list[Any] = [
        {"a": 1e-5, "b": 1e-7, "c": 5e-324, "d": 1e21},
        {"a": ":1e-05,", "b": 1e-5},
        {"a": ":0.00001,", "b": 1e-5},
        {"a": [1e-5, ":1e-05,"], "b": {"c": -1e-5}},
    ]
    for value in values:
        data = canonical_encode(value)
        assert data == rfc8785.dumps(value)
        assert canonical_decode(data) == value
    for text in ('{"a":1e-05}', '{"a":1e-07}', '{"a":":0.00001,","b":1e-05}', '{"a":1e999}'):
        with pytest.raises(CanonicalJSONError):
            canonical_decode(text.encode())


@given(VALUES, st.data())
def test_decoding_takes_no_other_bytes(value: Any, data: st.DataObject) -> None:
    """A byte changed, doubled or left out: refused, or the canonical form of another value."""
    encoded = canonical_encode(value)
    at = data.draw(st.integers(0, len(encoded) - 1))
    piece = data.draw(
        st.sampled_from([b"", b" ", b"0", b"1e5", b'"', b"-", encoded[at : at + 1] * 2])
    )
    changed = encoded[:at] + piece + encoded[at + 1 :]
    try:
        found: Any = canonical_decode(changed)
    except CanonicalJSONError:
        return
    assert rfc8785.dumps(found) == changed


@pytest.mark.parametrize(
    "text",
    [
        *('{"a":1,"a":1}', '{"b":1,"a":1}', "1e-07", "1.0", "-0", "9007199254740993", '"\\u007f"'),
        *("[1 ]", '"\\/"', '"\\u000A"', '"\\u001F"', "0.10", "1E5", '{"a":NaN}', "01", ""),
    ],
)
def test_other_spellings_of_plain_values_are_refused(text: str) -> None:
    with pytest.raises(CanonicalJSONError):
        canonical_decode(text.encode())


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(CanonicalJSONError, match="nested too deeply"):
        canonical_encode(endless)
