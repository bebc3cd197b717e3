"""A rule's memory as bytes: what a validator keeps on its disk between rounds.

JSON with the rule's name, so that a memory is never read as another rule's. Numbers are written so
that they are read back exactly.
"""

from __future__ import annotations

import json

from secure_fedfm.errors import RobustnessError
from secure_fedfm.robust.memory import NOTHING, Memory

__all__ = ["decode_memory", "encode_memory"]

_VERSION = 1
_MOST_BYTES = 1 << 26


def encode_memory(memory: Memory, rule: str) -> bytes:
    """Return a memory as bytes; the empty one, too, names its rule."""
    pairs = [[*key, value] for key, value in sorted(memory.pairs.items())]
    document = {"version": _VERSION, "rule": rule, "pairs": pairs}
    return json.dumps(document, separators=(",", ":")).encode()


def decode_memory(data: bytes, rule: str) -> Memory:
    """Return the memory of ``rule``; of no bytes the one before the first round.

    Raises:
        RobustnessError: the bytes are no memory, or another rule's.
    """
    if not data:
        return NOTHING
    if len(data) > _MOST_BYTES:
        raise RobustnessError(f"a rule's memory of {len(data)} bytes, expected at most 64 MiB")
    try:
        document = json.loads(data)
        version, owner, entries = document["version"], document["rule"], document["pairs"]
        pairs = {
            (str(what), str(one), str(other)): float(value) for what, one, other, value in entries
        }
    except (ValueError, TypeError, KeyError) as error:
        raise RobustnessError(
            "a rule's memory does not read; restore the validator's folder from a copy"
        ) from error
    if (version, owner) != (_VERSION, rule):
        raise RobustnessError(
            f"the memory is of rule {owner!r}, version {version}; expected {rule!r}, version 1: "
            "the folder belongs to another federation"
        )
    return Memory(pairs)
