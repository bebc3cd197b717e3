"""What a replay archive costs: ``python -m benchmarks.replay --clients 5,20 --values 1000000``.

One round of the real state machines, one client lost after it masked, archived as a coordinator
archives it, and repeated as an auditor repeats it.  Seconds are processor seconds, but for closing
the archive, which is the clock on the wall: it waits for the disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import CpuClock, example_update, set_aside_imports
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
from fedfm_audit.archive import ARCHIVED_KINDS, Archive, ArchiveWriter, archived_messages
from fedfm_audit.charter_view import CharterView, open_charter
from fedfm_audit.messages import RoundOpen
from fedfm_audit.statements import CheckpointReference, RoundPredicate
from fedfm_audit.steps.arithmetic import Replayed, check_arithmetic
from fedfm_audit.steps.envelopes import RoundEvidence
from fedfm_audit.steps.epochs import KeyHistory
from fedfm_audit.steps.findings import Findings
from fedfm_audit.steps_summary import summarise_steps
from fedfm_audit.transcript import Transcript, count_round, make_transcript, read_body
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.random_source import system_random
from fedfm_protocols.charter import Charter, sign_charter
from fedfm_protocols.context import KEYS, TRAIN
from fedfm_protocols.coordinator_states import Finished
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.scenario.federations import Keys, make_federation, make_keys
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import Delivery, Simulation

SUITES = ("layered", "sealed", "masked", "clear")
ENCRYPTED = ("layered", "sealed")


@dataclass(frozen=True, slots=True)
class ArchivedRound:
    """A round as the auditor finds it, and what archiving it took."""

    charter: CharterView
    evidence: RoundEvidence
    put_cpu_s: float
    close_s: float


def archive_round(
    root: Path, suite: str, lane_bits: int, clients: int, values: int, dropped: int
) -> ArchivedRound:
    """Play a round of which ``dropped`` uploads are lost, and archive it below ``root``."""
    keys = make_keys(clients)
    federation = make_federation(
        keys,
        suite=suite,
        limits={"colluding": 1, "dropouts": dropped},
        founders={"names": sorted(keys.clients)[:1], "quorum": 1},
        quantiser={"values": values, "clip": 1.0, "scale": 1 << 12, "lane_bits": lane_bits},
    )
    lost = sorted(keys.clients)[:dropped]
    writer, put, number = ArchiveWriter(root, 0), CpuClock(), 0
    said: set[bytes] = set()

    def network(sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        header = envelope.header
        if header.type == "Upload" and sender in lost:
            return ()
        if header.type in ARCHIVED_KINDS and header.body_hash not in said:
            said.add(header.body_hash)
            with put.running():
                writer.put(number, header.step, header.type, sender, envelope.body)
        return ((recipient, envelope),)

    simulation = Simulation(
        federation,
        keys.clients,
        keys.coordinator,
        system_random,
        lambda name, number, step: example_update(sorted(keys.clients).index(name), values),
        network,
        shared_sets=SharedSets(),
        keep_messages=False,
        encryption=LatticeEncryption() if suite in ENCRYPTED else None,
    )
    if suite in ENCRYPTED:
        number += 1
        simulation.run_round(number, kind=KEYS)
    number += 1
    finished = simulation.run_round(number, kind=TRAIN)
    if finished.outcome != "completed":
        raise ValueError(f"the round was {finished.outcome}: {finished.reason}")
    charter = open_charter(_signed(keys, federation.charter))
    evidence = _evidence(charter, finished)
    kept = {
        step: archived_messages(entries, masked=federation.masked, encrypted=federation.encrypted)
        for step, entries in enumerate(evidence.transcript.steps)
    }
    started = time.perf_counter()
    writer.close_round(number, kept)
    return ArchivedRound(charter, evidence, put.seconds, time.perf_counter() - started)


def _signed(keys: Keys, charter: Charter) -> bytes:
    name = sorted(keys.clients)[0]
    return sign_charter(charter, name, keys.clients[name])


def _evidence(charter: CharterView, finished: Finished) -> RoundEvidence:
    """What steps 0 to 3 of the verification establish about the round."""
    said, identity = finished.round.transcript, finished.round.identity
    parts = [
        [(entry.signed, entry.body) for entry in part]
        for part in (said.setup, *said.steps, said.close)
    ]
    transcript: Transcript = make_transcript(identity.round, parts[0], parts[1:-1], parts[-1])
    predicate = RoundPredicate(
        charter.digest.hex(),
        identity.round,
        identity.kind,
        finished.outcome,
        finished.reason,
        identity.adapter_hash.hex(),
        finished.adapter_hash.hex(),
        count_round(transcript),
        summarise_steps(transcript, planned=1, good=1),
        CheckpointReference(0, "00" * 32),
    )
    return RoundEvidence(
        0,
        predicate,
        f"transcripts/{identity.round:06d}.json",
        transcript,
        read_body(transcript.of("RoundOpen")[0], RoundOpen),
        finished.round.context0,
        finished.round.context,
        finished.round.roster_hash,
        KeyHistory(),
    )


def _repeat(root: Path, archived: ArchivedRound) -> Replayed:
    findings = Findings()
    found = check_arithmetic(Archive(root), archived.charter, (archived.evidence,), None, findings)
    if findings.count or found.gaps:
        raise ValueError(f"the replay failed: {findings.failures or found}")
    return found


def measure(suite: str, lane_bits: int, clients: int, values: int, dropped: int) -> Row:
    """Sizes and seconds of one case."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "archive")
        archived = archive_round(root, suite, lane_bits, clients, values, dropped)
        bytes_of = dict.fromkeys(sorted(ARCHIVED_KINDS), 0)
        for path in root.rglob("*"):
            if path.is_file():
                bytes_of[path.parent.name] += path.stat().st_size
        clock, started = CpuClock(), time.perf_counter()
        with clock.running():
            found = _repeat(root, archived)
        wall = time.perf_counter() - started
        # NumPy tells tracemalloc of its arrays; the bookkeeping would show in the seconds.
        tracemalloc.start()
        _repeat(root, archived)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    per_client = (bytes_of["Upload"] + bytes_of["WrappedKey"]) / found.uploads
    return {
        "uploads": found.uploads,
        "bytes": bytes_of,
        "archive_bytes": sum(bytes_of.values()),
        "bytes_per_upload": per_client,
        "bytes_per_upload_and_value": per_client / values,
        "put_cpu_s": archived.put_cpu_s,
        "close_s": archived.close_s,
        "replay_cpu_s": clock.seconds,
        "replay_s": wall,
        "replay_peak_bytes": peak,
    }


