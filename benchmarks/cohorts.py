"""What a round costs as the cohort grows: ``python -m benchmarks.cohorts --json``.

Suite ``masked``, a tenth of the clients colluding and a tenth dropping out at most; so many do
drop out, after they have dealt their shares and before they commit to an update.  Up to 64 clients
everybody masks with everybody, beyond with the neighbours on a sparse graph.  Measured seconds and
bytes stand beside the counts of operations that theory asks for.  Every run is checked: the opened
sum must equal the plaintext integer sum exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.federation import make_federation
from benchmarks.measure import CpuClock, example_update, median, set_aside_imports
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
from benchmarks.rounds import PlayedRound, play_round
from fedfm_crypto.mask import Sign, add_masks
from fedfm_crypto.random_source import system_random
from fedfm_crypto.secret import Secret
from fedfm_protocols.coordinator_inbox import take
from fedfm_protocols.coordinator_states import Acking, Unmasking
from fedfm_protocols.effects import Event, Received
from fedfm_protocols.errors import CharterError
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import Simulation
from fedfm_protocols.thresholds import Thresholds

SIZES = (10, 30, 100, 300, 1000)
LANE_BITS = 32
WARM_UP = (10, 1000)
MEASURED = (
    "client_cpu_s",
    "client_spared_s",
    "server_cpu_s",
    "bytes_up",
    "bytes_down",
    "server_cpu_per_dropped_s",
    "expansions_per_dropped_s",
    "wall_s",
)


class OpeningSimulation(Simulation):
    """Keeps the coordinator's state from which the sum was opened, to open it again."""

    opened_from: Unmasking | None = None

    def _tell_coordinator(self, event: Event) -> None:
        before = self.state
        super()._tell_coordinator(event)
        if isinstance(before, Unmasking) and isinstance(self.state, Acking):
            assert isinstance(event, Received)
            last = take(self.coordinator, before, event.envelope)
            assert isinstance(last, Unmasking)
            self.opened_from = last


def tenth(clients: int) -> int:
    """How many collude at most, and how many drop out."""
    return clients // 10


def measure(clients: int, values: int) -> Row:
    """Run one round of ``clients`` clients and return what it cost.

    Raises
    ------
    CharterError, RuntimeError
        if a federation of this size cannot complete a round.
    """
    started = time.monotonic()
    parties = make_federation(
        suite="masked",
        clients=clients,
        colluding=tenth(clients),
        dropouts=tenth(clients),
        values=values,
        lane_bits=LANE_BITS,
        random=system_random,
    )
    played = play_round(
        parties,
        lambda number: example_update(number, values),
        dropped=tenth(clients),
        kind=OpeningSimulation,
        shared_sets=SharedSets(),
    )
    wall = time.monotonic() - started
    per_dropped, expansions = dropout_seconds(played)
    return {
        **dataclasses.asdict(played.measurement()),
        "client_spared_s": median(
            played.simulation.clients[name].spared_s for name in played.staying
        ),
        "server_cpu_per_dropped_s": per_dropped,
        "expansions_per_dropped_s": expansions,
        "wall_s": wall,
    }


def dropout_seconds(played: PlayedRound) -> tuple[float, float]:
    """Processor seconds of the server for one dropped client (rebuilding its key and taking off
    the masks that it shares with accepted neighbours), and of expanding as many masks and nothing
    else.  Both zero if nobody dropped out.
    """
    simulation = played.simulation
    assert isinstance(simulation, OpeningSimulation)
    state = simulation.opened_from
    assert state is not None
    removed = state.cohort.removed
    if not removed:
        return 0.0, 0.0
    accepted_only = dataclasses.replace(
        state.opening, cohort=dataclasses.replace(state.cohort, removed=())
    )
    spent = []
    for opening in (state.opening, accepted_only):
        clock = CpuClock()
        with clock.running():
            opening.peel(None, state.total, state.reveals)
        spent.append(clock.seconds)
    accepted = frozenset(state.cohort.accepted)
    shared = sum(len(accepted.intersection(state.opening.hood.of(name))) for name in removed)
    words = np.zeros(state.total.size, np.uint32)
    keys: list[tuple[Secret, Sign]] = [
        (Secret(number.to_bytes(32, "big")), 1) for number in range(shared)
    ]
    clock = CpuClock()
    with clock.running():
        add_masks(words, keys, LANE_BITS)
    return (spent[0] - spent[1]) / len(removed), clock.seconds / len(removed)


