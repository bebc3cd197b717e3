"""Federations that were played with a replay archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm_audit.archive import ArchiveWriter
from fedfm_audit.report import Report
from tests.audit.simulated import Evidence, Losses, played

ENCRYPTED = ("layered", "sealed")


@dataclass(frozen=True)
class Archived:
    """A federation's evidence with its archive."""

    evidence: Evidence
    root: Path

    def verify(self, **options: Any) -> Report:
        return self.evidence.verify(replay=self.root, **options)

    def file(self, place: str) -> Path:
        return self.root / place


def archived(
    root: Path, suite: str, rounds: int = 2, losses: Losses | None = None, **options: Any
) -> Archived:
    """Rounds of which the first makes a key, in a suite that has one."""
    keys = (1,) if suite in ENCRYPTED else ()
    shifted = {number + len(keys): lost for number, lost in (losses or {}).items()}
    writer = ArchiveWriter(root, 0)
    evidence = played(
        5, rounds + len(keys), shifted, key_rounds=keys, archive=writer, suite=suite, **options
    )
    return Archived(evidence, root)
