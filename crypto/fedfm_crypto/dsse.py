"""DSSE envelopes with Ed25519, as canonical JSON bytes, strictly opened.

``{"payload": base64, "payloadType": text, "signatures": [{"keyid", "sig"}, ...]}`` with the
signatures sorted by key id. The key id is the public key itself, in lowercase hexadecimal. Each
envelope has one byte form: the JSON is RFC 8785 canonical, the base64 re-encodes identically, and
no key signs twice. Opening verifies every signature present, not only as many as the threshold asks
for: a bad signature beside good ones is a fault that somebody should see.

Source: https://github.com/secure-systems-lab/dsse, envelope.md and protocol.md (version 1.0).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedfm_crypto.canonical_json import canonical_decode, canonical_encode
from fedfm_crypto.errors import CanonicalJSONError, DSSEError, SignatureError
from fedfm_crypto.identity import IdentityKey, IdentityPublicKey
from fedfm_crypto.strict_base64 import decode_base64, encode_base64

__all__ = [
    "DSSEOpened",
    "DSSEUnverified",
    "dsse_add_signature",
    "dsse_open",
    "dsse_read_unverified",
    "dsse_sign",
    "pre_authentication_encoding",
]


@dataclass(frozen=True, slots=True)
class DSSEOpened:
    """A payload whose signatures verified, and the key ids that signed it (sorted)."""

    payload: bytes
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DSSEUnverified:
    """The well-formed content of an envelope, nothing of it verified yet."""

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def keyids(self) -> tuple[str, ...]:
        """The key ids that claim to have signed, sorted."""
        return tuple(keyid for keyid, _ in self.signatures)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return PAE(type, body) = ``DSSEv1`` SP LEN(type) SP type SP LEN(body) SP body."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def dsse_sign(payload: bytes, payload_type: str, keys: Sequence[tuple[str, IdentityKey]]) -> bytes:
    """Return the envelope of ``payload`` signed by each of ``keys``, as canonical JSON.

    Args:
        payload: any bytes.
        payload_type: media type of the payload.
        keys: (key id, key) pairs; a key id is ``key.public.hex``.

    Raises:
        DSSEError: no key, a key id that is not its key's, or a repeated key.
    """
    if not keys:
        raise DSSEError("a DSSE envelope needs at least one signature, no key was given")
    signed = pre_authentication_encoding(payload_type, payload)
    signatures = []
    for keyid, key in keys:
        _check_keyid(keyid, key.public)
        signatures.append((keyid, key.sign_raw(signed)))
    return _write(DSSEUnverified(payload, payload_type, tuple(sorted(signatures))))


def dsse_add_signature(data: bytes, key: tuple[str, IdentityKey], *, payload_type: str) -> bytes:
    """Return the envelope ``data`` with the signature of one more key.

    The signatures already present are kept as they are and not verified: the signer must have
    opened or at least read the payload before it agrees to it.

    Raises:
        DSSEError: ``data`` is malformed, has another payload type, or the key has signed already.
    """
    unverified = _read_typed(data, payload_type)
    keyid, identity = key
    _check_keyid(keyid, identity.public)
    signature = identity.sign_raw(pre_authentication_encoding(payload_type, unverified.payload))
    signatures = tuple(sorted((*unverified.signatures, (keyid, signature))))
    return _write(DSSEUnverified(unverified.payload, payload_type, signatures))


def dsse_open(
    data: bytes,
    *,
    payload_type: str,
    keys: Mapping[str, IdentityPublicKey],
    threshold: int,
) -> DSSEOpened:
    """Verify an envelope and return its payload.

    Args:
        data: canonical JSON bytes.
        payload_type: the only type accepted.
        keys: key id -> public key of everybody who may sign.
        threshold: how many of them must have signed, at least 1.

    Raises:
        DSSEError: malformed bytes, another type, an unknown key id, a signature that does not
            verify, or fewer signatures than ``threshold``.
    """
    if threshold < 1:
        raise DSSEError(f"threshold {threshold}, expected at least 1")
    for keyid, public in keys.items():
        _check_keyid(keyid, public)
    unverified = _read_typed(data, payload_type)
    signed = pre_authentication_encoding(payload_type, unverified.payload)
    for keyid, signature in unverified.signatures:
        if keyid not in keys:
            raise DSSEError(f"signature by unknown key {keyid[:80]!r}; only {len(keys)} are known")
        try:
            keys[keyid].verify_raw(signature, signed)
        except SignatureError as error:
            raise DSSEError(f"signature of key {keyid}: {error}") from None
    if len(unverified.signatures) < threshold:
        raise DSSEError(f"{len(unverified.signatures)} signatures, expected at least {threshold}")
    return DSSEOpened(unverified.payload, unverified.keyids)


def dsse_read_unverified(data: bytes) -> DSSEUnverified:
    """Parse an envelope without verifying it.

    Only for payloads that carry the key that must have signed them (an enrolment): read the key,
    then call :func:`dsse_open` with it.

    Raises:
        DSSEError: the bytes are not the one form of a DSSE envelope.
    """
    try:
        document = canonical_decode(data)
    except CanonicalJSONError as error:
        raise DSSEError(f"DSSE envelope: {error}") from None
    members = _members(
        document, {"payload": str, "payloadType": str, "signatures": list}, "the envelope"
    )
    signatures = []
    for number, entry in enumerate(members["signatures"]):
        fields = _members(entry, {"keyid": str, "sig": str}, f"signature {number}")
        signatures.append(
            (fields["keyid"], decode_base64(fields["sig"], f"DSSE signature {number}", DSSEError))
        )
    payload = decode_base64(members["payload"], "DSSE payload", DSSEError)
    unverified = DSSEUnverified(payload, members["payloadType"], tuple(signatures))
    _check_signature_order(unverified)
    return unverified


def _read_typed(data: bytes, payload_type: str) -> DSSEUnverified:
    unverified = dsse_read_unverified(data)
    if unverified.payload_type != payload_type:
        raise DSSEError(
            f"DSSE payload type {unverified.payload_type[:80]!r}, expected {payload_type!r}"
        )
    return unverified


def _write(unverified: DSSEUnverified) -> bytes:
    _check_signature_order(unverified)
    return canonical_encode(
        {
            "payload": encode_base64(unverified.payload),
            "payloadType": unverified.payload_type,
            "signatures": [
                {"keyid": keyid, "sig": encode_base64(signature)}
                for keyid, signature in unverified.signatures
            ],
        }
    )


def _check_signature_order(unverified: DSSEUnverified) -> None:
    keyids = unverified.keyids
    if not keyids:
        raise DSSEError("DSSE envelope without a signature")
    for earlier, later in itertools.pairwise(keyids):
        if earlier == later:
            raise DSSEError(f"DSSE envelope with two signatures of key {earlier[:80]!r}")
        if earlier > later:
            raise DSSEError("DSSE signatures are not sorted by key id")


def _check_keyid(keyid: str, public: IdentityPublicKey) -> None:
    if keyid != public.hex:
        raise DSSEError(f"key id {keyid[:80]!r} is not its public key, expected {public.hex}")


def _members(value: object, expected: Mapping[str, type], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != expected.keys():
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise DSSEError(f"DSSE envelope: {where} has {found}, expected {sorted(expected)}")
    for name, kind in expected.items():
        if not isinstance(value[name], kind):
            raise DSSEError(
                f"DSSE envelope: {name} is {type(value[name]).__name__}, expected {kind.__name__}"
            )
    return value
