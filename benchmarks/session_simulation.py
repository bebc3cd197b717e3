"""Sessions of the real state machines in one process: processor seconds and bytes of a step.

Every client's part is the real one, its noise and its masks included.  What many clients of one
process would do alike is done once and counted for each of them: verifying a signed set, opening
the sum.  Neither training nor applying is in it, nor transport and disk: zeros stand for the
clipped sums, which costs the protocol the same.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, cast

import numpy as np

from benchmarks.measure import median
from benchmarks.results import Row
from benchmarks.rounds import Wire
from fedfm_crypto.random_source import system_random
from fedfm_protocols.context import KEYS
from fedfm_protocols.effects import Event
from fedfm_protocols.encryption import Encryption
from fedfm_protocols.federation import Federation
from fedfm_protocols.lattice_encryption import LatticeEncryption
from fedfm_protocols.scenario.federations import Keys, make_federation, make_keys
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import Simulation
from secure_fedfm.services.metering import CLIENT_PART_OF, SETUP, client_part

LANE_BITS, CLIP, DELTA, NOISE, BATCH_PER_CLIENT = 32, 1.0, 1e-5, 1.0, 200.0
SUITE = "layered"
PARTS = tuple(part for part in dict.fromkeys(CLIENT_PART_OF.values()) if part != "sketching")
"""Of a step where no validator judges."""
PREPARING = "prepared ahead"


def federation_of(keys: Keys, *, values: int, steps: int) -> Federation:
    """A charter of one session with the limits that a federation of this size has by default."""
    clients = len(keys.clients)
    few = 1 if clients < 20 else 3
    batch = BATCH_PER_CLIENT * clients
    return make_federation(
        keys,
        suite=SUITE,
        limits={"colluding": few, "dropouts": few if clients > 3 else 0},
        quantiser={
            "values": values,
            "clip": CLIP * batch,
            "scale": _scale(clients, CLIP * batch),
            "lane_bits": LANE_BITS,
        },
        privacy={
            "mode": "shared-noise",
            "epsilon": 1e6,
            "delta": DELTA,
            "noise_multiplier": NOISE,
            "sampling_rate": 0.1,
            "steps_per_round": steps,
            "clip": CLIP,
            "mechanism": "discrete-gaussian",
            "honest_shares": clients - 2 * few if clients > 3 else clients - few,
            "batch": batch,
        },
    )


def _scale(clients: int, clip: float) -> int:
    """The largest power of two that leaves half of each lane to the noise."""
    return 1 << int(np.log2((1 << (LANE_BITS - 1)) / (2 * clients * (clip + 1))))


class _CountedEncryption:
    """The real encryption; equal sums are opened once, and what that spares is counted."""

    def __init__(self) -> None:
        self._encryption = LatticeEncryption()
        self._opened: tuple[object, Any, float] | None = None
        self.spared_s = 0.0
        self.prepared_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encryption, name)

    def prepare(self, **asked: Any) -> Any:
        started = time.process_time()
        found = self._encryption.prepare(**asked)
        self.prepared_s += time.process_time() - started
        return found

    def open_sum(self, bulk: bytes, **rest: Any) -> Any:
        asked = (bulk, *(repr(rest[name]) for name in ("active", "seed", "clients")))
        if self._opened is not None and self._opened[0] == asked:
            self.spared_s += self._opened[2]
        else:
            started = time.process_time()
            found = self._encryption.open_sum(bulk, **rest)
            self._opened = (asked, found, time.process_time() - started)
        return self._opened[1].copy()


class _CountedSession(Simulation):
    """A federation that notes what every part of a step costs every client."""

    def __init__(self, federation: Federation, keys: Keys, wire: Wire) -> None:
        self.parts: dict[str, dict[str, float]] = {n: defaultdict(float) for n in keys.clients}
        self.setup_s = 0.0  # coordinator's seconds until the first step's sum was asked for
        self._counted = _CountedEncryption()
        self._nested = 0.0
        zeros = np.zeros(federation.charter.quantiser.values)
        super().__init__(
            federation,
            keys.clients,
            keys.coordinator,
            system_random,
            lambda _name, _round, _step: zeros,
            wire.carry,
            shared_sets=SharedSets(),
            keep_messages=False,
            encryption=cast(Encryption, self._counted),
        )

    def tell_client(self, name: str, event: Event) -> None:
        client, part = self.clients[name], client_part(event)
        counted, outer = self._counted, self._nested
        if part == CLIENT_PART_OF["UpdateReady"] and not self.setup_s:
            self.setup_s = self.coordinator_cpu_s
        before = client.cpu_s + client.spared_s + counted.spared_s
        prepared, self._nested = counted.prepared_s, 0.0
        super().tell_client(name, event)
        spent = client.cpu_s + client.spared_s + counted.spared_s - before
        ahead = counted.prepared_s - prepared
        # What an event leads to at once (training that costs nothing here) is an event of its own.
        own = spent - self._nested
        self._nested = outer + spent
        if part == CLIENT_PART_OF["UpdateReady"]:
            self.parts[name][PREPARING] += ahead
            own -= ahead
        self.parts[name][part] += own


def simulate(*, clients: int, values: int, steps: int) -> Row:
    """Make a collective key, run one session of ``steps`` steps, and say what a step costs.

    Raises
    ------
    RuntimeError
        if the session does not come to its end.
    """
    keys, wire = make_keys(clients), Wire(frozenset())
    session = _CountedSession(federation_of(keys, values=values, steps=steps), keys, wire)
    session.run_round(1, kind=KEYS)
    for counted in session.parts.values():
        counted.clear()
    wire.up.clear()
    wire.down.clear()
    wire.clocks.clear()
    session.coordinator_cpu_s, session.setup_s = 0.0, 0.0
    finished = session.run_round(2)
    if finished.outcome != "completed" or finished.reason:
        raise RuntimeError(f"the session is {finished.outcome}: {finished.reason}")
    coordinator = session.federation.coordinator
    coordinator_s = session.coordinator_cpu_s - session.setup_s + wire.clock(coordinator).seconds
    # Means: a part that falls to some clients only (opening the key sum) falls to them in turn.
    parts = {
        part: sum(spent[part] for spent in session.parts.values()) / clients / steps
        for part in (*PARTS, PREPARING)
    }
    # The slowest client's own chain, of which nothing waits for what was prepared ahead.
    chains = [
        sum(spent[part] for part in PARTS) + wire.clock(name).seconds
        for name, spent in session.parts.items()
    ]
    return {
        "client_cpu_s": (median(chains) / steps) + parts[PREPARING],
        "client_parts_s": {part: round(spent, 5) for part, spent in parts.items()},
        "client_setup_s": median(spent[SETUP] for spent in session.parts.values()),
        "coordinator_cpu_s": coordinator_s / steps,
        "coordinator_setup_s": session.setup_s,
        "critical_path_s": (max(chains) + coordinator_s) / steps,
        "bytes_up": median(wire.up[name] for name in session.parts) / steps,
        "bytes_down": median(wire.down[name] for name in session.parts) / steps,
    }
