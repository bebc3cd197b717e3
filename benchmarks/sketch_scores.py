"""What robust scores cost: ``python -m benchmarks.sketch_scores --clients 10,20,50 --json``.

Everything between an update and a verdict, without messages: each client's sketch and its
encryption, the coordinator's scores of all pairs and its sum of sketches, the validator's opening,
the default rule and the check of the opened sum. Processor seconds of one process; the coordinator
can spread its pairs over as many as it has. Beside it TenSEAL's own dot product of two encrypted
vectors of the same size, for which rotation keys are needed.

Scores are checked against the plaintext ones: ``exact`` is whether all agree to 1e-4 of the norms'
product and the check of the sum passes for the true sum and fails for one that is off by one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tenseal
from numpy.typing import NDArray

from benchmarks.measure import CpuClock, example_update, median, settle
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
from fedfm_crypto.lattice.score_opening import ScoreOpening, symmetric
from fedfm_crypto.lattice.scores import gram_pairs, score_task_results, score_tasks
from fedfm_crypto.lattice.sketch_encryption import (
    SketchEncryption,
    binding_holds,
    sum_sketches,
)
from fedfm_crypto.lattice.sketch_format import SketchScale
from fedfm_crypto.lattice.sketch_keys import EncryptionKey, EvaluationKey, SketchSecretKey
from fedfm_crypto.random_source import SeededRandom, system_random
from fedfm_crypto.sketch import SLOTS, SketchLayout, inner_products, sketch
from secure_fedfm.robust.registry import DEFAULT, make_rule
from secure_fedfm.robust.score_matrix import ScoreMatrix

MEASURED = (
    "sketch_s", "encrypt_s", "client_cpu_s", "client_bytes", "key_bytes_down", "pair_s",
    "coordinator_s", "coordinator_sum_s", "score_bytes", "validator_keys_s", "open_s", "rule_s",
    "binding_s", "validator_s", "tenseal_dot_s", "tenseal_key_bytes", "largest_error",
)  # fmt: skip
PACKAGES = ("secure-fedfm", "numpy", "numba", "tenseal")
STEPS = 2.0**16
"""Quantisation scale: integer steps for 1.0."""
BEACON = bytes(32)
CLIENT_BAR_S, CLIENT_BAR_BYTES = 0.2, 400_000
_REPORT_BYTES = 8 * SLOTS + 28
"""The sketch of the opened sum, boxed to the validator."""
_DOTS = 5

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clients:
    """What the clients of a round made: sketches, ciphertexts, the true sum's sketch, seconds."""

    sketches: Sequence[Integers]
    ciphertexts: Sequence[bytes]
    of_sum: Integers
    sketch_s: float
    encrypt_s: float


def run_clients(count: int, values: int, encryption: EncryptionKey, scale: SketchScale) -> Clients:
    """Sketch and encrypt ``count`` updates, one after the other."""
    layout, client = SketchLayout.whole(values), SketchEncryption(encryption, scale)
    total = np.zeros(values, dtype=np.int64)
    sketches, ciphertexts, sketching, encrypting = [], [], [], []
    for number in range(count):
        update = np.rint(STEPS * example_update(number, values)).astype(np.int64)
        total += update
        clock, cipher = CpuClock(), CpuClock()
        with clock.running():
            sketches.append(sketch(update, BEACON, layout))
        with cipher.running():
            ciphertexts.append(client.encrypt(sketches[-1]))
        sketching.append(clock.seconds)
        encrypting.append(cipher.seconds)
    of_sum = sketch(total, BEACON, layout)
    return Clients(sketches, ciphertexts, of_sum, median(sketching), median(encrypting))


def measure(count: int, values: int) -> Row:
    """One round's scores at this size; see :data:`MEASURED`."""
    settle()
    scale = SketchScale(32 * 0.1 * STEPS * float(np.sqrt(values)))
    keys = CpuClock()
    with keys.running():
        secret = SketchSecretKey.generate(system_random)
        encryption, evaluation = secret.public_keys()
    clients = run_clients(count, values, encryption, scale)
    scoring, summing, opening = CpuClock(), CpuClock(), CpuClock()
    pairs: list[tuple[int, int]] = []
    scores: list[bytes] = []
    for task in score_tasks(encryption, evaluation, clients.ciphertexts, 1, system_random):
        with scoring.running():
            scores += score_task_results(task)
        pairs += task.pairs
    with summing.running():
        total = sum_sketches(clients.ciphertexts)
    with opening.running():
        (gram,) = symmetric(pairs, ScoreOpening(secret, scale).open(scores), count)
    judging, binding = CpuClock(), CpuClock()
    with judging.running():
        make_rule(DEFAULT, {}).judge(ScoreMatrix(tuple(f"{i:04}" for i in range(count)), gram))
    with binding.running():
        holds = binding_holds(secret, total, clients.of_sum, scale)
    lie = clients.of_sum + (np.arange(SLOTS) == 1)
    error = _largest_error(gram, clients.sketches)
    dot_s, key_bytes = tenseal_dots(clients.sketches)
    return {
        "sketch_s": clients.sketch_s,
        "encrypt_s": clients.encrypt_s,
        # A second sketch, of the opened sum, is what the client reports for the check.
        "client_cpu_s": 2 * clients.sketch_s + clients.encrypt_s,
        "client_bytes": len(clients.ciphertexts[0]) + _REPORT_BYTES,
        "key_bytes_down": len(encryption.to_bytes()),
        "pair_s": scoring.seconds / len(pairs),
        "coordinator_s": scoring.seconds + summing.seconds,
        "coordinator_sum_s": summing.seconds,
        "score_bytes": sum(len(score) for score in scores) + len(total),
        "validator_keys_s": keys.seconds,
        "open_s": opening.seconds,
        "rule_s": judging.seconds,
        "binding_s": binding.seconds,
        "validator_s": opening.seconds + judging.seconds + binding.seconds,
        "tenseal_dot_s": dot_s,
        "tenseal_key_bytes": key_bytes,
        "largest_error": error,
        "exact": bool(holds and error < 1e-4 and not binding_holds(secret, total, lie, scale)),
    }


