"""Bundles whose statements are signed and cosigned by everybody, but are none that this version
knows: refused, with the leaf and the field by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import pytest

from fedfm_audit.report import Status
from fedfm_audit.statements import PAYLOAD_TYPE
from fedfm_audit.verify import verify_files
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import dsse_read_unverified, dsse_sign
from fedfm_crypto.identity import IdentityKey
from tests.audit.synthetic import Federation

Change = Callable[[dict[str, Any]], None]

# One leaf of each type in the synthetic federation: first client, federation, round 1, conclusion.
PLACES = {"enrolment": 1, "federation": 6, "round": 7, "conclusion": -1}


def refusal(federation: Federation, at: int, change: Change) -> str:
    """The reason of the failure of step 3 about a leaf that its real signer changed."""
    leaves = list(federation.leaves)
    at %= len(leaves)
    opened = dsse_read_unverified(leaves[at])
    statement = json.loads(opened.payload)
    change(statement)
    keys: list[IdentityKey] = [federation.coordinator, *federation.keys.values()]
    (signer,) = json.loads(leaves[at])["signatures"]
    key = next(key for key in keys if key.public.hex == signer["keyid"])
    leaves[at] = dsse_sign(canonical_encode(statement), PAYLOAD_TYPE, [(key.public.hex, key)])
    report = verify_files(federation.files(leaves=leaves), name="bundle")
    assert [report.step(number).status for number in range(3)] == [Status.VERIFIED] * 3
    found = [f for f in report.step(3).failures if f.place == f"leaf {at}"]
    assert len(found) == 1, report.to_text()
    return found[0].reason


@pytest.mark.parametrize("kind", PLACES)
def test_unknown_statement_types(federation: Federation, kind: str) -> None:
    for name in (f"urn:secure-fedfm:{kind}:v2", f"urn:secure-fedfm:{kind}:v1 ", "robust", ""):

        def rename(statement: dict[str, Any], name: str = name) -> None:
            statement["predicateType"] = name

        reason = refusal(federation, PLACES[kind], rename)
        assert "unknown predicate type" in reason
        assert repr(name) in reason


@pytest.mark.parametrize("kind", PLACES)
def test_fields_that_the_schema_does_not_have(federation: Federation, kind: str) -> None:
    for where in ("statement", "predicate", "subject"):

        def extra(statement: dict[str, Any], where: str = where) -> None:
            parts = {
                "statement": statement,
                "predicate": statement["predicate"],
                "subject": statement["subject"][0],
            }
            parts[where]["accuracy"] = 1

        reason = refusal(federation, PLACES[kind], extra)
        assert f"schema {kind}-v1" in reason
        assert "'accuracy'" in reason


@pytest.mark.parametrize("kind", PLACES)
def test_fields_that_are_missing(federation: Federation, kind: str) -> None:
    leaf = dsse_read_unverified(federation.leaves[PLACES[kind]])
    for field in json.loads(leaf.payload)["predicate"]:

        def remove(statement: dict[str, Any], field: str = field) -> None:
            del statement["predicate"][field]

        reason = refusal(federation, PLACES[kind], remove)
        assert f"schema {kind}-v1" in reason
        assert repr(field) in reason


def objects(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of an object, with its place; conditions (``if``) only select."""
    if isinstance(schema, list):
        for number, one in enumerate(schema):
            yield from objects(one, f"{path}/{number}")
    elif isinstance(schema, dict):
        if "properties" in schema or schema.get("type") == "object":
            yield path, schema
        for name, one in schema.items():
            if name != "if":
                yield from objects(one, f"{path}/{name}")


def references(schema: Any) -> Iterator[str]:
    """Every ``$ref`` and its kin."""
    if isinstance(schema, list):
        for one in schema:
            yield from references(one)
    elif isinstance(schema, dict):
        for name, one in schema.items():
            if name in ("$ref", "$dynamicRef", "$recursiveRef"):
                yield one
            yield from references(one)


# Sections that the charter leaves to the code that trains, and two that conditions close.
OPEN = {
    "charter-v1.json/properties/adapter",
    "charter-v1.json/properties/robustness/properties/parameters",  # numbers by name
    "charter-v1.json/properties/training",
    "charter-v1.json/properties/server_optimiser",
    "charter-v1.json/properties/privacy",
    "privacy-v1.json/properties/predicate/properties/event",
}


def test_the_published_schemas_are_closed_and_refer_to_nothing_outside() -> None:
    folder = resources.files("fedfm_audit").joinpath("schemas")
    schemas = {p.name: json.loads(p.read_text("utf-8")) for p in folder.iterdir()
               if p.name.endswith(".json")}  # fmt: skip
    assert len(schemas) >= 6
    opened = set()
    for name, schema in schemas.items():
        assert all(reference.startswith("#/") for reference in references(schema)), name
        for place, one in objects(schema, name):
            if one.get("additionalProperties") is not False:
                opened.add(place)
    assert opened <= OPEN
