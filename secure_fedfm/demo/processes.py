"""The demo's processes: started, listened to, and ended by their own ids.

Each process logs one JSON object a line; a thread per process reads them into one queue, so the
demo sees everything in the order it happened and no pipe fills up.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_fedfm.storage.site import Site

STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One log line of one party; ``fields`` is empty if it was no JSON object."""

    party: str
    fields: Mapping[str, Any]
    line: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A party's process has ended."""

    party: str
    code: int


@dataclass
class Fleet:
    """Processes of one demo; use it as a context manager, which ends whatever still runs."""

    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    events: queue.Queue[LogEvent | Exited] = field(default_factory=queue.Queue)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        party: str,
        verb: str,
        site: Site,
        *flags: str,
        program: tuple[str, ...] = ("secure_fedfm",),
    ) -> None:
        """Start ``secure-fedfm VERB --site SITE`` as a process of its own; ``program`` is the
        module to run, and what comes before the verb."""
        command = [sys.executable, "-m", *program, verb, "--site", str(site.root), *flags]
        # Numeric libraries would each take every core; the institutions share this machine.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        }
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
        )
        self.processes[party] = process
        thread = threading.Thread(
            target=self._read, args=(party, process, site.root / "log.jsonl"), daemon=True
        )
        thread.start()
        self._threads.append(thread)

    def _read(self, party: str, process: subprocess.Popen[str], copy: Path) -> None:
        assert process.stderr is not None  # noqa: S101 - PIPE was asked for
        with copy.open("a", encoding="utf-8") as stream:
            for line in process.stderr:
                stream.write(line)
                stream.flush()
                self.events.put(LogEvent(party, _parse(line), line.rstrip()))
        self.events.put(Exited(party, process.wait()))

    def happenings(self, timeout: float) -> Iterator[LogEvent | Exited]:
        """What happens, until everybody has exited or ``timeout`` seconds pass in silence."""
        exited: set[str] = set()
        while set(self.processes) - exited:  # the reader may start more processes meanwhile
            happening = self.events.get(timeout=timeout)
            if isinstance(happening, Exited):
                exited.add(happening.party)
            yield happening

    def stop(self) -> None:
        """End whatever still runs, politely first."""
        alive = [p for p in self.processes.values() if p.poll() is None]
        for process in alive:
            process.terminate()
        for process in alive:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for thread in self._threads:
            thread.join(STOP_SECONDS)


def _parse(line: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
