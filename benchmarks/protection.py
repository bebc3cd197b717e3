"""What protecting an update costs: ``python -m benchmarks.protection --values 1000000 --json``.

Our suites, the homomorphic configurations of two peers and plain float32 values, one sum each,
every one in a fresh process of its own, one after the other within a repetition so that the
machine's moods hit all alike.  Beside what was measured stand two roofs: the bytes of bare lanes,
and memory traffic at the speed of this machine.  Our sums are checked to be exact.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import median
from benchmarks.protection_case import SYSTEMS, measure_fresh
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
    summarise,
)

MEASURED = (
    "bytes_per_value", "bytes_per_value_down", "bytes_over_limit", "client_cpu_s", "quantise_s",
    "mask_s", "encrypt_s", "wrap_s", "serialise_s", "server_cpu_s", "open_cpu_s", "add_s",
    "add_roof_s", "add_of_bandwidth", "max_error", "base_rss_bytes", "peak_rss_bytes",
)  # fmt: skip
OURS = ("masked", "sealed", "sealed-24", "layered", "layered-24")
"""Systems whose sums must be exact."""
NVFLARE = "nvflare-ckks"
BARS_FROM = 1_000_000
"""Values that the bars are stated for; below, the wrapped key dominates."""
PACKAGES = ("secure-fedfm", "numpy", "numba", "cryptography", "tenseal")

MET = {True: "yes", False: "no", None: "no bar here"}

Results = Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure of merit at a million values or more and ten clients, and how far it must reach."""

    name: str
    systems: tuple[str, ...]
    figure: Callable[[Results], float]
    limit: float
    at_least: bool

    def met(self, figure: float) -> bool:
        """Whether the figure is on the right side of the limit."""
        return figure >= self.limit if self.at_least else figure <= self.limit


def _ciphering(row: Row) -> float:
    """Seconds from prepared values to bytes: ours serialises as it encrypts."""
    return float(row["encrypt_s"] + row["serialise_s"])


BARS = (
    Bar("bytes a value, 32-bit lanes", ("layered",),
        lambda r: r["layered"]["bytes_per_value"], 5.0, at_least=False),
    Bar("bytes a value, 24-bit lanes", ("layered-24",),
        lambda r: r["layered-24"]["bytes_per_value"], 3.9, at_least=False),
    Bar("NVFlare's bytes over ours", ("layered", NVFLARE),
        lambda r: r[NVFLARE]["bytes_per_value"] / r["layered"]["bytes_per_value"], 10.0,
        at_least=True),
    Bar("NVFlare's encryption over ours, CPU", ("layered", NVFLARE),
        lambda r: _ciphering(r[NVFLARE]) / _ciphering(r["layered"]), 15.0, at_least=True),
    Bar("NVFlare's client path over ours, CPU", ("layered", NVFLARE),
        lambda r: r[NVFLARE]["client_cpu_s"] / r["layered"]["client_cpu_s"], 3.0, at_least=True),
)  # fmt: skip


def measure_all(
    names: Sequence[str],
    lengths: Sequence[int],
    *,
    clients: int,
    repeat: int,
    file: RowFile,
    budget: Budget,
    measure: Callable[[str, int, int], Row],
) -> list[Row]:
    """Measure what ``file`` does not hold yet and return a result for each system and size.

    A system that fails at a size (too little memory, say) is named on stderr and left out there.
    """
    versions = package_versions(PACKAGES)
    results = []
    for values in lengths:
        keys: dict[str, Row] = {
            name: {
                "benchmark": "protection",
                "system": name,
                "values": values,
                "clients": clients,
                "dropped": 0,
                "versions": versions,
            }
            for name in names
        }
        for repetition in range(repeat):
            for name, key in keys.items():
                if len(file.of(key)) > repetition or budget.spent:
                    continue
                try:
                    file.append({**key, **measure(name, values, clients)})
                except RuntimeError as error:
                    print(f"protection: {error}", file=sys.stderr)
        for name, key in keys.items():
            rows = file.of(key)[:repeat]
            if len(rows) < repeat:
                print(
                    f"{name}, {values} values: {len(rows)} of {repeat} repetitions",
                    file=sys.stderr,
                )
            if rows:
                results.append(_result(rows, key))
    return results


def _result(rows: Sequence[Row], key: Row) -> Row:
    """Medians of the repetitions, also of the stages of server and opening."""
    result = summarise(rows, key, MEASURED)
    del result["benchmark"]
    for stages in ("server_stages_s", "open_stages_s"):
        result[stages] = {
            name: median(row[stages][name] for row in rows) for name in rows[0][stages]
        }
    return result


