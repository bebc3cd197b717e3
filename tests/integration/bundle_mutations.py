"""Single random changes to the evidence of a run, by somebody who can write its files.

Who only holds the bundle changes bytes, or moves leaves and messages about and makes every tile
anew.  The log's owner signs what they made with the log's real key, and lacks only the witnesses.
Two kinds go further: every witness cosigns a leaf that is not its party's.  :func:`mutate` makes
the n-th change of a seed and says which step must fail first, and at which place.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedfm_audit.report import Report, Status
from fedfm_audit.statements import PAYLOAD_TYPE
from fedfm_audit.tiles import render_tiles
from fedfm_crypto.canonical_json import canonical_encode
from fedfm_crypto.dsse import dsse_read_unverified, dsse_sign
from fedfm_crypto.identity import IdentityKey
from fedfm_crypto.merkle import leaf_hash, tree_root
from fedfm_crypto.note import Checkpoint, add_signature, cosign, sign_checkpoint
from fedfm_crypto.random_source import SeededRandom

Files = Mapping[str, bytes]
MOMENT = 1_800_000_000  # a fixed time of 2027 for cosignatures
STEP_OF = {"charter.json": 0, "policy": 0, "checkpoint": 1, "tile/": 2, "transcripts/": 3}


@dataclass(frozen=True, slots=True)
class Evidence:
    """A bundle, the keys behind it, and the bundle of another federation."""

    files: Files
    leaves: Sequence[bytes]
    origin: str
    log_key: IdentityKey
    witnesses: Mapping[str, IdentityKey]  # by name of the key: <federation>/<client>
    other_files: Files
    other_leaves: Sequence[bytes]

    def note(self, leaves: Sequence[bytes], *, cosigned: bool) -> bytes:
        """A checkpoint of these leaves by the log's real key."""
        root = tree_root([leaf_hash(leaf) for leaf in leaves])
        note = sign_checkpoint(
            Checkpoint(self.origin, len(leaves), root), self.origin, self.log_key
        )
        for name, key in self.witnesses.items() if cosigned else ():
            note = add_signature(note, cosign(note, name, key, MOMENT))
        return note

    def with_leaves(self, leaves: Sequence[bytes], note: bytes | None = None) -> Files:
        """The bundle with other leaves, every tile made to fit them."""
        rest = {name: data for name, data in self.files.items() if not name.startswith("tile/")}
        return {
            **rest,
            **render_tiles(leaves),
            "checkpoint": self.files["checkpoint"] if note is None else note,
        }


@dataclass(frozen=True, slots=True)
class Mutation:
    """Changed files, what was done, and what the verifier must say first."""

    files: Files
    what: str
    step: int
    place: str  # a failure of that step must name it

    def complaint(self, report: Report) -> str:
        """Why this report does not do; empty if it does."""
        if report.ok:
            return f"{self.what}: not detected"
        failed = [step for step in report.steps if step.status is Status.FAILED]
        if failed[0].number != self.step:
            return f"{self.what}: step {failed[0].number} failed first, expected {self.step}"
        if not any(self.place in f.place and f.reason for f in failed[0].failures):
            return f"{self.what}: {self.place} is not named in {failed[0].failures}"
        return ""


# ---- bytes


def _bytes(change: str) -> Callable[[Evidence, random.Random], Mutation]:
    def make(evidence: Evidence, chance: random.Random) -> Mutation:
        # Half of the tries by file, so that short ones get theirs, half by size.
        names = sorted(evidence.files)
        sizes = [len(evidence.files[name]) for name in names]
        (name,) = chance.choices(names, sizes if chance.random() < 0.5 else None)
        data = bytearray(evidence.files[name])
        at = chance.randrange(len(data))
        if change == "bit flipped":
            data[at] ^= 1 << chance.randrange(8)
        elif change == "byte replaced":
            data[at] = (data[at] + chance.randrange(1, 256)) % 256
        elif change == "byte inserted":
            data.insert(at, chance.randrange(256))
        elif change == "byte removed":
            del data[at]
        else:
            del data[at:]
        step = next(step for start, step in STEP_OF.items() if name.startswith(start))
        files = {**evidence.files, name: bytes(data)}
        return Mutation(files, f"{change}, {name} at {at}", step, name)

    return make


# ---- leaves


def _dropped(evidence: Evidence, chance: random.Random) -> tuple[list[bytes], int]:
    leaves, at = list(evidence.leaves), chance.randrange(len(evidence.leaves))
    del leaves[at]
    return leaves, at


def _swapped(evidence: Evidence, chance: random.Random) -> tuple[list[bytes], int]:
    leaves = list(evidence.leaves)
    one, other = sorted(chance.sample(range(len(leaves)), 2))
    leaves[one], leaves[other] = leaves[other], leaves[one]
    return leaves, one


def _duplicated(evidence: Evidence, chance: random.Random) -> tuple[list[bytes], int]:
    leaves = list(evidence.leaves)
    at = chance.randrange(len(leaves) + 1)
    leaves.insert(at, chance.choice(evidence.leaves))
    return leaves, at


def _replayed(evidence: Evidence, chance: random.Random) -> tuple[list[bytes], int]:
    leaves, at = list(evidence.leaves), chance.randrange(len(evidence.leaves))
    leaf = chance.choice(evidence.other_leaves)
    if chance.random() < 0.5:
        leaves[at] = leaf
    else:
        leaves.insert(at, leaf)
    return leaves, at


