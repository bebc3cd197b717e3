"""Scores beside the coordinator's loop: in a thread, in worker processes, and when it fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedfm_crypto.lattice import scores as blocks
from fedfm_crypto.random_source import SeededRandom
from fedfm_protocols.effects import ComputeScores
from fedfm_protocols.sketching import Question
from secure_fedfm.robust.encrypted_sketches import EncryptedSketches
from secure_fedfm.services import score_workers
from secure_fedfm.services.score_workers import ScoreWorkers
from tests.secure_fedfm.robust.test_encrypted_sketches import (
    key_pair,
    robust_charter,
    sketches_of,
)

NAMES = ("a", "b", "c")


def effect_of(sketching: EncryptedSketches) -> ComputeScores:
    pair = key_pair()
    encrypted = tuple(sketching.encrypt(s, pair.public_key) for s in sketches_of(sketching, 3))
    return ComputeScores(4, 0, encrypted, pair.public_key, pair.evaluation)


@pytest.mark.parametrize("block", [16, 2])
def test_scores_of_a_round(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Three sketches: one block in a thread; blocks of two rows in a worker process."""
    sketching = EncryptedSketches(robust_charter(), SeededRandom(3))
    original = blocks.score_tasks
    monkeypatch.setattr(
        "secure_fedfm.robust.encrypted_sketches.score_tasks",
        lambda *rest: original(*rest, block=block),
    )
    workers = ScoreWorkers(sketching, most=1)

    async def compute() -> bytes:
        try:
            return (await workers.compute(effect_of(sketching))).scores
        finally:
            workers.close()

    scores = asyncio.run(compute())
    judgement = sketching.judge(key_pair().secret, scores, Question(4, NAMES, 2, b""))
    norms = [float(np.frombuffer(row, "<f8")[i]) for i, row in enumerate(judgement.rows)]
    assert norms == pytest.approx([norms[0]] * 3, rel=0.1)


def test_what_cannot_be_computed_says_why() -> None:
    sketching = EncryptedSketches(robust_charter())
    pair = key_pair()
    effect = ComputeScores(4, 0, (b"no sketch",) * 3, pair.public_key, pair.evaluation)
    event = asyncio.run(ScoreWorkers(sketching).compute(effect))
    assert event.scores == b""
    assert "expected exactly" in event.reason


def test_a_worker_ends_with_a_coordinator_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, signal, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        f"from {score_workers.__name__} import _end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    spawn = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, str(script)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == -9, found.stderr
    worker = Path("/proc") / found.stdout.strip()
    for _ in range(400):
        if not worker.exists() or "State:\tZ" in (worker / "status").read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {worker.name} outlives its coordinator")
