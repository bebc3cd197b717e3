"""Seconds that `secure-fedfm audit verify` takes for a whole federation, as a process of its own.

    python -m benchmarks.audit_speed --clients 20 --rounds 100 --json

A bundle is played and written first (``audit_bundle``; minutes, kept with ``--bundle``).  Each
repetition then runs the command as an auditor would, start-up included, and once more in this
process for the seconds of each step.  Wall and processor seconds are reported: of the verifier's
work only the signatures of messages are checked by several threads.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.audit_bundle import make_bundle
from benchmarks.measure import median
from benchmarks.results import (
    Row,
    RowFile,
    add_row_options,
    markdown_table,
    package_versions,
    parse_at_least,
    report,
)

COMMAND = ("-m", "secure_fedfm.cli.main", "audit", "verify")
PACKAGES = ("secure-fedfm", "cryptography", "dp-accounting", "numpy")
# Runs in a process of its own, so that imports are not paid for twice and nothing is warm.
STEPS = """
import json, sys, time
from pathlib import Path
started = time.process_time()
from fedfm_audit import verify
seconds = {"import": time.process_time() - started}
record = verify._Run._record
def timed(self, number, check, describe):
    began = time.process_time()
    try:
        return record(self, number, check, describe)
    finally:
        seconds[f"step {number}"] = time.process_time() - began
verify._Run._record = timed
report = verify.verify_bundle(Path(sys.argv[1]), full=sys.argv[2] == "full")
print(json.dumps({"ok": report.ok, "seconds": seconds}))
"""


def measure(bundle: Path, *, full: bool) -> Row:
    """One run of the command, and the processor seconds of each step."""
    arguments = [sys.executable, *COMMAND, str(bundle), *(["--full"] if full else []), "--json"]
    before, started = _children(), time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    wall, cpu = time.perf_counter() - started, _children() - before
    if done.returncode != 0:
        raise RuntimeError(f"the bundle was not verified:\n{done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout)
    inner = subprocess.run(
        [sys.executable, "-c", STEPS, str(bundle), "full" if full else "rdp"],
        capture_output=True,
        text=True,
        check=True,
    )
    parts = json.loads(inner.stdout)["seconds"]
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "details": {str(step["number"]): step["detail"] for step in said["steps"]},
        "parts_cpu_s": parts,
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size(bundle: Path) -> int:
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--suite", default="masked", choices=["masked", "layered"])
    parser.add_argument(
        "--epsilon",
        type=float,
        default=8.5,
        help="each institution's budget; 100 rounds cost 8.90 by RDP and 8.23 by PLD",
    )
    parser.add_argument("--full", action="store_true", help="every figure by PLD too")
    parser.add_argument("--bundle", type=Path, help="use this bundle; made if it is not there")
    add_row_options(parser, repeat=3)
    arguments = parse_at_least(parser, argv, {"clients": 3, "rounds": 1, "repeat": 1})
    key: Row = {
        "clients": arguments.clients,
        "rounds": arguments.rounds,
        "suite": arguments.suite,
        "epsilon": arguments.epsilon,
        "full": arguments.full,
        "versions": package_versions(PACKAGES),
    }
    rows = RowFile(arguments.rows)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = arguments.bundle or Path(scratch) / "bundle"
        if not bundle.exists():
            make_bundle(
                bundle,
                clients=arguments.clients,
                rounds=arguments.rounds,
                suite=arguments.suite,
                epsilon=arguments.epsilon,
            )
        while len(rows.of(key)) < arguments.repeat:
            row = measure(bundle, full=arguments.full)
            rows.append({**key, **row, "bundle_bytes": _size(bundle)})
    result = summary(rows.of(key))
    report(arguments, {**key, **result}, lambda: _table(result))


def summary(rows: Sequence[Row]) -> Row:
    """Medians over the repetitions."""
    parts = {
        name: median(row["parts_cpu_s"][name] for row in rows) for name in rows[0]["parts_cpu_s"]
    }
    return {
        "wall_s": median(row["wall_s"] for row in rows),
        "cpu_s": median(row["cpu_s"] for row in rows),
        "parts_cpu_s": parts,
        "bundle_bytes": rows[0]["bundle_bytes"],
        "details": rows[0]["details"],
        "repeat": len(rows),
    }


def _table(result: Row) -> str:
    rows: list[tuple[object, ...]] = [
        ("command, wall", f"{result['wall_s']:.2f}"),
        ("command, processor", f"{result['cpu_s']:.2f}"),
    ]
    rows += [(name, f"{seconds:.2f}") for name, seconds in result["parts_cpu_s"].items()]
    return markdown_table(("what", "seconds"), rows)


if __name__ == "__main__":
    main()
