"""What a secure sum costs: ``python -m benchmarks.secure_sum --values 1000000 --clients 10``.

Client and server processor seconds and bytes per value for our suites and for Flower's SecAgg+,
in one process, one repetition of each system after the other so that the machine's moods hit all
alike.  Every run is checked: the opened sum must equal the plaintext integer sum exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence

from benchmarks import rounds
from benchmarks.measure import Measurement, example_update, keystream_seconds, set_aside_imports
from benchmarks.results import (
    Budget,
    Row,
    RowFile,
    add_row_options,
    markdown_table,
    package_versions,
    parse_at_least,
    report,
    summarise,
)
from fedfm_protocols.charter import Suite
from fedfm_protocols.errors import CharterError
from fedfm_protocols.thresholds import Thresholds

MEASURED = ("bytes_per_value", "bytes_per_value_down", "client_cpu_s", "server_cpu_s")
WARM_UP_VALUES = 1000

Runner = Callable[[Sequence[rounds.Update], int], Measurement]


def _ours(suite: Suite, lane_bits: int) -> Runner:
    return lambda updates, dropped: rounds.run_round(suite, lane_bits, updates, dropped=dropped)


def _flower(updates: Sequence[rounds.Update], dropped: int) -> Measurement:
    # Imported here, so that the other systems run where flwr is not installed.
    from benchmarks.peers import flower_secagg  # noqa: PLC0415

    threshold = Thresholds(len(updates), 1, dropped).share_threshold
    return flower_secagg.run_round(updates, threshold=threshold, dropped=dropped)


FLOWER = "flower-secaggplus"
SYSTEMS: Mapping[str, Runner] = {
    "clear": _ours("clear", 32),
    "masked": _ours("masked", 32),
    "masked-24": _ours("masked", 24),
    FLOWER: _flower,
}
"""Name -> how one round of it is run.  ``masked`` has 32-bit lanes, ``masked-24`` 24-bit ones."""

LANE_BITS = {"clear": 32, "masked": 32, "masked-24": 24}


def available(names: Sequence[str]) -> list[str]:
    """The systems that can run here; says on stderr which cannot and why."""
    usable = list(names)
    if FLOWER in usable:
        try:
            from benchmarks.peers import flower_secagg  # noqa: F401, PLC0415
        except ImportError as error:
            usable.remove(FLOWER)
            print(
                f"{FLOWER} left out: {error}; install the bench extra (pip install -e '.[bench]')",
                file=sys.stderr,
            )
    return usable


def measure_all(
    names: Sequence[str],
    *,
    values: int,
    clients: int,
    dropped: int,
    repeat: int,
    file: RowFile,
    budget: Budget,
) -> list[Row]:
    """Measure what ``file`` does not hold yet and return one result per system measured.

    Raises
    ------
    CharterError, RuntimeError
        if a federation of these numbers cannot complete a round.
    """
    versions = package_versions(("secure-fedfm", "numpy", "cryptography", "flwr"))
    keys = {
        name: {
            "benchmark": "secure_sum",
            "system": name,
            "values": values,
            "clients": clients,
            "dropped": dropped,
            "versions": versions,
        }
        for name in names
    }
    missing = [name for name in names if len(file.of(keys[name])) < repeat]
    small = [example_update(i, WARM_UP_VALUES) for i in range(clients)]
    for name in missing:
        SYSTEMS[name](small, dropped)  # imports and caches are not what is measured
    set_aside_imports()
    updates = [example_update(i, values) for i in range(clients)] if missing else []
    for repetition in range(repeat):
        for name in missing:
            if len(file.of(keys[name])) > repetition or budget.spent:
                continue
            file.append({**keys[name], **_fields(SYSTEMS[name](updates, dropped), values)})
    results = []
    for name in names:
        rows = file.of(keys[name])[:repeat]
        if len(rows) < repeat:
            print(f"{name}: {len(rows)} of {repeat} repetitions in the budget", file=sys.stderr)
        if rows:
            results.append(_result(summarise(rows, keys[name], MEASURED)))
    return results


def _fields(measured: Measurement, values: int) -> Row:
    fields = dataclasses.asdict(measured)
    up, down = fields.pop("bytes_up"), fields.pop("bytes_down")
    return {**fields, "bytes_per_value": up / values, "bytes_per_value_down": down / values}


def _result(summary: Row) -> Row:
    """A result with what its masks cost at least: the bare cipher, one stream per dealer."""
    del summary["benchmark"]
    lane_bits = LANE_BITS.get(summary["system"])
    if lane_bits is not None and summary["system"] != "clear":
        summary["mask_floor_s"] = keystream_seconds(
            summary["clients"] * summary["values"] * lane_bits // 8
        )
    return summary


def as_table(results: Sequence[Row]) -> str:
    """Results as a Markdown table."""
    columns = (
        "system", "bytes/value up", "bytes/value down", "client CPU (s)", "server CPU (s)", "exact",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                row["system"],
                f"{row['bytes_per_value']:.3f}",
                f"{row['bytes_per_value_down']:.3f}",
                f"{row['client_cpu_s']:.4f}",
                f"{row['server_cpu_s']:.4f}",
                "yes" if row["exact"] else "NO",
            )
            for row in results
        ],
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.secure_sum", description="What a secure sum costs."
    )
    parser.add_argument("--values", type=int, default=1_000_000, help="values of one update")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument(
        "--dropped", type=int, default=0, help="clients that vanish after dealing their shares"
    )
    parser.add_argument(
        "--only", action="append", choices=tuple(SYSTEMS), help="a system; may be repeated"
    )
    add_row_options(parser, repeat=5)
    return parse_at_least(parser, argv, {"values": 1, "repeat": 1, "dropped": 0})


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if every sum was exact, 1 if one was not, 2 if none ran."""
    arguments = _arguments(argv)
    try:
        results = measure_all(
            available(arguments.only or list(SYSTEMS)),
            values=arguments.values,
            clients=arguments.clients,
            dropped=arguments.dropped,
            repeat=arguments.repeat,
            file=RowFile(arguments.rows),
            budget=Budget(arguments.budget_minutes),
        )
    except (CharterError, RuntimeError, ValueError) as error:
        print(f"secure_sum: {error}", file=sys.stderr)
        return 2
    report(arguments, {"benchmark": "secure_sum", "results": results}, lambda: as_table(results))
    if not results:
        return 2
    return 0 if all(row["exact"] for row in results) else 1


if __name__ == "__main__":
    sys.exit(main())
