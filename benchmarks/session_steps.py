"""What a step of a session costs, and where its time goes: ``python -m benchmarks.session_steps``.

Suite ``layered``, mode ``shared-noise``, the noise on.  Up to ``--processes`` clients and
``--process-values`` values the federation is real: coordinator and clients are processes of their
own on loopback, train the head alone on the packaged model, and say themselves how long each step
took.  Larger ones run the real state machines in one process: processor seconds of each side, and
an estimate of a step's critical path (the slowest client's own work, what was prepared ahead left
out, and then all of the coordinator's), without training, transport and disk::

    python -m benchmarks.session_steps --clients 5 --values 30000 --steps 100
    python -m benchmarks.session_steps --clients 5,20,50 --values 30000,100000,1000000 \
        --only simulation --simulated-steps 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import (
    Budget,
    Row,
    RowFile,
    add_row_options,
    markdown_table,
    package_versions,
    parse_at_least,
    report,
    sizes,
)
from benchmarks.session_processes import run_session
from benchmarks.session_simulation import simulate
from fedfm_protocols.errors import CharterError

PROCESSES, SIMULATION = "processes", "simulation"
KINDS = (PROCESSES, SIMULATION)
RATE = 0.1
DATA = Path("../shared/data/banking77")


def cases(arguments: argparse.Namespace) -> list[Row]:
    """The keys of all rows that are asked for, the cheapest first."""
    found = []
    for clients in arguments.clients:
        for values in arguments.values:
            real = clients <= arguments.processes and values <= arguments.process_values
            kind = PROCESSES if real and arguments.only != SIMULATION else SIMULATION
            if arguments.only not in (None, kind):
                continue
            steps = arguments.steps if kind == PROCESSES else arguments.simulated_steps
            found.append(
                {
                    "benchmark": "session-steps",
                    "kind": kind,
                    "clients": clients,
                    "values": values,
                    "steps": steps,
                }
            )
    return sorted(found, key=lambda case: case["clients"] * case["values"])


def measure(case: Row, data: Path | None, work: Path | None) -> Row:
    """Measure one case."""
    shape = {name: case[name] for name in ("clients", "values", "steps")}
    if case["kind"] == SIMULATION:
        return simulate(**shape)
    return run_session(**shape, rate=RATE, data=data, work=work)


def measure_all(arguments: argparse.Namespace) -> list[Row]:
    """Measure what the row file does not hold yet; a result for each case that has a row."""
    file, budget = RowFile(arguments.rows), Budget(arguments.budget_minutes)
    versions = package_versions(("secure-fedfm", "numpy", "cryptography", "tenseal", "torch"))
    data = arguments.data if arguments.data.exists() else None
    results = []
    for case in cases(arguments):
        key = {**case, "versions": versions}
        if case["kind"] == PROCESSES:
            key["data"] = "generated" if data is None else data.name
        if not file.of(key) and not budget.spent:
            file.append({**key, **measure(case, data, arguments.work)})
        rows = file.of(key)
        if rows:
            results.append(rows[-1])
        else:
            print(f"not in the budget: {case}", file=sys.stderr)
    return results


def as_table(results: Sequence[Row]) -> str:
    """Results as Markdown tables, one for each kind."""
    parts = []
    real = [row for row in results if row["kind"] == PROCESSES]
    simulated = [row for row in results if row["kind"] == SIMULATION]
    if real:
        parts.append(_table_of_processes(real))
        parts.extend(_where_it_goes(row) for row in real)
    if simulated:
        parts.append(_table_of_simulations(simulated))
    return "\n\n".join(parts)


def _table_of_processes(rows: Sequence[Row]) -> str:
    columns = (
        "clients", "values", "steps", "step, median (s)", "p90 (s)", "training, of it",
        "key setup (s)", "of the session", "client CPU (s)", "coordinator CPU (s)", "kB up",
        "kB down",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                row["clients"],
                row["measured_values"],
                row["steps"],
                f"{row['step_s']:.3f}",
                f"{row['step_p90_s']:.3f}",
                f"{row['training_share']:.0%}",
                f"{row['setup_s']:.2f}",
                f"{row['setup_share']:.1%}",
                f"{row['client_cpu_s']:.3f}",
                f"{row['coordinator_cpu_s']:.3f}",
                f"{row['bytes_up'] / 1000:.0f}",
                f"{row['bytes_down'] / 1000:.0f}",
            )
            for row in rows
        ],
    )


def _where_it_goes(row: Row) -> str:
    """Medians of the coordinator's phases, which follow each other; means of what a client does
    in a step, some of it at the same time as something else."""
    phases = [("coordinator waits for", name, spent) for name, spent in row["phase_s"].items()]
    activities = [
        ("a client's", name, spent) for name, spent in row["activity_s"].items() if name != "setup"
    ]
    return markdown_table(
        ("of a step", "", "ms"),
        [(who, name, f"{1000 * spent:.1f}") for who, name, spent in (*phases, *activities)],
    )


def _table_of_simulations(rows: Sequence[Row]) -> str:
    parts = list(rows[0]["client_parts_s"])
    columns = (
        "clients", "values", *(f"{part} (ms)" for part in parts), "client CPU (s)",
        "coordinator CPU (s)", "critical path, estimate (s)", "kB up", "kB down",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                row["clients"],
                row["values"],
                *(f"{1000 * row['client_parts_s'][part]:.1f}" for part in parts),
                f"{row['client_cpu_s']:.3f}",
                f"{row['coordinator_cpu_s']:.3f}",
                f"{row['critical_path_s']:.3f}",
                f"{row['bytes_up'] / 1000:.0f}",
                f"{row['bytes_down'] / 1000:.0f}",
            )
            for row in rows
        ],
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.session_steps",
        description="What a step of a session costs, and where its time goes.",
    )
    parser.add_argument("--clients", type=sizes(4), default=(5,), metavar="N[,N]")
    parser.add_argument("--values", type=sizes(770), default=(30_000,), metavar="N[,N]")
    parser.add_argument("--steps", type=int, default=100, help="of a session in real processes")
    parser.add_argument(
        "--simulated-steps", type=int, default=5, help="of a session in one process"
    )
    parser.add_argument(
        "--processes", type=int, default=5, help="most clients that run as real processes"
    )
    parser.add_argument(
        "--process-values", type=int, default=50_000, help="most values in real processes"
    )
    parser.add_argument("--only", choices=KINDS, help="leave the other kind of case out")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="rows; generated ones where it is not there"
    )
    parser.add_argument("--work", type=Path, help="parent of the site folders")
    add_row_options(parser)
    return parse_at_least(parser, argv, {"steps": 2, "simulated_steps": 1})


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if every case has a result, 2 if one failed or none ran."""
    arguments = _arguments(argv)
    try:
        results = measure_all(arguments)
    except (CharterError, RuntimeError, ValueError) as error:
        print(f"session_steps: {error}", file=sys.stderr)
        return 2
    report(arguments, {"benchmark": "session-steps", "results": results}, lambda: as_table(results))
    return 0 if results else 2


if __name__ == "__main__":
    sys.exit(main())
