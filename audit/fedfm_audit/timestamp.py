"""An RFC 3161 time stamp over a checkpoint: that it existed at a moment, says somebody else.

``checkpoint.tsr`` of a bundle is a time-stamping authority's response (DER) to a request about the
SHA-256 of the checkpoint's signed text, its three lines; so it stands whatever cosignatures come
later.  That it is about this checkpoint is checked in any case; its signature with the roots of an
authority that the auditor trusts, and the package rfc3161-client (extra ``timestamp``).  Nothing is
fetched.  Source: RFC 3161 section 2.4.2, RFC 5816.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedfm_audit.bundle import TIMESTAMP
from fedfm_audit.steps.findings import Findings
from fedfm_crypto.note import Checkpoint

if TYPE_CHECKING:
    from datetime import datetime

MAX_TIMESTAMP_BYTES = 1 << 16
INSTALL = 'pip install "secure-fedfm[timestamp]"'
_SHA256 = bytes.fromhex("0609608648016503040201")  # OBJECT IDENTIFIER 2.16.840.1.101.3.4.2.1
_NULL, _OCTETS = b"\x05\x00", b"\x04\x20"


class TimestampError(ValueError):
    """A response that is no time stamp of this checkpoint, or none of a trusted authority."""


def is_about(response: bytes, text: bytes) -> bool:
    """Whether a response is one DER sequence that holds the SHA-256 of ``text`` as a message
    imprint; says nothing of who made it."""
    if len(response) > MAX_TIMESTAMP_BYTES or not _is_one_sequence(response):
        return False
    imprint = _OCTETS + hashlib.sha256(text).digest()
    return _SHA256 + imprint in response or _SHA256 + _NULL + imprint in response


def _is_one_sequence(data: bytes) -> bool:
    """Tag 0x30 and a definite length that is exactly the rest, in its shortest form."""
    if len(data) < 4 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return data[1] == len(data) - 2
    octets = data[1] & 0x7F
    length = int.from_bytes(data[2 : 2 + octets], "big")
    shortest = 1 <= octets <= 3 and data[2] != 0 and length >= 0x80
    return shortest and length == len(data) - 2 - octets


def can_verify() -> bool:
    """Whether the package that verifies time stamps is installed."""
    return importlib.util.find_spec("rfc3161_client") is not None


def verify_timestamp(response: bytes, text: bytes, roots: bytes) -> datetime:
    """The moment that a response gives for ``text``, signed under one of ``roots`` (PEM).

    Certificates must have been valid at that moment, not now.

    Raises
    ------
    TimestampError
        if it is not granted, about another text, or not signed by an authority of ``roots``.
    ModuleNotFoundError
        without the extra ``timestamp``.
    """
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415
    from rfc3161_client import (  # noqa: PLC0415
        VerifierBuilder,
        decode_timestamp_response,
    )

    if not is_about(response, text):
        raise TimestampError("no DER response about the SHA-256 of this checkpoint's text")
    try:
        certificates = load_pem_x509_certificates(roots)
    except ValueError as error:
        raise TimestampError(f"the roots are no PEM certificates: {error}") from error
    try:
        decoded = decode_timestamp_response(response)
        verifier = VerifierBuilder(roots=certificates).build()
        verifier.verify(decoded, hashlib.sha256(text).digest())
        moment: datetime = decoded.tst_info.gen_time
    except Exception as error:  # of two parsers, some outside of ValueError: hostile bytes
        raise TimestampError(f"{type(error).__name__}: {error}") from error
    if decoded.as_bytes() != response:
        raise TimestampError("the response does not re-encode to the same bytes")
    return moment


def check_timestamp(
    files: Mapping[str, bytes], checkpoint: Checkpoint, roots: bytes | None, findings: Findings
) -> str:
    """Part of step 1: what there is to say of the time stamp, for the report; "" if a bundle has
    none and nobody asked.  With ``roots`` a stamp must be there and verify."""
    response = files.get(TIMESTAMP)
    if response is None:
        if roots is not None:
            findings.fail(TIMESTAMP, "missing; the authority's roots were given to check it with")
        return ""
    if not is_about(response, checkpoint.body()):
        findings.fail(TIMESTAMP, "is no time stamp of this checkpoint")
        return ""
    if roots is None:
        return "; time stamp not checkable: no root of a time-stamping authority was given"
    if not can_verify():
        findings.fail(TIMESTAMP, f"not checkable: rfc3161-client is not installed: {INSTALL}")
        return ""
    try:
        moment = verify_timestamp(response, checkpoint.body(), roots)
    except TimestampError as error:
        findings.fail(TIMESTAMP, f"is not of a trusted authority: {error}")
        return ""
    return f"; time-stamped {moment.isoformat()}"
