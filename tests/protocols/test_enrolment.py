"""Enrolment: who holds which keys, proven by the identity key itself."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.dsse import dsse_read_unverified, dsse_sign
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.enrolment import (
    STATEMENT_PAYLOAD_TYPE,
    open_enrolment,
    request_enrolment,
)
from fedfm_protocols.errors import EnrolmentError

KEY = IdentityKey.generate(SeededRandom(1))
OTHER = IdentityKey.generate(SeededRandom(2))
TRANSPORT = b"\x05" * 32


def _request(**changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "name": "clinic-a",
        "role": "client",
        "key": KEY,
        "transport_public": TRANSPORT,
        "not_after": "2030-12-31",
    }
    return request_enrolment(**{**arguments, **changes})


def _statement() -> dict[str, Any]:
    statement = canonical_decode(dsse_read_unverified(_request()).payload)
    assert isinstance(statement, dict)
    return statement


def _sign(statement: object, key: IdentityKey = KEY, kind: str = STATEMENT_PAYLOAD_TYPE) -> bytes:
    return dsse_sign(canonical_encode(statement), kind, [(key.public.hex, key)])


def test_a_request_opens_to_what_was_asked() -> None:
    statement = _request()
    enrolment = open_enrolment(statement, today="2030-12-31")
    assert (enrolment.name, enrolment.role) == ("clinic-a", "client")
    assert (enrolment.identity, enrolment.transport) == (KEY.public.hex, TRANSPORT.hex())
    assert enrolment.not_after == "2030-12-31"
    assert enrolment.digest == hashlib.sha256(statement).hexdigest()
    assert open_enrolment(_sign(_statement())) == enrolment
    assert open_enrolment(_request(role="coordinator")).role == "coordinator"


def test_an_expired_request_is_history_but_not_an_enrolment() -> None:
    assert open_enrolment(_request()).not_after == "2030-12-31"
    with pytest.raises(EnrolmentError, match="expired on 2030-12-31"):
        open_enrolment(_request(), today="2031-01-01")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "Clinic A"}, "name"),
        ({"name": ""}, "name"),
        ({"role": "auditor"}, "role"),
        ({"transport_public": b"\x05" * 31}, "transport"),
        ({"transport_public": bytes(32)}, "small order"),
        ({"transport_public": b"\xff" * 32}, "not canonical"),
        ({"not_after": "soon"}, "not_after"),
        ({"not_after": "2030-13-01"}, "month must be in"),
        ({"not_after": "2030-02-30"}, "invalid enrolment request"),
        ({"not_after": "٢٠٣٠-١٢-٣١"}, "not_after"),
        ({"not_after": "2030-12-31\n"}, "not_after"),
    ],
)
def test_a_request_that_cannot_be_made(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(EnrolmentError, match=text):
        _request(**changes)


def _with(**predicate: Any) -> dict[str, Any]:
    statement = _statement()
    statement["predicate"] = {**statement["predicate"], **predicate}
    return statement


@pytest.mark.parametrize(
    ("envelope", "text"),
    [
        (_sign(_statement(), OTHER), "not signed by the identity key it names"),
        (_sign(_with(identity=OTHER.public.hex)), "names other keys than its predicate"),
        (_sign(_with(transport="07" * 32)), "names other keys than its predicate"),
        (_sign(_with(name="clinic-b")), "names other keys than its predicate"),
        (_sign({**_statement(), "subject": []}), "names other keys than its predicate"),
        (_sign({**_statement(), "more": 1}), "holds more than an enrolment does"),
        (_sign(_with(more=1)), "more"),
        (_sign(_with(not_after="never")), "not_after"),
        (_sign(_with(identity="01" + "00" * 31)), "names other keys"),
        (_sign({**_statement(), "predicateType": "urn:other"}), "predicate type is 'urn:other'"),
        (_sign({**_statement(), "_type": "urn:other"}), "no in-toto Statement"),
        (_sign({**_statement(), "predicate": None}), "invalid enrolment request"),
        (_sign([]), "no in-toto Statement"),
        (_sign(_statement(), kind="application/json"), "payload type"),
        (_request() + b" ", "not an enrolment request"),
        (_request().replace(b'"sig":"', b'"sig":"AAAA'), "not signed by the identity key"),
        (b"", "not an enrolment request"),
    ],
    ids=[
        "signed by another key",
        "another identity",
        "another transport key",
        "another name",
        "no subject",
        "extra field",
        "extra predicate field",
        "no date",
        "small-order identity",
        "another predicate",
        "another statement",
        "no predicate",
        "a list",
        "another payload type",
        "trailing space",
        "broken signature",
        "empty",
    ],
)
def test_a_request_that_is_not_what_it_says(envelope: bytes, text: str) -> None:
    with pytest.raises(EnrolmentError, match=text):
        open_enrolment(envelope)


def test_a_small_order_identity_is_refused_even_where_everything_agrees() -> None:
    """With the identity point as key, one signature would verify every message."""
    small = "01" + "00" * 31
    statement = _with(identity=small)
    digest = hashlib.sha256(bytes.fromhex(small) + TRANSPORT).hexdigest()
    statement["subject"] = [{"name": "keys/clinic-a", "digest": {"sha256": digest}}]
    with pytest.raises(EnrolmentError, match="small order"):
        open_enrolment(_sign(statement))


def test_a_second_signature_is_not_an_enrolment() -> None:
    envelope = dsse_sign(
        canonical_encode(_statement()),
        STATEMENT_PAYLOAD_TYPE,
        [(KEY.public.hex, KEY), (OTHER.public.hex, OTHER)],
    )
    with pytest.raises(EnrolmentError, match="unknown key"):
        open_enrolment(envelope)
