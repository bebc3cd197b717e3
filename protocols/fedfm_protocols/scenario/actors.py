"""Malicious parties: each holds its own identity key and signs whatever it likes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fedfm_crypto.codec import decode, encode
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.labels import Label
from fedfm_crypto.random_source import SeededRandom

B = TypeVar("B")

OUTSIDER = "eve"


def forge(
    key: IdentityKey, envelope: Envelope, body: object | None = None, **header: Any
) -> Envelope:
    """``envelope`` with another body (a dataclass or raw bytes) or other header fields, properly
    signed by ``key``."""
    if body is None:
        body = envelope.body
    data = body if isinstance(body, bytes) else encode(body)
    changed = replace(envelope.header, **{"body_hash": hashlib.sha256(data).digest(), **header})
    return Envelope(changed, key.sign(Label.ENVELOPE, encode(changed)), data)


def body_of(envelope: Envelope, expected: type[B]) -> B:
    """The body of an envelope, not verified."""
    return decode(expected, envelope.body)


@dataclass(frozen=True, slots=True)
class Actor:
    """A party under the adversary's control: a name and the key enrolled (or not) for it."""

    name: str
    key: IdentityKey = field(repr=False)

    def forge(self, envelope: Envelope, body: object | None = None, **header: Any) -> Envelope:
        """``envelope`` changed as in :func:`forge`, signed with this actor's key."""
        return forge(self.key, envelope, body, **header)

    def speak(
        self, type: str, body: object, *, context: bytes, like: Envelope, **header: Any
    ) -> Envelope:
        """A message that no state machine asked for; fields not named are those of ``like``."""
        named = {"type": type, "context": context, "sender": self.name, **header}
        return self.forge(like, body, **named)


def outsider() -> Actor:
    """Somebody who is not enrolled anywhere."""
    return Actor(OUTSIDER, IdentityKey.generate(SeededRandom(b"an outsider")))


def resigned(actor: Actor, encoded: bytes, body: object | None = None, **header: Any) -> bytes:
    """A member of a signed set, changed and signed again by ``actor``."""
    return actor.forge(Envelope.decode(encoded), body, **header).encode()


def member(encoded: Sequence[bytes], name: str) -> int:
    """Where the member of a signed set sent by ``name`` stands; -1 if there is none."""
    for place, data in enumerate(encoded):
        if Envelope.decode(data).header.sender == name:
            return place
    return -1


def swapped(encoded: Sequence[bytes], place: int, other: bytes) -> tuple[bytes, ...]:
    """A signed set with the member at ``place`` exchanged."""
    return (*encoded[:place], other, *encoded[place + 1 :])
