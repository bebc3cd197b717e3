"""Work that a later step needs, done in a thread while everybody waits.

It starts when what was just decided has been carried out, not before: a message that the others
wait for goes first.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class WorkAhead:
    """One thread that takes what is begun, in its order.  Used from one other thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preparing")
        self._waiting: list[Callable[[], Future[Any]]] = []

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Note work for :meth:`start`; what is returned waits for its result."""
        started: Future[T] | None = None

        def start() -> Future[T]:
            nonlocal started
            if started is None:  # once, whoever comes first
                started = self._pool.submit(work)
            return started

        self._waiting.append(start)
        return lambda: start().result()

    def start(self) -> None:
        """Hand everything that was begun to the thread."""
        waiting, self._waiting = self._waiting, []
        for start in waiting:
            start()

    def stop(self) -> None:
        """Start nothing more; what runs ends by itself."""
        self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
