"""A dispute on disk: one JSON file that names the evidence of every side.

::

    {"version": 1, "contenders": [
      {"name": "bank-a", "opening": "bank-a/opening.json", "commitments": 6,
       "committed": {"log": "example/log", "leaf": 5, "time": 1760000000},
       "release": {"adapter": "bank-a/adapter", "tensors": "<hex>",
                   "log": "example/log", "leaf": 12, "time": 1760003600}}, ...]}

``committed`` is null for a claim that no log holds, ``release`` where there is none. Paths are
relative to the file. What it says about logs is the judge's own finding: ``audit verify`` a bundle,
or ``audit inclusion`` a leaf, and copy the figures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedfm_audit.watermark.adapter_suspect import AdapterSuspect
from fedfm_audit.watermark.claim import MAX_CLAIM_BYTES
from fedfm_audit.watermark.commitment import Opening
from fedfm_audit.watermark.dispute import Contender, LoggedRelease, Witnessed
from fedfm_audit.watermark.errors import CaseError
from fedfm_audit.watermark.release import release_hash

MAX_CONTENDERS = 64
_WITNESSED = {"log", "leaf", "time"}


def read_case(path: Path) -> tuple[Contender, ...]:
    """The contenders of a case file, their openings and releases opened.

    Raises:
        CaseError: not such a file. ClaimError, SuspectError: an opening or a release in it.
    """
    top = _fields(_json(path), {"version", "contenders"}, str(path))
    sides = top["contenders"]
    if top["version"] != 1 or not isinstance(sides, list) or not 0 < len(sides) <= MAX_CONTENDERS:
        raise CaseError(f"{path}: expected version 1 and 1 to {MAX_CONTENDERS} contenders")
    return tuple(
        _contender(one, path.parent, f"{path}: contender {i}") for i, one in enumerate(sides)
    )


def read_recipients(path: Path) -> dict[str, int]:
    """Recipient -> sub-key: a JSON object of names and numbers.

    Raises:
        CaseError: not such a file.
    """
    found = _json(path)
    if not isinstance(found, dict) or not all(_natural(number) for number in found.values()):
        raise CaseError(f"{path}: expected an object of names and sub-key numbers")
    return found


def read_bounded(path: Path, what: str) -> bytes:
    """A small file's bytes.

    Raises:
        CaseError: it cannot be read, or is longer than any claim may be.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_CLAIM_BYTES + 2)
    except OSError as error:
        raise CaseError(f"cannot read {what} {path}: {error.strerror}; check the path") from error
    if len(data) > MAX_CLAIM_BYTES + 1:
        raise CaseError(f"{what} {path} has more than {MAX_CLAIM_BYTES} bytes")
    return data.removesuffix(b"\n")


def _contender(value: object, folder: Path, where: str) -> Contender:
    said = _fields(value, {"name", "opening", "commitments", "committed", "release"}, where)
    if not _natural(said["commitments"]) or said["commitments"] < 1:
        raise CaseError(f"{where}: commitments, expected how many the log has before round 1")
    opening = Opening.decode(read_bounded(folder / _text(said["opening"], where), "opening"))
    committed, release = said["committed"], said["release"]
    return Contender(
        name=_text(said["name"], where),
        opening=opening,
        committed=None if committed is None else _witnessed(committed, set(), where),
        commitments=said["commitments"],
        release=None if release is None else _release(release, folder, where),
    )


def _release(value: object, folder: Path, where: str) -> LoggedRelease:
    witnessed = _witnessed(value, {"adapter", "tensors"}, where)
    said = _fields(value, _WITNESSED | {"adapter", "tensors"}, where)
    stated = _text(said["tensors"], where)
    if not re.fullmatch(r"[0-9a-f]{64}", stated):
        raise CaseError(f"{where}: tensors, expected the tensor hash of the log in lowercase hex")
    place = folder / _text(said["adapter"], where)
    return LoggedRelease(
        AdapterSuspect.open(place), release_hash(place), witnessed, bytes.fromhex(stated)
    )


def _witnessed(value: object, more: set[str], where: str) -> Witnessed:
    said = _fields(value, _WITNESSED | more, where)
    if not _natural(said["leaf"]) or not _natural(said["time"]):
        raise CaseError(f"{where}: leaf and time, expected whole numbers from 0")
    return Witnessed(_text(said["log"], where), said["leaf"], said["time"])


def _json(path: Path) -> object:
    try:
        found: object = json.loads(read_bounded(path, "case"))
    except (ValueError, RecursionError):
        raise CaseError(f"{path} is no JSON; see `secure-fedfm watermark dispute -h`") from None
    return found


def _fields(value: object, names: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.keys() != names:
        found = sorted(value)[:16] if isinstance(value, dict) else type(value).__name__
        raise CaseError(f"{where}: found {found}, expected the fields {sorted(names)}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 4096 or "\0" in value:
        raise CaseError(f"{where}: found {ascii(value)[:80]}, expected text")
    return value


def _natural(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53
