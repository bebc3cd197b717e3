"""``make fuzz``: all targets in turn, with a new seed, until the time is up.

``python -m tests.soak.fuzz --minutes 10 [--target client/]``; ``--repeat FILE`` runs one recorded
failure again and shows what it raises.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from pathlib import Path

from tests.soak.engine import BATCH, FOLDER, Campaign, Report
from tests.soak.targets import all_targets, close_all, quiet


def main() -> int:
    """Exit code 0 if nothing failed."""
    parser = argparse.ArgumentParser(description="hostile input to everything, until time is up")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--target", default="", help="only targets whose name contains this")
    parser.add_argument("--seed", default=None, help="default: a new one, which is printed")
    parser.add_argument("--repeat", type=Path, help="a file of .soak/failures")
    options = parser.parse_args()
    quiet()
    if options.repeat:
        record = json.loads(options.repeat.read_text("utf-8"))
        (target,) = [t for t in all_targets() if t.name == record["target"]]
        Campaign(target, 0, seed=record["seed"]).repeat(record["case"])
        print("the case passes now")
        return 0
    try:
        return _fuzz(options.minutes, options.target, options.seed or secrets.token_hex(4))
    finally:
        close_all()


def _fuzz(minutes: float, name: str, seed: str) -> int:
    campaigns = [Campaign(t, 0, seed=seed) for t in all_targets() if name in t.name]
    reports = {campaign.target.name: Report(campaign.target.name) for campaign in campaigns}
    print(f"seed {seed}, {len(campaigns)} targets, {minutes:g} minutes", flush=True)
    until = time.monotonic() + 60 * minutes
    while time.monotonic() < until and not all(r.failures for r in reports.values()):
        for campaign in campaigns:
            report = reports[campaign.target.name]
            if time.monotonic() < until and not report.failures:
                campaign.batch(BATCH, report)
    failed = [report for report in reports.values() if report.failures]
    for report in reports.values():
        print(report.line())
    for report in failed:
        print(f"FAILED {report.target}: {report.failures} in {FOLDER / 'failures'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
