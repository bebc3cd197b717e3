"""Exact sums for every size of cohort: ``python -m benchmarks.exact_sums --clients 3,20,200,1000``.

For each size: every client's update is masked (its own mask and one with either neighbour on a
ring), encrypted under a fresh key and added; the masks come off the sum; several active sets of
exactly ``key_threshold`` holders open it.  The opened lanes must equal the plaintext integer sum,
which reaches both ends of the lane.  With one share short nothing may match.

What a row does not repeat for each client is the update itself: the same integers, turned round by
another offset.  The collective key has a contribution of every client and is dealt to the holders
of the active sets.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.key_epoch import KeyEpoch, make_key_epoch
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
from fedfm_crypto.errors import DecryptionError
from fedfm_crypto.lanes import from_lanes, to_lanes
from fedfm_crypto.lattice.bulk_format import DEGREE, POLYNOMIAL_BYTES
from fedfm_crypto.lattice.bulk_keys import BulkKey, KeySum, PublicPolynomials
from fedfm_crypto.lattice.collective import data_ring
from fedfm_crypto.lattice.key_additive import RunningSum, decrypt, encrypt, polynomials_for
from fedfm_crypto.lattice.threshold import ThresholdDecryption
from fedfm_crypto.lattice.wide_words import LIMBS, add_wide_masks, from_wide, to_wide, wide_size
from fedfm_crypto.lattice.wrapping import KeyWrapping, decode_slots, open_key_sum
from fedfm_crypto.mask import Sign
from fedfm_crypto.random_source import system_random
from fedfm_crypto.secret import Secret

SIZES = (3, 20, 200, 1000)
ACTIVE_SETS = 3

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Added:
    """The sum of all clients as the key holders find it, and what it must be."""

    total: RunningSum
    wrapped: NDArray[np.uint64]
    public: PublicPolynomials
    expected: Integers
    key_sum: Integers


def measure(clients: int, values: int, lane_bits: int) -> Row:
    """Add up ``clients`` updates, open the sum with every active set, and compare."""
    started, processor = time.monotonic(), time.process_time()
    threshold = max(clients // 10, 1) + 1  # c_max + 1 when a tenth may collude
    sets = active_sets(clients, threshold)
    points = sorted(set().union(*sets))
    epoch = make_key_epoch(clients, threshold, points, system_random)
    added = add_up(epoch, clients, values, lane_bits)
    exact = []
    for active in sets:
        key = open_key_sum(open_wrapped(epoch, added.wrapped, active), clients)
        opened = open_lanes(added, key, values, lane_bits)
        exact.append(np.array_equal(opened, added.expected))
    matching, refused = one_share_short(epoch, added, sets, clients)
    return {
        "key_threshold": threshold,
        "active_sets": len(sets),
        "largest_sum": int(np.abs(added.expected).max()),
        "exact": all(exact),
        "one_short_matches": matching,
        "one_short_refused": refused,
        "cpu_s": time.process_time() - processor,
        "wall_s": time.monotonic() - started,
    }


def active_sets(clients: int, threshold: int) -> list[tuple[int, ...]]:
    """The first holders, the last ones, and some spread over all; each of exactly ``threshold``."""
    everybody = range(1, clients + 1)
    spread = tuple(1 + i * (clients - 1) // (threshold - 1) for i in range(threshold))
    return [tuple(everybody[:threshold]), tuple(everybody[-threshold:]), spread][:ACTIVE_SETS]


def add_up(epoch: KeyEpoch, clients: int, values: int, lane_bits: int) -> Added:
    """Encrypt and add one update after the other; only the running sum stays."""
    wrapping, public = KeyWrapping(epoch.public_key), PublicPolynomials(system_random(32))
    wraps, total = wrapping.new_sum(), RunningSum(polynomials_for(wide_size(values, lane_bits)))
    update, seed = example_integers(clients, values, lane_bits), system_random(32)
    expected, key_sum = np.zeros(values, np.int64), np.zeros(DEGREE, np.int64)
    left_over: list[tuple[Secret, Sign]] = []
    for client in range(clients):
        # The ends stay in place, so that their sums reach the ends of the lane.
        integers = np.concatenate([update[:2], np.roll(update[2:], 7919 * client)])
        own = _mask_key(seed, client, client)
        left_over.append((own, 1))
        limbs = to_wide(to_lanes(integers, lane_bits), lane_bits)
        add_wide_masks(
            limbs,
            [
                (own, 1),
                (_mask_key(seed, client, (client + 1) % clients), 1),
                (_mask_key(seed, (client - 1) % clients, client), -1),
            ],
        )
        key = BulkKey.generate(system_random)
        first = 0
        for chunk in encrypt(limbs, key, public, system_random):
            total.add(chunk, first)
            first += len(chunk) // POLYNOMIAL_BYTES
        wraps.add(wrapping.wrap(key))
        expected += integers
        key_sum += key.coefficients
    remaining = np.zeros(LIMBS * wide_size(values, lane_bits), np.uint32)
    add_wide_masks(remaining, left_over)
    total.subtract_words(remaining)
    return Added(total, wraps.ciphertext(), public, expected, key_sum)


def example_integers(clients: int, values: int, lane_bits: int) -> Integers:
    """Integers up to what a cohort of this size may hold in a lane; the first two are the ends."""
    most = ((1 << (lane_bits - 1)) - 1) // clients
    generator = np.random.default_rng(np.random.SeedSequence([40, clients]))
    integers = generator.integers(-most, most, values, endpoint=True)
    integers[:2] = most, -most
    return integers


def open_wrapped(
    epoch: KeyEpoch, wrapped: NDArray[np.uint64], active: Sequence[int], missing: int = 0
) -> NDArray[np.uint64]:
    """Threshold decryption by ``active``, the last ``missing`` of whom answer nothing."""
    decryption = ThresholdDecryption(epoch.threshold, active)
    total = data_ring().zeros()
    for x in active[: len(active) - missing]:
        share = decryption.gen_share(epoch.shares[x], wrapped, system_random)
        total = data_ring().add(total, share.values)
    return decryption.finalise(wrapped, total)


def open_lanes(added: Added, key: KeySum, values: int, lane_bits: int) -> Integers:
    """Decrypt the sum under the key sum, chunk by chunk, and read its lanes."""
    parts, first = [], 0
    for chunk in added.total.chunks():
        parts.append(decrypt(chunk, key, added.public, first))
        first += len(chunk) // POLYNOMIAL_BYTES
    return from_lanes(from_wide(np.concatenate(parts), lane_bits, values), lane_bits)


def one_share_short(
    epoch: KeyEpoch, added: Added, sets: Sequence[Sequence[int]], clients: int
) -> tuple[float, bool]:
    """The largest fraction of key coefficients that any active set guesses without one of its
    shares, and whether every such opening was refused."""
    matching, refused = 0.0, True
    for active in sets:
        opened = open_wrapped(epoch, added.wrapped, active, missing=1)
        guess = decode_slots(opened)[:DEGREE]
        matching = max(matching, float(np.mean(guess == added.key_sum)))
        try:
            open_key_sum(opened, clients)
            refused = False
        except DecryptionError:
            continue
    return matching, refused


def _mask_key(seed: bytes, one: int, other: int) -> Secret:
    return Secret(hashlib.sha256(seed + f"{one} {other}".encode()).digest())


def measure_all(
    cohorts: Sequence[int], *, values: int, lane_bits: int, file: RowFile, budget: Budget
) -> list[Row]:
    """Measure the sizes that ``file`` does not hold yet, small ones first; return their rows."""
    versions = package_versions(("secure-fedfm", "numpy", "numba", "cryptography", "tenseal"))
    results = []
    for clients in cohorts:
        key: Row = {
            "benchmark": "exact_sums",
            "clients": clients,
            "values": values,
            "lane_bits": lane_bits,
            "versions": versions,
        }
        if not file.of(key) and not budget.spent:
            file.append({**key, **measure(clients, values, lane_bits)})
        if not file.of(key):
            print(f"{clients} clients: not in the budget", file=sys.stderr)
        results += file.of(key)[:1]
    return results


def as_table(results: Sequence[Row]) -> str:
    """Results as a Markdown table."""
    columns = (
        "clients", "key threshold", "active sets", "lane bits", "largest sum", "exact",
        "one share short: coefficients that match", "refused", "CPU (s)",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                row["clients"],
                row["key_threshold"],
                row["active_sets"],
                row["lane_bits"],
                row["largest_sum"],
                "yes" if row["exact"] else "NO",
                f"{100 * row['one_short_matches']:.2f} %",
                "yes" if row["one_short_refused"] else "NO",
                f"{row['cpu_s']:.0f}",
            )
            for row in results
        ],
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exact_sums", description="Exact sums for every size of cohort."
    )
    parser.add_argument("--clients", type=sizes(2), default=SIZES, help="sizes, commas between")
    parser.add_argument("--values", type=int, default=1_000_000, help="values of one update")
    parser.add_argument("--lane-bits", type=int, choices=(24, 32), default=32)
    add_row_options(parser)
    return parse_at_least(parser, argv, {"values": 2})


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if every sum was exact and no share too few opened anything,
    1 if not, 2 if nothing ran."""
    arguments = _arguments(argv)
    try:
        results = measure_all(
            arguments.clients,
            values=arguments.values,
            lane_bits=arguments.lane_bits,
            file=RowFile(arguments.rows),
            budget=Budget(arguments.budget_minutes),
        )
    except ValueError as error:
        print(f"exact_sums: {error}", file=sys.stderr)
        return 2
    report(arguments, {"benchmark": "exact_sums", "results": results}, lambda: as_table(results))
    if not results:
        return 2
    good = all(
        row["exact"] and row["one_short_refused"] and row["one_short_matches"] < 0.001
        for row in results
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
