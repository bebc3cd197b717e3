"""Signed notes, log checkpoints and witness cosignatures in the C2SP formats.

A checkpoint note is::

    <origin>\\n<tree size>\\n<base64 root>\\n
    \\n
    — <key name> <base64(key id || signature)>\\n
    ...

with one line of the log (Ed25519 over the text, algorithm byte 0x01) and one of each witness
(``cosignature/v1``, algorithm byte 0x04: an 8-byte big-endian POSIX time before the signature,
which covers ``cosignature/v1\\ntime <t>\\n`` and the text). The key id is the first four bytes of
SHA-256(name || 0x0A || algorithm || public key).

Narrower than the specifications, on purpose: the log's key name must equal the origin, checkpoints
carry no extension lines, and one key signs a note once.

Source: c2sp.org/signed-note, c2sp.org/tlog-checkpoint, c2sp.org/tlog-cosignature (v1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from fedfm_crypto.errors import NoteError, SignatureError
from fedfm_crypto.identity import SIGNATURE_SIZE, IdentityKey
from fedfm_crypto.merkle import EMPTY_ROOT, MAX_SIZE
from fedfm_crypto.strict_base64 import decode_base64, encode_base64
from fedfm_crypto.verifier_key import (
    KEY_ID_SIZE,
    NoteAlgorithm,
    VerifierKey,
    check_key_name,
    format_vkey,
    note_key_id,
    parse_vkey,
)

__all__ = [
    "MAX_NOTE_SIZE",
    "Checkpoint",
    "NoteAlgorithm",
    "NoteSignature",
    "OpenedNote",
    "VerifierKey",
    "add_signature",
    "cosign",
    "format_vkey",
    "note_key_id",
    "open_note",
    "parse_checkpoint",
    "parse_vkey",
    "sign_checkpoint",
    "split_note",
]

MAX_NOTE_SIZE = 1_000_000
"""Bytes: the limit of Go's sumdb/note; room for thousands of witnesses."""

_TIME_SIZE = 8
_MAX_TIME = 2**63 - 1
_DASH = "\u2014 "
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's head: origin, number of leaves, RFC 6962 root.

    Raises:
        NoteError: the origin is no valid key name, the size or the root is out of range.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_key_name(self.origin, "origin")
        if not 0 <= self.size <= MAX_SIZE:
            raise NoteError(f"checkpoint size {self.size}, expected 0..2^63-1")
        if len(self.root) != 32:
            raise NoteError(f"checkpoint root of {len(self.root)} bytes, expected 32")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise NoteError("checkpoint of size 0 without the root of the empty tree")

    def body(self) -> bytes:
        """Return the note text: three lines, each ending in a newline."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n".encode()


def parse_checkpoint(body: bytes) -> Checkpoint:
    """Return the checkpoint of a note text (the inverse of :meth:`Checkpoint.body`).

    Raises:
        NoteError: the text is not exactly three valid lines.
    """
    lines = _text(body).split("\n")
    if len(lines) != 4 or lines[3]:
        raise NoteError(f"checkpoint text of {len(lines) - 1} lines, expected origin, size, root")
    if _DECIMAL.fullmatch(lines[1]) is None:
        raise NoteError(f"checkpoint size {lines[1][:80]!r}, expected decimal without leading zero")
    return Checkpoint(
        lines[0], int(lines[1]), decode_base64(lines[2], "checkpoint root", NoteError)
    )


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line, not verified: key name, key id and what follows the key id."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> bytes:
        """Return the line with its newline."""
        return f"{_DASH}{self.name} {encode_base64(self.key_id + self.signature)}\n".encode()


def split_note(note: bytes) -> tuple[bytes, tuple[NoteSignature, ...]]:
    """Return a note's text (with its final newline) and its signature lines, unverified.

    Raises:
        NoteError: the note is too large, no UTF-8, holds control characters, has no signature,
            a malformed line, or two lines of one key.
    """
    if len(note) > MAX_NOTE_SIZE:
        raise NoteError(f"note of {len(note)} bytes, expected at most {MAX_NOTE_SIZE}")
    body, separator, tail = _text(note).rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise NoteError("note without a blank line and signature lines after its text")
    signatures = tuple(_parse_line(line) for line in tail[:-1].split("\n"))
    seen = set()
    for signature in signatures:
        if (signature.name, signature.key_id) in seen:
            raise NoteError(f"note with two signatures of key {signature.name!r}")
        seen.add((signature.name, signature.key_id))
    return (body + "\n").encode(), signatures


def sign_checkpoint(checkpoint: Checkpoint, key_name: str, key: IdentityKey) -> bytes:
    """Return the checkpoint as a note signed by the log's key.

    Raises:
        NoteError: ``key_name`` is not the checkpoint's origin.
    """
    if key_name != checkpoint.origin:
        raise NoteError(f"log key name {key_name!r}, expected the origin {checkpoint.origin!r}")
    body = checkpoint.body()
    key_id = note_key_id(key_name, NoteAlgorithm.ED25519, key.public)
    return body + b"\n" + NoteSignature(key_name, key_id, key.sign_raw(body)).line()


def cosign(note: bytes, key_name: str, key: IdentityKey, timestamp: int) -> bytes:
    """Return a witness's cosignature/v1 line over the checkpoint in ``note``.

    The witness must have opened the note and checked its consistency with the last checkpoint that
    it cosigned: that is what its line states.

    Args:
        note: the signed checkpoint note.
        key_name: name of the witness key.
        key: the witness key.
        timestamp: POSIX time in seconds.

    Raises:
        NoteError: malformed note, or a timestamp outside 0..2^63-1.
    """
    body, _ = split_note(note)
    parse_checkpoint(body)
    check_key_name(key_name, "key name")
    if not 0 <= timestamp <= _MAX_TIME:
        raise NoteError(f"cosignature time {timestamp}, expected 0..2^63-1")
    key_id = note_key_id(key_name, NoteAlgorithm.COSIGNATURE_V1, key.public)
    signature = timestamp.to_bytes(_TIME_SIZE, "big") + key.sign_raw(_cosigned(timestamp, body))
    return NoteSignature(key_name, key_id, signature).line()


def add_signature(note: bytes, line: bytes) -> bytes:
    """Return ``note`` with one more signature line.

    Raises:
        NoteError: the result is no well-formed note, for example because the key signed already.
    """
    extended = note + line
    _, before = split_note(note)
    _, after = split_note(extended)
    if len(after) != len(before) + 1:
        raise NoteError("add_signature takes exactly one signature line with its newline")
    return extended


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A checkpoint whose signatures verified.

    ``log_signers`` are the verified keys of the log; ``cosignatures`` maps the name of each
    verified witness to the POSIX time of its cosignature.
    """

    checkpoint: Checkpoint
    log_signers: tuple[str, ...]
    cosignatures: Mapping[str, int]


