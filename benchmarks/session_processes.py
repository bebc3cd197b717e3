"""One session in the real services: every party a process of its own on loopback.

The figures are the parties' own: what the coordinator's meter and each client's stopwatch wrote to
their site folders (``secure_fedfm.services.metering``).
"""

from __future__ import annotations

import json
import queue
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import median
from benchmarks.results import Row
from benchmarks.session_federation import make_session_federation
from benchmarks.site_folders import COORDINATOR, SitesOnDisk
from secure_fedfm.demo.processes import Exited, Fleet

SILENCE_SECONDS = 1800.0
TENTH = 0.9
# Of a step, as the coordinator's meter names what messages belong to.
STEP_PHASES = ("training", "uploads", "votes", "unmasking", "decryption", "result")


def run_session(
    *, clients: int, values: int, steps: int, rate: float, data: Path | None, work: Path | None
) -> Row:
    """Run one federation of one session to its end and say what a step took.

    Raises
    ------
    RuntimeError
        if a process fails, nothing happens any longer, or a step is missing.
    """
    with tempfile.TemporaryDirectory(prefix="session-steps-", dir=work) as folder:
        federation = make_session_federation(
            Path(folder).resolve(),
            clients=clients,
            values=values,
            steps=steps,
            rate=rate,
            data=data,
        )
        with Fleet() as fleet:
            _run(fleet, federation)
        meter = _metrics(federation, COORDINATOR)
        stopwatches = [_metrics(federation, name) for name in federation.charter.clients]
    return {"measured_values": federation.values, **_figures(meter, stopwatches, steps, clients)}


def _metrics(federation: SitesOnDisk, party: str) -> dict[str, Any]:
    found = json.loads(federation.sites[party].metrics_file.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def _figures(
    meter: dict[str, Any], stopwatches: Sequence[dict[str, Any]], steps: int, clients: int
) -> Row:
    listed = meter["seconds_per_step"]
    if len(listed) != steps:
        raise RuntimeError(f"{len(listed)} steps were measured, expected {steps}")
    walls = [sum(step.values()) for step in listed]
    phases = {phase: median(step.get(phase, 0.0) for step in listed) for phase in listed[0]}
    activities = {
        name: statistics.fmean(
            watch["seconds_per_activity"].get(name, 0.0) / watch["steps"] for watch in stopwatches
        )
        for name in stopwatches[0]["seconds_per_activity"]
    }
    # The longest of the sites, which is what the others wait for.
    training = max(w["seconds_per_activity"]["training"] / w["steps"] for w in stopwatches)
    setup = meter["seconds_of_key_setup"]
    up, down = (
        sum(meter[way].get(phase, 0) for phase in STEP_PHASES)
        for way in ("bytes_received_per_phase", "bytes_sent_per_phase")
    )
    return {
        "step_s": median(walls),
        "step_p90_s": sorted(walls)[min(steps - 1, int(TENTH * steps))],
        "first_step_s": walls[0],
        "phase_s": {name: round(spent, 5) for name, spent in phases.items()},
        "activity_s": {name: round(spent, 5) for name, spent in activities.items()},
        "training_share": training / median(walls),
        "setup_s": setup,
        "setup_share": setup / (setup + sum(walls)),
        "client_cpu_s": median(w["cpu_seconds_of_steps"] / w["steps"] for w in stopwatches),
        "coordinator_cpu_s": meter["cpu_seconds_of_steps"] / steps,
        "bytes_up": up / clients / steps,
        "bytes_down": down / clients / steps,
    }


def _run(fleet: Fleet, federation: SitesOnDisk) -> None:
    last, outcome = "", "none"
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
                case {"kind": "round-ended"}:
                    outcome = happening.fields["outcome"]
    except queue.Empty:
        raise RuntimeError(f"nothing happened for {SILENCE_SECONDS:g} s; {last}") from None
    if outcome != "completed":
        raise RuntimeError(f"the session ended with {outcome!r}, expected 'completed'")