def _signed_again(evidence: Evidence, chance: random.Random) -> tuple[list[bytes], int]:
    """By a stranger, or by a client in the place of another party."""
    leaves, at = list(evidence.leaves), chance.randrange(len(evidence.leaves))
    opened = dsse_read_unverified(leaves[at])
    keys = [IdentityKey.generate(SeededRandom(chance.randbytes(32))), *evidence.witnesses.values()]
    key = chance.choice(keys)
    leaf = dsse_sign(opened.payload, PAYLOAD_TYPE, [(key.public.hex, key)])
    if leaf == leaves[at]:  # its own signer: a stranger then
        leaf = dsse_sign(opened.payload, PAYLOAD_TYPE, [(keys[0].public.hex, keys[0])])
    leaves[at] = leaf
    return leaves, at


LEAF_CHANGES = {
    "dropped": _dropped,
    "swapped": _swapped,
    "duplicated": _duplicated,
    "replayed from another federation": _replayed,
    "signed by a wrong key": _signed_again,
}


def _under_the_old_checkpoint(change: str) -> Callable[[Evidence, random.Random], Mutation]:
    def make(evidence: Evidence, chance: random.Random) -> Mutation:
        leaves, at = LEAF_CHANGES[change](evidence, chance)
        what = f"leaf {at} {change}, tiles made anew"
        # The tiles fit, so only the signed head can say that something is wrong.
        place = "checkpoint" if len(leaves) == len(evidence.leaves) else "tile/"
        return Mutation(evidence.with_leaves(leaves), what, 2, place)

    return make


def _rewritten(evidence: Evidence, chance: random.Random) -> Mutation:
    """By the log's owner; the old cosignatures are left out or pasted below the new head."""
    change = chance.choice(sorted(LEAF_CHANGES))
    leaves, at = LEAF_CHANGES[change](evidence, chance)
    note, pasted = evidence.note(leaves, cosigned=False), chance.random() < 0.5
    if pasted:
        old = evidence.files["checkpoint"].split(b"\n\n", 1)[1].splitlines(keepends=True)
        note += b"".join(old[1:])
    what = (
        f"history rewritten with the log's key: leaf {at} {change}" + ", old cosignatures" * pasted
    )
    return Mutation(evidence.with_leaves(leaves, note), what, 1, "checkpoint")


def _cosigned(change: str) -> Callable[[Evidence, random.Random], Mutation]:
    def make(evidence: Evidence, chance: random.Random) -> Mutation:
        leaves, at = LEAF_CHANGES[change](evidence, chance)
        note = evidence.note(leaves, cosigned=True)
        what = f"leaf {at} {change}, cosigned by every witness"
        return Mutation(evidence.with_leaves(leaves, note), what, 3, f"leaf {at}")

    return make


# ---- messages


def _message(change: str) -> Callable[[Evidence, random.Random], Mutation]:
    def make(evidence: Evidence, chance: random.Random) -> Mutation:
        name = chance.choice(sorted(n for n in evidence.files if n.startswith("transcripts/")))
        document = json.loads(evidence.files[name])
        messages = chance.choice([part for part in _parts(document) if len(part) > 1])
        at = chance.randrange(len(messages) - 1)
        if change == "dropped":
            del messages[at]
        elif change == "swapped":
            messages[at], messages[at + 1] = messages[at + 1], messages[at]
        elif change == "duplicated":
            messages.insert(at, messages[at])
        elif change == "replayed from another federation":
            messages[at] = chance.choice(_messages(evidence.other_files))
        else:
            key = IdentityKey.generate(SeededRandom(chance.randbytes(32)))
            signature = key.sign_raw(chance.randbytes(64))
            messages[at]["signature"] = base64.b64encode(signature).decode()
        files = {**evidence.files, name: canonical_encode(document)}
        return Mutation(files, f"message {at} of {name} {change}", 3, name)

    return make


def _parts(document: Any) -> list[Any]:
    return [document["setup"], *document["steps"], document["close"]]


def _messages(files: Files) -> list[Any]:
    names = sorted(name for name in files if name.startswith("transcripts/"))
    return [message for n in names for part in _parts(json.loads(files[n])) for message in part]


MAKERS: tuple[Callable[[Evidence, random.Random], Mutation], ...] = (
    _bytes("bit flipped"),
    _bytes("byte replaced"),
    _bytes("byte inserted"),
    _bytes("byte removed"),
    _bytes("cut off"),
    *(_under_the_old_checkpoint(change) for change in LEAF_CHANGES),
    _rewritten,
    _rewritten,
    _rewritten,
    *(
        _cosigned(change)
        for change in ("replayed from another federation", "signed by a wrong key")
    ),
    *(_message(change) for change in LEAF_CHANGES),
)
"""One of each in turn: twenty kinds."""


def mutate(evidence: Evidence, number: int, seed: int) -> Mutation:
    """Change ``number`` of this seed."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - which change, nothing secret
    made = MAKERS[number % len(MAKERS)](evidence, chance)
    assert made.files != evidence.files, made.what
    return replace(made, what=f"change {number} of seed {seed}: {made.what}")
