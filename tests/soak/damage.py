"""What is done to honest messages: bytes damaged, fields exchanged, all signed again if need be.

Deeper checks are reached only by messages that decode, so most damage is done to one field of the
decoded body, with a value from another message, from another round or at the edge of its range.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from fedfm_crypto.codec import encode
from fedfm_crypto.errors import CodecError
from fedfm_protocols.message_fields import MAX_PARTICIPANTS

EDGES = (0, 1, 2, 3, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
TEXTS = ("", "a", "train", "completed", "void", "aborted", "client-01", "client-99", "é", "\x00")


def damage_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """One to three of: flipped bits, cut, extended, doubled, pieces of others, extreme lengths."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = _damage_once(rng, data, others)
    return data


def _damage_once(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    size = len(data)
    start = rng.randrange(size + 1)
    end = min(size, start + rng.choice((1, 1, 2, 4, 8, 32, 33, 64)))
    match rng.randrange(9):
        case 0 if size:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 8))):
                changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 1:
            return data[:start]
        case 2:
            return data + rng.randbytes(rng.choice((1, 2, 4, 32, 1000)))
        case 3:  # a length or a count, wherever one may be
            number = rng.choice(EDGES) % 2**32
            return data[:start] + number.to_bytes(4, "big") + data[start + 4 :]
        case 4:
            return data[:start] + data[end:]
        case 5:
            return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]
        case 6:
            return data[:start] + rng.randbytes(end - start) + data[end:]
        case 7 if others:
            other = rng.choice(others)
            cut = rng.randrange(len(other) + 1)
            return data[:start] + other[cut : cut + rng.choice((4, 32, 64, 1000))] + data[end:]
        case _:
            filler = rng.choice((b"\x00", b"\xff", b'"', b"[", b"{", b"9", b"="))
            return data[:start] + filler * rng.choice((1, 4, 32, 2000)) + data[end:]


def damage_value(rng: random.Random, value: Any, others: Sequence[Any], depth: int = 0) -> Any:
    """``value`` with one thing changed somewhere inside.

    ``others`` are values of the same type from other messages.
    """
    same = [other for other in others if type(other) is type(value) and other != value]
    if same and rng.random() < 0.25:
        return rng.choice(same)
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((*EDGES, value + 1, max(0, value - 1)))
        case str():
            return rng.choice((*TEXTS, value[:-1], value + "x", value.upper()))
        case bytes() if len(value) in (32, 33, 64):
            return _damage_fixed(rng, value)
        case bytes():
            return damage_bytes(rng, value, [o for o in same if isinstance(o, bytes)])
        case tuple():
            return _damage_tuple(rng, value, same, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = rng.choice([field.name for field in dataclasses.fields(value)] or [""])
        if name:
            inner = [getattr(other, name) for other in same]
            changed = damage_value(rng, getattr(value, name), inner, depth + 1)
            return dataclasses.replace(value, **{name: changed})
    return value


def _damage_fixed(rng: random.Random, value: bytes) -> bytes:
    size = len(value)
    flipped = bytearray(value)
    flipped[rng.randrange(size)] ^= 1 << rng.randrange(8)
    one = (1).to_bytes(size, "little")
    return rng.choice(
        (bytes(flipped), bytes(size), b"\xff" * size, one, rng.randbytes(size), value[:-1])
    )


def _damage_tuple(
    rng: random.Random, value: tuple[Any, ...], others: Sequence[tuple[Any, ...]], depth: int
) -> tuple[Any, ...]:
    foreign = [item for other in others for item in other]
    choice = rng.randrange(7)
    if not value or choice == 0:
        return (*value, rng.choice(foreign)) if foreign else value
    place = rng.randrange(len(value))
    match choice:
        case 1:
            return value[:place] + value[place + 1 :]
        case 2:
            return value[: place + 1] + value[place:]
        case 3:
            return tuple(rng.sample(value, len(value)))
        case 4:
            return () if rng.random() < 0.5 else value[place:] + value[:place]
        case 5 if depth < 2 and len(value[place : place + 1]) * 4 < MAX_PARTICIPANTS:
            return value + value[place : place + 1] * rng.choice((2, 100))
        case _:
            changed = damage_value(rng, value[place], foreign, depth + 1)
            return (*value[:place], changed, *value[place + 1 :])


def encoded_or_raw(rng: random.Random, body: Any, others: Sequence[Any]) -> bytes:
    """The encoding of a body with one thing changed inside, or its encoding with bytes damaged."""
    honest = encode(body)
    if rng.random() < 0.25:
        return damage_bytes(rng, honest, [encode(other) for other in others[:4]])
    try:
        return encode(damage_value(rng, body, others))
    except CodecError:  # outside of the bounds that an honest encoder keeps
        return damage_bytes(rng, honest)
