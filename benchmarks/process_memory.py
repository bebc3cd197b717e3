"""Memory of other processes while they run, from /proc (Linux)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PROC = Path("/proc")
_DELETED = " (deleted)"


@dataclass
class Peak:
    """What one process has held at most.

    ``rss_bytes`` is the kernel's own high-water mark (VmHWM), of which no moment is missed but
    those after the last look.  ``anonymous_bytes`` (RssAnon: heap, arrays, buffers) and
    ``spooled_bytes``, in ``spooled_files`` files without a name, are the most of all looks.
    """

    rss_bytes: int = 0
    anonymous_bytes: int = 0
    spooled_bytes: int = 0
    spooled_files: int = 0


@dataclass
class MemoryWatch:
    """Looks at some processes every ``interval`` seconds, between start() and stop().

    ``processes`` returns name -> process id, and may return more of them later.  ``folder`` is
    where their spool files lie.
    """

    processes: Callable[[], Mapping[str, int]]
    folder: Path
    interval: float = 0.05
    peaks: dict[str, Peak] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; ``peaks`` is final."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self.interval):
            for name, pid in dict(self.processes()).items():
                self._look(self.peaks.setdefault(name, Peak()), pid)

    def _look(self, peak: Peak, pid: int) -> None:
        try:
            status = _read_status(pid)
            spooled = _unnamed_files(pid, self.folder)
        except OSError:
            return  # it has ended
        peak.rss_bytes = max(peak.rss_bytes, status.get("VmHWM", 0))
        peak.anonymous_bytes = max(peak.anonymous_bytes, status.get("RssAnon", 0))
        peak.spooled_bytes = max(peak.spooled_bytes, sum(spooled))
        peak.spooled_files = max(peak.spooled_files, len(spooled))


def _read_status(pid: int) -> dict[str, int]:
    """The fields of /proc/PID/status that are sizes, in bytes."""
    found = {}
    for line in (_PROC / str(pid) / "status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) << 10
    return found


def _unnamed_files(pid: int, folder: Path) -> list[int]:
    """Sizes of the open files without a name that lie under ``folder``."""
    sizes = []
    for descriptor in (_PROC / str(pid) / "fd").iterdir():
        try:
            target = os.readlink(descriptor)
            if target.endswith(_DELETED) and target.startswith(f"{folder}{os.sep}"):
                sizes.append(descriptor.stat().st_size)
        except OSError:
            continue  # closed meanwhile
    return sizes
