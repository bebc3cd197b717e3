"""The double-listing attack: it recovers a victim from Flower's SecAgg+ and gets nothing here."""

from __future__ import annotations

import numpy as np
import pytest

from fedfm_protocols.scenario.library import shipped
from fedfm_protocols.scenario.runner import run_scenario

CLIENTS, THRESHOLD, VALUES = 5, 4, 16


def test_flower_gives_the_victims_vector_away() -> None:
    pytest.importorskip("flwr", reason="flwr is not installed; `make setup-bench` brings it")
    try:
        from tests.adversarial.flower_victim import MaliciousServer
    except ImportError as error:
        pytest.skip(f"this flwr keeps SecAgg+ elsewhere: {error}")
    draw = np.random.default_rng(7)
    updates = [draw.uniform(-1, 1, VALUES).astype(np.float32) for _ in range(CLIENTS)]
    found = MaliciousServer(updates, THRESHOLD).recover(victim=4)
    assert (found.seed_shares, found.key_shares) == (CLIENTS, CLIENTS)
    assert np.array_equal(found.vector, found.truth)  # every quantised value, exactly
    assert len(set(found.vector.tolist())) > VALUES // 2  # and it is a vector, not a constant


def test_here_it_gets_no_share_at_all() -> None:
    result = run_scenario(shipped("double-listed-victim"))
    assert result.verdict.ok, result.verdict.failures
    assert result.stage is not None
    attacked = [f for f in result.stage.observer.rounds if f.index <= 3]
    assert len(attacked) == 3
    for facts in attacked:
        assert facts.finished is not None
        assert facts.finished.outcome == "aborted"
        assert facts.released_by(result.scenario.honest) == 0
