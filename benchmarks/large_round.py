"""One round with a very long update in the real services: ``python -m benchmarks.large_round``.

Starts the coordinator and every client as processes of their own (``secure-fedfm coordinator``,
``secure-fedfm client``) on loopback, with an adapter of about ``--values`` values, lets them run
one round of minimal training, and records for every process the most memory it has had (VmHWM and
RssAnon), and from the coordinator the seconds and bytes of every phase::

    python -m benchmarks.large_round --values 10000000 --clients 5 --suite masked --json
    python -m benchmarks.large_round --values 1000000 --clients 3,8

With several ``--clients`` the table shows whether the coordinator's memory grows with them.
Linux only: the figures come from /proc.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.large_federation import (
    make_large_federation,
    rank_for,
)
from benchmarks.process_memory import MemoryWatch
from benchmarks.site_folders import COORDINATOR, SitesOnDisk
from fedfm_protocols.charter import Suite
from secure_fedfm.demo.processes import Exited, Fleet

SILENCE_SECONDS = 1800.0
LIMIT_BYTES = 6 << 30
_MIB = 1 << 20


def run_case(values: int, clients: int, suite: str, parent: Path | None) -> dict[str, Any]:
    """Run one federation of ``clients`` to its end; returns its figures, JSON-ready.

    Raises
    ------
    RuntimeError
        if a process fails or nothing happens any longer; says which, with its last line.
    """
    with tempfile.TemporaryDirectory(prefix="large-round-", dir=parent) as folder:
        root = Path(folder).resolve()
        federation = make_large_federation(
            root, clients=clients, rank=rank_for(values), suite=suite
        )
        started = time.monotonic()
        with Fleet() as fleet:
            watch = MemoryWatch(lambda: {n: p.pid for n, p in fleet.processes.items()}, root)
            watch.start()
            try:
                before = _run(fleet, federation, watch)
            finally:
                watch.stop()
        seconds = time.monotonic() - started
        meter = json.loads(federation.sites[COORDINATOR].metrics_file.read_text("utf-8"))
        upload = meter["bytes_received_per_phase"].get("uploads", 0) / clients
        peaks = watch.peaks
        return {
            "suite": suite,
            "clients": clients,
            "values": federation.values,
            "bytes_per_upload": round(upload),
            "bytes_per_value": round(upload / federation.values, 3),
            "seconds": round(seconds, 1),
            **meter,
            "coordinator_before_round_bytes": before,
            "coordinator_peak_rss_bytes": peaks[COORDINATOR].rss_bytes,
            "largest_peak_rss_bytes": max(peak.rss_bytes for peak in peaks.values()),
            "within_limit": all(peak.rss_bytes <= LIMIT_BYTES for peak in peaks.values()),
            "processes": {name: asdict(peak) for name, peak in sorted(peaks.items())},
        }


def _run(fleet: Fleet, federation: SitesOnDisk, watch: MemoryWatch) -> int:
    """Until everybody has ended well; returns the coordinator's peak when the round opened."""
    before, last, outcome = 0, "", "none"
    fleet.start(COORDINATOR, "coordinator", federation.sites[COORDINATOR])
    try:
        for happening in fleet.happenings(SILENCE_SECONDS):
            if isinstance(happening, Exited):
                if happening.code:
                    raise RuntimeError(
                        f"{happening.party} ended with exit code {happening.code}: {last}"
                    )
                continue
            last = f"{happening.party}: {happening.line}"
            if happening.party != COORDINATOR:
                continue
            match happening.fields:
                case {"kind": "listening", "endpoint": str(endpoint)}:
                    for name in federation.charter.clients:
                        site = federation.sites[name]
                        fleet.start(name, "client", site, "--coordinator", endpoint)
                case {"kind": "round-opened"}:
                    before = watch.peaks[COORDINATOR].rss_bytes
                case {"kind": "round-ended"}:
                    outcome = happening.fields["outcome"]
    except queue.Empty:
        raise RuntimeError(f"nothing happened for {SILENCE_SECONDS:g} s; {last}") from None
    if outcome != "completed":
        raise RuntimeError(f"the round ended with {outcome!r}, expected 'completed'")
    return before


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The main figures as text, one line a case."""
    lines = [
        f"{'suite':8} {'values':>10} {'clients':>7} {'B/value':>8} {'seconds':>8} "
        f"{'coordinator MiB':>16} {'before round':>13} {'largest client MiB':>19} "
        f"{'spooled MiB':>12}"
    ]
    for row in rows:
        processes = row["processes"]
        others = [p["rss_bytes"] for name, p in processes.items() if name != COORDINATOR]
        lines.append(
            f"{row['suite']:8} {row['values']:10} {row['clients']:7} "
            f"{row['bytes_per_value']:8.2f} {row['seconds']:8.1f} "
            f"{row['coordinator_peak_rss_bytes'] / _MIB:16.0f} "
            f"{row['coordinator_before_round_bytes'] / _MIB:13.0f} "
            f"{max(others) / _MIB:19.0f} "
            f"{processes[COORDINATOR]['spooled_bytes'] / _MIB:12.0f}"
        )
    return "\n".join(lines)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases asked for; returns 1 if a process needed more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=_numbers, default=[10_000_000], metavar="N[,N]")
    parser.add_argument("--clients", type=_numbers, default=[5], metavar="N[,N]")
    parser.add_argument("--suite", choices=get_args(Suite), default="layered")
    parser.add_argument("--work", type=Path, help="parent of the site folders")
    parser.add_argument("--json", action="store_true", help="all figures on stdout")
    options = parser.parse_args(arguments)
    rows = []
    for values in options.values:
        for clients in options.clients:
            rows.append(run_case(values, clients, options.suite, options.work))
            print(table(rows[-1:]), file=sys.stderr, flush=True)
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
    else:
        print(table(rows))
    return 0 if all(row["within_limit"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
