"""The signed envelope: what the signature covers, what a transcript keeps, limits."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import (
    NO_CHECKPOINT,
    NO_REFERENCE,
    CheckpointSeen,
    Envelope,
    Header,
    SignedHeader,
    seal_envelope,
)
from fedfm_crypto.errors import CodecError, SignatureError
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.labels import Label
from fedfm_crypto.merkle import EMPTY_ROOT
from fedfm_crypto.random_source import SeededRandom

KEY = IdentityKey.generate(SeededRandom(1))
OTHER = IdentityKey.generate(SeededRandom(2))


def sealed(**changes: Any) -> Envelope:
    fields: dict[str, Any] = {
        "context": b"c" * 32,
        "type": "KeyOffer",
        "sender": "clinic-1",
        "step": 3,
        "sequence": 7,
        "refers_to": b"r" * 32,
        "checkpoint": CheckpointSeen(9, b"t" * 32),
        "body": b"body",
    }
    return seal_envelope(KEY, **{**fields, **changes})


def test_the_layout_is_the_agreed_one() -> None:
    envelope = sealed()
    header = b"".join(
        [
            b"\x01",
            b"c" * 32,
            b"\x00\x00\x00\x08KeyOffer",
            b"\x00\x00\x00\x08clinic-1",
            b"\x00\x03",
            b"\x00\x00\x00\x07",
            b"r" * 32,
            hashlib.sha256(b"body").digest(),
            b"\x00\x00\x00\x00\x00\x00\x00\x09",
            b"t" * 32,
        ]
    )
    assert encode(envelope.header) == header
    assert envelope.encode() == header + envelope.signature + b"\x00\x00\x00\x04body"
    KEY.public.verify(Label.ENVELOPE, envelope.signature, header)
    assert envelope.header.checkpoint == CheckpointSeen(9, b"t" * 32)


@given(st.binary(max_size=200), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1))
def test_round_trip_verifies(body: bytes, step: int, sequence: int) -> None:
    envelope = sealed(body=body, step=step, sequence=sequence)
    received = Envelope.decode(envelope.encode())
    assert received == envelope
    received.verify(KEY.public)


def test_defaults_say_no_reference_and_no_checkpoint() -> None:
    envelope = seal_envelope(
        KEY, context=bytes(32), type="X", sender="a", step=0, sequence=0, body=b""
    )
    assert envelope.header.refers_to == NO_REFERENCE == bytes(32)
    assert envelope.header.checkpoint == NO_CHECKPOINT == CheckpointSeen(0, EMPTY_ROOT)


def test_every_flipped_bit_of_an_envelope_is_refused() -> None:
    data = sealed().encode()
    for bit in range(8 * len(data)):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CodecError, SignatureError)):
            Envelope.decode(bytes(altered)).verify(KEY.public)


@pytest.mark.parametrize(
    "changes",
    [
        {"context": b"d" * 32},
        {"type": "Upload"},
        {"sender": "clinic-2"},
        {"step": 4},
        {"sequence": 8},
        {"refers_to": bytes(32)},
        {"body_hash": bytes(32)},
        {"checkpoint_size": 10},
        {"checkpoint_root": bytes(32)},
    ],
)
def test_the_signature_covers_every_header_field(changes: dict[str, Any]) -> None:
    envelope = sealed()
    forged = SignedHeader(replace(envelope.header, **changes), envelope.signature)
    with pytest.raises(SignatureError, match="number"):
        forged.verify(KEY.public)
    envelope.signed_header.verify(KEY.public)


def test_another_key_or_body_is_refused_and_the_message_is_named() -> None:
    envelope = sealed()
    with pytest.raises(SignatureError, match="KeyOffer number 7 from clinic-1"):
        envelope.verify(OTHER.public)
    with pytest.raises(SignatureError, match="KeyOffer number 7 from clinic-1: the body"):
        replace(envelope, body=b"Body").verify(KEY.public)
    envelope.signed_header.check_body(b"body")


def test_a_transcript_keeps_the_header_without_the_body() -> None:
    envelope = sealed(body=b"a share that stays secret")
    kept = decode(SignedHeader, encode(envelope.signed_header))
    kept.verify(KEY.public)
    assert b"secret" not in encode(kept)
    assert "secret" not in repr(envelope)


def test_bodies_above_the_receivers_limit_are_refused_before_they_are_copied() -> None:
    envelope = sealed(body=bytes(100_000))
    assert Envelope.decode(envelope.encode(), max_body=100_000) == envelope
    for limit in (0, 99_999):
        with pytest.raises(CodecError, match="expected"):
            Envelope.decode(envelope.encode(), max_body=limit)


@pytest.mark.parametrize(
    "changes",
    [
        {"context": bytes(31)},
        {"type": "x" * 33},
        {"sender": "Clinic"},
        {"step": 2**16},
        {"sequence": -1},
        {"refers_to": b""},
        {"checkpoint": CheckpointSeen(2**64, bytes(32))},
    ],
)
def test_fields_outside_their_bounds_are_refused_when_sealing(changes: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match=r"Header\."):
        sealed(**changes)


def test_another_version_is_refused_with_a_remedy() -> None:
    data = sealed().encode()
    with pytest.raises(CodecError, match="version 2, expected 1"):
        Envelope.decode(b"\x02" + data[1:])
    with pytest.raises(CodecError, match="version 2"):
        replace(sealed().header, version=2)
    assert isinstance(Header, type)
