"""RFC 8785 canonical JSON, both ways.

``canonical_decode`` accepts exactly the bytes that ``canonical_encode`` writes, so a hash or a
signature over them covers one value and no other.

The rfc8785 package says what the form is.  What it writes for the plain values that evidence is
made of (ASCII keys, numbers without an exponent) is written here several times as fast, as an
auditor encodes tens of thousands of them; everything else goes to the package, and a property
test holds the two against each other.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from typing import Any, NoReturn

import rfc8785

from fedfm_crypto.errors import CanonicalJSONError

__all__ = ["canonical_decode", "canonical_encode"]

# RFC 8785 writes integral doubles up to 1e21 without an exponent. Beyond 2^53 - 1 (16 digits) they
# are no exact integers in JSON, so such digits are read as the double that they stand for.
_MAX_SAFE_INTEGER = 2**53 - 1
_SAFE_DIGITS = 17
_DECIMAL = frozenset("-.0123456789")
_PLAIN_DIGITS = 16
_EXPONENT = re.compile(r":(-?[0-9.]+e[+-][0-9]+)(?=[,}])")
_write_plain = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


def canonical_encode(obj: object) -> bytes:
    """Return the RFC 8785 bytes of ``obj``.

    Args:
        obj: None, bool, int within +-(2^53 - 1), finite float, str, and lists, tuples and
            dictionaries (with str keys) of these. Tuples become arrays.

    Raises:
        CanonicalJSONError: a value has no canonical JSON form.
    """
    try:
        return _plain(obj).encode("utf-8", "strict")
    except (_NotPlainError, rfc8785.CanonicalizationError, TypeError, ValueError, RecursionError):
        pass  # the package decides, and says what is wrong
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
    plain = _decode_plain(text)
    if plain is not None:
        return plain
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


class _NotPlainError(Exception):
    """A value for rfc8785."""


def _plain(value: object) -> str:
    """Canonical JSON of a plain value.

    Raises:
        _NotPlainError, TypeError, CanonicalizationError: for any other value.
    """
    kind = type(value)  # exact types: a subclass may mean something else by itself
    if kind is str:
        return _quoted(value)  # type: ignore[arg-type]
    if kind is dict:
        members: dict[str, object] = value  # type: ignore[assignment]
        # Sorting by UTF-16 units and by code points is the same for ASCII.
        if not "".join(members).isascii():
            raise _NotPlainError
        written = [f"{_quoted(name)}:{_plain(members[name])}" for name in sorted(members)]
        return "{" + ",".join(written) + "}"
    if kind is list or kind is tuple:
        return "[" + ",".join([_plain(item) for item in value]) + "]"  # type: ignore[attr-defined]
    if kind is int and -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER:  # type: ignore[operator]
        return repr(value)
    if kind is float:
        digits = repr(value)
        if value == 0 or not _DECIMAL.issuperset(digits):  # an exponent, minus zero, or no number
            return rfc8785.dumps(value).decode()  # type: ignore[arg-type]
        return digits.removesuffix(".0")
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    raise _NotPlainError


def _decode_plain(text: str) -> object:
    """The value of canonical JSON that is ASCII; None where that cannot be told.

    The standard library writes such a value canonically but for numbers with an exponent, so a
    comparison is nearly all that is needed: a key that is repeated would not be written twice.
    Numbers are canonical one by one (``_plain_float``).  Those that the library writes otherwise
    are rewritten before the comparison; should one stand in a string, the string read from
    ``text`` differs from what is compared with it, so that nothing is taken by mistake.
    """
    if not text.isascii():
        return None
    try:
        value: object = _read_plain(text)
        written = _write_plain(value)
        if written == text or _EXPONENT.sub(_without_exponent, written) == text:
            return value
    except (_NotPlainError, ValueError, RecursionError):
        pass
    return None


def _not_plain(_: str) -> NoReturn:
    raise _NotPlainError


@lru_cache(maxsize=4096)
def _plain_float(digits: str) -> float:
    if (value := float(digits)) == 0 or rfc8785.dumps(value).decode() != digits:
        raise _NotPlainError
    return value


@lru_cache(maxsize=4096)
def _canonical_number(digits: str) -> str:
    return rfc8785.dumps(float(digits)).decode()


def _without_exponent(match: re.Match[str]) -> str:
    return ":" + _canonical_number(match[1])


def _short_number(digits: str) -> int:
    if len(digits) >= _PLAIN_DIGITS:
        raise _NotPlainError
    return int(digits)


_read_plain = json.JSONDecoder(
    parse_float=_plain_float, parse_constant=_not_plain, parse_int=_short_number
).decode


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
