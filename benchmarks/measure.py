"""Processor seconds of what one party does, and what one run of a system has cost.

Seconds are process CPU time (``time.process_time``: user and system, all threads), so that other
work on the machine hardly shows.  Nothing measured here uses a threaded numerical library; peers
that start threads of their own pay for all of them.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedfm_crypto.mask import Keystream
from fedfm_crypto.secret import Secret


@dataclass
class CpuClock:
    """Adds up the processor seconds of the blocks that run under it."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block, whether it raises or not."""
        started = time.process_time()
        try:
            yield
        finally:
            self.seconds += time.process_time() - started


@dataclass
class Stages:
    """Processor seconds of one party, by the name of what it does."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def running(self, stage: str) -> Iterator[CpuClock]:
        """Count the block under ``stage``; the clock yielded is that of this block alone."""
        clock = CpuClock()
        try:
            with clock.running():
                yield clock
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + clock.seconds

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class ProtectedSum:
    """One protected sum, opened: what each party spent, what travelled, what came out.

    ``clients`` has one entry for each, ``opening`` is a client that opens the result, ``adds`` the
    seconds in which the server checked and added each upload.  Bytes are of one client.
    ``running_sum_bytes`` is what the server holds of the sum.  ``opened`` is the sum itself as
    floats; ``rounding`` the 32 bytes that rounded each client's update, empty if nothing was
    quantised.
    """

    clients: Sequence[Stages]
    server: Stages
    opening: Stages
    adds: Sequence[float]
    bytes_up: int
    bytes_down: int
    running_sum_bytes: int
    opened: NDArray[Any]
    rounding: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one system.

    ``client_cpu_s`` is the median over the clients that stayed, ``server_cpu_s`` the server's
    total.  ``bytes_up`` and ``bytes_down`` are all that such a client sends and receives, median,
    encoded as for the wire.  ``exact`` says whether the opened sum equals the plaintext integer
    sum of the quantised values.
    """

    client_cpu_s: float
    server_cpu_s: float
    bytes_up: int
    bytes_down: int
    exact: bool


def median(values: Iterable[float]) -> float:
    """The median; of an even number of values, the mean of the middle two."""
    return statistics.median(values)


def settle() -> None:
    """Collect garbage now, so that one run does not pay for what another left behind."""
    gc.collect()


def set_aside_imports() -> None:
    """Keep the garbage collector away from what exists now: modules imported for one system must
    not make the collections of another slower.  Call once, before anything is measured."""
    gc.collect()
    gc.freeze()


def keystream_seconds(size: int) -> float:
    """Processor seconds of ``size`` bytes of AES-256-CTR on this machine, best of three.

    This is the floor under masking: what the cipher alone costs, without adding the mask.
    """
    piece = 1 << 17
    best = float("inf")
    for _ in range(3):
        stream = Keystream(Secret(bytes(range(32))), piece)
        clock = CpuClock()
        with clock.running():
            for start in range(0, size, piece):
                stream.fill(min(piece, size - start))
        best = min(best, clock.seconds)
    return best


def example_update(client: int, values: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """A client's update: float32, normal with deviation 0.1, the same for the same client."""
    generator = np.random.default_rng(np.random.SeedSequence([20, client]))
    return (0.1 * generator.standard_normal(values, dtype=np.float32)).astype(np.float32)
