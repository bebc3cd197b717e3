"""Processor seconds of what one party does, and what one run of a system has cost.

Seconds are process CPU time (``time.process_time``: user and system, all threads), so that other
work on the machine hardly shows.  Nothing measured here uses a threaded numerical library; peers
that start threads of their own pay for all of them.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

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
