"""Which trigger set was shown to whom: a JSON file beside the key or the opening.

::

    {"version": 1, "shown": {"<H(claim)>": {"0": "vendor-x", "1": "vendor-y"}}}

Whoever has seen a set can refuse its texts or train another model on them, so a set shown to one
suspect says nothing about another one. The record is written before the texts leave.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from fedfm_audit.storage import write_durably
from fedfm_audit.watermark.claim import Claim
from fedfm_audit.watermark.errors import CaseError
from secure_fedfm.watermark.case_file import read_bounded

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
Shown = dict[str, dict[str, str]]


def show(record: Path, claim: Claim, sub_key: int, suspect: str) -> None:
    """Record that a set goes to ``suspect``; again to the same one is the same showing.

    Raises:
        CaseError: it was shown to somebody else, the record is damaged, or the name no name.
    """
    if not _NAME.fullmatch(suspect):
        raise CaseError(f"suspect {ascii(suspect)[:80]}: expected a name of 1 to 200 characters")
    known = _read(record)
    sets = known.setdefault(claim.digest().hex(), {})
    before = sets.get(str(sub_key))
    if before is not None and before != suspect:
        raise CaseError(
            f"trigger set {sub_key} was shown to {before}; take a --sub-key that nobody has seen"
        )
    sets[str(sub_key)] = suspect
    document = {"version": 1, "shown": known}
    write_durably(
        record, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n", record.parent
    )


def check_shown(record: Path, claim: Claim, sub_key: int, suspect: str) -> None:
    """Refuse predictions of ``suspect`` on a set that was not shown to it alone.

    Raises:
        CaseError: the record says that it was shown to somebody else, or to nobody.
    """
    found = _read(record).get(claim.digest().hex(), {}).get(str(sub_key))
    if found != suspect:
        whom = "nobody" if found is None else found
        raise CaseError(
            f"{record} says that trigger set {sub_key} was shown to {whom}, not to {suspect}; "
            "make the texts with `secure-fedfm watermark probe`, a set for each suspect"
        )


def _read(record: Path) -> Shown:
    if not record.exists():
        return {}
    try:
        parsed = json.loads(read_bounded(record, "record of shown triggers"))
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict) or parsed.keys() != {"version", "shown"}:
        raise CaseError(f"{record} is no record of shown triggers; restore it")
    shown = parsed["shown"]
    if (
        parsed["version"] != 1
        or not isinstance(shown, dict)
        or not all(map(_is_sets, shown.values()))
    ):
        raise CaseError(f"{record} is no record of shown triggers; restore it")
    return shown


def _is_sets(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value.values())
