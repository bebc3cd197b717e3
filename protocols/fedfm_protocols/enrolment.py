"""Enrolment: a party states its keys and proves that it holds the identity key.

The request is an in-toto statement in a DSSE envelope, signed by the identity key that it names,
so it becomes a leaf of the log as it is.  Source: protocols/README.md, section "Identity".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedfm_crypto.agreement import check_agreement_public
from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.dsse import dsse_open, dsse_read_unverified, dsse_sign
from fedfm_crypto.errors import (
    CanonicalJSONError,
    CryptoError,
    DSSEError,
    InvalidKeyError,
)
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_protocols.charter import Hex32, NameText
from fedfm_protocols.errors import EnrolmentError

STATEMENT_PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ENROLMENT_PREDICATE_TYPE = "urn:secure-fedfm:enrolment:v1"

Role = Literal["client", "coordinator", "validator"]
# Days are enough precision for an expiry, and tell nothing else about the site.
Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class _Predicate(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: NameText
    role: Role
    identity: Hex32
    transport: Hex32
    not_after: Day


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A verified request: who, in which role, with which keys, until which day (ISO date).

    Source: protocols/README.md, section "Identity".
    """

    name: str
    role: Role
    identity: str
    transport: str
    not_after: str
    statement: bytes

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the signed statement, as charters name it."""
        return hashlib.sha256(self.statement).hexdigest()


def request_enrolment(
    name: str, role: Role, key: IdentityKey, transport_public: bytes, not_after: str
) -> bytes:
    """Signed enrolment statement (DSSE, canonical JSON bytes)."""
    predicate = {
        "name": name,
        "role": role,
        "identity": key.public.hex,
        "transport": transport_public.hex(),
        "not_after": not_after,
    }
    statement = _statement(_read_predicate(predicate))
    return dsse_sign(canonical_encode(statement), STATEMENT_PAYLOAD_TYPE, [(key.public.hex, key)])


def _statement(predicate: _Predicate) -> dict[str, object]:
    """The one statement that says what ``predicate`` says."""
    keys = bytes.fromhex(predicate.identity) + bytes.fromhex(predicate.transport)
    digest = hashlib.sha256(keys).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": f"keys/{predicate.name}", "digest": {"sha256": digest}}],
        "predicateType": ENROLMENT_PREDICATE_TYPE,
        "predicate": predicate.model_dump(mode="json"),
    }


def _read_predicate(predicate: object) -> _Predicate:
    try:
        read = _Predicate.model_validate(predicate)
    except ValidationError as error:
        fields = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'request'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise EnrolmentError(f"invalid enrolment request: {fields}") from error
    try:
        date.fromisoformat(read.not_after)
        check_agreement_public(bytes.fromhex(read.transport))
    except (ValueError, InvalidKeyError) as error:
        raise EnrolmentError(f"invalid enrolment request: {error}") from error
    return read


def open_enrolment(statement: bytes, *, today: str | None = None) -> Enrolment:
    """Verify a request against the key that it names.

    ``today`` (ISO date) refuses requests that have expired; ``None`` skips that check, for
    replaying history.

    Raises
    ------
    EnrolmentError
        naming what is wrong with the request.
    """
    try:
        fields = canonical_decode(dsse_read_unverified(statement).payload)
    except (DSSEError, CanonicalJSONError) as error:
        raise EnrolmentError(f"not an enrolment request: {error}") from error
    if not isinstance(fields, dict) or fields.get("_type") != STATEMENT_TYPE:
        raise EnrolmentError("not an enrolment request: no in-toto Statement v1 inside")
    if fields.get("predicateType") != ENROLMENT_PREDICATE_TYPE:
        raise EnrolmentError(
            f"not an enrolment request: predicate type is {fields.get('predicateType')!r}, "
            f"expected {ENROLMENT_PREDICATE_TYPE}"
        )
    predicate = _read_predicate(fields.get("predicate"))
    if fields != _statement(predicate):
        raise EnrolmentError(
            f"the enrolment statement of {predicate.name} names other keys than its predicate, or "
            "holds more than an enrolment does"
        )
    try:
        identity = IdentityPublicKey(bytes.fromhex(predicate.identity))
        dsse_open(
            statement,
            payload_type=STATEMENT_PAYLOAD_TYPE,
            keys={identity.hex: identity},
            threshold=1,
        )
    except (CryptoError, DSSEError) as error:
        raise EnrolmentError(
            f"the enrolment of {predicate.name} is not signed by the identity key it names: {error}"
        ) from error
    if today is not None and predicate.not_after < today:
        raise EnrolmentError(
            f"the enrolment of {predicate.name} expired on {predicate.not_after}; "
            "ask for a new one (`secure-fedfm enroll`)"
        )
    return Enrolment(
        predicate.name,
        predicate.role,
        predicate.identity,
        predicate.transport,
        predicate.not_after,
        statement,
    )