def compare(results: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The figures of :data:`BARS` for each size: of the medians, and the worst of a repetition.

    Repetition ``i`` of one system is compared with repetition ``i`` of the other.
    """
    figures = []
    for values in sorted({row["values"] for row in results}):
        medians = {row["system"]: row for row in results if row["values"] == values}
        for bar in BARS:
            if not set(bar.systems) <= set(medians):
                continue
            figure = bar.figure(medians)
            repetitions = [
                bar.figure(dict(zip(bar.systems, together, strict=True)))
                for together in zip(
                    *(_rows_of(medians[s], rows) for s in bar.systems), strict=False
                )
            ]
            figures.append(
                {
                    "values": values,
                    "figure": bar.name,
                    "median": figure,
                    "worst": (min if bar.at_least else max)(repetitions),
                    "limit": bar.limit,
                    "at_least": bar.at_least,
                    "met": bar.met(figure) if values >= BARS_FROM else None,
                }
            )
    return figures


def _rows_of(result: Row, rows: Sequence[Row]) -> list[Row]:
    same = ("system", "values", "clients", "versions")
    found = [row for row in rows if all(row.get(field) == result[field] for field in same)]
    return found[: result["repeat"]]


def as_table(results: Sequence[Row], figures: Sequence[Row]) -> str:
    """Results and comparisons as Markdown tables."""
    columns = (
        "values", "system", "bytes/value", "x limit", "client CPU (s)", "quantise", "masks",
        "encrypt", "serialise", "server CPU (s)", "add, one upload", "of bandwidth",
        "open CPU (s)", "peak MiB", "largest error", "exact",
    )  # fmt: skip
    rows = []
    for row in results:
        cells = [
            f"{row['values']:.0e}".replace("e+0", "e"),
            row["system"],
            f"{row['bytes_per_value']:.2f}",
            f"{row['bytes_over_limit']:.2f}",
            *(
                f"{row[name]:.4f}"
                for name in (
                    "client_cpu_s", "quantise_s", "mask_s", "encrypt_s", "serialise_s",
                    "server_cpu_s", "add_s",
                )
            ),
            f"{row['add_of_bandwidth']:.0%}",
            f"{row['open_cpu_s']:.4f}",
            f"{row['peak_rss_bytes'] / (1 << 20):.0f}",
            f"{row['max_error']:.0e}",
            "yes" if row["exact"] else "no",
        ]  # fmt: skip
        rows.append(cells)
    table = markdown_table(columns, rows)
    if not figures:
        return table
    comparison = markdown_table(
        ("values", "figure", "median", "worst repetition", "bar", "met"),
        [
            (
                row["values"],
                row["figure"],
                f"{row['median']:.2f}",
                f"{row['worst']:.2f}",
                f"{'at least' if row['at_least'] else 'at most'} {row['limit']:g}",
                MET[row["met"]],
            )
            for row in figures
        ],
    )
    return f"{table}\n\n{comparison}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.protection", description="What protecting an update costs."
    )
    parser.add_argument(
        "--values", type=sizes(1), default=(1_000_000,), help="sizes of an update, commas between"
    )
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument(
        "--only", action="append", choices=tuple(SYSTEMS), help="a system; may be repeated"
    )
    add_row_options(parser, repeat=3)
    return parse_at_least(parser, argv, {"repeat": 1, "clients": 2})


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if every sum of ours was exact, 1 if one was not, 2 if none
    ran.  Missed bars are reported, not an error: they depend on the machine."""
    arguments = _arguments(argv)
    try:
        file = RowFile(arguments.rows)
        results = measure_all(
            arguments.only or list(SYSTEMS),
            arguments.values,
            clients=arguments.clients,
            repeat=arguments.repeat,
            file=file,
            budget=Budget(arguments.budget_minutes),
            measure=measure_fresh,
        )
    except ValueError as error:
        print(f"protection: {error}", file=sys.stderr)
        return 2
    figures = compare(results, file.rows)
    report(
        arguments,
        {"benchmark": "protection", "results": results, "comparison": figures},
        lambda: as_table(results, figures),
    )
    if not results:
        return 2
    return 0 if all(row["exact"] for row in results if row["system"] in OURS) else 1


if __name__ == "__main__":
    sys.exit(main())
