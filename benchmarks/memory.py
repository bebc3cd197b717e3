"""Memory of this process, and how fast memory can be added to on this machine."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np

from benchmarks.measure import CpuClock

STREAMED_ARRAYS = 3
"""Arrays that ``a += b`` moves: both read, one written."""
LARGEST_STREAM = 384 << 20
"""Beyond this, far outside of any cache, seconds grow with the bytes."""

_STATUS = Path("/proc/self/status")
_REPEAT = 5


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident.

    From ``VmHWM`` where there is one: ``ru_maxrss`` starts, on Linux, with the peak of the process
    that started this one.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def stream_seconds(traffic: int) -> float:
    """Processor seconds in which NumPy moves ``traffic`` bytes between a core and memory, best of
    five: the roof over an addition that must read and write so many.

    The arrays are as large as the traffic makes them, so what fits a cache is measured in the
    cache.
    """
    if traffic < 1:
        raise ValueError(f"a stream of {traffic} bytes, expected at least 1")
    moved = min(traffic, LARGEST_STREAM)
    size = -(-moved // (STREAMED_ARRAYS * 8))
    total, other = np.zeros(size, np.uint64), np.ones(size, np.uint64)
    best = float("inf")
    # Short streams several times in one go: the processor clock has limits.
    rounds = max(1, (8 << 20) // moved)
    for _ in range(_REPEAT):
        clock = CpuClock()
        with clock.running():
            for _ in range(rounds):
                np.add(total, other, out=total)
        best = min(best, clock.seconds / rounds)
    return best * traffic / moved
