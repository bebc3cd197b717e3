"""What a running service tells ``secure-fedfm status``: one small file, replaced as it changes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

STATUS_FILE = "status.json"
# A session passes through its phases faster than anybody reads; one file a second is enough.
INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Status:
    """State of a service; ``adapter`` is the hex hash of the adapter in force (empty at a
    validator, which has none), ``verdict`` what the validator decided last on a client, or at a
    validator on the last round; ``completed`` is there how many rounds it has judged."""

    role: str
    name: str
    state: str
    round: int
    completed: int
    rounds: int
    adapter: str
    connected: tuple[str, ...] = ()
    verdict: str = ""


def write_status(root: Path, status: Status) -> None:
    """Replace SITE/status.json.  Informative only, hence atomic but not synced to disk."""
    document = {**asdict(status), "updated": datetime.now(UTC).isoformat(timespec="seconds")}
    temporary = root / (STATUS_FILE + ".writing")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(root / STATUS_FILE)


class StatusFile:
    """Keeps SITE/status.json up to date: at once where more changes than ``state``, which alone is
    written once in :data:`INTERVAL_SECONDS` and never later than that.

    Shown from a running event loop; :meth:`close` writes what is due.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: Status | None = None
        self._shown: Status | None = None
        self._due: asyncio.TimerHandle | None = None

    def show(self, status: Status) -> None:
        """This is how things stand now."""
        self._shown = status
        if status == self._written:
            return
        if self._written is None or replace(status, state=self._written.state) != self._written:
            self._write()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._write)

    def close(self) -> None:
        """Write what was shown last, and stop."""
        self._write()

    def _write(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._shown is not None and self._shown != self._written:
            write_status(self._root, self._shown)
            self._written = self._shown
