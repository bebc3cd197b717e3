"""Transcripts: one file for one set of messages, and nothing secret in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fedfm_audit.entries import ROBUST_MESSAGES
from fedfm_audit.errors import TranscriptError
from fedfm_audit.messages import Cohort, RoundClose
from fedfm_audit.transcript import (
    PUBLIC_BODIES,
    Entry,
    Transcript,
    count_round,
    make_transcript,
    read_body,
    rebuild_roster,
)
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.envelope import Envelope, SignedHeader, seal_envelope
from fedfm_crypto.errors import CanonicalJSONError
from tests.audit.played_round import DROPOUT, Parts, PlayedRound, Script, parts_of, sha256
from tests.audit.synthetic import Federation


@pytest.fixture(scope="module")
def sent() -> list[Envelope]:
    played = PlayedRound(Federation(), Script(), 1)
    played.run()
    return played.sent


def messages(sent: list[Envelope]) -> Parts:
    return parts_of((envelope.signed_header, envelope.body) for envelope in sent)


def test_a_transcript_comes_back(sent: list[Envelope]) -> None:
    transcript = make_transcript(1, *messages(sent))
    assert Transcript.decode(transcript.encode()) == transcript
    assert len(transcript.entries) == len(sent)


def test_the_order_of_arrival_does_not_matter(sent: list[Envelope]) -> None:
    setup, (step,), close = messages(sent)
    shuffled = (setup[::-1] + setup[:3], [step[::-1] + step[:3]], close)
    assert make_transcript(1, *shuffled) == make_transcript(1, *messages(sent))


def test_only_public_bodies_are_kept(sent: list[Envelope]) -> None:
    document = json.loads(make_transcript(1, *messages(sent)).encode())
    entries = [*document["setup"], *document["steps"][0], *document["close"]]
    shown = {entry["type"] for entry in entries if "body" in entry}
    hidden = {entry["type"] for entry in entries if "body" not in entry}
    # The graph is complete, so that nobody opens nonces of it, and no validator judges.
    assert shown == PUBLIC_BODIES - {"GraphNonce"} - ROBUST_MESSAGES
    assert hidden == {
        "KeyRoster",
        "ShareBundle",
        "ShareDelivery",
        "UploadSet",
        "Upload",
        "CohortProof",
        "Unmask",
        "Aggregate",
    }


def test_collected_bodies_are_rebuilt_to_the_signed_hash(sent: list[Envelope]) -> None:
    transcript = make_transcript(1, *messages(sent))
    (roster,) = transcript.of("KeyRoster")
    assert sha256(rebuild_roster(transcript.of("KeyOffer"))) == roster.header.body_hash
    close = read_body(transcript.of("RoundClose")[0], RoundClose)
    assert [entry.envelope() for entry in transcript.of("RoundAck")] == list(close.acks)


def test_counts() -> None:
    federation = Federation()
    federation.play(DROPOUT)
    counts = count_round(Transcript.decode(federation.transcripts[1]))
    assert (counts.invited, counts.offers, counts.dealers) == (5, 5, 5)
    assert (counts.uploads, counts.accepted, counts.removed) == (4, 4, 1)
    assert (counts.votes, counts.unmasked, counts.acks) == (4, 4, 4)


def test_foreign_types_and_bodies_are_refused(sent: list[Envelope]) -> None:
    federation = Federation()
    hello = seal_envelope(
        federation.coordinator,
        context=bytes(32),
        type="Hello",
        sender="coordinator",
        step=0,
        sequence=0,
        body=b"",
    )
    with pytest.raises(TranscriptError, match="Hello is not a message of a round"):
        make_transcript(1, *messages([*sent, hello]))
    with pytest.raises(TranscriptError, match="not the body that was signed"):
        make_transcript(1, [(sent[0].signed_header, b"other")], [], [])
    with pytest.raises(TranscriptError, match="setup message 0: RoundOpen must have a body"):
        make_transcript(1, [(sent[0].signed_header, None)], [], [])


def test_two_messages_with_one_number_are_refused(sent: list[Envelope]) -> None:
    setup, steps, close = messages(sent)
    other = replace(sent[1].header, body_hash=sha256(b"x"))
    with pytest.raises(TranscriptError, match="two different KeyOffer"):
        make_transcript(1, [*setup, (SignedHeader(other, sent[1].signature), b"x")], steps, close)


def test_secret_bodies_have_no_layout(sent: list[Envelope]) -> None:
    upload = next(envelope for envelope in sent if envelope.header.type == "Upload")
    entry = Entry(upload.signed_header, None)
    with pytest.raises(TranscriptError, match="no public body"):
        entry.envelope()
    with pytest.raises(TranscriptError, match="no public body"):
        read_body(entry, Cohort)
    offer = Entry(sent[1].signed_header, sent[1].body)
    with pytest.raises(TranscriptError, match="does not decode"):
        read_body(offer, Cohort)


def edited(data: bytes, place: list[Any], value: Any) -> bytes:
    document = json.loads(data)
    target = document
    for step in place[:-1]:
        target = target[step]
    if value is None:
        del target[place[-1]]
    else:
        target[place[-1]] = value
    return canonical_encode(document)


EDITS: list[tuple[list[Any], Any]] = [
    (["version"], 1),
    (["version"], 3),
    (["round"], 0),
    (["round"], "1"),
    (["round"], 1_000_000),
    (["extra"], 1),
    (["setup"], {}),
    (["setup"], None),
    (["setup", 0], []),
    (["setup", 0, "sender"], "Coordinator"),
    (["setup", 0, "sender"], 5),
    (["setup", 0, "step"], -1),
    (["setup", 0, "step"], 65536),
    (["setup", 0, "step"], True),
    (["setup", 0, "sequence"], 2**40),
    (["setup", 0, "version"], 2),
    (["setup", 0, "type"], "Hello"),
    (["setup", 0, "context"], "00"),
    (["setup", 0, "context"], "AB" * 32),
    (["setup", 0, "body_hash"], 7),
    (["setup", 0, "signature"], "AAAA"),
    (["setup", 0, "signature"], "!"),
    (["setup", 0, "body"], None),
    (["setup", 0, "body"], 3),
    (["setup", 0, "checkpoint"], []),
    (["setup", 0, "checkpoint", "size"], -1),
    (["setup", 0, "checkpoint", "size"], 1.5),
    (["setup", 0, "checkpoint", "root"], " " + "00" * 32),
    (["setup", 0, "note"], "x"),
    (["setup", 6, "body"], "AAAA"),
    (["steps"], {}),
    (["steps"], None),
    (["steps"], [[]]),
    (["steps", 0], {}),
    (["steps", 0, 0], []),
    (["steps", 0, 0, "step"], 1),
    (["close"], None),
    (["close", 0, "type"], "RoundOpen"),
    (["envelopes"], []),
]


@pytest.mark.parametrize(("place", "value"), EDITS)
def test_malformed_files_are_refused(sent: list[Envelope], place: list[Any], value: Any) -> None:
    data = make_transcript(1, *messages(sent)).encode()
    with pytest.raises((TranscriptError, CanonicalJSONError)):
        Transcript.decode(edited(data, place, value))


def test_another_order_is_refused(sent: list[Envelope]) -> None:
    document = json.loads(make_transcript(1, *messages(sent)).encode())
    document["setup"][1:3] = document["setup"][2:0:-1]
    with pytest.raises(TranscriptError, match=r"setup message 2: KeyOffer .* out of order"):
        Transcript.decode(canonical_encode(document))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000], ids=repr)
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises((TranscriptError, CanonicalJSONError)):
        Transcript.decode(data)
