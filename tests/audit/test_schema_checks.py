"""The functions compiled from the schemas say what jsonschema says, about valid documents of every
type and about each of them with any one field changed; and the changed ones are refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fedfm_audit.errors import SchemaError
from fedfm_audit.privacy.events import (
    AbortedRound,
    ClearRelease,
    CompletedRound,
    CompletedSession,
    HyperparameterTrials,
)
from fedfm_audit.schema import check_schema, published_schema
from fedfm_audit.schema_checks import compile_schema
from fedfm_audit.statements import LogKeyPredicate, log_key_statement
from fedfm_crypto.dsse import dsse_read_unverified
from fedfm_crypto.note import format_vkey
from tests.audit.marked_evidence import marked_evidence
from tests.audit.marks import Shape, owner
from tests.audit.played_round import MAKE_KEYS, Script
from tests.audit.privacy_ledgers import CLIENT, EVENT, HASH, LOCAL, SHARED, PrivateFederation
from tests.audit.synthetic import ORIGIN, SHARED_NOISE, play_federation

SCHEMAS = sorted(
    path.name.removesuffix(".json")
    for path in resources.files("fedfm_audit").joinpath("schemas").iterdir()
    if path.name.endswith(".json")
)
OTHERS: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 10**15, "", "x", "A" * 64, "0" * 64 + "\n", [], [0, 0], {}, {"x": 1}),
)


@cache
def documents() -> dict[str, list[dict[str, Any]]]:
    """Valid documents of every schema, by its name; of a type with variants, one of each."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    plain = play_federation(MAKE_KEYS, Script(), suite="layered")
    private = PrivateFederation(LOCAL)
    private.play()
    federations = (plain, private.federation)
    for section in (CLIENT, SHARED_NOISE):
        other = PrivateFederation(section)
        found["charter-v1"].append(_payload(other.federation.charter))
    for federation in federations:
        found["charter-v1"].append(_payload(federation.charter))
        for leaf in federation.leaves:
            statement = _payload(leaf)
            _, _, kind, version = statement["predicateType"].split(":")
            found[f"{kind}-{version}"].append(statement)
    vkey = format_vkey(ORIGIN, plain.log_key.public)
    rotation = LogKeyPredicate(HASH, 1, vkey, vkey)
    found["log-key-v1"].append(log_key_statement(rotation).to_json())
    found["watermark-claim-v1"].append(owner(1, Shape(modules=2)).claim.to_json())
    marks = marked_evidence()
    for leaf in marks.leaves:
        statement = _payload(leaf)
        kind, version = statement["predicateType"].removeprefix("urn:secure-fedfm:").split(":")
        if kind.startswith("mark"):
            found[f"{kind}-{version}"].append(statement)
    found["charter-v1"].append(_payload(marks.envelope))
    found["privacy-v1"] = [*found["privacy-v1"][:1], *_entries(found["privacy-v1"][0])]
    return {name: _few(listed) for name, listed in found.items()}


def _payload(envelope: bytes) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(dsse_read_unverified(envelope).payload)
    return payload


def _few(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*listed[:7], *listed[-1:]]


