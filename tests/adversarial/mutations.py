"""Every security check of the protocol, numbered, and what switches it off.

A mutation is a change of one line of a *copy* of ``fedfm_protocols``; the copy plays the shipped
scenarios in a process of its own.  A mutation counts as caught if the honest scenario still runs
as expected and another one no longer does (where the entry names ``honest``, a promise that holds
in every run must be broken).  Not in the table, because another check makes it unreachable: the
origin in ``witness.extend_checkpoint`` (a note of another origin has no signature of the log).

``python -m tests.adversarial.mutations [ID ...]`` tries all of them, or some.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.adversarial.mutation import Mutation
from tests.adversarial.numbered_client_checks import EARLY
from tests.adversarial.numbered_key_checks import KEYS
from tests.adversarial.numbered_mark_checks import MARKS
from tests.adversarial.numbered_result_checks import LATE
from tests.adversarial.numbered_robust_checks import ROBUST
from tests.adversarial.numbered_session_checks import SESSIONS
from tests.adversarial.numbered_shared_checks import SHARED
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "protocols" / "fedfm_protocols"
# Plays the scenarios named until one is not as expected; its name is the last line.
PLAYER = """
import sys
import fedfm_protocols
assert fedfm_protocols.__file__.startswith(sys.argv[1]), fedfm_protocols.__file__
from fedfm_protocols.scenario.library import shipped, shipped_names
from fedfm_protocols.scenario.runner import run_scenario
first = [name for name in sys.argv[2:] if name]
for name in ["honest", *first, *(n for n in shipped_names() if n not in first)]:
    try:
        lines = [f"{l.what}: {l.found}" for l in run_scenario(shipped(name)).verdict.failures]
    except Exception as error:
        lines = [f"{type(error).__name__}: {error}"]
    if lines:
        print(lines[0][:200])
        print(name)
        break
else:
    print("-")
"""


MUTATIONS: tuple[Mutation, ...] = (*SHARED, *EARLY, *LATE, *SESSIONS, *KEYS, *ROBUST, *MARKS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutation: the scenario that failed (empty: none did) and how."""

    mutation: Mutation
    scenario: str
    symptom: str

    @property
    def caught(self) -> bool:
        """Whether an attack noticed that the check is gone and an honest run did not, unless the
        entry says that an honest run must."""
        return self.scenario not in ("", "honest") or self.scenario == self.mutation.scenario


def attempt(mutation: Mutation, *, only_first: bool = False) -> Outcome:
    """Play the scenarios on a copy of the package without this check.

    ``only_first`` plays the honest scenario and the one that the entry names, to save time.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "fedfm_protocols"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        mutation.apply(copy)
        if only_first:
            _keep_scenarios(copy, {"honest", mutation.scenario})
        played = subprocess.run(
            [sys.executable, "-c", PLAYER, folder, mutation.scenario],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((folder, str(REPOSITORY / "crypto")))},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    if played.returncode:
        raise RuntimeError(f"{mutation.id}: the player died:\n{played.stderr[-2000:]}")
    symptom, _, name = played.stdout.strip().rpartition("\n")
    return Outcome(mutation, "" if name == "-" else name, symptom)


def _keep_scenarios(package: Path, names: Iterable[str]) -> None:
    for path in (package / "scenarios").glob("*.toml"):
        if path.stem not in names:
            path.unlink()


def main(arguments: Sequence[str]) -> int:
    """Try mutations and print a line for each."""
    chosen = [m for m in MUTATIONS if not arguments or m.id in arguments]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, chosen))
    for outcome in outcomes:
        word = f"caught by {outcome.scenario}" if outcome.caught else "NOT CAUGHT"
        print(f"{outcome.mutation.id:<4} {outcome.mutation.defends:<55} {word}: {outcome.symptom}")
    caught = sum(outcome.caught for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} mutations caught")
    return 0 if caught == len(outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
