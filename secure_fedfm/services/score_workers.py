"""Encrypted scores of a round, computed beside the coordinator's loop.

Up to 16 sketches are one block, done in a thread of this process: to start another takes longer.
More are blocks of 16 rows for a pool of worker processes, never more than there are cores.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from fedfm_crypto.errors import CryptoError
from fedfm_crypto.lattice.scores import ScoreTask, score_task_results
from fedfm_protocols.effects import ComputeScores, ScoresComputed
from secure_fedfm.robust.encrypted_sketches import EncryptedSketches

MOST_WORKERS = 8


class ScoreWorkers:
    """Carries out :class:`ComputeScores`; close it at the end.

    ``most`` is how many processes there may be; None is one for each core, up to MOST_WORKERS.
    """

    def __init__(self, sketching: EncryptedSketches, most: int | None = None) -> None:
        self._sketching = sketching
        self._most = most or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        self._pool: ProcessPoolExecutor | None = None

    async def compute(self, effect: ComputeScores) -> ScoresComputed:
        """The scores, or the reason why there are none."""
        try:
            tasks = self._sketching.score_tasks(
                effect.sketches, effect.public_key, effect.evaluation
            )
            if len(tasks) == 1:
                results = [await asyncio.to_thread(score_task_results, tasks[0])]
            else:
                results = await self._in_processes(tasks)
            scores = self._sketching.join_scores(tasks, results)
        except (CryptoError, OSError, RuntimeError) as error:  # a pool that broke is no reason to
            self.close()  # end the federation: the next round gets another one
            return ScoresComputed(effect.round, effect.step, b"", str(error))
        return ScoresComputed(effect.round, effect.step, scores)

    async def _in_processes(self, tasks: Sequence[ScoreTask]) -> list[tuple[bytes, ...]]:
        if self._pool is None:
            # Not forked: threads of this process (transport, TenSEAL) would be missing in a copy.
            self._pool = ProcessPoolExecutor(
                min(self._most, len(tasks)),
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_end_with_parent,
            )
        loop = asyncio.get_running_loop()
        pool = self._pool
        return list(
            await asyncio.gather(
                *(loop.run_in_executor(pool, score_task_results, task) for task in tasks)
            )
        )

    def close(self) -> None:
        """End the processes; what they are at is lost."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose coordinator was killed waits for work for ever otherwise."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()
