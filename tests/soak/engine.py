"""Runs many small hostile cases against one target: seeded, bounded, resumable, reproducible.

A target makes one case from a seeded generator of choices and tries it.  The case passes if
nothing but the errors that the target documents comes out of it, within :data:`CASE_SECONDS` of
processor time and :data:`CASE_MEMORY` of memory.  Environment:

``SOAK_CASES``   cases per target (default: what the caller says)
``SOAK_SECONDS`` stop a target after so many seconds, whatever its count
``SOAK_SEED``    another sequence of cases

With ``resume`` the number of cases done is kept in ``.soak/<target>.jsonl``, one line per batch,
and a run goes on behind it; a line counts only for the same seed and the same source code.  Each
failure is written to ``.soak/failures/<target>-<case>.json`` with its seed, its bytes and its
traceback; :meth:`Campaign.repeat` runs that one case again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType

from fedfm_crypto.errors import FedFMError

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".soak"
SOURCES = ("crypto/fedfm_crypto", "protocols/fedfm_protocols", "secure_fedfm", "tests/soak")
CASE_SECONDS = 2.0
CASE_MEMORY = 192 * 1024 * 1024  # address space that a case may add, bytes
TRACED_MEMORY = 4 * 1024 * 1024  # what Python and numpy may hold at once in a traced case, bytes
TRACE_EVERY = 16  # tracing each allocation costs half of the speed
BATCH = 250


class CaseTimeoutError(BaseException):
    """A case used more than its share of processor time; no ``except Exception`` may hide it."""


class OracleError(AssertionError):
    """The case did what a correct implementation never does."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One case: the bytes that a report shows, what to call with them, and which errors are
    answers.  ``run`` returns a word for the statistics when nothing is raised."""

    data: bytes = field(repr=False)
    run: Callable[[], str]
    allowed: tuple[type[Exception], ...] = (FedFMError,)


@dataclass(frozen=True, slots=True)
class Target:
    """What is tried: ``make`` draws one :class:`Attempt` from the generator that it is given."""

    name: str
    make: Callable[[random.Random], Attempt]


@dataclass(slots=True)
class Report:
    """What a campaign has done: answers counted by name, failures with their files."""

    target: str
    cases: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line for people."""
        rate = self.cases / self.seconds if self.seconds else 0.0
        said = ", ".join(f"{name} {count}" for name, count in self.answers.most_common(8))
        return (
            f"{self.target}: {self.cases} cases, {rate:.0f} a second, slowest "
            f"{1000 * self.slowest:.0f} ms, {len(self.failures)} failures; {said}"
        )


def wanted_cases(default: int) -> int:
    """``SOAK_CASES``, or ``default``."""
    return int(os.environ.get("SOAK_CASES", default))


def generator(seed: str, target: str, case: int) -> random.Random:
    """The choices of one case: the same for the same three arguments, on every machine."""
    digest = hashlib.sha256(f"{seed}/{target}/{case}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - chooses damage, not keys


@cache
def source_digest() -> str:
    """Hash of the code that is tried and of the code that tries it."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass
class Campaign:
    """Cases of one target.  ``cases`` is how many there shall be in all."""

    target: Target
    cases: int
    resume: bool = False
    seed: str = field(default_factory=lambda: os.environ.get("SOAK_SEED", "1"))
    folder: Path = FOLDER

    def run(self) -> Report:
        """Run what is missing; failures are collected, up to ten."""
        report = Report(self.target.name)
        limit = float(os.environ.get("SOAK_SECONDS", "inf"))
        started = time.monotonic()
        case = self.done() if self.resume else 0
        while case < self.cases and len(report.failures) < 10:
            if time.monotonic() - started > limit:
                break
            case = self.batch(min(BATCH, self.cases - case), report, start=case)
            if self.resume and not report.failures:
                self._note(case, report)
        return report

    def batch(self, count: int, report: Report, start: int | None = None) -> int:
        """Run ``count`` more cases, from ``start`` or behind those of ``report``; returns the
        number of the next."""
        first = report.cases if start is None else start
        started = time.monotonic()
        # Recordings and servers that targets share are made before the bound is drawn.
        self.target.make(generator(self.seed, self.target.name, first))
        with bounded_memory():
            for case in range(first, first + count):
                self._try(case, report)
        report.seconds += time.monotonic() - started
        return first + count

    def repeat(self, case: int) -> None:
        """Run one case again; whatever it raises that is no answer comes out."""
        attempt = self.target.make(generator(self.seed, self.target.name, case))
        try:
            attempt.run()
        except attempt.allowed:
            return

    # ---- one case

    def _try(self, case: int, report: Report) -> None:
        attempt = self.target.make(generator(self.seed, self.target.name, case))
        traced = case % TRACE_EVERY == 0
        report.cases += 1
        started = time.process_time()
        try:
            with processor_time(CASE_SECONDS), traced_memory(traced, len(attempt.data)):
                answer = attempt.run()
        except attempt.allowed as error:
            answer = type(error).__name__
        except (Exception, CaseTimeoutError) as error:
            answer = "failure"
            report.failures.append(self._keep(case, attempt, error))
        report.answers[answer] += 1
        report.slowest = max(report.slowest, time.process_time() - started)

    def _keep(self, case: int, attempt: Attempt, error: BaseException) -> str:
        folder = self.folder / "failures"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.target.name.replace('/', '-')}-{case}.json"
        record = {
            "target": self.target.name,
            "seed": self.seed,
            "case": case,
            "error": f"{type(error).__name__}: {error}"[:500],
            "bytes": attempt.data[:65536].hex(),
            "traceback": traceback.format_exception(error)[-12:],
        }
        file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        return f"{file.name}: {type(error).__name__}: {str(error)[:200]}"

    # ---- progress

    @property
    def progress_file(self) -> Path:
        """Where the number of cases done is kept."""
        return self.folder / f"{self.target.name.replace('/', '-')}.jsonl"

    def done(self) -> int:
        """Cases that earlier runs of this seed and source have done without a failure."""
        most = 0
        if self.progress_file.exists():
            for line in self.progress_file.read_text("utf-8").splitlines():
                entry = json.loads(line)
                if (entry["seed"], entry["source"]) == (self.seed, source_digest()):
                    most = max(most, entry["done"])
        return most

    def _note(self, done: int, report: Report) -> None:
        self.folder.mkdir(exist_ok=True)
        entry = {
            "seed": self.seed,
            "source": source_digest(),
            "done": done,
            "seconds": round(report.seconds, 1),
            "answers": dict(report.answers),
        }
        with self.progress_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


# ---------------------------------------------------------------- bounds


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raise :class:`CaseTimeoutError` in the block once it has used ``seconds`` of processor time.

    Processor time and SIGPROF: the machine may be loaded, and pytest-timeout owns SIGALRM.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise CaseTimeoutError(f"more than {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def traced_memory(traced: bool, size: int) -> Iterator[None]:
    """Fail if the block holds more than :data:`TRACED_MEMORY` and 32 times its input at once."""
    if not traced:
        yield
        return
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    except Exception:
        peak = tracemalloc.get_traced_memory()[1]
        if peak <= TRACED_MEMORY + 32 * size:
            raise
    finally:
        tracemalloc.stop()
    if peak > TRACED_MEMORY + 32 * size:
        raise OracleError(f"{peak} bytes at once for an input of {size} bytes")


@contextmanager
def bounded_memory(extra: int = CASE_MEMORY) -> Iterator[None]:
    """Let the process grow by ``extra`` bytes of address space at most (Linux): beyond, it gets a
    MemoryError, which is no answer."""
    if not sys.platform.startswith("linux"):
        yield
        return
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
