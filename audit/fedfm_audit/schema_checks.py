"""The published JSON Schemas as plain functions: does a document hold, yes or no.

A log of 100 rounds of 20 institutions has 4,000 statements, and jsonschema takes milliseconds for
each.  Its answer and these functions' must agree (a test holds them against each other on every
field of every schema); who wants to know what is wrong asks jsonschema, which says it.

Only the keywords that our schemas use are known; any other one is an error when the schema is
compiled, never something that is passed over.

Source: JSON Schema 2020-12, https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[[Any], bool]
_Schema = Mapping[str, Any]

_REFERENCE = "#/$defs/"
_SILENT = frozenset({"$schema", "$id", "$defs", "title", "then"})
"""Keywords that say nothing of their own about a document (``then`` belongs to ``if``)."""


def compile_schema(schema: _Schema) -> Check:
    """The function that tells whether a document (what ``json.loads`` gives) holds.

    Raises
    ------
    ValueError
        if the schema has a keyword that is not known here.
    """
    return _Compiler(schema.get("$defs", {})).compile(schema)


class _Compiler:
    """Makes one function of each schema; definitions are compiled when first referred to."""

    def __init__(self, definitions: Mapping[str, _Schema]) -> None:
        self._definitions = definitions
        self._compiled: dict[str, Check] = {}

    def compile(self, schema: _Schema) -> Check:
        checks = [
            found
            for keyword in schema
            if keyword not in _SILENT and (found := self._keyword(keyword, schema)) is not None
        ]
        return _every(checks)

    def _keyword(self, keyword: str, schema: _Schema) -> Check | None:
        said = schema[keyword]
        match keyword:
            case "$ref":
                return self._reference(said)
            case "properties":
                return self._properties(schema)
            case "additionalProperties":
                return self._additional(said, alone="properties" not in schema)
            case "propertyNames":
                name = self.compile(said)
                return _of(dict, lambda value: all(map(name, value)))
            case "items":
                each = self.compile(said)
                return _of(list, lambda value: all(map(each, value)))
            case "allOf" | "anyOf" | "oneOf":
                return _combined(keyword, [self.compile(one) for one in said])
            case "if":
                return self._condition(schema)
        return _plain(keyword, said)

    def _reference(self, reference: str) -> Check:
        if not reference.startswith(_REFERENCE):
            raise ValueError(f"$ref to {reference!r}; a schema refers to its own $defs only")
        name = reference.removeprefix(_REFERENCE)
        if name not in self._compiled:
            self._compiled[name] = self.compile(self._definitions[name])
        return self._compiled[name]

    def _properties(self, schema: _Schema) -> Check:
        checks = {name: self.compile(one) for name, one in schema["properties"].items()}
        closed = schema.get("additionalProperties") is False

        def check(value: Any) -> bool:
            if not isinstance(value, dict):
                return True
            for name, member in value.items():
                known = checks.get(name)
                if known is None:
                    if closed:
                        return False
                elif not known(member):
                    return False
            return True

        return check

    def _additional(self, said: Any, *, alone: bool) -> Check | None:
        """``false``, or (where no property is named) a schema for all of them."""
        if said is False:
            return _of(dict, lambda value: not value) if alone else None
        if not alone or not isinstance(said, dict):
            raise ValueError("additionalProperties beside properties is known as false only")
        each = self.compile(said)
        return _of(dict, lambda value: all(map(each, value.values())))

    def _condition(self, schema: _Schema) -> Check:
        condition = self.compile(schema["if"])
        then = self.compile(schema["then"])
        return lambda value: not condition(value) or then(value)


def _every(checks: Sequence[Check]) -> Check:
    """All of these, in order, up to the first that fails."""
    if not checks:
        return lambda value: True
    first, *others = checks
    if not others:
        return first
    rest = _every(others)
    return lambda value: first(value) and rest(value)


def _combined(keyword: str, checks: Sequence[Check]) -> Check:
    wanted: dict[str, Callable[[int], bool]] = {
        "allOf": lambda count: count == len(checks),
        "anyOf": lambda count: count > 0,
        "oneOf": lambda count: count == 1,
    }
    enough = wanted[keyword]
    return lambda value: enough(sum([check(value) for check in checks]))


def _plain(keyword: str, said: Any) -> Check:
    """Keywords whose meaning needs no other schema."""
    match keyword:
        case "type":
            return _TYPES[said]
        case "const":
            return lambda value: _equal(value, said)
        case "enum":
            return lambda value: any(_equal(value, one) for one in said)
        case "required":
            names = frozenset(said)
            return _of(dict, lambda value: names <= value.keys())
        case "dependentRequired":
            needed = {name: frozenset(others) for name, others in said.items()}
            return _of(
                dict,
                lambda value: all(
                    others <= value.keys() for name, others in needed.items() if name in value
                ),
            )
        case "pattern":
            search = re.compile(said).search
            return _of(str, lambda value: search(value) is not None)
        case "uniqueItems":
            return _of(list, _distinct)
    if keyword in _BOUNDS:
        concerns, measure, holds = _BOUNDS[keyword]
        return lambda value: not concerns(value) or holds(measure(value), said)
    raise ValueError(f"the keyword {keyword!r} is not known; add it here, with its meaning")


def _of(kind: type, check: Check) -> Check:
    """A keyword that says something about one type and nothing about the others."""
    return lambda value: not isinstance(value, kind) or check(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


_TYPES: Mapping[str, Check] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": _is_integer,
}


def _itself(value: Any) -> Any:
    return value


_BOUNDS: Mapping[str, tuple[Check, Callable[[Any], Any], Callable[[Any, Any], bool]]] = {
    "minLength": (_TYPES["string"], len, operator.ge),
    "maxLength": (_TYPES["string"], len, operator.le),
    "maxProperties": (_TYPES["object"], len, operator.le),
    "minItems": (_TYPES["array"], len, operator.ge),
    "maxItems": (_TYPES["array"], len, operator.le),
    "minimum": (_is_number, _itself, operator.ge),
    "maximum": (_is_number, _itself, operator.le),
    "exclusiveMinimum": (_is_number, _itself, operator.gt),
    "exclusiveMaximum": (_is_number, _itself, operator.lt),
}


def _equal(left: Any, right: Any) -> bool:
    """JSON's equality: 1 is 1.0, and neither is true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    return bool(left == right)


def _distinct(items: list[Any]) -> bool:
    if all(isinstance(item, str) for item in items):
        return len(set(items)) == len(items)
    return not any(_equal(item, other) for n, item in enumerate(items) for other in items[n + 1 :])
