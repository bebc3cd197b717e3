"""RFC 8785 canonical JSON, both ways.

``canonical_decode`` accepts exactly the bytes that ``canonical_encode`` writes, so a hash or a
signature over them covers one value and no other.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import rfc8785

from fedfm_crypto.errors import CanonicalJSONError

__all__ = ["canonical_decode", "canonical_encode"]

# RFC 8785 writes integral doubles up to 1e21 without an exponent. Beyond 2^53 - 1 (16 digits) they
# are no exact integers in JSON, so such digits are read as the double that they stand for.
_MAX_SAFE_INTEGER = 2**53 - 1
_SAFE_DIGITS = 17


def canonical_encode(obj: object) -> bytes:
    """Return the RFC 8785 bytes of ``obj``.

    Args:
        obj: None, bool, int within +-(2^53 - 1), finite float, str, and lists, tuples and
            dictionaries (with str keys) of these. Tuples become arrays.

    Raises:
        CanonicalJSONError: a value has no canonical JSON form.
    """
    try:
        return rfc8785.dumps(obj)  # type: ignore[arg-type]
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise CanonicalJSONError(f"no canonical JSON form: {error}") from None
    except RecursionError:
        raise CanonicalJSONError("no canonical JSON form: nested too deeply") from None


def canonical_decode(data: bytes) -> object:
    """Return the value of canonical JSON bytes.

    Raises:
        CanonicalJSONError: the bytes are no UTF-8, no JSON, repeat a key, hold NaN or an infinity,
            or differ from the canonical form of what they say.
    """
    try:
        text = bytes(data).decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise CanonicalJSONError(f"invalid UTF-8 at byte {error.start}") from None
    try:
        value: object = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_number,
        )
    except json.JSONDecodeError as error:
        raise CanonicalJSONError(f"no JSON at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise CanonicalJSONError("JSON nested too deeply") from None
    canonical = canonical_encode(value)
    if canonical != data:
        raise CanonicalJSONError(
            f"not canonical from byte {_first_difference(canonical, data)}; write it with RFC 8785"
        )
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise CanonicalJSONError(f"key {key[:80]!r} appears twice in one object")
        members[key] = value
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise CanonicalJSONError(f"{name} is no JSON number")


def _number(digits: str) -> int | float:
    if len(digits) <= _SAFE_DIGITS and abs(int(digits)) <= _MAX_SAFE_INTEGER:
        return int(digits)
    return float(digits)


def _first_difference(left: bytes, right: bytes) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
