"""DSSE: the specification's encoding, securesystemslib as an independent verifier, strictness."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.signer import Key  # type: ignore[attr-defined]

from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import (
    dsse_add_signature,
    dsse_open,
    dsse_read_unverified,
    dsse_sign,
    pre_authentication_encoding,
)
from fedfm_crypto.errors import DSSEError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.random_source import SeededRandom

KIND = "application/vnd.in-toto+json"
PAYLOAD = b'{"_type":"statement"}'
KEYS = [IdentityKey.generate(SeededRandom(seed)) for seed in range(3)]
PAIRS = [(key.public.hex, key) for key in KEYS]
KNOWN = {key.public.hex: key.public for key in KEYS}
SIGNED = dsse_sign(PAYLOAD, KIND, PAIRS[:2])


def reopen(data: bytes, threshold: int = 1) -> tuple[str, ...]:
    return dsse_open(data, payload_type=KIND, keys=KNOWN, threshold=threshold).signers


def changed(**changes: Any) -> bytes:
    return canonical_encode({**json.loads(SIGNED), **changes})


def test_pae_is_the_specifications_example() -> None:
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    for kind, payload in (("", b""), ("té", b"\x00\xff"), (KIND, PAYLOAD)):
        reference = ReferenceEnvelope(payload, kind, {}).pae()
        assert pre_authentication_encoding(kind, payload) == reference


def test_securesystemslib_verifies_our_envelopes() -> None:
    envelope = ReferenceEnvelope.from_dict(json.loads(SIGNED))
    keys = [
        Key.from_dict(
            keyid, {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": keyid}}
        )
        for keyid, _ in PAIRS[:2]
    ]
    assert set(envelope.verify(keys, 2)) == {keyid for keyid, _ in PAIRS[:2]}
    assert envelope.payload == PAYLOAD
    assert envelope.payload_type == KIND


def test_open_returns_the_payload_and_the_sorted_signers() -> None:
    opened = dsse_open(SIGNED, payload_type=KIND, keys=KNOWN, threshold=2)
    assert opened.payload == PAYLOAD
    assert opened.signers == tuple(sorted(keyid for keyid, _ in PAIRS[:2]))


def test_signing_one_by_one_gives_the_same_bytes_in_any_order() -> None:
    every = dsse_sign(PAYLOAD, KIND, PAIRS)
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        data = dsse_sign(PAYLOAD, KIND, [PAIRS[order[0]]])
        for index in order[1:]:
            data = dsse_add_signature(data, PAIRS[index], payload_type=KIND)
        assert data == every
    assert len(reopen(every, 3)) == 3


def test_unverified_reading_shows_content_and_claims() -> None:
    unverified = dsse_read_unverified(SIGNED)
    assert unverified.payload == PAYLOAD
    assert unverified.payload_type == KIND
    assert unverified.keyids == reopen(SIGNED)


def test_the_threshold_counts() -> None:
    assert reopen(SIGNED, 2)
    with pytest.raises(DSSEError, match="2 signatures, expected at least 3"):
        reopen(SIGNED, 3)
    for threshold in (0, -1):
        with pytest.raises(DSSEError, match="expected at least 1"):
            reopen(SIGNED, threshold)


def test_every_signature_present_must_verify_and_be_known() -> None:
    document = json.loads(SIGNED)
    good, other = document["signatures"]
    forged = [good, {**other, "sig": good["sig"]}]
    with pytest.raises(DSSEError, match="does not verify"):
        reopen(changed(signatures=forged))
    stranger = IdentityKey.generate(SeededRandom(99))
    with_stranger = dsse_add_signature(SIGNED, (stranger.public.hex, stranger), payload_type=KIND)
    with pytest.raises(DSSEError, match="unknown key"):
        reopen(with_stranger)


def test_another_payload_or_type_does_not_verify() -> None:
    with pytest.raises(DSSEError, match="does not verify"):
        reopen(changed(payload=base64.b64encode(PAYLOAD + b" ").decode()))
    with pytest.raises(DSSEError, match="payload type 'text/plain', expected"):
        reopen(changed(payloadType="text/plain"))
    with pytest.raises(DSSEError, match="does not verify"):
        dsse_open(
            changed(payloadType="text/plain"), payload_type="text/plain", keys=KNOWN, threshold=1
        )
    with pytest.raises(DSSEError, match="payload type"):
        dsse_add_signature(SIGNED, PAIRS[2], payload_type="text/plain")


def test_every_flipped_bit_of_an_envelope_is_refused() -> None:
    data = dsse_sign(b"x", "t", PAIRS[:1])
    for bit in range(8 * len(data)):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DSSEError):
            dsse_open(bytes(altered), payload_type="t", keys=KNOWN, threshold=1)


SIGNATURES = json.loads(SIGNED)["signatures"]
MALFORMED: dict[str, bytes] = {
    "not_json": b"x",
    "not_canonical_whitespace": SIGNED.replace(b'":', b'": ', 1),
    "trailing_newline": SIGNED + b"\n",
    "repeated_key": SIGNED.replace(b'{"payload"', b'{"payload":"","payload"', 1),
    "not_an_object": b"[]",
    "unknown_member": changed(extra=1),
    "missing_member": canonical_encode({"payload": "", "payloadType": KIND}),
    "no_signatures": changed(signatures=[]),
    "signatures_no_list": changed(signatures={}),
    "payload_no_text": changed(payload=1),
    "payload_no_base64": changed(payload="e30"),
    "payload_url_base64": changed(payload="__8="),
    "payload_base64_stray_bits": changed(payload="eyJfdHlwZSI6InN0YXRlbWVudCJ9e31="),
    "payload_base64_newline": changed(payload="e30=\n"),
    "signature_extra_member": changed(signatures=[{**SIGNATURES[0], "cert": ""}]),
    "signature_no_object": changed(signatures=["x"]),
    "signature_keyid_no_text": changed(signatures=[{**SIGNATURES[0], "keyid": 1}]),
    "signature_short": changed(signatures=[{**SIGNATURES[0], "sig": "AAAA"}]),
    "signature_twice": changed(signatures=[SIGNATURES[0], SIGNATURES[0]]),
    "signatures_unsorted": changed(signatures=SIGNATURES[::-1]),
    "keyid_uppercase": changed(
        signatures=[{**SIGNATURES[0], "keyid": SIGNATURES[0]["keyid"].upper()}]
    ),
    "nested_too_deeply": b"[" * 100_000,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_envelopes_are_refused(name: str) -> None:
    with pytest.raises(DSSEError):
        reopen(MALFORMED[name])


def test_signing_without_keys_twice_or_under_another_keyid_is_refused() -> None:
    with pytest.raises(DSSEError, match="at least one"):
        dsse_sign(PAYLOAD, KIND, [])
    with pytest.raises(DSSEError, match="two signatures"):
        dsse_sign(PAYLOAD, KIND, [PAIRS[0], PAIRS[0]])
    with pytest.raises(DSSEError, match="two signatures"):
        dsse_add_signature(SIGNED, PAIRS[0], payload_type=KIND)
    with pytest.raises(DSSEError, match="is not its public key"):
        dsse_sign(PAYLOAD, KIND, [("clinic-1", KEYS[0])])
    with pytest.raises(DSSEError, match="is not its public key"):
        dsse_open(SIGNED, payload_type=KIND, keys={PAIRS[0][0]: KEYS[1].public}, threshold=1)
