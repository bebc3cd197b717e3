"""Frames, chunking and reassembly. No sockets; the clock is an argument.

A message is cut into chunks; each chunk travels in one ZeroMQ frame with this header
(integers big-endian):

    version U8 = 1 | kind U8 = 0 | message id U64 | index U32 | count U32 | total U64
    | chunk SHA-256 (32) | message digest (32) | payload

The message digest is SHA-256(U64 total || chunk SHA-256 of every chunk in order): it binds all
bytes and their order while each byte is hashed once. CURVE already authenticates every frame;
the hashes catch a peer that mixes up its own messages before the protocol sees them.

Rules: ids rise; chunks of a message come in order; all but the last have the size of the first;
repeated fields never change. Nothing is allocated from a declared size: memory grows with bytes
that really came, up to the limits, and large messages grow on disk (spool.py).

Control frames are: version U8 | kind U8 | body.

    HELLO (1)     client -> server   instance (16 bytes, random per process) | connection U32
    WELCOME (2)   server -> client   connection U32
    PING (3)      either way         nothing; shows that the route still exists
    REPLACED (4)  server -> client   nothing; another process took over this name
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from secure_fedfm.transport.errors import (
    ChunkHashError,
    ChunkOrderError,
    MalformedFrameError,
    MessageTooLargeError,
    QuotaError,
    ReplayedMessageError,
)
from secure_fedfm.transport.limits import TransportLimits
from secure_fedfm.transport.spool import Spool, Stored

VERSION = 1
INSTANCE_BYTES = 16
_DATA, _HELLO, _WELCOME, _PING, _REPLACED = range(5)
_HEADER = struct.Struct(">BBQIIQ32s32s")
_HELLO_BODY = struct.Struct(f">BB{INSTANCE_BYTES}sI")
_WELCOME_BODY = struct.Struct(">BBI")
_BARE = struct.Struct(">BB")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a message, with everything needed to place and check it.

    `payload` may be a view of the frame that came, or of the message that is being sent.
    """

    message_id: int
    index: int
    count: int
    total: int
    chunk_hash: bytes
    message_digest: bytes
    payload: bytes | memoryview = field(repr=False)

    def encode(self) -> bytes:
        """The frame as sent."""
        header = _HEADER.pack(
            VERSION,
            _DATA,
            self.message_id,
            self.index,
            self.count,
            self.total,
            self.chunk_hash,
            self.message_digest,
        )
        return b"".join((header, self.payload))


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of a client on a new connection."""

    instance: bytes
    connection: int

    def encode(self) -> bytes:
        """The frame as sent."""
        return _HELLO_BODY.pack(VERSION, _HELLO, self.instance, self.connection)


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server knows this connection now and can send to it."""

    connection: int

    def encode(self) -> bytes:
        """The frame as sent."""
        return _WELCOME_BODY.pack(VERSION, _WELCOME, self.connection)


@dataclass(frozen=True, slots=True)
class Ping:
    """Nothing but a sign of life."""

    def encode(self) -> bytes:
        """The frame as sent."""
        return _BARE.pack(VERSION, _PING)


@dataclass(frozen=True, slots=True)
class Replaced:
    """Another process connected with the same key."""

    def encode(self) -> bytes:
        """The frame as sent."""
        return _BARE.pack(VERSION, _REPLACED)


Frame = Chunk | Hello | Welcome | Ping | Replaced


def parse_frame(data: bytes | memoryview) -> Frame:
    """Decode one frame; sizes and hashes of chunks are the Reassembler's to judge.

    Raises:
        MalformedFrameError: too short, too long, another version, an unknown kind.
    """
    size = len(data)
    if size < _BARE.size:
        raise MalformedFrameError(f"a frame has at least {_BARE.size} bytes, found {size}")
    version, kind = data[0], data[1]
    if version != VERSION:
        raise MalformedFrameError(
            f"transport version {version}, expected {VERSION}; both sides need the same release"
        )
    if kind == _DATA:
        if size < HEADER_BYTES:
            raise MalformedFrameError(f"a chunk has {HEADER_BYTES} header bytes, found {size}")
        _, _, number, index, count, total, chunk_hash, digest = _HEADER.unpack_from(data)
        payload = memoryview(data)[HEADER_BYTES:]
        return Chunk(number, index, count, total, chunk_hash, digest, payload)
    if kind == _HELLO and size == _HELLO_BODY.size:
        _, _, instance, connection = _HELLO_BODY.unpack(data)
        return Hello(instance, connection)
    if kind == _WELCOME and size == _WELCOME_BODY.size:
        return Welcome(_WELCOME_BODY.unpack(data)[2])
    if kind == _PING and size == _BARE.size:
        return Ping()
    if kind == _REPLACED and size == _BARE.size:
        return Replaced()
    raise MalformedFrameError(f"no frame kind {kind} with {size} bytes in version {VERSION}")


