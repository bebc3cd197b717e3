"""Validation against the JSON Schemas that are published inside this package.

The schemas refer to nothing outside themselves, so validation never fetches anything.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from fedfm_audit.errors import SchemaError

_SHOWN = 120  # characters of a schema message that a report repeats


@cache
def _validator(name: str) -> Draft202012Validator:
    text = resources.files("fedfm_audit").joinpath("schemas", f"{name}.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))


def check_schema(name: str, document: object) -> dict[str, object]:
    """Validate ``document`` against ``schemas/<name>.json`` and return it as an object.

    Raises
    ------
    SchemaError
        naming the first field that is wrong, by its path in the document.
    """
    error: ValidationError | None = next(_validator(name).iter_errors(document), None)
    if error is not None:
        place = ".".join(str(step) for step in error.absolute_path) or "top level"
        raise SchemaError(f"schema {name}, {place}: {error.message[:_SHOWN]}")
    if not isinstance(document, dict):
        raise SchemaError(f"schema {name}: expected a JSON object")
    return document
