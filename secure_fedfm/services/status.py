"""What a running service tells ``secure-fedfm status``: one small file, replaced as it changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

STATUS_FILE = "status.json"


@dataclass(frozen=True, slots=True)
class Status:
    """State of a service; ``adapter`` is the hex hash of the adapter in force."""

    role: str
    name: str
    state: str
    round: int
    completed: int
    rounds: int
    adapter: str
    connected: tuple[str, ...] = ()


def write_status(root: Path, status: Status) -> None:
    """Replace SITE/status.json.  Informative only, hence atomic but not synced to disk."""
    document = {**asdict(status), "updated": datetime.now(UTC).isoformat(timespec="seconds")}
    temporary = root / (STATUS_FILE + ".writing")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(root / STATUS_FILE)