@dataclass(frozen=True, slots=True)
class MessagePlan:
    """A message hashed once and ready to be sent, to several peers if need be."""

    payload: bytes = field(repr=False)
    chunk_bytes: int
    chunk_hashes: tuple[bytes, ...] = field(repr=False)
    digest: bytes

    def chunks(self, message_id: int) -> Iterator[Chunk]:
        """Yield the chunks in order, as views: nothing is copied before a frame is made."""
        view = memoryview(self.payload)
        for index, chunk_hash in enumerate(self.chunk_hashes):
            start = index * self.chunk_bytes
            yield Chunk(
                message_id=message_id,
                index=index,
                count=len(self.chunk_hashes),
                total=len(self.payload),
                chunk_hash=chunk_hash,
                message_digest=self.digest,
                payload=view[start : start + self.chunk_bytes],
            )


def message_digest(total: int, chunk_hashes: bytes) -> bytes:
    """SHA-256(U64 total || concatenated chunk hashes)."""
    return hashlib.sha256(total.to_bytes(8, "big") + chunk_hashes).digest()


def plan_message(payload: bytes, limits: TransportLimits) -> MessagePlan:
    """Hash `payload` chunk by chunk. An empty message has one empty chunk.

    Raises:
        MessageTooLargeError: longer than limits.max_message_bytes.
    """
    if len(payload) > limits.max_message_bytes:
        raise MessageTooLargeError(
            f"a message of {len(payload)} bytes is over this side's limit of "
            f"{limits.max_message_bytes}; raise max_message_bytes on both sides or send less"
        )
    view = memoryview(payload)
    starts = range(0, max(len(payload), 1), limits.chunk_bytes)
    hashes = tuple(
        hashlib.sha256(view[start : start + limits.chunk_bytes]).digest() for start in starts
    )
    digest = message_digest(len(payload), b"".join(hashes))
    return MessagePlan(bytes(payload), limits.chunk_bytes, hashes, digest)


@dataclass(slots=True)
class _Partial:
    count: int
    total: int
    digest: bytes
    touched: float
    chunk_size: int
    stored: Stored = field(repr=False)
    chunks: int = 0
    hashes: bytearray = field(default_factory=bytearray, repr=False)


