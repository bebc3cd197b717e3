"""Verifying a mark in a large adapter: ``python -m benchmarks.mark_verification``.

A LoRA adapter of 400 layers of 4096 x 4096 at rank 8 (105 MB of random float32) and a claim of 2048
directions; `secure-fedfm watermark verify` runs in a process of its own. What it finds is not the
question (nobody wrote that mark), only what finding it costs.
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

import numpy as np
from safetensors.numpy import save_file

from benchmarks.results import Row, markdown_table, report

LAYERS, WIDTH, RANK, DIRECTIONS = 400, 4096, 8, 2048


def measure(layers: int, width: int, directions: int) -> Row:
    """Make adapter and claim in a temporary folder, verify, and say what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapter, site = folder / "adapter", folder / "site"
        _write_adapter(adapter, layers, width)
        size = (adapter / "adapter_model.safetensors").stat().st_size
        _run("keygen", "--site", site, "--role", "client", "--name", "owner")
        _run(
            "watermark", "claim", "--site", site, "--adapter", adapter, "--federation", "large",
            "--base-model", "ab" * 32, "--size", directions,
        )  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        found = _run(
            "watermark", "verify", adapter, "--claim", site / "mark.json",
            "--key", site / "keys" / "mark.pem", "--logged", 6, "--json",
        )  # fmt: skip
        wall = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "benchmark": "mark_verification",
        "adapter_bytes": size,
        "directions": json.loads(found)["size"],
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_s": wall,
        "peak_rss_bytes": after.ru_maxrss << 10,
    }


def _write_adapter(folder: Path, layers: int, width: int) -> None:
    generator, tensors = np.random.default_rng(1), {}
    for number in range(layers):
        stem = f"base_model.model.layers.{number:03}.query"
        tensors[f"{stem}.lora_A.weight"] = generator.standard_normal((RANK, width), np.float32)
        tensors[f"{stem}.lora_B.weight"] = generator.standard_normal((width, RANK), np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _run(*arguments: object) -> str:
    command = [sys.executable, "-m", "secure_fedfm", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode not in (0, 1):  # 1: the mark is not there
        raise RuntimeError(f"{' '.join(command[2:5])} ended with {ran.returncode}: {ran.stderr}")
    return ran.stdout


def main(argv: Sequence[str] | None = None) -> int:
    """Measure once and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mark_verification", description="A mark in a large adapter."
    )
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--directions", type=int, default=DIRECTIONS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    found = measure(arguments.layers, arguments.width, arguments.directions)
    columns = ("adapter, MB", "directions", "CPU s", "wall s", "peak RSS, MiB")
    cells = (
        f"{found['adapter_bytes'] / 1e6:.0f}", found["directions"], f"{found['cpu_s']:.1f}",
        f"{found['wall_s']:.1f}", f"{found['peak_rss_bytes'] / 2**20:.0f}",
    )  # fmt: skip
    report(arguments, found, lambda: markdown_table(columns, [cells]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