def _entries(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entry with every other kind of event."""
    from dataclasses import asdict

    events: tuple[Any, ...] = (
        SHARED,
        HyperparameterTrials(trials=3, event=EVENT),
        ClearRelease(what="label names"),
        CompletedRound(charge=0, accepted=5, aggregate=HASH),
        CompletedSession(charge=0, steps=2, accepted=5, aggregate=HASH),
        AbortedRound(charge=0, reason="the round gave no result"),
    )
    for event in events:
        changed = copy.deepcopy(entry)
        changed["predicate"]["event"] = asdict(event)
        changed["predicate"]["cumulative"]["epsilon_pld"] = 1.5
        yield changed


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every member and item of a document; of a list, the first and the last."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield (*path, name)
            yield from places(member, (*path, name))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1}) if value else ():
            yield (*path, index)
            yield from places(value[index], (*path, index))


def variants(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The document with each member taken away or made something else, and with each object given
    one member more."""
    for path in places(document):
        for what in ("removed", "extra", *OTHERS):
            changed = copy.deepcopy(document)
            parent = changed
            for step in path[:-1]:
                parent = parent[step]
            if what == "removed":
                del parent[path[-1]]
            elif what == "extra":
                if not isinstance(parent[path[-1]], dict):
                    continue
                parent[path[-1]]["extra"] = 1
            else:
                parent[path[-1]] = what
            yield f"{'.'.join(map(str, path))}: {what!r}", changed


@pytest.mark.parametrize("name", SCHEMAS)
def test_they_agree_with_jsonschema(name: str) -> None:
    accepts, judge = compile_schema(published_schema(name)), _judge(name)
    assert documents()[name]
    refused = 0
    for document in documents()[name]:
        assert accepts(document)
        assert judge(document)
    for label, changed in variants(documents()[name][-1]):
        verdict = accepts(changed)
        assert verdict == judge(changed), label
        refused += not verdict
    assert refused > 100


def _judge(name: str) -> Any:
    validator = Draft202012Validator(published_schema(name))
    return validator.is_valid


def owned(name: str, path: tuple[Any, ...]) -> bool:
    """Whether a place is described by the schema; the charter leaves some sections to the code
    that trains (adapter, training, server_optimiser, and options of privacy)."""
    return name != "charter-v1" or path[0] not in (
        *("adapter", "training", "server_optimiser", "privacy"),
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_field_may_be_missing_of_another_type_or_new(name: str) -> None:
    """Whatever jsonschema thinks: an independent list of what must be refused."""
    for document in documents()[name]:
        for path in places(document):
            if not owned(name, path) or not isinstance(path[-1], str):
                continue
            for changed in _must_be_refused(document, path):
                with pytest.raises(SchemaError, match=f"schema {name}"):
                    check_schema(name, changed)


OPTIONAL = {("watermark",)}
"""Sections of a charter that may be missing."""
BOOLEAN = {("predicate", "present")}
OPTIONAL_NULL = {("predicate", "key"), ("predicate", "cumulative", "epsilon_pld")}


def _must_be_refused(document: dict[str, Any], path: tuple[Any, ...]) -> Iterator[Any]:
    """Without that member; with a value of another type; with a member more beside it."""

    def changed(change: Any) -> Any:
        copied = copy.deepcopy(document)
        parent = copied
        for step in path[:-1]:
            parent = parent[step]
        change(parent)
        return copied

    if path not in OPTIONAL:
        yield changed(lambda parent: parent.pop(path[-1]))
    yield changed(lambda parent: parent.update(unknown=None))
    parent = document
    for step in path[:-1]:
        parent = parent[step]
    value = parent[path[-1]]
    wrong = {"text": 7, "number": "seven", "object": [], "list": {}, "null": "seven"}[_kind(value)]
    yield changed(lambda parent: parent.update({path[-1]: wrong}))
    if path not in BOOLEAN:
        yield changed(lambda parent: parent.update({path[-1]: True}))
    if path not in OPTIONAL_NULL:
        yield changed(lambda parent: parent.update({path[-1]: None}))


def _kind(value: Any) -> str:
    kinds: dict[str, type] = {"text": str, "object": dict, "list": list, "null": type(None)}
    for kind, types in kinds.items():
        if isinstance(value, types):
            return kind
    return "number"


UNKNOWN: list[dict[str, Any]] = [
    {"format": "date"},
    {"properties": {"a": {"contains": {}}}},
    {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
    {"$ref": "https://schemas.example/round.json"},
]


def test_a_keyword_that_is_not_known_is_an_error() -> None:
    for schema in UNKNOWN:
        with pytest.raises(ValueError, match=r"not known|known as false|own \$defs"):
            compile_schema(schema)


OBJECTS: tuple[Any, ...] = (
    {},
    {"a": 1},
    {"b": 1},
    {"a": 1, "b": 2},
    {"B": 1},
    {"a": "x"},
    [],
    None,
    3,
)
ABOUT_OBJECTS: list[dict[str, Any]] = [
    {"additionalProperties": {"type": "number"}},
    {"propertyNames": {"pattern": "^[a-z]$"}},
    {"maxProperties": 1},
    {"dependentRequired": {"a": ["b"], "b": ["a"]}},
]


@pytest.mark.parametrize("schema", ABOUT_OBJECTS, ids=lambda schema: next(iter(schema)))
def test_keywords_about_free_members_agree_with_jsonschema(schema: dict[str, Any]) -> None:
    accepts, judge = compile_schema(schema), Draft202012Validator(schema)
    answers = {accepts(value) for value in OBJECTS}
    assert answers == {True, False}
    assert all(accepts(value) == judge.is_valid(value) for value in OBJECTS)


NUMBERS = (1, 1.0, True, 0, 0.0, False, None, "1", [1], {"a": 1})


def test_equality_and_types_are_json_s() -> None:
    schemas: list[dict[str, Any]] = [
        *({"const": value} for value in NUMBERS),
        {"enum": list(NUMBERS)},
        *({"type": kind} for kind in ("integer", "number", "boolean", "null", "string")),
        {"uniqueItems": True},
        {"oneOf": [{"type": "integer"}, {"minimum": 1}]},
        {"anyOf": [{"type": "integer"}, {"minimum": 1}]},
        {"if": {"type": "integer"}, "then": {"maximum": 0}},
        {"minimum": 1, "exclusiveMaximum": 2, "minLength": 1, "minItems": 1},
    ]
    for schema in schemas:
        accepts, judge = compile_schema(schema), Draft202012Validator(schema).is_valid
        for value in (*NUMBERS, [1, True], [1, 1.0], ["a", "a"], [[1], [True]], [{"a": 1}] * 2):
            assert accepts(value) == judge(value), (schema, value)
