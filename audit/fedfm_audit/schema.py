"""Validation against the JSON Schemas that are published inside this package.

The schemas refer to nothing outside themselves, so validation never fetches anything.  Functions
compiled from them (``schema_checks``) accept; what they do not accept goes to jsonschema, which
says what is wrong, and is loaded for that alone.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from fedfm_audit.errors import SchemaError
from fedfm_audit.schema_checks import Check, compile_schema

_SHOWN = 120  # characters of a schema message that a report repeats


@cache
def published_schema(name: str) -> dict[str, Any]:
    """The JSON of ``schemas/<name>.json``; treat as read-only."""
    text = resources.files("fedfm_audit").joinpath("schemas", f"{name}.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _compiled(name: str) -> Check:
    return compile_schema(published_schema(name))


def check_schema(name: str, document: object) -> dict[str, object]:
    """Validate ``document`` against ``schemas/<name>.json`` and return it as an object.

    Raises
    ------
    SchemaError
        naming the first field that is wrong, by its path in the document.
    """
    if not _compiled(name)(document):
        raise SchemaError(f"schema {name}, {_first_error(name, document)}")
    if not isinstance(document, dict):
        raise SchemaError(f"schema {name}: expected a JSON object")
    return document


def _first_error(name: str, document: object) -> str:
    """What jsonschema finds wrong with a document that was refused, and where."""
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only refusals need its words

    error = next(Draft202012Validator(published_schema(name)).iter_errors(document), None)
    if error is None:  # never seen; what one of the two refuses is refused
        return "top level: refused, though jsonschema finds nothing wrong; report this as a bug"
    place = ".".join(str(step) for step in error.absolute_path) or "top level"
    return f"{place}: {error.message[:_SHOWN]}"
