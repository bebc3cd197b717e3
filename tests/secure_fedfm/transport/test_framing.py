"""Chunking and reassembly without sockets: what goes in comes out, and nothing else does."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fedfm.transport.errors import (
    ChunkHashError,
    ChunkOrderError,
    FramingError,
    MalformedFrameError,
    MessageTooLargeError,
    QuotaError,
    ReplayedMessageError,
)
from secure_fedfm.transport.framing import (
    HEADER_BYTES,
    Chunk,
    Hello,
    Ping,
    Reassembler,
    Replaced,
    Welcome,
    message_digest,
    parse_frame,
    plan_message,
)
from secure_fedfm.transport.limits import TransportLimits

LIMITS = TransportLimits(
    chunk_bytes=10, min_chunk_bytes=4, max_message_bytes=100, max_bytes_in_flight=200
)


def chunks_of(payload: bytes, message_id: int = 1, limits: TransportLimits = LIMITS) -> list[Chunk]:
    return list(plan_message(payload, limits).chunks(message_id))


def feed_all(reassembler: Reassembler, chunks: Iterable[Chunk]) -> bytes | None:
    result = None
    for chunk in chunks:
        assert result is None, "a message was complete before its last chunk"
        stored = reassembler.feed(chunk, now=0.0)
        result = None if stored is None else stored.take()
    return result


@given(payload=st.binary(max_size=100), size=st.integers(4, 40))
def test_a_message_survives_the_wire(payload: bytes, size: int) -> None:
    limits = dataclasses.replace(LIMITS, chunk_bytes=size)
    wire = [chunk.encode() for chunk in chunks_of(payload, limits=limits)]
    assert all(len(frame) <= size + HEADER_BYTES for frame in wire)
    parsed = [parse_frame(memoryview(frame)) for frame in wire]
    reassembler = Reassembler(LIMITS)
    assert feed_all(reassembler, [c for c in parsed if isinstance(c, Chunk)]) == payload
    assert (reassembler.incomplete, reassembler.pending_bytes) == (0, 0)


@given(
    payloads=st.lists(st.binary(max_size=60), min_size=2, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_messages_may_interleave(payloads: list[bytes], order: object) -> None:
    reassembler, done = Reassembler(LIMITS), {}
    queues = {i: chunks_of(payload, i) for i, payload in enumerate(payloads)}
    for i, queue in queues.items():  # ids must begin in rising order, what follows is free
        first = reassembler.feed(queue.pop(0), 0.0)
        if first is not None:
            done[i] = first.take()
    rest = [i for i in queues for _ in queues[i]]
    order.shuffle(rest)  # type: ignore[attr-defined]
    for i in rest:
        result = reassembler.feed(queues[i].pop(0), 0.0)
        if result is not None:
            done[i] = result.take()
    assert done == dict(enumerate(payloads))


@given(
    payload=st.binary(min_size=1, max_size=100),
    frame=st.integers(0, 9),
    bit=st.integers(0, 8 * (HEADER_BYTES + 10) - 1),
)
@settings(max_examples=300)
def test_no_flipped_bit_yields_another_message(payload: bytes, frame: int, bit: int) -> None:
    wire = [chunk.encode() for chunk in chunks_of(payload)]
    target = frame % len(wire)
    damaged = bytearray(wire[target])
    bit %= 8 * len(damaged)
    damaged[bit // 8] ^= 1 << (bit % 8)
    wire[target] = bytes(damaged)
    reassembler, result = Reassembler(LIMITS), None
    for data in wire:
        try:
            parsed = parse_frame(data)
            if isinstance(parsed, Chunk):
                stored = reassembler.feed(parsed, 0.0)
                result = None if stored is None else stored.take()
        except (FramingError, QuotaError):
            pass
    # The id is not part of the content: a single-chunk message under another id is itself.
    in_id = 16 <= bit < 80
    assert result is None or (in_id and len(wire) == 1 and result == payload)


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_arbitrary_bytes_raise_only_named_errors_and_hold_no_memory(frames: list[bytes]) -> None:
    reassembler = Reassembler(LIMITS)
    for data in [b"\x01\x00" + frame for frame in frames] + frames:
        try:
            parsed = parse_frame(data)
            if isinstance(parsed, Chunk):
                reassembler.feed(parsed, 0.0)
        except (FramingError, QuotaError):
            pass
    assert reassembler.pending_bytes <= LIMITS.max_message_bytes * LIMITS.max_incomplete


@pytest.mark.parametrize(
    "frame", [Hello(bytes(range(16)), 7), Welcome(9), Ping(), Replaced()], ids=repr
)
def test_control_frames_survive_and_tolerate_no_other_length(
    frame: Hello | Welcome | Ping | Replaced,
) -> None:
    assert parse_frame(frame.encode()) == frame
    for other in (frame.encode() + b"\0", frame.encode()[:-1]):
        with pytest.raises(MalformedFrameError):
            parse_frame(other)


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x02\x00" + bytes(100), b"\x01\x63", b"\x01\x00" + bytes(80)]
)
def test_short_or_foreign_frames_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrameError):
        parse_frame(data)


def test_repeated_chunk() -> None:
    reassembler, chunks = Reassembler(LIMITS), chunks_of(bytes(30))
    reassembler.feed(chunks[0], 0.0)
    reassembler.feed(chunks[1], 0.0)
    with pytest.raises(ChunkOrderError, match="repeated: chunk 1, expected 2"):
        reassembler.feed(chunks[1], 0.0)
    assert reassembler.pending_bytes == 0


def test_skipped_chunk() -> None:
    reassembler, chunks = Reassembler(LIMITS), chunks_of(bytes(30))
    reassembler.feed(chunks[0], 0.0)
    with pytest.raises(ChunkOrderError, match="skipped ahead"):
        reassembler.feed(chunks[2], 0.0)


def test_replayed_message() -> None:
    reassembler, chunks = Reassembler(LIMITS), chunks_of(bytes(30), message_id=5)
    assert feed_all(reassembler, chunks) == bytes(30)
    with pytest.raises(ReplayedMessageError):
        reassembler.feed(chunks[0], 0.0)
    with pytest.raises(ReplayedMessageError):
        reassembler.feed(chunks_of(b"older", message_id=4)[0], 0.0)


def test_wrong_chunk_hash_and_wrong_message_digest() -> None:
    chunk = chunks_of(b"hello")[0]
    with pytest.raises(ChunkHashError, match="chunk 0"):
        Reassembler(LIMITS).feed(dataclasses.replace(chunk, payload=b"jello"), 0.0)
    with pytest.raises(ChunkHashError, match="digest"):
        Reassembler(LIMITS).feed(dataclasses.replace(chunk, message_digest=bytes(32)), 0.0)


def test_digest_is_the_documented_formula() -> None:
    payload = bytes(range(25))
    hashes = b"".join(hashlib.sha256(payload[i : i + 10]).digest() for i in (0, 10, 20))
    expected = hashlib.sha256((25).to_bytes(8, "big") + hashes).digest()
    assert plan_message(payload, LIMITS).digest == expected == message_digest(25, hashes)


def test_declared_sizes_are_refused_and_never_allocated() -> None:
    honest = chunks_of(bytes(30))[0]
    huge = dataclasses.replace(honest, total=2**63, count=2**31)
    with pytest.raises(MessageTooLargeError):
        Reassembler(LIMITS).feed(huge, 0.0)
    at_limit = TransportLimits()  # 1 GiB declared with one real chunk holds one chunk
    first = next(plan_message(bytes(64 * 1024 + 1), at_limit).chunks(1))
    big = dataclasses.replace(first, total=2**30, count=-(-(2**30) // len(first.payload)))
    reassembler = Reassembler(at_limit)
    assert reassembler.feed(big, 0.0) is None
    assert reassembler.pending_bytes == 64 * 1024 + 1
    with pytest.raises(MessageTooLargeError):
        plan_message(bytes(101), LIMITS)


@pytest.mark.parametrize(
    ("change", "position"),
    [
        ({"count": 4}, 0),
        ({"count": 0}, 0),
        ({"total": 45}, 0),
        ({"payload": b"abc"}, 0),
        ({"payload": b""}, 0),
        ({"count": 4}, 1),
        ({"total": 29}, 1),
        ({"message_digest": bytes(32)}, 1),
        ({"payload": bytes(9)}, 1),
        ({"payload": bytes(11)}, 2),
        ({"payload": b""}, 2),
    ],
)
def test_contradicting_fields(change: dict[str, int | bytes], position: int) -> None:
    chunks = chunks_of(bytes(30))
    bad = dataclasses.replace(chunks[position], **change)  # type: ignore[arg-type]
    reassembler = Reassembler(LIMITS)
    feed_all(reassembler, chunks[:position])
    with pytest.raises(MalformedFrameError):
        reassembler.feed(bad, 0.0)
    assert reassembler.incomplete == 0


def test_incomplete_messages_are_few_and_expire() -> None:
    reassembler = Reassembler(LIMITS)
    for i in range(LIMITS.max_incomplete):
        reassembler.feed(chunks_of(bytes(30), i)[0], now=float(i))
    with pytest.raises(QuotaError):
        reassembler.feed(chunks_of(bytes(30), 99)[0], now=4.0)
    assert reassembler.incomplete == LIMITS.max_incomplete
    assert reassembler.expire(now=LIMITS.incomplete_timeout + 1.5) == (0, 1)
    assert reassembler.pending_bytes == 10 * (LIMITS.max_incomplete - 2)


def test_payloads_stay_out_of_reprs() -> None:
    plan = plan_message(b"PAYLOAD-BYTES", LIMITS)
    assert "PAYLOAD" not in repr(plan) + repr(list(plan.chunks(1)))