def open_note(
    note: bytes, vkeys: Sequence[VerifierKey | str], *, strict: bool = True
) -> OpenedNote:
    """Verify a checkpoint note.

    Every line of a known key must verify, and at least one line must be the log's: algorithm 0x01
    and a key name equal to the origin (a 0x01 key of another name is not a log key of this log and
    counts as unknown). How many witnesses are enough is for the caller to say.

    Args:
        note: the note's bytes.
        vkeys: keys of the log and the witnesses, parsed or as verifier key lines.
        strict: refuse lines of unknown keys; otherwise ignore them, as the specification asks of
            public logs.

    Raises:
        NoteError: malformed note or key, a signature that does not verify, no signature of the
            log, or (strict) a line of an unknown key.
    """
    body, signatures = split_note(note)
    checkpoint = parse_checkpoint(body)
    known = _known_keys(vkeys, checkpoint.origin)
    log_signers: list[str] = []
    cosignatures: dict[str, int] = {}
    for line in signatures:
        key = known.get((line.name, line.key_id))
        if key is None:
            if strict:
                raise NoteError(f"signature by unknown key {line.name!r} ({line.key_id.hex()})")
        elif key.algorithm is NoteAlgorithm.ED25519:
            _verify(key, line.signature, body)
            log_signers.append(key.name)
        else:
            if key.name in cosignatures:
                raise NoteError(f"two cosignatures under the witness name {key.name!r}")
            cosignatures[key.name] = _verify_cosignature(key, line.signature, body)
    if not log_signers:
        raise NoteError(f"checkpoint without a signature of its log {checkpoint.origin!r}")
    return OpenedNote(checkpoint, tuple(log_signers), MappingProxyType(cosignatures))


def _known_keys(
    vkeys: Sequence[VerifierKey | str], origin: str
) -> dict[tuple[str, bytes], VerifierKey]:
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for entry in vkeys:
        key = parse_vkey(entry) if isinstance(entry, str) else entry
        if key.algorithm is NoteAlgorithm.ED25519 and key.name != origin:
            continue
        if known.setdefault((key.name, key.key_id), key) != key:
            raise NoteError(f"two verifier keys share the name {key.name!r} and a key id")
    return known


def _verify(key: VerifierKey, signature: bytes, message: bytes) -> None:
    try:
        key.public.verify_raw(signature, message)
    except SignatureError as error:
        raise NoteError(f"note signature of {key.name!r}: {error}") from None


def _verify_cosignature(key: VerifierKey, signature: bytes, body: bytes) -> int:
    if len(signature) != _TIME_SIZE + SIGNATURE_SIZE:
        raise NoteError(
            f"cosignature of {key.name!r} has {len(signature)} bytes, expected "
            f"{_TIME_SIZE + SIGNATURE_SIZE}"
        )
    timestamp = int.from_bytes(signature[:_TIME_SIZE], "big")
    if timestamp > _MAX_TIME:
        raise NoteError(f"cosignature of {key.name!r} has a time above 2^63-1")
    _verify(key, signature[_TIME_SIZE:], _cosigned(timestamp, body))
    return timestamp


def _cosigned(timestamp: int, body: bytes) -> bytes:
    return b"cosignature/v1\ntime %d\n%b" % (timestamp, body)


def _parse_line(line: str) -> NoteSignature:
    if not line.startswith(_DASH):
        raise NoteError(f"note signature line {line[:80]!r}, expected an em dash and a space")
    name, separator, encoded = line[len(_DASH) :].partition(" ")
    check_key_name(name, "key name")
    data = decode_base64(encoded, f"signature of {name!r}", NoteError) if separator else b""
    if len(data) <= KEY_ID_SIZE:
        raise NoteError(f"signature of {name!r} has {len(data)} bytes, expected key id and more")
    return NoteSignature(name, data[:KEY_ID_SIZE], data[KEY_ID_SIZE:])


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise NoteError(f"note with invalid UTF-8 at byte {error.start}") from None
    if _CONTROL.search(text):
        raise NoteError("note with a control character other than newline")
    return text
