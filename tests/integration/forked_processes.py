"""Processes of a test: forked by one launcher that has loaded what they share, awaited with bounds,
and ended by their own pid only."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
# Generous: colleagues' machines are loaded. A phase never needs a second when idle.
WAIT_SECONDS = 60.0
LOADING_SECONDS = 300.0  # torch and all that the parties have in common: 10 s when idle
Faults = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exited:
    """A party's process has ended; ``code`` is minus the signal if it was killed."""

    party: str
    code: int


class Launcher:
    """The process that forks all others (process_launcher.py)."""

    def __init__(self, model: str) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.process_launcher", model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=REPOSITORY,
        )
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._exits: dict[int, queue.Queue[Exited]] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._answers.get(timeout=LOADING_SECONDS) == {"ready": True}
        self.cpu: dict[str, Any] = {}

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "code" in answer:
                self._exits[answer["pid"]].put(Exited(answer["party"], answer["code"]))
            else:
                if "pid" in answer:
                    self._exits[answer["pid"]] = queue.Queue()
                self._answers.put(answer)
        self._answers.put({"ended": True})  # nobody shall wait for one that is gone

    def start(self, party: str, arguments: list[str], log: Path, faults: Faults) -> Process:
        """Fork a party that runs the command line with these arguments."""
        assert self._process.stdin is not None
        order = {
            "party": party,
            "arguments": arguments,
            "log": str(log),
            "faults": dict(faults),
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = self._answers.get(timeout=WAIT_SECONDS)["pid"]
        return Process(party, pid, self._exits[pid])

    def load(self, module: str, call: str = "") -> None:
        """Import a module, and call something in it, once for all parties that are started from
        now on."""
        assert self._process.stdin is not None
        order = {"load": module, "call": call}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        assert self._answers.get(timeout=LOADING_SECONDS) == order

    def close(self) -> None:
        """End the launcher with all its children."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(WAIT_SECONDS)
        while not self._answers.empty():
            answer = self._answers.get()
            self.cpu = answer if "cpu" in answer else self.cpu


@dataclass
class Process:
    """One party's process."""

    party: str
    pid: int
    _exits: queue.Queue[Exited] = field(repr=False)
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        if self.code is None and not self._exits.empty():
            self.code = self._exits.get().code
        return self.code

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """The exit code, within ``seconds``."""
        if self.code is None:
            try:
                self.code = self._exits.get(timeout=seconds).code
            except queue.Empty:
                raise AssertionError(f"{self.party} is still running after {seconds} s") from None
        return self.code

    def kill(self) -> None:
        """SIGKILL to this pid alone."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
