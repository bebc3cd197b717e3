"""One system of the protection benchmark, measured in a process of its own.

``python -m benchmarks.protection_case SYSTEM VALUES CLIENTS`` prints one JSON object. Whatever the
libraries print (TenSEAL's remarks about long vectors) is dropped. A fresh process for each case
keeps one system's peak memory out of the next one's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.federation import CLIP, SCALE
from benchmarks.measure import (
    ProtectedSum,
    example_update,
    median,
    set_aside_imports,
    settle,
)
from benchmarks.memory import peak_rss_bytes, stream_seconds
from benchmarks.protected_sums import lattice_sum, masked_sum, plain_sum
from benchmarks.results import Row
from fedfm_crypto.lanes import from_lanes
from fedfm_crypto.quantise import Quantiser
from fedfm_crypto.random_source import RandomSource

WARM_UP = (5000, 2)
"""Values and clients of an unmeasured run: compiled code and libraries are loaded by then."""


@dataclass(frozen=True, slots=True)
class System:
    """How one sum is run, ``run(values, clients)``, and in how many bits a sum would fit."""

    run: Callable[[int, int], ProtectedSum]
    lane_bits: int = 32


def _nvflare(values: int, clients: int) -> ProtectedSum:
    # Imported here, so that our own processes do not hold the peers' modules.
    from benchmarks.peers.ckks_sums import NVFLARE, ckks_sum  # noqa: PLC0415

    return ckks_sum(NVFLARE, values, clients)


def _fedml_he(values: int, clients: int) -> ProtectedSum:
    from benchmarks.peers.ckks_sums import FEDML_HE, ckks_sum  # noqa: PLC0415

    return ckks_sum(FEDML_HE, values, clients)


SYSTEMS: Mapping[str, System] = {
    "plain-float32": System(plain_sum),
    "masked": System(masked_sum),
    "sealed": System(lambda values, clients: lattice_sum("sealed", 32, values, clients)),
    "sealed-24": System(lambda values, clients: lattice_sum("sealed", 24, values, clients), 24),
    "layered": System(lambda values, clients: lattice_sum("layered", 32, values, clients)),
    "layered-24": System(lambda values, clients: lattice_sum("layered", 24, values, clients), 24),
    "nvflare-ckks": System(_nvflare),
    "fedml-he-ckks": System(_fedml_he),
}
"""Ours have 32-bit lanes unless the name says 24."""


def measure_case(system: System, values: int, clients: int) -> Row:
    """Run one sum of a system, warm, and return what it cost.

    Memory is read before the result is checked, so that it holds nothing but the system's own.
    """
    system.run(*WARM_UP)
    set_aside_imports()
    settle()
    base = peak_rss_bytes()
    result = system.run(values, clients)
    peak = peak_rss_bytes()
    exact, error = check(result, system.lane_bits, values, clients)
    return {**_costs(result, system.lane_bits, values), **_stages(result), "exact": exact,
            "max_error": error, "base_rss_bytes": base, "peak_rss_bytes": peak}  # fmt: skip


def _costs(result: ProtectedSum, lane_bits: int, values: int) -> Row:
    """Totals, and what stands beside them: the bytes of bare lanes, and the same traffic as the
    addition's (the upload, and the running sum twice) streamed by NumPy."""
    per_value = result.bytes_up / values
    add = median(result.adds)
    roof = stream_seconds(result.bytes_up + 2 * result.running_sum_bytes)
    return {
        "bytes_per_value": per_value,
        "bytes_per_value_down": result.bytes_down / values,
        "bytes_over_limit": per_value / (lane_bits // 8),
        "client_cpu_s": median(client.total for client in result.clients),
        "server_cpu_s": result.server.total,
        "open_cpu_s": result.opening.total,
        "add_s": add,
        "add_roof_s": roof,
        "add_of_bandwidth": roof / add if add else 1.0,
    }


def _stages(result: ProtectedSum) -> Row:
    """Medians over the clients of each stage. ``encrypt_s`` includes ``wrap_s``."""

    def stage(name: str) -> float:
        return median(client.seconds.get(name, 0.0) for client in result.clients)

    return {
        "quantise_s": stage("quantise"),
        "mask_s": stage("mask"),
        "encrypt_s": stage("encrypt") + stage("wrap"),
        "wrap_s": stage("wrap"),
        "serialise_s": stage("serialise"),
        "server_stages_s": result.server.seconds,
        "open_stages_s": result.opening.seconds,
    }


def check(result: ProtectedSum, lane_bits: int, values: int, clients: int) -> tuple[bool, float]:
    """Whether the opened sum equals the plaintext integer sum of the quantised updates (False
    where nothing was quantised), and the largest error of the mean against that of the updates in
    double precision, rounding included."""
    truth = np.zeros(values)
    integers = np.zeros(values, np.int64)
    quantiser = Quantiser(CLIP, SCALE, lane_bits)
    for number in range(clients):
        update = example_update(number, values)
        truth += update
        if result.rounding:
            again = quantiser.quantise(update, _repeating(result.rounding[number]))
            integers += from_lanes(again, lane_bits)
    exact = bool(result.rounding) and np.array_equal(result.opened * SCALE, integers)
    return exact, _largest(result.opened - truth) / clients


def _repeating(key: bytes) -> RandomSource:
    """A random source that repeats one draw."""
    return lambda count: key[:count]


def _largest(errors: NDArray[Any]) -> float:
    return float(np.abs(errors).max())


def measure_fresh(name: str, values: int, clients: int) -> Row:
    """Return :func:`measure_case` of a system, run in a fresh process.

    Raises
    ------
    RuntimeError
        if that process fails; carries the last line that it wrote.
    """
    command = [sys.executable, "-m", "benchmarks.protection_case", name, str(values), str(clients)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = lines[-1] if lines else "it said nothing; too little memory?"
        raise RuntimeError(f"{name} with {values} values: status {done.returncode}: {said}")
    row: Row = json.loads(done.stdout)
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 unless an exception ends it."""
    name, values, clients = sys.argv[1:] if argv is None else argv
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        json.dump(measure_case(SYSTEMS[name], int(values), int(clients)), answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
