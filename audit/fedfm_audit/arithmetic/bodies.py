"""Archived message bodies, as the specification lays them out: checked on the way through, the
large ones piece by piece.

Like ``fedfm_audit.messages`` a second implementation, written from protocols/README.md.  A body is
what its sender signed only once all of it was read: :meth:`StreamedWords.finish` compares.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated

from fedfm_audit.archive import ArchivedBody
from fedfm_audit.entries import Entry
from fedfm_audit.errors import ArchiveError
from fedfm_audit.messages import MAX_PARTICIPANTS
from fedfm_crypto.codec import Bytes32, MaxCount, MaxLength, Name, decode
from fedfm_crypto.errors import CodecError
from fedfm_crypto.lattice.parameters import WRAP

MAX_OPENING_ENVELOPE_BYTES = 132_096
MAX_DECRYPTORS = 500

_LENGTH = 4
_SALT = 32
UPLOAD_HEAD = _LENGTH
"""Bytes before an Upload's words: their length."""
AGGREGATE_HEAD = _SALT + _LENGTH + _LENGTH
"""Bytes before an Aggregate's words: salt, number of updates, length of the words."""
_MOST_SHARE_BYTES = 2 * (_LENGTH + 63 + _LENGTH + 33 + 32)
_PIECE = 1 << 20
# What an auditor waits for: a share, not megabytes of them.
_WRAP_BODY = _LENGTH + WRAP.size


@dataclass(frozen=True, slots=True)
class RevealedShare:
    """A share of one dealer's secret, with the salt of its commitment."""

    dealer: Name
    value: Annotated[bytes, MaxLength(33)] = field(repr=False)
    salt: Bytes32 = field(repr=False)


_Shares = Annotated[tuple[RevealedShare, ...], MaxCount(MAX_PARTICIPANTS)]


@dataclass(frozen=True, slots=True)
class Unmask:
    """Client: of every accepted dealer a share of its seed, of every removed one a share of its
    mask key."""

    seed_shares: _Shares
    key_shares: _Shares


@dataclass(frozen=True, slots=True)
class Openings:
    """The end of an Aggregate: the signed KeyOpenings of one active set."""

    openings: Annotated[
        tuple[Annotated[bytes, MaxLength(MAX_OPENING_ENVELOPE_BYTES)], ...],
        MaxCount(MAX_DECRYPTORS),
    ]


def check_hash(entry: Entry, digest: bytes) -> None:
    """Raise ArchiveError unless ``digest`` is what the message's sender signed."""
    if digest != entry.header.body_hash:
        raise ArchiveError(
            f"is not what {entry.header.sender} signed: SHA-256 {digest.hex()}, the transcript "
            f"has {entry.header.body_hash.hex()}"
        )


def read_unmask(entry: Entry, body: ArchivedBody, dealers: int) -> Unmask:
    """The shares that a client revealed of at most so many dealers' secrets.

    Raises
    ------
    ArchiveError
        if the file is too large, is not what was signed, or does not decode.
    """
    data = body.read(2 * _LENGTH + dealers * _MOST_SHARE_BYTES)
    check_hash(entry, hashlib.sha256(data).digest())
    try:
        return decode(Unmask, data)
    except CodecError as error:
        raise ArchiveError(f"does not decode: {error}") from error


def read_wrap(entry: Entry, body: ArchivedBody) -> bytes:
    """The body of a WrappedKey; the wrap itself comes after four bytes of length.

    Raises
    ------
    ArchiveError
        as :func:`read_unmask`.
    """
    data = body.read(_WRAP_BODY)
    check_hash(entry, hashlib.sha256(data).digest())
    if len(data) != _WRAP_BODY or int.from_bytes(data[:_LENGTH], "big") != WRAP.size:
        raise ArchiveError(f"has {len(data)} bytes, a wrapped key has {_WRAP_BODY}")
    return data


class StreamedWords:
    """The words inside an Upload or Aggregate body, read in order and hashed as they are read.

    Parameters
    ----------
    entry
        The message in the transcript.
    body
        Its file.
    head
        Bytes before the words, whose last four are the words' length.
    size
        Bytes of words that the charter gives.
    tail
        Most bytes that may follow the words.

    Raises
    ------
    ArchiveError
        if the file has another size or length of words.
    """

    def __init__(self, entry: Entry, body: ArchivedBody, head: int, size: int, tail: int) -> None:
        self.entry = entry
        self._body = body
        self._left = size
        self._digest = hashlib.sha256()
        if not head + size <= body.size <= head + size + tail:
            raise ArchiveError(
                f"has {body.size} bytes, this charter's updates take {head + size}"
                + (f" to {head + size + tail}" if tail else "")
            )
        self._at = 0
        self.head = self._read(head)
        announced = int.from_bytes(self.head[-_LENGTH:], "big")
        if announced != size:
            raise ArchiveError(f"announces {announced} bytes of words, expected {size}")

    @property
    def sender(self) -> str:
        """Who signed it."""
        return self.entry.header.sender

    @property
    def at(self) -> int:
        """Bytes read so far, head included."""
        return self._at

    def piece(self, size: int) -> bytes:
        """The next ``size`` bytes of words."""
        if size > self._left:
            raise ArchiveError(f"has {self._left} bytes of words left, expected {size}")
        self._left -= size
        return self._read(size)

    def again(self, at: int, size: int) -> bytes:
        """``size`` bytes from ``at`` once more, for naming what went wrong."""
        with self._body.opened() as stream:
            stream.seek(at)
            return stream.read(size)

    def finish(self) -> bytes:
        """What follows the words, once all of them were read.

        Raises
        ------
        ArchiveError
            if the body as a whole is not what its sender signed.
        """
        while self._left:  # words that nobody asked for are still part of what was signed
            self.piece(min(self._left, _PIECE))
        tail = self._read(self._body.size - self._at)
        check_hash(self.entry, self._digest.digest())
        return tail

    def _read(self, size: int) -> bytes:
        with self._body.opened() as stream:
            stream.seek(self._at)
            data = stream.read(size)
        if len(data) != size:
            raise ArchiveError(f"ends after {self._at + len(data)} bytes; it became shorter")
        self._at += size
        self._digest.update(data)
        return data
