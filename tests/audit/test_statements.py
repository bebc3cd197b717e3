"""Statements: round trips, schemas, refusals, and the in-toto project's own validator."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement as InTotoStatement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementProto

from fedfm_audit.errors import AuditError, SchemaError, StatementError
from fedfm_audit.statements import (
    PAYLOAD_TYPE,
    CheckpointReference,
    ConclusionPredicate,
    Distribution,
    EnrolmentPredicate,
    FederationPredicate,
    KeyReference,
    RoundCounts,
    RoundPredicate,
    SessionSteps,
    Statement,
    conclusion_statement,
    enrolment_statement,
    federation_statement,
    open_leaf,
    round_statement,
    sign_statement,
)
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import dsse_sign
from fedfm_crypto.errors import CanonicalJSONError, DSSEError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom
from tests.audit.synthetic import Federation

KEY = IdentityKey.generate(SeededRandom(b"key"))
OTHER = IdentityKey.generate(SeededRandom(b"other"))
HASH = "ab" * 32
ROUND = RoundPredicate(
    charter=HASH,
    round=1,
    kind="train",
    outcome="completed",
    reason="",
    adapter_in=HASH,
    adapter_out="cd" * 32,
    counts=RoundCounts(5, 5, 5, 5, 5, 0, 5, 5, 0, 5),
    steps=SessionSteps(1, 1, 1, HASH),
    previous=CheckpointReference(7, HASH),
)
STATEMENTS = [
    enrolment_statement(
        EnrolmentPredicate("north", "client", KEY.public.hex, "ef" * 32, "2030-01-31")
    ),
    federation_statement(
        FederationPredicate(
            *(HASH, "secure-fedfm", "0.1.0", "3.11.7", HASH, HASH, HASH),
            (Distribution("cryptography", "46.0.3"), Distribution("torch", "2.9.1+cpu")),
        )
    ),
    round_statement(ROUND, b"transcript"),
    conclusion_statement(ConclusionPredicate(HASH, HASH, 2, 0, 1)),
    round_statement(replace(ROUND, key=KeyReference(3, HASH, ("north", "south"))), b"transcript"),
]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: s.predicate.TYPE)
def test_statements_come_back_from_their_leaf(statement: Statement) -> None:
    leaf = sign_statement(statement, KEY)
    opened = open_leaf(leaf, {KEY.public.hex: KEY.public})
    assert opened.statement == statement
    assert opened.signer == KEY.public.hex
    assert sign_statement(statement, KEY) == leaf


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda s: s.predicate.TYPE)
def test_the_in_toto_project_accepts_them(statement: Statement) -> None:
    theirs = InTotoStatement.copy_from_pb(json_format.Parse(statement.encode(), StatementProto()))
    theirs.validate()
    assert theirs.pb.predicate_type == statement.predicate.TYPE
    assert theirs.pb.subject[0].name == statement.subject["name"]
    assert dict(theirs.pb.subject[0].digest) == statement.subject["digest"]


def test_subjects_say_what_they_are_about() -> None:
    names = [statement.subject["name"] for statement in STATEMENTS]
    assert names == ["keys/north", "charter.json", "transcripts/000001.json", "adapter", names[2]]
    assert STATEMENTS[2].digest == hashlib.sha256(b"transcript").hexdigest()


def test_a_subject_cannot_contradict_its_predicate() -> None:
    with pytest.raises(StatementError, match="implies"):
        Statement(STATEMENTS[1].predicate, "00" * 32)
    document = STATEMENTS[1].to_json()
    document["subject"][0]["digest"]["sha256"] = "00" * 32
    with pytest.raises(StatementError, match="implies"):
        Statement.decode(canonical_encode(document))
    document = STATEMENTS[0].to_json()
    document["subject"][0]["name"] = "keys/south"
    with pytest.raises(StatementError, match="keys/north"):
        Statement.decode(canonical_encode(document))


BREAKS: list[tuple[int, list[str], Any]] = [
    (0, ["predicate", "role"], "auditor"),
    (0, ["predicate", "name"], "North"),
    (0, ["predicate", "name"], "north\n"),
    (0, ["predicate", "identity"], "AB" * 32),
    (0, ["predicate", "not_after"], "tomorrow"),
    (0, ["predicate", "extra"], 1),
    (1, ["predicate", "version"], ""),
    (1, ["predicate", "python"], None),
    (2, ["predicate", "round"], 0),
    (2, ["predicate", "round"], True),
    (2, ["predicate", "outcome"], "postponed"),
    (2, ["predicate", "kind"], "unlearn"),
    (2, ["predicate", "counts", "votes"], -1),
    (2, ["predicate", "counts", "seeds"], 1),
    (2, ["predicate", "previous", "root"], "00"),
    (2, ["predicate", "reason"], "x" * 513),
    (2, ["predicate", "loss"], 0.5),
    (2, ["predicate", "key"], 1),
    (2, ["predicate", "steps"], 1),
    (2, ["predicate", "steps", "planned"], 0),
    (2, ["predicate", "steps", "planned"], 1025),
    (2, ["predicate", "steps", "good"], -1),
    (2, ["predicate", "steps", "recorded"], 1025),
    (2, ["predicate", "steps", "root"], "00"),
    (2, ["predicate", "steps", "lost"], 0),
    (4, ["predicate", "key", "epoch"], 0),
    (4, ["predicate", "key", "epoch"], 2**32),
    (4, ["predicate", "key", "hash"], "00"),
    (4, ["predicate", "key", "holders"], []),
    (4, ["predicate", "key", "holders"], ["North"]),
    (4, ["predicate", "key", "holders"], ["north", "north"]),
    (4, ["predicate", "key", "secret"], HASH),
    (3, ["predicate", "completed"], 1.5),
    (3, ["subject"], []),
    (3, ["_type"], "https://in-toto.io/Statement/v0.1"),
    (3, ["note"], "hello"),
]


@pytest.mark.parametrize(("index", "path", "value"), BREAKS)
def test_schema_violations_name_the_place(index: int, path: list[str], value: Any) -> None:
    document = json.loads(STATEMENTS[index].encode())
    target = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(SchemaError, match=r"schema \w+-v1"):
        Statement.decode(canonical_encode(document))


@pytest.mark.parametrize("kind", ["urn:secure-fedfm:round:v2", "https://slsa.dev/provenance/v1", 5])
def test_unknown_predicate_types_are_refused(kind: Any) -> None:
    document = {**STATEMENTS[2].to_json(), "predicateType": kind}
    with pytest.raises(StatementError, match="unknown predicate type"):
        Statement.decode(canonical_encode(document))


@pytest.mark.parametrize("payload", [b"[]", b"1", b'"x"', b"null"])
def test_other_json_is_refused(payload: bytes) -> None:
    with pytest.raises(AuditError):
        Statement.decode(payload)


def test_non_canonical_json_is_refused() -> None:
    with pytest.raises(CanonicalJSONError):
        Statement.decode(json.dumps(STATEMENTS[2].to_json()).encode())


def test_one_known_signer_exactly() -> None:
    keys = {KEY.public.hex: KEY.public}
    with pytest.raises(DSSEError, match="unknown key"):
        open_leaf(sign_statement(STATEMENTS[2], OTHER), keys)
    both = dsse_sign(
        STATEMENTS[2].encode(), PAYLOAD_TYPE, [(KEY.public.hex, KEY), (OTHER.public.hex, OTHER)]
    )
    with pytest.raises(StatementError, match="2 signatures"):
        open_leaf(both, {**keys, OTHER.public.hex: OTHER.public})
    with pytest.raises(DSSEError, match="payload type"):
        open_leaf(dsse_sign(STATEMENTS[2].encode(), "text/plain", [(KEY.public.hex, KEY)]), keys)


def test_a_statement_that_breaks_the_schema_is_not_signed() -> None:
    with pytest.raises(SchemaError, match="reason"):
        sign_statement(round_statement(replace(ROUND, reason="x" * 513), b""), KEY)


def test_leaves_of_a_whole_federation_fit_the_log(federation: Federation) -> None:
    assert max(len(leaf) for leaf in federation.leaves) < 2500