def theory(clients: int) -> Row:
    """Operations of one client that stays, by count, and masks that the server expands.

    ``neighbours`` is k (everybody else up to 64 clients).  A client adds k + 1 masks, deals k + 1
    pairs of shares, and agrees on 3 k + 2 keys (to seal, to open, to mask).  It verifies the offer
    of everybody, on a sparse graph the nonce, then a hash and an acknowledgement of everybody who
    stays, the votes of a quorum, and what the coordinator says itself.
    """
    dropped = tenth(clients)
    thresholds = Thresholds(clients, dropped, dropped)
    graph = thresholds.graph(clients)
    k, staying = graph.degree, clients - dropped
    sets = 2 * staying + thresholds.vote_quorum + clients * (2 if thresholds.sparse else 1)
    return {
        "neighbours": k,
        "share_threshold": graph.threshold,
        "min_neighbours": graph.min_neighbours,
        "masks": k + 1,
        "shares": k + 1,
        "key_agreements": 3 * k + 2,
        "signatures": sets + (9 if thresholds.sparse else 8),
        "server_masks": round(staying + dropped * k * staying / (clients - 1)),
    }


def measure_all(
    cohorts: Sequence[int], *, values: int, repeat: int, file: RowFile, budget: Budget
) -> list[Row]:
    """Measure what ``file`` does not hold yet, small cohorts first, and return a result for each
    size that has been measured."""
    versions = package_versions(("secure-fedfm", "numpy", "cryptography"))
    results = []
    measure(*WARM_UP)  # imports and caches are not what is measured
    set_aside_imports()
    for clients in cohorts:
        key: Row = {
            "benchmark": "cohorts",
            "clients": clients,
            "values": values,
            "dropped": tenth(clients),
            "versions": versions,
        }
        while len(file.of(key)) < repeat and not budget.spent:
            file.append({**key, **measure(clients, values)})
        rows = file.of(key)[:repeat]
        if len(rows) < repeat:
            print(
                f"{clients} clients: {len(rows)} of {repeat} repetitions in the budget",
                file=sys.stderr,
            )
        if rows:
            results.append({**summarise(rows, key, MEASURED), "theory": theory(clients)})
    return results


def as_table(results: Sequence[Row]) -> str:
    """Results as a Markdown table."""
    columns = (
        "clients", "dropped", "k", "t", "masks, shares", "signatures", "client CPU (s)",
        "of it shared (s)", "kB up", "kB down", "server CPU (s)", "server masks",
        "server, per dropped (s)", "its expansions (s)", "wall (s)", "exact",
    )  # fmt: skip
    rows = []
    for row in results:
        counts = row["theory"]
        cells = (
            row["clients"],
            row["dropped"],
            counts["neighbours"],
            counts["share_threshold"],
            counts["masks"],
            counts["signatures"],
            f"{row['client_cpu_s']:.3f}",
            f"{row['client_spared_s']:.3f}",
            f"{row['bytes_up'] / 1000:.0f}",
            f"{row['bytes_down'] / 1000:.0f}",
            f"{row['server_cpu_s']:.2f}",
            counts["server_masks"],
            f"{row['server_cpu_per_dropped_s']:.4f}",
            f"{row['expansions_per_dropped_s']:.4f}",
            f"{row['wall_s']:.0f}",
            "yes" if row["exact"] else "NO",
        )
        rows.append(cells)
    return markdown_table(columns, rows)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cohorts", description="What a round costs as the cohort grows."
    )
    parser.add_argument(
        "--clients", type=sizes(1), default=SIZES, help="sizes of the cohort, with commas between"
    )
    parser.add_argument("--values", type=int, default=100_000, help="values of one update")
    parser.add_argument("--only", type=int, action="append", help="a size; may be repeated")
    add_row_options(parser, repeat=1)
    return parse_at_least(parser, argv, {"values": 1, "repeat": 1})


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 if every sum was exact, 1 if one was not, 2 if none ran."""
    arguments = _arguments(argv)
    try:
        results = measure_all(
            arguments.only or arguments.clients,
            values=arguments.values,
            repeat=arguments.repeat,
            file=RowFile(arguments.rows),
            budget=Budget(arguments.budget_minutes),
        )
    except (CharterError, RuntimeError, ValueError) as error:
        print(f"cohorts: {error}", file=sys.stderr)
        return 2
    report(arguments, {"benchmark": "cohorts", "results": results}, lambda: as_table(results))
    if not results:
        return 2
    return 0 if all(row["exact"] for row in results) else 1


if __name__ == "__main__":
    sys.exit(main())
