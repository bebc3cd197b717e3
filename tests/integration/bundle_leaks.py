"""Searches a whole bundle for what must never be logged, in every form that a careless writer could
give it: raw, hex, base64 (also inside of base64), and as its unsalted SHA-256.

Two searches that complement each other.  ``leaks`` looks for given secrets in all bytes.
``strangers`` looks at the shape: every number and every text of every JSON document in the bundle
must be in a field that is known to hold no loss, count of rows, name or address.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Needles = Mapping[str, Iterable[bytes]]
SEPARATOR = b"\0\xffnext view\xff\0"
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}|[A-Za-z0-9_-]{16,}={0,2}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_HEX = re.compile(rb"(?:[0-9a-f]{2}){8,}")

NUMBERS = frozenset(
    {
        # transcripts and heads
        *("version", "round", "step", "sequence", "size", "epoch"),
        # counts of messages and steps
        *("invited", "offers", "dealers", "uploads", "accepted", "removed", "votes", "unmasked"),
        *("openings", "acks", "planned", "good", "recorded", "completed", "void", "aborted"),
        # the charter
        *("quorum", "rounds", "colluding", "dropouts", "values", "clip", "scale", "lane_bits"),
        # privacy terms and ledgers; everything here follows from the charter
        *("epsilon", "delta", "noise_multiplier", "sampling_rate", "steps_per_round", "steps"),
        *("honest_shares", "batch", "least_honest", "charge", "left", "order", "epsilon_rdp"),
        *("epsilon_pld", "share_variance", "sensitivity_squared", "dimension", "distance"),
    }
)
TRAINING = frozenset({"adapter", "training", "server_optimiser"})
"""Sections of the charter that hold settings of their own."""
TEXTS = frozenset({"reason", "released", "generator", "labels", "origin"})
"""Fields with free text; a reason names participants by the charter's names only."""
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9+/][A-Za-z0-9._:+/-]*={0,2}")  # names, hashes, base64, types


def views(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """All bytes of a bundle, and whatever base64 and hex in them decode to, again and again."""
    pending, seen = list(files.values()), set[bytes]()
    while pending:
        data = pending.pop()
        digest = hashlib.sha256(data).digest()
        if digest in seen:
            continue
        seen.add(digest)
        yield data
        for match in _BASE64.finditer(data):
            pending += _decoded_base64(match.group())
        pending += (bytes.fromhex(match.group().decode()) for match in _HEX.finditer(data))


def _decoded_base64(text: bytes) -> Iterator[bytes]:
    body = text.rstrip(b"=").translate(_URL_SAFE)
    try:
        yield base64.b64decode(body + b"=" * (-len(body) % 4))
    except binascii.Error:
        return


def haystack(files: Mapping[str, bytes]) -> bytes:
    """One string of bytes that holds every view."""
    return SEPARATOR.join(views(files))


def leaks(everything: bytes, needles: Needles) -> dict[str, bytes]:
    """Which of the secrets occur, by name, with the form in which they were found."""
    found: dict[str, bytes] = {}
    for name, pieces in needles.items():
        for piece in pieces:
            for form in forms(piece):
                if form in everything:
                    found[name] = form
    return found


def forms(secret: bytes) -> tuple[bytes, ...]:
    """A secret as such, and its hash; hex and base64 of both are undone by :func:`views`."""
    return (secret, hashlib.sha256(secret).digest())


def words_in(everything: bytes, words: Iterable[str]) -> list[str]:
    """Which texts occur, whatever their case."""
    lowered = everything.lower()
    return [word for word in words if word.lower().encode() in lowered]


def documents(files: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    """Every JSON document: files, leaves, payloads of envelopes, ledger entries inside messages."""
    for name, data in files.items():
        for view in views({name: data}):
            for at in re.finditer(rb'\{"', view):
                try:
                    document, _ = json.JSONDecoder().raw_decode(view[at.start() :].decode("latin1"))
                except ValueError:
                    continue
                yield name, document
                if at.start() == 0:
                    break  # the whole view is that document; entry bundles hold several


def strangers(files: Mapping[str, bytes]) -> list[str]:
    """Numbers and free texts in fields that are not known to be harmless."""
    found = set()
    for name, document in documents(files):
        for path, value in _values(document, ()):
            keys = [key for key in path if isinstance(key, str)]
            last = keys[-1] if keys else ""
            if keys and keys[0] in TRAINING:
                continue
            if isinstance(value, str):
                known = _PLAIN_TEXT.fullmatch(value) is not None or value == "" or last in TEXTS
            else:
                known = last in NUMBERS or value is None or isinstance(value, bool)
            if not known:
                found.add(f"{name}: {'.'.join(keys)} is {value!r}")
    return sorted(found)


def _values(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _values(member, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, path)
    else:
        yield path, value
