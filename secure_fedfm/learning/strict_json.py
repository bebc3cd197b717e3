"""Frozen dataclasses <-> the JSON sections of a charter, strictly.

A charter binds every client to the same training, so a misspelt or unknown key must not fall back
to a default in silence: unknown keys, missing keys and wrong types are refused, each by name.
Supported field types: int, float, str, bool, Literal[...], tuple[str, ...], and unions of these.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from secure_fedfm.errors import ConfigurationError


class DataclassInstance(Protocol):
    """Any dataclass (typeshed keeps its own name for this private)."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=DataclassInstance)


def to_json(value: DataclassInstance) -> dict[str, object]:
    """The section as plain JSON types, ready for canonical encoding (tuples become lists)."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        found[field.name] = list(item) if isinstance(item, tuple) else item
    return found


def from_json(cls: type[T], section: str, data: object) -> T:
    """Build `cls` from a charter section.

    Raises:
        ConfigurationError: not an object, unknown or missing key, or a value of the wrong type;
            `cls.__post_init__` raises the same for values out of range.
    """
    if not isinstance(data, Mapping):
        raise ConfigurationError(
            f"section {section!r} is {type(data).__name__}; expected a JSON object"
        )
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(str(key) for key in data if key not in names)
    if unknown:
        raise ConfigurationError(
            f"section {section!r} has unknown keys {', '.join(unknown)}; "
            f"known are {', '.join(names)}: correct or remove them"
        )
    missing = [name for name in names if name not in data]
    if missing:
        raise ConfigurationError(
            f"section {section!r} lacks {', '.join(missing)}; a charter states every value"
        )
    hints = get_type_hints(cls)
    return cls(**{name: _check(hints[name], data[name], f"{section}.{name}") for name in names})


def _check(expected: Any, value: object, where: str) -> object:
    origin = get_origin(expected)
    if origin in (Union, types.UnionType):
        for option in get_args(expected):
            try:
                return _check(option, value, where)
            except ConfigurationError:
                continue
        raise _wrong(where, value, " or ".join(_describe(option) for option in get_args(expected)))
    if origin is Literal:
        if value in get_args(expected) and isinstance(value, str):
            return value
        raise _wrong(where, value, _describe(expected))
    if origin is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise _wrong(where, value, _describe(expected))
    # bool is a subclass of int, and JSON writers may drop the ".0" of a float.
    if expected is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    elif isinstance(value, expected) and (expected is bool or not isinstance(value, bool)):
        return value
    raise _wrong(where, value, _describe(expected))


def _describe(expected: Any) -> str:
    if get_origin(expected) is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(expected))
    if get_origin(expected) is tuple:
        return "a list of strings"
    return {int: "an integer", float: "a finite number", str: "a string", bool: "true or false"}[
        expected
    ]


def _wrong(where: str, value: object, expected: str) -> ConfigurationError:
    return ConfigurationError(f"{where} is {value!r}; expected {expected}")