class Reassembler:
    """Puts the chunks of one connection together, in the spool of their sender.

    Any refusal drops the message it concerns; other messages in progress stay.
    """

    def __init__(self, limits: TransportLimits, spool: Spool | None = None) -> None:
        self._limits = limits
        self._spool = Spool(limits) if spool is None else spool
        self._partials: dict[int, _Partial] = {}
        self._highest_id = -1

    @property
    def incomplete(self) -> int:
        """Messages in progress."""
        return len(self._partials)

    @property
    def pending_bytes(self) -> int:
        """Payload bytes held for messages in progress, in memory and on disk."""
        return sum(partial.stored.size for partial in self._partials.values())

    def check_room(self, chunk: Chunk) -> None:
        """Refuse a chunk that begins a message for which the sender's spool has no room.

        Raises:
            QuotaError: see Spool.check_room.
        """
        if chunk.index == 0:
            self._spool.check_room(chunk.total)

    def feed(self, chunk: Chunk, now: float) -> Stored | None:
        """Take one chunk; return the whole message when it was the last one.

        Raises:
            MalformedFrameError, MessageTooLargeError, ChunkOrderError, ReplayedMessageError,
            ChunkHashError, QuotaError, SpoolError: the message is dropped.
        """
        try:
            return self._feed(chunk, now)
        except Exception:
            self.drop(chunk.message_id)
            raise

    def drop(self, message_id: int) -> None:
        """Forget a message in progress and free what it holds; unknown ids are fine."""
        partial = self._partials.pop(message_id, None)
        if partial is not None:
            partial.stored.close()

    def clear(self) -> None:
        """Forget all messages in progress: the connection is over."""
        for message_id in tuple(self._partials):
            self.drop(message_id)

    def expire(self, now: float) -> tuple[int, ...]:
        """Drop messages whose next chunk is overdue; returns their ids."""
        deadline = now - self._limits.incomplete_timeout
        overdue = tuple(key for key, part in self._partials.items() if part.touched < deadline)
        for message_id in overdue:
            self.drop(message_id)
        return overdue

    def _feed(self, chunk: Chunk, now: float) -> Stored | None:
        partial = self._partials.get(chunk.message_id)
        if partial is None:
            partial = self._begin(chunk, now)
        self._check_place(chunk, partial)
        if hashlib.sha256(chunk.payload).digest() != chunk.chunk_hash:
            raise ChunkHashError(
                f"chunk {chunk.index} of message {chunk.message_id} does not match its SHA-256"
            )
        partial.stored.append(chunk.payload)
        partial.chunks += 1
        partial.hashes += chunk.chunk_hash
        partial.touched = now
        if partial.chunks < partial.count:
            return None
        if partial.stored.size != partial.total:
            raise MalformedFrameError(
                f"message {chunk.message_id} declared {partial.total} bytes, "
                f"its chunks hold {partial.stored.size}"
            )
        if message_digest(partial.total, bytes(partial.hashes)) != partial.digest:
            raise ChunkHashError(f"message {chunk.message_id} does not match its digest")
        del self._partials[chunk.message_id]  # not dropped: it is the caller's now
        return partial.stored

    def _begin(self, chunk: Chunk, now: float) -> _Partial:
        limits, size = self._limits, len(chunk.payload)
        if chunk.index != 0:
            raise ChunkOrderError(
                f"chunk {chunk.index} of message {chunk.message_id}, which is not in progress: "
                "its start was lost, refused or never sent"
            )
        if chunk.message_id <= self._highest_id:
            raise ReplayedMessageError(
                f"message id {chunk.message_id} was used before (highest: {self._highest_id})"
            )
        # Even a refused id counts as used, so that its later chunks cannot start it again.
        self._highest_id = chunk.message_id
        if chunk.total > limits.max_message_bytes:
            raise MessageTooLargeError(
                f"message {chunk.message_id} declares {chunk.total} bytes, "
                f"the limit is {limits.max_message_bytes}"
            )
        if chunk.count == 0 or (chunk.count > 1 and size < limits.min_chunk_bytes):
            raise MalformedFrameError(
                f"message {chunk.message_id} has {chunk.count} chunks, the first with {size} "
                f"bytes; expected at least 1, and {limits.min_chunk_bytes} bytes if several"
            )
        expected = max(1, -(-chunk.total // size)) if size else 1
        if chunk.count != expected or (size == 0 and chunk.total > 0):
            raise MalformedFrameError(
                f"message {chunk.message_id}: {chunk.total} bytes in chunks of {size} "
                f"are {expected} chunks, not {chunk.count}"
            )
        if len(self._partials) >= limits.max_incomplete:
            raise QuotaError(
                f"{len(self._partials)} messages are incomplete, the limit is "
                f"{limits.max_incomplete}; finish one before the next"
            )
        stored = self._spool.begin(chunk.total)
        partial = _Partial(chunk.count, chunk.total, chunk.message_digest, now, size, stored)
        self._partials[chunk.message_id] = partial
        return partial

    def _check_place(self, chunk: Chunk, partial: _Partial) -> None:
        expected = partial.chunks
        if chunk.index != expected:
            what = "repeated" if chunk.index < expected else "skipped ahead"
            raise ChunkOrderError(
                f"message {chunk.message_id} {what}: chunk {chunk.index}, expected {expected}"
            )
        declared = (partial.count, partial.total, partial.digest)
        if (chunk.count, chunk.total, chunk.message_digest) != declared:
            raise MalformedFrameError(
                f"message {chunk.message_id} changed its count, total or digest on the way"
            )
        last = chunk.index == partial.count - 1
        size = partial.total - partial.stored.size if last else partial.chunk_size
        if len(chunk.payload) != size:
            raise MalformedFrameError(
                f"chunk {chunk.index} of message {chunk.message_id} has {len(chunk.payload)} "
                f"bytes, expected {size}"
            )