def _largest_error(gram: NDArray[np.float64], sketches: Sequence[Integers]) -> float:
    """The largest difference to the plaintext scores, relative to the norms' product."""
    worst = 0.0
    for i, j in gram_pairs(len(sketches)):
        norms = float(np.sqrt(gram[i, i] * gram[j, j]))
        plain = float(inner_products(sketches[i], sketches[j])[0])
        worst = max(worst, abs(float(gram[i, j]) - plain) / norms)
    return worst


def tenseal_dots(sketches: Sequence[Integers]) -> tuple[float, int]:
    """Processor seconds of one ``CKKSVector.dot``, and the bytes of the public keys it needs."""
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60], n_threads=1
    )
    context.global_scale = 2.0**40
    context.generate_galois_keys()
    one, other = (
        tenseal.ckks_vector(context, (s / np.linalg.norm(s)).tolist()) for s in sketches[:2]
    )
    clock = CpuClock()
    with clock.running():
        for _ in range(_DOTS):
            one.dot(other)
    public = context.copy()
    public.make_context_public()
    return clock.seconds / _DOTS, len(public.serialize())


def measure_all(
    counts: Sequence[int], values: int, *, repeat: int, file: RowFile, budget: Budget
) -> list[Row]:
    """Measure what ``file`` does not hold yet; return a result for each number of clients."""
    versions, results = package_versions(PACKAGES), []
    for count in counts:
        key: Row = {"clients": count, "values": values, "versions": versions}
        while len(file.of(key)) < repeat and not budget.spent:
            file.append(key | measure(count, values))
        if rows := file.of(key):
            results.append(summarise(rows[:repeat], key, MEASURED))
    return results


def _table(results: Sequence[Row]) -> str:
    columns = (
        "clients", "pairs", "client CPU (s)", "client bytes", "CPU a pair (ms)", "coordinator (s)",
        "validator (s)", "scores (MB)", "TenSEAL dot (ms)", "error", "exact",
    )  # fmt: skip
    rows = [
        (
            row["clients"],
            len(gram_pairs(row["clients"])),
            f"{row['client_cpu_s']:.3f}",
            f"{row['client_bytes']:.0f}",
            f"{1e3 * row['pair_s']:.1f}",
            f"{row['coordinator_s']:.1f}",
            f"{row['validator_s']:.2f}",
            f"{row['score_bytes'] / 1e6:.1f}",
            f"{1e3 * row['tenseal_dot_s']:.1f}",
            f"{row['largest_error']:.1e}",
            "yes" if row["exact"] else "no",
        )
        for row in results
    ]
    return markdown_table(columns, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if a bar is missed or a score is wrong."""
    parser = argparse.ArgumentParser(prog="benchmarks.sketch_scores", description=__doc__)
    parser.add_argument("--clients", type=sizes(3), default=(10, 20, 50))
    parser.add_argument("--values", type=int, default=1_000_000)
    add_row_options(parser, repeat=3)
    arguments = parse_at_least(parser, argv, {"values": 65_536, "repeat": 1})
    _warm_up()
    results = measure_all(
        arguments.clients,
        arguments.values,
        repeat=arguments.repeat,
        file=RowFile(arguments.rows),
        budget=Budget(arguments.budget_minutes),
    )
    met = all(
        row["exact"]
        and row["client_cpu_s"] <= CLIENT_BAR_S
        and row["client_bytes"] <= CLIENT_BAR_BYTES
        for row in results
    )
    report(arguments, {"results": results, "bars_met": met}, lambda: _table(results))
    return 0 if met else 1


def _warm_up() -> None:
    """Load compiled code, tables and TenSEAL."""
    secret = SketchSecretKey.generate(SeededRandom(0))
    keys = secret.public_keys()
    scale = SketchScale(2.0**30)
    clients = run_clients(2, 65_536, keys[0], scale)
    for task in score_tasks(*keys, clients.ciphertexts, 1, SeededRandom(1)):
        ScoreOpening(secret, scale).open(score_task_results(task))
    EvaluationKey.from_bytes(keys[1].to_bytes())


if __name__ == "__main__":
    raise SystemExit(main())
