"""Thousands of signatures, checked by as many threads as there are cores.

OpenSSL checks one without Python's lock, so threads suffice and the verifier needs no other
process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_MOST_THREADS = 8
_FEWEST_EACH = 500  # for fewer a thread takes longer to start than it saves

_ItemT = TypeVar("_ItemT")
_FoundT = TypeVar("_FoundT")


def in_threads(work: Callable[[_ItemT], _FoundT], items: Sequence[_ItemT]) -> list[_FoundT]:
    """``work`` of every item, in their order; ``work`` must change nothing that others see."""
    threads = max(1, min(_MOST_THREADS, _cores(), len(items) // _FEWEST_EACH))
    if threads == 1:
        return [work(item) for item in items]
    size = -(-len(items) // threads)
    slices = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(lambda some: [work(item) for item in some], slices)
        return [found for part in parts for found in part]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