def measure_all(arguments: argparse.Namespace) -> list[Row]:
    """Measure what the row file does not hold yet; a row for each case."""
    file, budget = RowFile(arguments.rows), Budget(arguments.budget_minutes)
    versions = package_versions(("secure-fedfm", "numpy", "numba", "cryptography", "tenseal"))
    results = []
    cases = [
        (suite, clients, values)
        for values in arguments.values
        for clients in arguments.clients
        for suite in arguments.suite
    ]
    for suite, clients, values in cases:
        shape = {"clients": clients, "values": values, "lane_bits": arguments.lane_bits}
        key: Row = {"benchmark": "replay", "suite": suite, **shape, "versions": versions}
        dropped = 0 if clients < 4 else 1
        if not file.of(key) and not budget.spent:
            file.append({**key, **measure(suite, dropped=dropped, **shape)})
        results += file.of(key)[:1]
    return results


def as_table(results: Sequence[Row]) -> str:
    """Results as a Markdown table."""
    columns = (
        "suite", "clients", "values", "archive of a sum (MB)", "an upload (MB)",
        "bytes/upload/value", "put (CPU s)", "close (s)", "replay (CPU s)", "replay (s)",
        "peak (MiB)",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                row["suite"],
                row["clients"],
                f"{row['values']:.0e}".replace("e+0", "e"),
                f"{row['archive_bytes'] / 1e6:.2f}",
                f"{row['bytes_per_upload'] / 1e6:.3f}",
                f"{row['bytes_per_upload_and_value']:.2f}",
                f"{row['put_cpu_s']:.3f}",
                f"{row['close_s']:.2f}",
                f"{row['replay_cpu_s']:.2f}",
                f"{row['replay_s']:.2f}",
                f"{row['replay_peak_bytes'] / 2**20:.0f}",
            )
            for row in results
        ],
    )


def _suites(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if set(found) - set(SUITES):
        raise argparse.ArgumentTypeError(f"{text}, expected some of {','.join(SUITES)}")
    return found


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replay", description="What a replay archive costs."
    )
    parser.add_argument("--suite", type=_suites, default=("layered",), help="commas between")
    parser.add_argument("--clients", type=sizes(3), default=(5,), help="sizes, commas between")
    parser.add_argument("--values", type=sizes(1), default=(1_000_000,), help="commas between")
    parser.add_argument("--lane-bits", type=int, choices=(24, 32), default=32)
    add_row_options(parser)
    return parse_at_least(parser, argv, {})


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if every sum was repeated bit for bit, 1 if not, 2 if nothing
    ran."""
    arguments = _arguments(argv)
    set_aside_imports()
    try:
        results = measure_all(arguments)
    except ValueError as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    report(arguments, {"benchmark": "replay", "results": results}, lambda: as_table(results))
    return 0 if results else 2


if __name__ == "__main__":
    sys.exit(main())
