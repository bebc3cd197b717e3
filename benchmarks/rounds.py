"""One round of our own protocol, measured: the real state machines, every message as bytes.

A client pays for all that the protocol makes it do: key offers, shares, signatures, quantising,
masks, packing, encoding each envelope, and, on the way down, decoding and checking what the
coordinator sends, the opened sum included.  Training and applying the sum are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.federation import SCALE, BenchmarkFederation, make_federation
from benchmarks.measure import CpuClock, Measurement, median, settle
from fedfm_crypto.envelope import Envelope
from fedfm_crypto.lanes import from_lanes
from fedfm_crypto.random_source import RandomSource, system_random
from fedfm_protocols.charter import Suite
from fedfm_protocols.messages import UploadHash, type_name
from fedfm_protocols.shared_sets import SharedSets
from fedfm_protocols.simulation import Delivery, Simulation

Update = NDArray[np.float32]


@dataclass
class Wire:
    """The network between the parties: bytes, counted, and processor seconds on either side.

    A message that goes to everybody is encoded once and decoded by each receiver.  Whatever the
    clients in ``dropped`` send from their upload hash on is lost.
    """

    dropped: frozenset[str]
    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)
    clocks: dict[str, CpuClock] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _latest: tuple[Envelope, bytes] | None = None

    def clock(self, name: str) -> CpuClock:
        """What encoding and decoding cost this party."""
        return self.clocks.setdefault(name, CpuClock())

    def carry(self, sender: str, recipient: str, envelope: Envelope) -> Sequence[Delivery]:
        """Carry one message, as ``Simulation`` asks its network to."""
        if sender in self.dropped and envelope.header.type == type_name(UploadHash):
            self._gone.add(sender)
        if sender in self._gone or recipient in self._gone:
            return ()
        data = self._encode(sender, envelope)
        self.up[sender] += len(data)
        self.down[recipient] += len(data)
        with self.clock(recipient).running():
            received = Envelope.decode(data)
        return ((recipient, received),)

    def _encode(self, sender: str, envelope: Envelope) -> bytes:
        if self._latest is not None and self._latest[0] is envelope:
            return self._latest[1]
        with self.clock(sender).running():
            data = envelope.encode()
        self._latest = (envelope, data)
        return data


@dataclass
class RoundingKey:
    """A client's randomness; remembers the draw that rounded its update.

    With the same draw the update can be quantised again afterwards, outside of what is measured,
    which gives the plaintext sum that the opened one must equal.
    """

    update: Callable[[], Update]
    expected: bool = False
    key: bytes = b""

    def __call__(self, count: int) -> bytes:
        drawn = system_random(count)
        if self.expected:
            self.key, self.expected = drawn, False
        return drawn

    def train(self) -> Update:
        """Hand out the update; the next draw is the one that rounds it."""
        self.expected = True
        return self.update()


@dataclass(frozen=True)
class PlayedRound:
    """A completed round with what everybody spent; ``staying`` are the clients in the sum."""

    simulation: Simulation
    wire: Wire
    staying: tuple[str, ...]
    exact: bool

    def measurement(self) -> Measurement:
        """Medians over the clients that stayed; signatures that the simulation verified once for
        many are counted for each of them."""
        clients = {name: self.simulation.clients[name] for name in self.staying}
        coordinator = self.simulation.federation.coordinator
        return Measurement(
            client_cpu_s=median(
                client.cpu_s + client.spared_s + self.wire.clock(name).seconds
                for name, client in clients.items()
            ),
            server_cpu_s=self.simulation.coordinator_cpu_s + self.wire.clock(coordinator).seconds,
            bytes_up=int(median(self.wire.up[name] for name in clients)),
            bytes_down=int(median(self.wire.down[name] for name in clients)),
            exact=self.exact,
        )


def run_round(
    suite: Suite,
    lane_bits: int,
    updates: Sequence[Update],
    *,
    dropped: int = 0,
    random: RandomSource = system_random,
) -> Measurement:
    """Run one round over ``updates`` (one a client), the last ``dropped`` clients vanishing after
    they have dealt their shares.

    Raises
    ------
    CharterError
        if the federation cannot lose so many clients.
    RuntimeError
        if the round does not complete; carries its reason.
    """
    parties = make_federation(
        suite=suite,
        clients=len(updates),
        dropouts=dropped,
        values=updates[0].size,
        lane_bits=lane_bits,
        random=random,
    )
    return play_round(parties, updates.__getitem__, dropped=dropped, random=random).measurement()


def play_round(
    parties: BenchmarkFederation,
    update: Callable[[int], Update],
    *,
    dropped: int,
    random: RandomSource = system_random,
    kind: type[Simulation] = Simulation,
    shared_sets: SharedSets | None = None,
) -> PlayedRound:
    """Run one round of a federation, in which client number ``i`` has ``update(i)``, and check
    the sum that it opens.  Arguments and errors otherwise as for :func:`run_round`; ``kind`` is
    the simulation that runs it, ``shared_sets`` is handed to it.
    """
    names = tuple(parties.clients)
    staying = names[: len(names) - dropped]
    wire = Wire(frozenset(names[len(staying) :]))
    sources = {name: RoundingKey(partial(update, number)) for number, name in enumerate(names)}
    simulation = kind(
        parties.federation,
        parties.clients,
        parties.coordinator,
        random,
        lambda name, _round, _step: sources[name].train(),
        wire.carry,
        shared_sets=shared_sets,
        keep_messages=False,
    )
    for name, client in simulation.clients.items():
        client.context = replace(client.context, random=sources[name])
    settle()
    finished = simulation.run_round(1)
    if finished.outcome != "completed" or finished.accepted != staying:
        raise RuntimeError(f"the measured round is {finished.outcome}: {finished.reason}")
    lanes = parties.federation.lanes
    expected = np.zeros(parties.federation.charter.quantiser.values, np.int64)
    for name in staying:
        again = lanes.quantise(sources[name].update(), fixed(sources[name].key))
        expected += from_lanes(again, lanes.lane_bits)
    exact = all(
        np.array_equal(simulation.clients[name].totals[0] * SCALE, expected) for name in staying
    )
    return PlayedRound(simulation, wire, staying, exact)


def fixed(key: bytes) -> Callable[[int], bytes]:
    """A random source that returns ``key``, for repeating one draw."""
    return lambda count: key[:count]
