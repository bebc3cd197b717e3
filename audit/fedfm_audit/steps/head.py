"""Step 1: the checkpoint is signed by the log, and cosigned by the witness quorum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfm_audit.log import CHECKPOINT
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps.roots import Roots
from fedfm_audit.tiles import MAX_LEAVES
from fedfm_crypto.errors import NoteError
from fedfm_crypto.note import Checkpoint, open_note, parse_checkpoint, split_note


@dataclass(frozen=True, slots=True)
class Head:
    """The verified checkpoint; ``cosigned`` maps witness key name to POSIX time."""

    checkpoint: Checkpoint
    cosigned: Mapping[str, int]


def check_head(files: Mapping[str, bytes], roots: Roots, findings: Findings) -> Head | None:
    """Open the checkpoint strictly: every line must be of a known key and verify.

    Without its quorum a head is still handed on, so that later steps can say what it leads to.
    """
    if CHECKPOINT not in files:
        findings.fail(CHECKPOINT, "missing")
        return None
    try:
        size = parse_checkpoint(split_note(files[CHECKPOINT])[0]).size
        opened = open_note(files[CHECKPOINT], roots.vkeys(size), strict=True)
    except NoteError as error:
        findings.fail(CHECKPOINT, error)
        return None
    if opened.checkpoint.size > MAX_LEAVES:
        findings.fail(CHECKPOINT, f"size {opened.checkpoint.size}, at most {MAX_LEAVES} are read")
        return None
    cosigned = [roots.witnesses[name] for name in opened.cosignatures]
    if not roots.policy.satisfied_by(cosigned):
        findings.fail(
            CHECKPOINT,
            f"cosigned by {len(cosigned)} witnesses, which does not meet the policy's quorum "
            f"{roots.policy.quorum!r}",
        )
    return Head(opened.checkpoint, opened.cosignatures)
